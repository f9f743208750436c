"""A maximum of the posterior density in the flat vector z, and the Gaussian about it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

STALLED = 1e-3  # nats: a search ends after RESTS iterations that gain less
RESTS = 3
FIRST_STEP = 1e-3  # of z, for the diagonal of the curvature
STEP = 0.5  # of a deviation, for all of it
LEAST_CURVATURE = 1e-2  # of z: flatter than any posterior that a prior bounds
MOST_CURVATURE = 1e10

Function = Callable[[Float[Array, " z"]], Float[Array, ""]]


class Gaussian(NamedTuple):
    """A normal distribution of z: `mean + scale @ u` for standard normal u."""

    mean: Float[Array, " z"]
    scale: Float[Array, "z z"]

    def place(self, u: Float[Array, " z"]) -> Float[Array, " z"]:
        return self.mean + jnp.matmul(self.scale, u, precision="highest")


def climb(height: Function, z: Float[Array, " z"], steps: int) -> tuple[Array, Array]:
    """Where L-BFGS (optax) from z finds the largest `height`, within `steps`; and that height."""
    search = optax.lbfgs()

    def depth(z: Array) -> Array:
        value = -height(z)
        return jnp.where(jnp.isfinite(value), value, jnp.inf)

    def move(state: tuple) -> tuple:
        z, memory, best, rests, n = state
        value, grad = optax.value_and_grad_from_state(depth)(z, state=memory)
        update, memory = search.update(grad, memory, z, value=value, grad=grad, value_fn=depth)
        new: Any = optax.apply_updates(z, update)
        value = depth(new)
        good = jnp.isfinite(value) & jnp.all(jnp.isfinite(new))
        z = jnp.where(good, new, z)
        rests = jnp.where(good & (value < best - STALLED), 0, rests + 1)
        return z, memory, jnp.where(good, jnp.minimum(value, best), best), rests, n + 1

    def more(state: tuple) -> Array:
        return (state[3] < RESTS) & (state[4] < steps)

    zero = jnp.zeros((), jnp.int32)
    state = (z, search.init(z), depth(z), zero, zero)
    z, _, best, _, _ = jax.lax.while_loop(more, move, state)
    return z, -best


def gaussian_at(height: Function, z: Float[Array, " z"]) -> Gaussian:
    """The Gaussian of the curvature of `height` at its maximum, by differences of gradients.

    Steps are half a deviation, so that rounding in single precision does not matter and a
    posterior that is not quite normal is described over its own width. Directions that are
    flat, or curved the other way, get a curvature of `LEAST_CURVATURE`.
    """
    slope, size = jax.grad(height), z.shape[0]

    def differences(step: Float[Array, " z"]) -> Float[Array, "z z"]:
        def one(k: Array) -> Array:
            away = jnp.where(jnp.arange(size) == k, step, 0.0)
            return (slope(z - away) - slope(z + away)) / (2.0 * step[k])

        return jax.lax.map(one, jnp.arange(size))

    def width(step: Array) -> Array:
        own = jnp.diagonal(differences(step))
        own = jnp.clip(jnp.where(jnp.isfinite(own), own, 0.0), LEAST_CURVATURE, MOST_CURVATURE)
        return 1.0 / jnp.sqrt(own)

    # again from the width that the first step has found; eigenvalues are then of order one
    unit = width(STEP * width(jnp.full_like(z, FIRST_STEP)))
    curvature = differences(STEP * unit)
    curvature = jnp.where(jnp.isfinite(curvature), 0.5 * (curvature + curvature.T), 0.0)
    values, axes = jnp.linalg.eigh(curvature * unit[:, None] * unit[None, :])
    values = jnp.maximum(values, LEAST_CURVATURE)
    return Gaussian(z, unit[:, None] * axes / jnp.sqrt(values)[None, :])


def find(
    height: Function, draws: Float[Array, "draw z"], *, starts: int, steps: int
) -> tuple[Gaussian, Array]:
    """The Gaussian at the highest maximum found from the `starts` best of some draws.

    Also returns the heights that they found, (start,), NaN for none.
    """
    heights = jax.lax.map(height, draws)
    heights = jnp.where(jnp.isfinite(heights), heights, -jnp.inf)
    _, best = jax.lax.top_k(heights, starts)
    z, found = jax.lax.map(lambda z: climb(height, z, steps), draws[best])
    at = jnp.argmax(jnp.where(jnp.isfinite(found), found, -jnp.inf))
    return gaussian_at(height, z[at]), found
