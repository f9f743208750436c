"""The maximum of the posterior density, by L-BFGS of optax from many prior draws at once.

The density is that in the parameters themselves; only the search runs over the flat vector z.
With `num_draws`, draws from the Gaussian about the maximum follow it (Laplace), with exact
importance weights and the evidence that they give; the first draw, of weight 0, is the maximum.
"""

import functools
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from brutax.infer.checkpoint import Session, unpack
from brutax.infer.gaussian import climb, gaussian_at
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

SAME = 0.01  # ln density within which two starts have found the same height
LEAST_WORTH = 0.3  # effective draws per draw
AGREE = 0.25  # share of the starts that must find the highest maximum

NEEDS_GRADIENT = True


@dataclass(frozen=True)
class Options:
    """Starts, drawn from the prior, and iterations of each."""

    num_starts: int = 16
    num_tries: int = 0  # prior draws of which the starts are the best; 0: as many as starts
    num_steps: int = 200
    num_draws: int = 0  # of the Gaussian about the maximum; 0: the maximum alone
    chunk: int = 50  # iterations between visits of the host; changes no bit

    free = ("chunk",)
    of_prior = True  # of the posterior density; False: of the likelihood alone


def _height(z: Any, data: Any, problem: Problem, options: Options) -> Any:
    out = problem.density(z, data)
    return -(out.log_likelihood + out.log_prior if options.of_prior else out.log_likelihood)


def _init(key: Any, data: Any, problem: Problem, options: Options) -> Any:
    keys = jax.random.split(key, max(options.num_starts, options.num_tries))
    z = jax.vmap(problem.sample_real)(keys)
    if options.num_tries > options.num_starts:
        heights = jax.lax.map(lambda z: -_height(z, data, problem, options), z)
        z = z[jax.lax.top_k(jnp.nan_to_num(heights, nan=-jnp.inf), options.num_starts)[1]]
    return z, jax.vmap(optax.lbfgs().init)(z), jnp.zeros((), jnp.int32)


def _advance(state: Any, data: Any, problem: Problem, options: Options) -> Any:
    height = functools.partial(_height, data=data, problem=problem, options=options)
    search = optax.lbfgs()

    def move(z: Any, memory: Any) -> tuple[Any, Any]:
        value, grad = optax.value_and_grad_from_state(height)(z, state=memory)
        update, memory = search.update(grad, memory, z, value=value, grad=grad, value_fn=height)
        new: Any = optax.apply_updates(z, update)
        return jnp.where(jnp.isfinite(height(new)), new, z), memory

    def step(_: Any, state: Any) -> Any:
        z, memory, n = state
        new = jax.vmap(move)(z, memory)
        z, memory = jax.lax.cond(n < options.num_steps, lambda: new, lambda: (z, memory))
        return z, memory, n + 1

    return jax.lax.fori_loop(0, options.chunk, step, state)


def run(problem: Problem, key: Any, session: Session, options: Options) -> Posterior:
    init = jax.jit(functools.partial(_init, problem=problem, options=options))
    advance = jax.jit(functools.partial(_advance, problem=problem, options=options))
    saved = session.load()
    if saved is None:
        state = init(key, problem.data)
    else:
        state, _ = unpack(saved, jax.eval_shape(init, key, problem.data))
    while int(state[2]) < options.num_steps:
        state = advance(state, problem.data)
        session.show(min(int(state[2]), options.num_steps), options.num_steps)
        session.tick(state, {}, done=int(state[2]) >= options.num_steps)
    found = _posterior(problem, state[0], options)
    return _with_draws(problem, found, key, options) if options.num_draws else found


def _posterior(problem: Problem, z: Any, options: Options) -> Posterior:
    height = functools.partial(_height, data=problem.data, problem=problem, options=options)
    value, grad = jax.jit(jax.vmap(jax.value_and_grad(height)))(z)
    value = np.nan_to_num(-np.asarray(value, np.float64), nan=-np.inf)
    at = int(np.argmax(value))
    found = jax.jit(problem.density)(z[at], problem.data)
    agree = int(np.sum(value > value[at] - SAME))
    stats: dict[str, Any] = {
        "starts": options.num_starts,
        "starts_agree": agree,
        "gradient": float(np.linalg.norm(np.asarray(grad)[at])),
        "heights": value,
    }
    warnings = ()
    if agree < max(AGREE * options.num_starts, 2):
        warnings = (
            f"{agree} of {options.num_starts} starts found the highest maximum; "
            "there may be others",
        )
    return Posterior(
        "map",
        {name: np.asarray(x)[None] for name, x in found.params.items()},
        np.ones(1),
        np.asarray(found.log_likelihood)[None],
        np.asarray(found.log_prior)[None],
        stats=stats,
        warnings=warnings,
    )


def _with_draws(problem: Problem, best: Posterior, key: Any, options: Options) -> Posterior:
    """Weighted draws of the Gaussian about the maximum of the density in z, after the maximum."""
    size, count = problem.prior.size, options.num_draws
    u = jax.random.normal(jax.random.fold_in(key, 1), (count, size))

    @jax.jit
    def draw(z: Any, u: Any, data: Any) -> Any:
        def target(z: Any) -> Any:
            return problem.density(z, data).log_target

        top, _ = climb(target, z, options.num_steps)
        gauss = gaussian_at(target, top)
        _, log_det = jnp.linalg.slogdet(gauss.scale)
        log_q = -0.5 * jnp.sum(u**2, axis=1) - 0.5 * size * jnp.log(2.0 * jnp.pi) - log_det
        return jax.vmap(lambda u: problem.density(gauss.place(u), data))(u), log_q

    z = problem.prior.to_real({name: jnp.asarray(x[0]) for name, x in best.samples.items()})
    found, log_q = draw(z, u, problem.data)
    log_weight = np.asarray(found.log_target - log_q, np.float64)
    log_weight = np.where(np.isfinite(log_weight), log_weight, -np.inf)
    top = np.max(log_weight)
    weight = np.exp(log_weight - top) if np.isfinite(top) else np.ones(count)
    mean = weight.mean()
    ess = weight.sum() ** 2 / np.sum(weight**2)
    warnings = best.warnings
    if ess < LEAST_WORTH * count:
        warnings += (
            f"{count} draws of the Gaussian about the maximum are worth {ess:.0f}: "
            "the posterior is not close to normal",
        )

    def after(first: Any, rest: Any) -> np.ndarray:
        return np.concatenate([np.asarray(first), np.asarray(rest)])

    return replace(
        best,
        samples={k: after(v, found.params[k]) for k, v in best.samples.items()},
        weights=np.concatenate([[0.0], weight / weight.sum()]),
        log_likelihood=after(best.log_likelihood, found.log_likelihood),
        log_prior=after(best.log_prior, found.log_prior),
        logz=float(top + np.log(mean)),
        logz_err=float(np.sqrt(max(1.0 / ess - 1.0 / count, 0.0))),
        warnings=warnings,
    )
