"""A maximum of the posterior density in the flat vector z, and the Gaussian about it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray

STALLED = 1e-3  # nats: a search ends after RESTS iterations that gain less
RESTS = 3  # iterations: one or two without gain happen on the way
FIRST_STEP = 1e-3  # of z, for the diagonal of the curvature
STEP = 0.5  # of a standard deviation, for all of it
LEAST_CURVATURE = 1e-2  # of z: flatter than any posterior that a prior bounds
MOST_CURVATURE = 1e10  # of z: standard deviations of 1e-5 and more

KEPT_ONE_IN = 8  # draws: the best eighth of a round is what the next one is drawn about
SELECTION_ROUNDS = 8  # of drawing about the best and keeping the best
SPREAD, SHRINK = 1.5, 0.1  # wider than those; share of their covariances that is left out

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

    Steps are half a standard deviation, so that rounding in single precision does not matter and a
    posterior that is not quite normal is described on the scale of its own width. Directions that
    are flat, or curved the other way, get a curvature of `LEAST_CURVATURE`.
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


def draws_near_maxima(
    height: Function, draws: Float[Array, "draw z"], key: PRNGKeyArray
) -> tuple[Float[Array, "draw z"], Float[Array, " draw"]]:
    """Draws closer to where `height` is large, the highest first, and their heights.

    Rounds of draws from the normal distribution of the best so far, wider (cross-entropy method:
    Rubinstein 1999): of many peaks they find the ones that stand on the broadest hill, which
    climbs from the best of a few prior draws miss.
    """
    count, size = draws.shape

    def heights(z: Array) -> Array:
        found = jax.lax.map(height, z)
        return jnp.where(jnp.isfinite(found), found, -jnp.inf)

    def best(z: Array, found: Array, n: int) -> tuple[Array, Array]:
        top, at = jax.lax.top_k(found, n)
        return z[at], top

    kept = min(max(count // KEPT_ONE_IN, 2 * size), count // 2)
    found = best(draws, heights(draws), count)
    if kept <= size:  # too few to say how wide the hill is
        return found

    def one(k: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        top, top_heights = (x[:kept] for x in state)
        mean = jnp.mean(top, axis=0, keepdims=True)
        away = top - mean
        cov = jnp.matmul(away.T, away, precision="highest") / kept
        own = jnp.diag(jnp.diagonal(cov))
        cov = SPREAD**2 * ((1.0 - SHRINK) * cov + SHRINK * own) + 1e-12 * jnp.eye(size)
        noise = jax.random.normal(jax.random.fold_in(key, k), (count - kept, size), top.dtype)
        new = mean + jnp.matmul(noise, jnp.linalg.cholesky(cov).T, precision="highest")
        return best(
            jnp.concatenate([top, new]), jnp.concatenate([top_heights, heights(new)]), count
        )

    return jax.lax.fori_loop(0, SELECTION_ROUNDS, one, found)


def find(
    height: Function, draws: Float[Array, "draw z"], key: PRNGKeyArray, *, starts: int, steps: int
) -> tuple[Gaussian, Array]:
    """The Gaussian at the highest maximum found from the `starts` best of `draws_near_maxima`.

    Also returns the heights that they found, (start,), NaN for none.
    """
    begin, _ = draws_near_maxima(height, draws, key)
    z, found = jax.lax.map(lambda z: climb(height, z, steps), begin[:starts])
    at = jnp.argmax(jnp.where(jnp.isfinite(found), found, -jnp.inf))
    return gaussian_at(height, z[at]), found
