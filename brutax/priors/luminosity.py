"""The luminosity function of Pan-STARRS: how common stars of an absolute magnitude are.

A cubic spline of 32 knots fitted to the table PSMrLF_lnprior.dat that brutus distributes under
the MIT licence (G. Green, from the Parsec models for an age of 7 +- 2 Gyr and [Fe/H] = -0.5 +-
0.5); benchmarks/fit_luminosity_function.py makes the numbers. It follows the table to 1.3e-3
(rms) for -1 < M_r < 16, to 0.04 in the steep decline beyond, and continues it with the slopes
of its first and last interval.
"""

import functools
from typing import Any

import numpy as np
from jaxtyping import Array

from brutax.priors._base import AbstractPrior, Point
from brutax.utils._namespace import ArrayLike, as_float, floats

# fmt: off
_KNOTS = (
    -1.0, -0.638, -0.571, -0.145, 0.21, 0.527, 0.653, 0.785, 1.074, 2.16, 2.214,
    2.911, 3.322, 3.855, 5.339, 6.919, 7.982, 9.049, 9.976, 10.833, 11.599, 13.283,
    14.475, 15.317, 15.8, 15.981, 16.0, 16.024, 16.087, 18.109, 19.991, 20.0,
)  # M_r [mag]
_VALUES = (
    -11.2716, -10.9248, -10.9159, -10.369, -9.0161, -9.3307, -9.6386, -9.9821,
    -10.0976, -9.1616, -9.0825, -7.6592, -6.968, -6.5506, -5.9552, -5.5546,
    -4.8563, -3.9747, -4.0278, -4.178, -4.4241, -5.7783, -8.3842, -12.3442,
    -15.9089, -18.1976, -18.5029, -18.5375, -19.0327, -69.5802, -205.4439, -206.4108,
)  # ln(stars / pc^3 / mag)
_END_SLOPES = (0.981, -106.9985)  # of ln(phi) beyond the first and last entry [1 / mag]
# fmt: on


class PS1LuminosityFunction(AbstractPrior):
    """ln of the number density of stars per r magnitude: `logp_ps1_luminosity_function`."""

    def log_prob(self, point: Point) -> Array:
        return logp_ps1_luminosity_function(as_float(point.Mr))


def logp_ps1_luminosity_function(Mr: ArrayLike) -> Any:
    """ln(stars / pc^3 / mag) at the absolute Pan-STARRS r magnitude `Mr`; not normalised to 1."""
    xp, absolute = floats(Mr)
    knots, coefficients = _spline()
    at = xp.clip(absolute, _KNOTS[0], _KNOTS[-1])
    piece = xp.clip(xp.searchsorted(xp.asarray(knots, dtype=float), at, side="right") - 1, 0, 30)
    c3, c2, c1, c0 = (xp.asarray(c, dtype=float)[piece] for c in coefficients)
    step = at - xp.asarray(knots, dtype=float)[piece]
    inside = c0 + step * (c1 + step * (c2 + step * c3))
    low, high = xp.minimum(absolute - _KNOTS[0], 0.0), xp.maximum(absolute - _KNOTS[-1], 0.0)
    return inside + _END_SLOPES[0] * low + _END_SLOPES[1] * high


@functools.cache
def _spline() -> tuple[np.ndarray, np.ndarray]:
    """Knots, and the coefficients (power, piece) of each piece from the cubic down."""
    from scipy.interpolate import CubicSpline

    ends = ((1, _END_SLOPES[0]), (1, _END_SLOPES[1]))
    return np.array(_KNOTS), CubicSpline(_KNOTS, _VALUES, bc_type=ends).c  # pyright: ignore[reportArgumentType]
