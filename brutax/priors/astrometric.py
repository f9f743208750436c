"""What a measured parallax says about distance."""

import math
from types import ModuleType
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.priors._base import AbstractPrior, Point
from brutax.utils._namespace import ArrayLike, Numeric, as_float, floats

_NEAREST = 1e-9  # kpc; keeps 1 / distance, squared and in units of the error, a float32
_MIN_SCALE, _MAX_SCALE_ERR = 1e-20, 1e20  # what no information about the scale is called


class GaussianParallax(AbstractPrior):
    """A parallax measured with a Gaussian error: N(1 / dist; value, error^2), dist [kpc].

    A value may be negative. Where value or error is not finite or the error is not positive
    nothing is known, and the log-density is 0.
    """

    value: Float[Array, "*star"] = eqx.field(converter=as_float)  # [mas]
    error: Float[Array, "*star"] = eqx.field(converter=as_float)  # [mas]

    def log_prob(self, point: Point) -> Array:
        parallax = 1.0 / jnp.maximum(as_float(point.dist), _NEAREST)
        return logp_parallax(parallax, self.value, self.error)


def logp_parallax(parallaxes: ArrayLike, p_meas: ArrayLike, p_err: ArrayLike) -> Any:
    """Log-density of a measured parallax `p_meas` +- `p_err` [mas] given true `parallaxes`.

    0 where measurement or error is not finite or the error is not positive.
    """
    xp, true, value, error = floats(parallaxes, p_meas, p_err)
    known = xp.isfinite(value) & xp.isfinite(error) & (error > 0)
    return _normal_or_zero(xp, true, xp.where(known, value, 0.0), error, known)


def convert_parallax_to_scale(
    p_meas: ArrayLike, p_err: ArrayLike, snr_lim: ArrayLike = 4.0
) -> tuple[Any, Any]:
    """Mean and standard deviation of the flux scale s = parallax^2 that a parallax [mas] implies.

    For p+ = max(p, 0): p+^2 + sigma^2 and sqrt(2 sigma^4 + 4 p+^2 sigma^2). Where the parallax is
    not known to better than `snr_lim` in absolute value, no information: (1e-20, 1e20).
    """
    xp, value, sigma = floats(p_meas, p_err)
    known = xp.isfinite(value) & xp.isfinite(sigma) & (sigma > 0)
    error = xp.where(known, sigma, 1.0)
    used = known & (xp.abs(xp.where(known, value, 0.0)) > snr_lim * error)
    positive = xp.maximum(xp.where(used, value, 1.0), 0.0)
    mean = positive**2 + error**2
    std = error * xp.sqrt(2.0 * error**2 + 4.0 * positive**2)
    return xp.where(used, mean, _MIN_SCALE), xp.where(used, std, _MAX_SCALE_ERR)


def logp_parallax_scale(
    scales: ArrayLike,
    scale_errs: ArrayLike,
    p_meas: ArrayLike,
    p_err: ArrayLike,
    snr_lim: ArrayLike = 4.0,
) -> Any:
    """Log-density of flux scales s +- `scale_errs` under `convert_parallax_to_scale`.

    An approximation for choosing models, 0 where the parallax says too little.
    """
    xp, scale, error, value, sigma = floats(scales, scale_errs, p_meas, p_err)
    mean, std = convert_parallax_to_scale(value, sigma, snr_lim)
    used = std < _MAX_SCALE_ERR
    total = xp.sqrt(xp.where(used, std, 0.0) ** 2 + error**2)
    return _normal_or_zero(xp, scale, mean, total, used)


def _normal_or_zero(
    xp: ModuleType, x: Numeric, mean: Numeric, std: Numeric, used: Array | np.ndarray | np.bool_
) -> Any:
    std = xp.where(used, std, 1.0)
    value = -0.5 * ((x - mean) / std) ** 2 - xp.log(std) - 0.5 * math.log(2.0 * math.pi)
    return xp.where(used, value, 0.0)
