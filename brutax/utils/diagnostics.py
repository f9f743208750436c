"""Effective size and reliability of importance weights."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

GOOD_K = 0.7  # largest Pareto index of reliable weights (Vehtari et al. 2024, JMLR 25, 72)


def effective_size(log_weights: Float[Array, " draw"]) -> Float[Array, ""]:
    """Effective number of draws, (sum w)^2 / sum w^2 (Kish 1965), from ln w up to a constant."""
    return jnp.exp(2.0 * jax.nn.logsumexp(log_weights) - jax.nn.logsumexp(2.0 * log_weights))


def pareto_k(log_weights: Float[Array, " draw"]) -> Float[Array, ""]:
    """Shape of the generalised Pareto distribution of the largest weights.

    Below `GOOD_K` the weighted averages are reliable (Vehtari et al. 2024, JMLR 25, 72). The fit is
    the posterior mean of Zhang & Stephens (2009, Technometrics 51, 316), with the weak prior
    towards 0.5 of the former paper. Draws that cannot occur (-inf) count as weights of 0.
    """
    size = log_weights.shape[-1]
    tail = min(size // 5, math.ceil(3.0 * math.sqrt(size)))
    top, _ = jax.lax.top_k(log_weights, tail + 1)
    top = jnp.exp(top - top[0])
    excess = jnp.flip(top[:-1] - top[-1])  # ascending
    n_points = 30 + int(math.sqrt(tail))
    quarter = jnp.maximum(excess[max(int(tail / 4 + 0.5) - 1, 0)], 1e-30)
    steps = 1.0 - jnp.sqrt(n_points / (jnp.arange(n_points, dtype=excess.dtype) + 0.5))
    largest = jnp.maximum(excess[-1], 1e-30)
    theta = steps / (3.0 * quarter) + 1.0 / largest

    def profile(theta: Float[Array, ""]) -> tuple[Float[Array, ""], Float[Array, ""]]:
        shape = jnp.mean(jnp.log1p(-jnp.minimum(theta * excess, 1.0 - 1e-7)))
        ratio = jnp.where(shape == 0, 1.0, theta / jnp.where(shape == 0, 1.0, shape))
        return tail * (jnp.log(jnp.maximum(-ratio, 1e-30)) - shape - 1.0), shape

    log_like, _ = jax.vmap(profile)(theta)
    mean = jnp.sum(jax.nn.softmax(log_like) * theta)
    _, shape = profile(mean)
    k = (tail * shape + 5.0) / (tail + 10.0)
    # equal weights have no tail at all
    return jnp.where(excess[-1] <= 1e-6, 0.0, k)
