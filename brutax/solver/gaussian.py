"""Gaussian approximations of one model's posterior, truncated exactly in A_V.

A quadratic in (eta, A, R) is kept in the order in which it is sampled: A first (marginal,
truncated), then eta and R given A. The weight of a model is the integral of its Gaussian,

    ln Z_k = -phi_min + (3/2) ln 2 pi - (1/2) ln det P + ln Pr[low < A < high].
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from brutax.solver.density import ETA_LIMIT, Expansion, Scalar, Sym3, Theta
from brutax.solver.inputs import StarPrior
from brutax.utils.math import approximate_log_ndtr_diff, log_ndtr_diff
from brutax.utils.photometry import LN_2PI

# largest step in ln(distance) for which a quadratic is used: beyond a factor of 1.6 in distance the
# density is not close to Gaussian
TRUST = 0.5


class Conditional(NamedTuple):
    """A precision matrix of (eta, A, R) split into A, and (eta, R) given A."""

    slope_eta: Scalar  # d E[eta | A] / dA
    slope_rv: Scalar
    prec_av: Scalar  # marginal precision of A
    det2: Scalar  # determinant of the precision of (eta, R) given A


def condition(curv: Sym3) -> Conditional:
    """Eliminates (eta, R) from a precision matrix."""
    # the exact value is positive; one band that outweighs all others leaves nothing but rounding
    least = 10.0 * jnp.finfo(curv.ee.dtype).eps * curv.ee * curv.rr
    det2 = jnp.maximum(curv.ee * curv.rr - curv.er**2, least)
    slope_eta = -(curv.rr * curv.ea - curv.er * curv.ar) / det2
    slope_rv = -(curv.ee * curv.ar - curv.er * curv.ea) / det2
    prec_av = curv.aa + curv.ea * slope_eta + curv.ar * slope_rv
    # the exact value is positive; rounding may say otherwise when the bands are redundant
    return Conditional(slope_eta, slope_rv, jnp.maximum(prec_av, 1e-6 * curv.aa), det2)


def newton_step(
    grad: Theta, curv: Sym3, low: Scalar | float = -jnp.inf, high: Scalar | float = jnp.inf
) -> Theta:
    """The step to the minimum of a quadratic whose step in A is confined to [low, high]."""
    cond = condition(curv)
    d_av = -(grad.av + cond.slope_eta * grad.eta + cond.slope_rv * grad.rv) / cond.prec_av
    d_av = jnp.clip(d_av, low, high)
    d_eta = -(curv.rr * grad.eta - curv.er * grad.rv) / cond.det2 + cond.slope_eta * d_av
    d_rv = -(curv.ee * grad.rv - curv.er * grad.eta) / cond.det2 + cond.slope_rv * d_av
    return Theta(d_eta, d_av, d_rv)


class TruncatedGaussian(NamedTuple):
    """A Gaussian in (eta, A_V [mag], R_V) restricted to low <= A_V <= high."""

    mean: Theta
    curv: Sym3  # precision matrix
    log_z: Scalar  # ln of the integral of the density that it approximates
    low: Scalar
    high: Scalar


def laplace(point: Expansion, prior: StarPrior, *, approximate: bool = False) -> TruncatedGaussian:
    """The Gaussian that agrees with an expansion in value, gradient and curvature.

    With `approximate`, `log_z` comes from a normal distribution function that is good to 1 %.
    """
    low, high = prior.av.low, prior.av.high
    # a quadratic is valid within TRUST of its point: where the step within the range of A_V is
    # longer, the point has not converged, and the gradient is shortened until it fits
    inner = newton_step(point.grad, point.curv, low - point.theta.av, high - point.theta.av)
    trust = jnp.minimum(1.0, TRUST / jnp.maximum(jnp.abs(inner.eta), 1e-6))
    grad = Theta(*(trust * g for g in point.grad))
    step = newton_step(grad, point.curv)
    cond = condition(point.curv)
    peak = -point.phi - 0.5 * sum(g * d for g, d in zip(grad, step, strict=True))
    mean = Theta(*(t + d for t, d in zip(point.theta, step, strict=True)))
    scale = jnp.sqrt(cond.prec_av)
    log_probability = approximate_log_ndtr_diff if approximate else log_ndtr_diff
    inside = log_probability((low - mean.av) * scale, (high - mean.av) * scale)
    volume = 1.5 * LN_2PI - 0.5 * (jnp.log(cond.prec_av) + jnp.log(cond.det2))
    log_z = peak + volume + inside
    mean = _within_ranges(mean, cond, point, grad, prior)
    return TruncatedGaussian(mean, point.curv, log_z, low, high)


def _within_ranges(
    mean: Theta, cond: Conditional, point: Expansion, grad: Theta, prior: StarPrior
) -> Theta:
    """The peak of a quadratic; at the bound of R_V where R_V would be beyond it, A_V in its range.

    A_V is truncated when it is drawn, R_V is not: from a peak far outside, as a star that no model
    fits has it, no draw would have a posterior density.
    """
    curv, theta, low, high = point.curv, point.theta, prior.av.low, prior.av.high
    rv = mean.rv + cond.slope_rv * (jnp.clip(mean.av, low, high) - mean.av)
    bounded = jnp.clip(rv, prior.rv.low, prior.rv.high)
    d_rv = bounded - theta.rv
    pull_eta, pull_av = grad.eta + curv.er * d_rv, grad.av + curv.ar * d_rv
    # A_V and eta given R_V: eliminate eta
    ratio = curv.ea / curv.ee
    prec_av = jnp.maximum(curv.aa - ratio * curv.ea, 1e-6 * curv.aa)
    d_av = -(pull_av - ratio * pull_eta) / prec_av
    d_av = jnp.clip(d_av, low - theta.av, high - theta.av)
    d_eta = -pull_eta / curv.ee - ratio * d_av
    at_bound = Theta(theta.eta + d_eta, theta.av + d_av, bounded)
    outside = rv != bounded
    return Theta(*(jnp.where(outside, a, b) for a, b in zip(at_bound, mean, strict=True)))


def advance(theta: Theta, step: Theta, prior: StarPrior) -> Theta:
    """Adds a step and keeps the point inside the ranges of A_V, R_V and distance."""
    return Theta(
        jnp.clip(theta.eta + jnp.clip(step.eta, -3.0, 3.0), -ETA_LIMIT, ETA_LIMIT),
        jnp.clip(theta.av + step.av, prior.av.low, prior.av.high),
        jnp.clip(theta.rv + step.rv, prior.rv.low, prior.rv.high),
    )


def covariance_sar(point: Expansion) -> Float[Array, "3 3"]:
    """Covariance of (scale = dist^-2 [kpc^-2], A_V, R_V) at an optimum, not truncated."""
    cond = condition(point.curv)
    var = 1.0 / cond.prec_av
    c_ee = point.curv.rr / cond.det2 + cond.slope_eta**2 * var
    c_er = -point.curv.er / cond.det2 + cond.slope_eta * cond.slope_rv * var
    c_rr = point.curv.ee / cond.det2 + cond.slope_rv**2 * var
    c_ea, c_ar = cond.slope_eta * var, cond.slope_rv * var
    d_scale = -2.0 * jnp.exp(-2.0 * point.theta.eta)
    return jnp.stack(
        [
            jnp.stack([c_ee * d_scale**2, c_ea * d_scale, c_er * d_scale]),
            jnp.stack([c_ea * d_scale, var, c_ar]),
            jnp.stack([c_er * d_scale, c_ar, c_rr]),
        ]
    )
