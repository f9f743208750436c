"""Distributions and coordinates that the rest of the library is built from.

NumPy in, NumPy (float64) out; JAX in, JAX out, stable in float32 and with finite gradients.
"""

import math
from types import ModuleType
from typing import Any

import numpy as np

from brutax.utils._namespace import floats, special
from brutax.utils.linalg import inverse3 as inverse3  # where brutus has them
from brutax.utils.linalg import isPSD as isPSD

HALF_LN_2PI = 0.5 * math.log(2.0 * math.pi)  # minus the ln of a standard normal density at 0
_TWO_PI = 2.0 * math.pi
_FAR = 1e6  # used instead of an infinite bound of a standard normal: squares of it fit in float32
# nodes and weights for intervals below one standard deviation: exact to rounding with 8
_NODES, _WEIGHTS = (x[4:].tolist() for x in np.polynomial.legendre.leggauss(8))


def galactic_to_galactocentric_cyl(
    dists: Any, ell: Any, b: Any, R_solar: Any = 8.2, Z_solar: Any = 0.025
) -> tuple[Any, Any]:
    """Galactocentric cylindrical radius and height (R, Z) [kpc].

    `dists` [kpc] along Galactic longitude `ell` and latitude `b` [deg]; the Sun is at radius
    `R_solar` and height `Z_solar`. A shift of the origin, without a tilt of the plane.
    """
    xp, dists, ell, b, R_solar, Z_solar = floats(dists, ell, b, R_solar, Z_solar)
    R2, Z = squared_radius_and_height(xp, dists, ell, b, R_solar, Z_solar)
    return xp.where(R2 > 0, xp.sqrt(xp.where(R2 > 0, R2, 1.0)), 0.0), Z


def squared_radius_and_height(
    xp: ModuleType, dists: Any, ell: Any, b: Any, R_solar: Any, Z_solar: Any
) -> tuple[Any, Any]:
    """(R^2, Z) of `galactic_to_galactocentric_cyl`; R^2 is smooth where R is not."""
    ell, b = xp.deg2rad(ell), xp.deg2rad(b)
    planar = dists * xp.cos(b)
    R2 = (planar * xp.cos(ell) - R_solar) ** 2 + (planar * xp.sin(ell)) ** 2
    return R2, dists * xp.sin(b) + Z_solar


def chisquare_logpdf(x: Any, df: Any, loc: Any = 0, scale: Any = 1) -> Any:
    """Log-density in x of a chi-square distribution of y = (x - loc) / scale; -inf for y <= 0.

    `df`, the degrees of freedom, need not be whole; -inf where it is not positive.
    """
    xp, x, df, loc, scale = floats(x, df, loc, scale)
    y = (x - loc) / scale
    inside = y > 0
    return xp.where(inside, log_chisquare_density(xp.where(inside, y, 1.0), df), -xp.inf) - xp.log(
        scale
    )


def log_chisquare_density(y: Any, df: Any) -> Any:
    """(df/2 - 1) ln y - y/2 - ln Gamma(df/2) - (df/2) ln 2, with 0 ln 0 = 0; -inf for df <= 0."""
    xp, y, df = floats(y, df)
    valid = df > 0
    half = 0.5 * xp.where(valid, df, 2.0)
    positive = y > 0
    power = xp.where(positive, (half - 1.0) * xp.log(xp.where(positive, y, 1.0)), 0.0)
    at_zero = xp.where(half > 1.0, -xp.inf, xp.where(half < 1.0, xp.inf, 0.0))
    power = xp.where(positive, power, at_zero)
    value = power - 0.5 * y - special(xp).gammaln(half) - half * math.log(2.0)
    return xp.where(valid, value, -xp.inf)


