"""Draws of (model, eta, A_V, R_V) with exact importance weights.

Models are drawn by systematic resampling of their scores (or those of the best tiles,
`shortlist`), parameters from the Gaussian of the refined model. The weight of a draw is the exact
target density divided by the density it was drawn from. Two small defensive shares (Hesterberg
1995, Technometrics 37, 185) keep the weights bounded where an approximation is too narrow: a share
of the models comes from flattened scores, a share of the parameters from a Gaussian twice as wide.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from brutax.solver.density import Scalar, Theta
from brutax.solver.gaussian import TruncatedGaussian, condition
from brutax.utils.math import log_ndtr_diff
from brutax.utils.photometry import LN_2PI
from brutax.utils.sampling import systematic_indices, truncnorm_ppf

# fraction of the models that are drawn from scores to the power FLAT_POWER; 0.05 costs 5 % of the
# draws at most, and bounds every weight by 20 times that under the flattened scores
FLAT_SHARE = 0.05
FLAT_POWER = 0.5
# fraction of the parameters that are drawn from a Gaussian whose standard deviations are WIDE times
# as large
WIDE_SHARE = 0.05
WIDE = 2.0


class ModelDraws(NamedTuple):
    """Models drawn by score, and the log of the probability of each per draw."""

    model: Int[Array, " draw"]
    log_q: Float[Array, " draw"]


def draw_models(scores: Float[Array, " model"], key: PRNGKeyArray, *, size: int) -> ModelDraws:
    """Systematic draws from the scores, the defensive share from flattened scores."""
    n_flat = max(1, round(FLAT_SHARE * size))
    share = n_flat / size
    u = jax.random.uniform(key, (2,), dtype=scores.dtype)
    flat = FLAT_POWER * scores
    index = jnp.concatenate(
        [
            systematic_indices(scores, u[0], size - n_flat),
            systematic_indices(flat, u[1], n_flat),
        ]
    )
    log_sharp = scores[index] - jax.nn.logsumexp(scores)
    log_flat = flat[index] - jax.nn.logsumexp(flat)
    log_q = jnp.logaddexp(log_sharp + jnp.log1p(-share), log_flat + jnp.log(share))
    return ModelDraws(index, log_q)


def log_density(theta: Theta, gauss: TruncatedGaussian, width: float) -> Scalar:
    """Log density of the truncated Gaussian, `width` times as wide."""
    cond = condition(gauss.curv)
    scale = jnp.sqrt(cond.prec_av) / width
    low, high = ((bound - gauss.mean.av) * scale for bound in (gauss.low, gauss.high))
    d_av = theta.av - gauss.mean.av
    d_eta = theta.eta - gauss.mean.eta - cond.slope_eta * d_av
    d_rv = theta.rv - gauss.mean.rv - cond.slope_rv * d_av
    curv = gauss.curv
    square = curv.ee * d_eta**2 + 2.0 * curv.er * d_eta * d_rv + curv.rr * d_rv**2
    return (
        jnp.log(scale)
        - 0.5 * (d_av * scale) ** 2
        - log_ndtr_diff(low, high)
        - 0.5 * square / width**2
        + 0.5 * jnp.log(cond.det2)
        - 2.0 * jnp.log(width)
        - 1.5 * LN_2PI
    )


def log_proposal(theta: Theta, gauss: TruncatedGaussian) -> Scalar:
    """Log density of the parameters of one draw."""
    return jnp.logaddexp(
        log_density(theta, gauss, 1.0) + jnp.log1p(-WIDE_SHARE),
        log_density(theta, gauss, WIDE) + jnp.log(WIDE_SHARE),
    )


def place(gauss: TruncatedGaussian, u: Scalar, z: Float[Array, "2"], width: Scalar) -> Theta:
    """The point at quantile `u` of A and standard normal variates `z` of (eta, R) given A."""
    cond = condition(gauss.curv)
    scale = jnp.sqrt(cond.prec_av) / width
    low, high = ((bound - gauss.mean.av) * scale for bound in (gauss.low, gauss.high))
    d_av = truncnorm_ppf(u, low, high) / scale
    av = jnp.clip(gauss.mean.av + d_av, gauss.low, gauss.high)
    d_av = av - gauss.mean.av
    curv = gauss.curv
    d_eta = width * z[0] * jnp.sqrt(curv.rr / cond.det2)
    d_rv = width * z[1] / jnp.sqrt(curv.rr) - curv.er / curv.rr * d_eta
    return Theta(
        gauss.mean.eta + cond.slope_eta * d_av + d_eta,
        av,
        gauss.mean.rv + cond.slope_rv * d_av + d_rv,
    )


def draw_theta(gauss: TruncatedGaussian, uniform: Float[Array, "2"], z: Float[Array, "2"]) -> Theta:
    """Parameters of one draw; `uniform` decides the quantile of A_V and the width."""
    width = jnp.where(uniform[1] < WIDE_SHARE, WIDE, 1.0)
    return place(gauss, uniform[0], z, width.astype(uniform.dtype))
