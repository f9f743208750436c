"""The posterior density of one star for one model, with its gradient and curvature.

With eta = ln(distance / kpc), the model flux in band b, in units of the star's brightest band, is

    F_b = exp(-k [M_b + A (r_b + R r'_b) - unit_mag] - 2 eta),   k = 0.4 ln 10,

and phi = -ln(likelihood x prior) is half a sum of squares (photometry, parallax, Gaussian
parts of the A_V and R_V priors) minus the log of the distance prior. Constants that do not depend
on model or parameters are left out here and added on the host.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from brutax.models.stars import Stars
from brutax.solver.inputs import Models, StarPrior
from brutax.utils.photometry import LN_PER_MAG

# |ln(d / kpc)| never exceeds this: 0.1 pc to 10 Mpc, wider than any star with photometry needs
ETA_LIMIT = 9.2

# largest model flux divided by the error that is computed with: whatever the data, its squares and
# their products stay finite in single precision
LARGEST = 1e8

Scalar = Float[Array, ""]


class Theta(NamedTuple):
    """Continuous parameters of one star for one model; each of shape () or of one shape."""

    eta: Scalar  # ln(distance / kpc)
    av: Scalar  # A_V [mag]
    rv: Scalar  # R_V


class Sym3(NamedTuple):
    """A symmetric 3x3 matrix in the coordinates (eta, av, rv), by its six elements."""

    ee: Scalar
    ea: Scalar
    er: Scalar
    aa: Scalar
    ar: Scalar
    rr: Scalar


class Expansion(NamedTuple):
    """phi near a point, to second order: value, gradient, and a positive curvature."""

    theta: Theta
    phi: Scalar
    grad: Theta
    curv: Sym3
    chi2: Scalar  # photometry and parallax


def fluxes(theta: Theta, star: Stars, model: Models) -> list[Scalar]:
    """Model fluxes divided by the errors of the star, by band; 0 where a band is not observed."""
    offset = LN_PER_MAG * star.unit_mag - 2.0 * theta.eta
    return [
        jnp.minimum(
            star.weight[band]
            * jnp.exp(
                offset
                - LN_PER_MAG
                * (model.mag[band] + theta.av * (model.red[band] + theta.rv * model.dred[band]))
            ),
            LARGEST,
        )
        for band in range(star.weight.shape[-1])
    ]


def chi_square(theta: Theta, star: Stars, model: Models) -> Scalar:
    """Chi-square of photometry and parallax."""
    predicted = fluxes(theta, star, model)
    chi2 = sum(
        (star.weight[band] * star.flux[band] - flux) ** 2 for band, flux in enumerate(predicted)
    )
    plx = star.parallax_weight * (star.parallax - jnp.exp(-theta.eta))
    return chi2 + plx**2


def log_prior(theta: Theta, star: Stars, model: Models, prior: StarPrior) -> Scalar:
    """Log prior density of (eta, A_V, R_V) and of the model; includes d(dist)/d(eta)."""
    dist = jnp.exp(theta.eta)
    point = model.point(dist=dist, av=theta.av, rv=theta.rv, ell=star.ell, b=star.b)
    return (
        prior.distance.log_prob(point)
        + theta.eta
        + prior.av.log_prob(point)
        + prior.rv.log_prob(point)
        + model.log_prior
    )


def log_target(theta: Theta, star: Stars, model: Models, prior: StarPrior) -> Scalar:
    """Log of the joint posterior density of model and parameters (eta, A_V [mag], R_V).

    The sum of -chi^2 / 2 and all log priors. The star's constant -sum ln(2 pi sigma^2) / 2 is left
    out. All arguments are of one star and one model; JAX in, JAX out, differentiable.
    """
    return -0.5 * chi_square(theta, star, model) + log_prior(theta, star, model, prior)


def _derivatives(function: Callable[[Scalar], Scalar], x: Scalar) -> tuple[Scalar, Scalar, Scalar]:
    """Value, first and second derivative of a scalar function."""
    one = jnp.ones_like(x)

    def first(x: Scalar) -> tuple[Scalar, Scalar]:
        return jax.jvp(function, (x,), (one,))

    (value, slope), (_, curvature) = jax.jvp(first, (x,), (one,))
    return value, slope, curvature


def expand(theta: Theta, star: Stars, model: Models, prior: StarPrior) -> Expansion:
    """Expands phi to second order: Gauss-Newton in the squares, Newton in the distance prior.

    The curvature of a uniform distribution on the allowed ranges (3 / width^2) is added, so that
    the matrix is positive definite even without data; importance weights remove its effect.
    """
    eta, av, rv = theta
    sum_rr = sum_e = sum_a = sum_r = ee = ea = er = aa = ar = rr = jnp.zeros_like(eta)
    for band, flux in enumerate(fluxes(theta, star, model)):
        resid = star.weight[band] * star.flux[band] - flux
        d_eta = -2.0 * flux
        d_av = -LN_PER_MAG * (model.red[band] + rv * model.dred[band]) * flux
        d_rv = -LN_PER_MAG * av * model.dred[band] * flux
        sum_rr += resid**2
        sum_e, sum_a, sum_r = sum_e - d_eta * resid, sum_a - d_av * resid, sum_r - d_rv * resid
        ee, ea, er = ee + d_eta * d_eta, ea + d_eta * d_av, er + d_eta * d_rv
        aa, ar, rr = aa + d_av * d_av, ar + d_av * d_rv, rr + d_rv * d_rv

    plx_model = star.parallax_weight * jnp.exp(-eta)
    resid = star.parallax_weight * star.parallax - plx_model
    chi2 = sum_rr + resid**2
    sum_e, ee = sum_e + plx_model * resid, ee + plx_model**2

    def log_distance(eta: Scalar) -> Scalar:
        point = model.point(dist=jnp.exp(eta), ell=star.ell, b=star.b)
        return prior.distance.log_prob(point) + eta

    lnp, slope, curvature = _derivatives(log_distance, eta)
    sum_e, ee = sum_e - slope, ee + jnp.maximum(-curvature, 0.0) + 1.0 / ETA_LIMIT**2

    (mean, inv_std), (d_mean, _) = jax.jvp(
        lambda eta: prior.av.moments(jnp.exp(eta)), (eta,), (jnp.ones_like(eta),)
    )
    resid_av = (av - mean) * inv_std
    d_eta = -d_mean * inv_std
    sum_e, sum_a = sum_e + d_eta * resid_av, sum_a + inv_std * resid_av
    ee, ea = ee + d_eta**2, ea + d_eta * inv_std
    aa = aa + inv_std**2 + 3.0 / (prior.av.high - prior.av.low) ** 2

    mean, inv_std = prior.rv.moments()
    resid_rv = (rv - mean) * inv_std
    sum_r = sum_r + inv_std * resid_rv
    rr = rr + inv_std**2 + 3.0 / (prior.rv.high - prior.rv.low) ** 2

    point = model.point(dist=jnp.exp(eta), av=av, rv=rv, ell=star.ell, b=star.b)
    phi = 0.5 * chi2 - lnp - model.log_prior
    phi = phi - prior.av.log_prob(point) - prior.rv.log_prob(point)
    return Expansion(theta, phi, Theta(sum_e, sum_a, sum_r), Sym3(ee, ea, er, aa, ar, rr), chi2)
