"""What a measured parallax says about distance."""

import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from brutax.priors._base import AbstractPrior, Point
from brutax.utils._namespace import as_float, floats

_NEAREST = 1e-9  # kpc; keeps 1 / distance, squared and in units of the error, a float32
_MIN_SCALE, _MAX_SCALE_ERR = 1e-20, 1e20  # what no information about the scale is called


class GaussianParallax(AbstractPrior):
    """A parallax measured with a Gaussian error: N(1 / dist; value, error^2), dist [kpc].

    A value may be negative. Where value or error is not finite or the error is not positive
    nothing is known, and the log-density is 0.
    """

    value: Float[Array, "*star"] = eqx.field(converter=as_float)  # [mas]
    error: Float[Array, "*star"] = eqx.field(converter=as_float)  # [mas]

    def log_prob(self, point: Point) -> Any:
        parallax = 1.0 / jnp.maximum(as_float(point.dist), _NEAREST)
        return logp_parallax(parallax, self.value, self.error)


def logp_parallax(parallaxes: Any, p_meas: Any, p_err: Any) -> Any:
    """Log-density of a measured parallax `p_meas` +- `p_err` [mas] given true `parallaxes`.

    0 where measurement or error is not finite or the error is not positive.
    """
    xp, parallaxes, p_meas, p_err = floats(parallaxes, p_meas, p_err)
    known = xp.isfinite(p_meas) & xp.isfinite(p_err) & (p_err > 0)
    return _normal_or_zero(xp, parallaxes, xp.where(known, p_meas, 0.0), p_err, known)


def convert_parallax_to_scale(p_meas: Any, p_err: Any, snr_lim: Any = 4.0) -> tuple[Any, Any]:
    """Mean and deviation of the flux scale s = parallax^2 that a parallax [mas] implies.

    For p+ = max(p, 0): p+^2 + sigma^2 and sqrt(2 sigma^4 + 4 p+^2 sigma^2). Where the parallax is
    not known to better than `snr_lim` in absolute value, no information: (1e-20, 1e20).
    """
    xp, p_meas, p_err = floats(p_meas, p_err)
    known = xp.isfinite(p_meas) & xp.isfinite(p_err) & (p_err > 0)
    error = xp.where(known, p_err, 1.0)
    used = known & (xp.abs(xp.where(known, p_meas, 0.0)) > snr_lim * error)
    positive = xp.maximum(xp.where(used, p_meas, 1.0), 0.0)
    mean = positive**2 + error**2
    deviation = error * xp.sqrt(2.0 * error**2 + 4.0 * positive**2)
    return xp.where(used, mean, _MIN_SCALE), xp.where(used, deviation, _MAX_SCALE_ERR)


def logp_parallax_scale(
    scales: Any, scale_errs: Any, p_meas: Any, p_err: Any, snr_lim: Any = 4.0
) -> Any:
    """Log-density of flux scales s +- `scale_errs` under `convert_parallax_to_scale`.

    An approximation for choosing models, 0 where the parallax says too little.
    """
    xp, scales, scale_errs, p_meas, p_err = floats(scales, scale_errs, p_meas, p_err)
    mean, deviation = convert_parallax_to_scale(p_meas, p_err, snr_lim)
    used = deviation < _MAX_SCALE_ERR
    total = xp.sqrt(xp.where(used, deviation, 0.0) ** 2 + scale_errs**2)
    return _normal_or_zero(xp, scales, mean, total, used)


def _normal_or_zero(xp: Any, x: Any, mean: Any, std: Any, used: Any) -> Any:
    std = xp.where(used, std, 1.0)
    value = -0.5 * ((x - mean) / std) ** 2 - xp.log(std) - 0.5 * math.log(2.0 * math.pi)
    return xp.where(used, value, 0.0)
