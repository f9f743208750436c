"""The door: one call for every method."""

import dataclasses
import difflib
import importlib
from typing import Any

import jax
import numpy as np

from brutax.infer.checkpoint import Session
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem
from brutax.infer.progress import reporter

METHODS = {name: f"brutax.infer.methods.{name}" for name in ("nuts", "nested", "map", "mle")}
PROBE_TOLERANCE = 1e-6  # relative, of the densities by which a problem is recognised


def fit(
    problem: Problem,
    method: str = "nuts",
    *,
    key: Any = 0,
    checkpoint: Any = None,
    resume: Any = "auto",
    save_every: float = 60.0,
    progress: Any = False,
    **options: Any,
) -> Posterior:
    """Draws from the posterior of a problem.

    `key` is a typed JAX key or a seed. With `checkpoint`, a file, the run can be interrupted at
    any moment and continued by the same call, with the same result bit for bit (on the same
    device and versions); `resume` is "auto", "require" (raises without a file) or False (starts
    anew). `progress` is True for a bar (tqdm), or a function (done, total, **numbers) that is
    called now and then; total is None where it is not known. Options are the fields of `Options`
    in the method's module; unknown ones raise TypeError. Raises ValueError where
    `problem.check()` does, `CheckpointError` for a file of another run, and `Interrupted` after
    a signal.
    """
    if method not in METHODS:
        raise ValueError(f"no method '{method}'{_nearest(method, list(METHODS))}")
    module = importlib.import_module(METHODS[method])
    known = [field.name for field in dataclasses.fields(module.Options)]
    for name in options:
        if name not in known:
            raise TypeError(f"'{method}' has no option '{name}'{_nearest(name, known)}")
    chosen = module.Options(**options)
    key = jax.random.key(key) if isinstance(key, int) else key
    # numpyro and blackjax mix types and ranks, which a user may have forbidden for own code
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        show = reporter(progress, method)
        return _fit(problem, method, module, key, chosen, checkpoint, resume, save_every, show)


def _fit(
    problem: Problem,
    method: str,
    module: Any,
    key: Any,
    chosen: Any,
    checkpoint: Any,
    resume: Any,
    save_every: float,
    show: Any,
) -> Posterior:
    check = problem.check(gradient=module.NEEDS_GRADIENT)
    held = {k: v for k, v in dataclasses.asdict(chosen).items() if k not in module.Options.free}
    identity = {
        "method": method,
        "options": held,
        "parameters": {name: list(free.shape) for name, free in problem.prior.free.items()},
        "data": problem.data_digest(),
        "probe": [_rounded(check.log_likelihood), _rounded(check.log_prior)],
        "precision": check.dtype,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
    }
    how = {"resume": resume, "save_every": save_every, "show": show}
    with Session(checkpoint, identity, **how) as session:
        posterior = module.run(problem, key, session, chosen)
    meta = identity | {"jax": jax.__version__, "backend": jax.default_backend()}
    return dataclasses.replace(posterior, meta=meta)


def _rounded(values: np.ndarray) -> list[str]:
    """Densities to the digits in which they must agree."""
    digits = int(-np.log10(PROBE_TOLERANCE))
    return [f"{value:.{digits}g}" for value in values.astype(float)]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; do you mean '{close[0]}'?" if close else f": there are {', '.join(known)}"