def truncnorm_pdf(x: Any, a: Any, b: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
    """Density of the truncated normal distribution in x; see `truncnorm_logpdf`."""
    xp, x, a, b, loc, scale = floats(x, a, b, loc, scale)
    return xp.exp(truncnorm_logpdf(x, a, b, loc, scale))


def truncnorm_logpdf(x: Any, a: Any, b: Any, loc: Any = 0.0, scale: Any = 1.0) -> Any:
    """Log-density in x of a normal distribution truncated to `a` <= (x - loc) / scale <= `b`.

    Normalised in either tail, however far out; -inf outside the bounds. Arguments broadcast.
    """
    xp, x, a, b, loc, scale = floats(x, a, b, loc, scale)
    z = (x - loc) / scale
    return log_truncated_normal(xp, z, a, b, (z >= a) & (z <= b)) - xp.log(scale)


def log_truncated_normal(xp: ModuleType, z: Any, a: Any, b: Any, inside: Any) -> Any:
    """Log-density in z of a standard normal truncated to (a, b); -inf where not `inside`.

    The caller decides what is inside, in the units in which its bounds are exact.
    """
    z = xp.where(inside, z, 0.0)
    return xp.where(inside, -0.5 * z**2 - HALF_LN_2PI - log_ndtr_diff(a, b), -xp.inf)


def log_ndtr_diff(a: Any, b: Any) -> Any:
    """ln(Phi(b) - Phi(a)), Phi the standard normal distribution; -inf unless a < b.

    Relative precision of Phi(b) - Phi(a) in both tails and for intervals of any width. By
    symmetry the interval is moved to the left of 0. There Phi(z) = exp(-z^2/2) erfcx(-z/sqrt2)/2,
    whose ratio at the two ends is formed without subtracting large numbers; narrow intervals
    are integrated by Gauss-Legendre quadrature. Bounds may be infinite.
    """
    xp, a, b = floats(a, b)
    a, b = xp.broadcast_arrays(xp.clip(a, -_FAR, _FAR), xp.clip(b, -_FAR, _FAR))
    ok = b > a
    a, b = xp.where(ok, a, -1.0), xp.where(ok, b, 1.0)
    right = a + b > 0
    low, high = xp.where(right, -b, a), xp.where(right, -a, b)
    width = high - low
    narrow = (width < 1.0) & (xp.abs(low + high) * width < 4.0)
    thin = _log_narrow(xp, xp.where(narrow, low, -0.1), xp.where(narrow, high, 0.1))
    thick = _log_wide(xp, xp.where(narrow, -1.0, low), xp.where(narrow, 1.0, high))
    return xp.where(ok, xp.where(narrow, thin, thick), -xp.inf)


def approximate_log_ndtr_diff(a: Any, b: Any) -> Any:
    """`log_ndtr_diff` to 1 % of Phi(b) - Phi(a) (6 % where b - a is small), many times as fast.

    Tail probabilities are those of Borjesson & Sundberg (1979, IEEE Trans. Commun. 27, 639). For
    scores, whose errors importance weights correct; -inf unless a < b.
    """
    xp, a, b = floats(a, b)
    a, b = xp.clip(a, -_FAR, _FAR), xp.clip(b, -_FAR, _FAR)
    near = xp.minimum(b, -a)  # the nearer bound, counted inwards
    log_near, log_far = (
        _approximate_log_ndtr(xp, near),
        _approximate_log_ndtr(xp, near - xp.abs(b - a)),
    )
    rise = xp.maximum(log_near - log_far, 1e-30)
    return xp.where(b > a, log_near + xp.log(-xp.expm1(-rise)), -xp.inf)


def _approximate_log_ndtr(xp: ModuleType, x: Any) -> Any:
    """ln Phi(x) from the approximation of its left tail."""
    t = xp.abs(x)
    log_tail = (
        -0.5 * t**2
        - HALF_LN_2PI
        - xp.log((1.0 - 1.0 / xp.pi) * t + xp.sqrt(t**2 + _TWO_PI) / xp.pi)
    )
    return xp.where(x < 0, log_tail, xp.log1p(-xp.exp(log_tail)))


def log_mills(xp: ModuleType, t: Any) -> Any:
    """ln of the upper tail probability beyond t >= 0, plus t^2 / 2: varies slowly."""
    return xp.log(0.5 * special(xp).erfcx(t * math.sqrt(0.5)))


def _log_wide(xp: ModuleType, low: Any, high: Any) -> Any:
    """ln(Phi(high) - Phi(low)) for low <= -|high|."""
    tail = high < 0
    left, body = xp.where(tail, high, -1.0), xp.where(tail, 0.0, high)
    mills_low, mills_high = log_mills(xp, -low), log_mills(xp, -left)
    log_body = special(xp).log_ndtr(body)
    ratio_tail = 0.5 * (left - low) * (left + low) + mills_low - mills_high
    ratio_body = -0.5 * low**2 + mills_low - log_body
    log_high = xp.where(tail, -0.5 * left**2 + mills_high, log_body)
    return log_high + xp.log1p(-xp.exp(xp.where(tail, ratio_tail, ratio_body)))


def _log_narrow(xp: ModuleType, low: Any, high: Any) -> Any:
    """The same for a narrow interval: the integral of exp(-(m + h t)^2 / 2) h dt over |t| < 1."""
    m, h = 0.5 * (low + high), 0.5 * (high - low)
    total = sum(
        2.0 * weight * xp.exp(-0.5 * (h * node) ** 2) * xp.cosh(m * h * node)
        for node, weight in zip(_NODES, _WEIGHTS)
    )
    return -0.5 * m**2 - HALF_LN_2PI + xp.log(h) + xp.log(total)
