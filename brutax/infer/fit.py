"""The door: one call for every method."""

import dataclasses
from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from brutax.infer.checkpoint import Session
from brutax.infer.method import AbstractMethod, check_side_by_side
from brutax.infer.methods import METHODS
from brutax.infer.names import nearest, refuse_unknown
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem
from brutax.infer.progress import Progress

LARGE = 1e5  # ln L of which float32 keeps no more than hundredths
PROBE_TOLERANCE = 1e-6  # relative, of the densities by which a problem is recognised


def fit(
    problem: Problem,
    method: str | AbstractMethod = "nuts",
    *,
    key: int | PRNGKeyArray = 0,
    checkpoint: str | PathLike | None = None,
    resume: str | bool = "auto",
    save_every: float = 60.0,
    progress: Any = None,
    **options: Any,
) -> Posterior:
    """Draws from the posterior of a problem.

        posterior = infer.fit(problem, "nuts", num_samples=500)
        posterior = infer.fit(problem, infer.NUTS(num_samples=500))  # the same

    `key` is a typed JAX key or a seed. With `checkpoint`, a file, the run can be interrupted at
    any moment and continued by the same call, with the same result bit for bit (on the same
    device and versions); `resume` is "auto", "require" (raises without a file) or False (starts
    anew). `progress` is True, False, None (a bar where standard error is a terminal) or a
    function (see `brutax.infer.progress`). `method` is one of `brutax.infer` with its options
    (`infer.NUTS(...)`), one of your own (`infer.AbstractMethod`), or a name, whose `options` are
    the fields of that class; unknown ones raise TypeError. Raises ValueError where
    `problem.check()` does, `CheckpointError` for a file of another run, and `Interrupted` after a
    signal.
    """
    chosen = _choose(method, options)
    # numpyro and blackjax mix types and ranks, which a user may have forbidden for own code
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        typed, identity = _identify(problem, chosen, key)
        bar = Progress(progress, chosen.name)
        with Session(
            checkpoint, identity, resume=resume, save_every=save_every, progress=bar
        ) as session:
            posterior = chosen.run(problem, typed, session)
    return _finished(posterior, identity)


def fit_many(
    problem: Problem,
    method: str | AbstractMethod = "nuts",
    *,
    data: PyTree,
    key: int | PRNGKeyArray = 0,
    checkpoint: str | PathLike | None = None,
    resume: str | bool = "auto",
    save_every: float = 60.0,
    progress: Any = None,
    **options: Any,
) -> list[Posterior]:
    """One posterior per item of the leading axis of `data`, all in one program.

    For `nuts`, `nested`, `smc`, `map` and `mle`. Items have shapes of one kind, and differ in
    nothing but their data; item k has the key `fold_in(key, k)`. Arguments as in `fit`; one
    checkpoint holds all of them.
    """
    chosen = _choose(method, options)
    check_side_by_side(chosen)
    data = jax.tree.map(jnp.asarray, data)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        items = problem.split(data)
        typed, identity = _identify(items[0], chosen, key)
        keys = jax.vmap(lambda k: jax.random.fold_in(typed, k))(jnp.arange(len(items)))
        identity |= {"data": problem.with_data(data).data_digest(), "items": len(items)}
        bar = Progress(progress, chosen.name)
        with Session(
            checkpoint, identity, resume=resume, save_every=save_every, progress=bar
        ) as session:
            posteriors = chosen.run_many(problem, keys, data, session)
        words = np.asarray(jax.random.key_data(keys)).tolist()
    return [
        _finished(post, identity | {"data": item.data_digest(), "key": word})
        for post, item, word in zip(posteriors, items, words, strict=True)
    ]


def _finished(posterior: Posterior, identity: dict[str, Any]) -> Posterior:
    """With what it was made of, and a warning where its numbers were too large for float32."""
    warnings = posterior.warnings
    if identity["precision"] == "float32" and abs(np.max(posterior.log_likelihood)) > LARGE:
        warnings = (
            *warnings,
            f"log-likelihoods of {np.max(posterior.log_likelihood):.2g} have errors of 0.01 and "
            "more in float32: subtract a constant, or set JAX_ENABLE_X64=1",
        )
    meta = identity | {"jax": jax.__version__, "backend": jax.default_backend()}
    return dataclasses.replace(posterior, warnings=warnings, meta=meta)


def _choose(method: str | AbstractMethod, options: dict[str, Any]) -> AbstractMethod:
    """A method with its options, or an error with the nearest names."""
    if isinstance(method, AbstractMethod):
        if options:
            raise TypeError(
                f"{', '.join(options)}: give options to the method itself, "
                f"{type(method).__name__}({', '.join(f'{name}=...' for name in options)})"
            )
        return method
    if method not in METHODS:
        raise ValueError(f"no method '{method}'{nearest(method, METHODS)}")
    chosen = METHODS[method]
    for name in options:
        refuse_unknown(method, name, [field.name for field in dataclasses.fields(chosen)])
    return chosen(**options)


def _identify(
    problem: Problem, method: AbstractMethod, key: int | PRNGKeyArray
) -> tuple[PRNGKeyArray, dict[str, Any]]:
    """The key, and everything that the numbers of a run depend on, after a look at the problem."""
    typed = jax.random.key(key) if isinstance(key, int) else key
    check = problem.check(gradient=method.needs_gradient)
    if method.needs_unit_cube and check.without_icdf:
        raise ValueError(
            f"'{method.name}' works on the unit cube, and the prior of "
            f"{', '.join(check.without_icdf)} has no inverse CDF: use 'nested', 'nuts', "
            "'ensemble' or 'emcee'"
        )
    return typed, {
        "method": method.name,
        "options": jax.tree.map(_as_json, method.identity()),
        "parameters": {name: list(free.shape) for name, free in problem.prior.free.items()},
        "data": problem.data_digest(),
        "probe": [_rounded(check.log_likelihood), _rounded(check.log_prior)],
        "precision": check.dtype,
        "key": np.asarray(jax.random.key_data(typed)).tolist(),
    }


def _as_json(value: object) -> Any:
    return np.asarray(value).tolist() if hasattr(value, "dtype") else value


def _rounded(values: np.ndarray) -> list[str]:
    """Densities to the digits in which they must agree."""
    digits = int(-np.log10(PROBE_TOLERANCE))
    return [f"{value:.{digits}g}" for value in values.astype(float)]
