"""The maximum of the posterior density, by L-BFGS of optax from many prior draws at once.

The density is that in the parameters themselves; only the search runs over the flat vector z.
"""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from brutax.infer.checkpoint import Session, unpack
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

SAME = 0.01  # ln density within which two starts have found the same height
AGREE = 0.25  # share of the starts that must find the highest maximum

NEEDS_GRADIENT = True


@dataclass(frozen=True)
class Options:
    """Starts, drawn from the prior, and iterations of each."""

    num_starts: int = 16
    num_steps: int = 200
    chunk: int = 50  # iterations between visits of the host; changes no bit

    free = ("chunk",)


def _height(z: Any, data: Any, problem: Problem) -> Any:
    out = problem.density(z, data)
    return -(out.log_likelihood + out.log_prior)


def _init(key: Any, data: Any, problem: Problem, options: Options) -> Any:
    keys = jax.random.split(key, options.num_starts)
    z = jax.vmap(problem.sample_real)(keys)
    return z, jax.vmap(optax.lbfgs().init)(z), jnp.zeros((), jnp.int32)


def _advance(state: Any, data: Any, problem: Problem, options: Options) -> Any:
    height = functools.partial(_height, data=data, problem=problem)
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
        session.tick(state, {}, done=int(state[2]) >= options.num_steps)
    return _posterior(problem, state[0], options)


def _posterior(problem: Problem, z: Any, options: Options) -> Posterior:
    height = functools.partial(_height, data=problem.data, problem=problem)
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
