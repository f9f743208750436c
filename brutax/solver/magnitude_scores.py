"""Scores in magnitudes: less work than those of `scores`, for stars with precise photometry.

Where all bands have high signal-to-noise and determine the distance modulus of a model, the density
is close to a Gaussian about the closed-form start of `scores`, and priors are flat across it. The
mass of a model is then its density there, with all priors, times the volume of the Gaussian, with
two corrections: the optimum in R_V, and the parallax, which is not Gaussian in the modulus. Nothing
is differentiated, and no band is exponentiated.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from brutax.models.stars import Stars
from brutax.solver.density import Scalar, log_prior
from brutax.solver.gaussian import TRUST
from brutax.solver.inputs import Models, StarPrior, over_models
from brutax.solver.scores import Magnitudes, magnitudes, solve
from brutax.utils.photometry import LN_2PI, LN_PER_MAG

# the two limits are those at which draws by these scores are as efficient as by the others
# (effective size above 0.9 per draw in all cases of tests/test_quick.py)
BRIGHT = 10.0  # signal-to-noise ratio of all bands, at least
# and at most: products of three precisions stay finite in single precision
TOO_BRIGHT = 1e5
SETTLED = 0.15  # standard deviation of ln(distance) of one model, at most
PER_MAG = 0.5 * LN_PER_MAG  # d ln(distance) / d modulus
# where a prior of A_V is compared with itself [kpc]: it must be the same at all distances
DISTANCES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def settled(
    star: Stars, red: Float[Array, " band"], dred: Float[Array, " band"], prior: StarPrior
) -> Bool[Array, ""]:
    """Whether scores in magnitudes are accurate enough for a star.

    `red`, `dred` are typical reddening coefficients of its models. The conditions are a
    signal-to-noise ratio above `BRIGHT` (and below `TOO_BRIGHT`) in all bands, ln(distance) of a
    model known to `SETTLED`, and a prior of A_V that is the same at all distances.
    """
    data = magnitudes(star)
    weight = jnp.stack(data.weight)
    q = red + prior.rv.moments()[0] * dred
    mean, inv_std = prior.av.moments(jnp.asarray(DISTANCES, q.dtype))
    everywhere = jnp.all(inv_std == inv_std[0]) & jnp.all(inv_std * mean == inv_std[0] * mean[0])
    total = jnp.sum(weight) + data.modulus_weight
    s_q, s_qq = jnp.sum(weight * q), jnp.sum(weight * q**2)
    weak = inv_std[0] ** 2 + 12.0 / (prior.av.high - prior.av.low) ** 2
    precision = total - s_q**2 / (s_qq + weak)
    snr = star.flux * star.weight
    bright = jnp.all((star.weight == 0) | ((snr > BRIGHT) & (snr < TOO_BRIGHT)))
    return bright & everywhere & (precision * SETTLED**2 > PER_MAG**2)


def magnitude_score(star: Stars, data: Magnitudes, model: Models, prior: StarPrior) -> Scalar:
    """Log of the approximate posterior mass of one model; -inf for one without prior mass.

    `data` are the star's `magnitudes`.
    """
    theta, total, mean_q, s_qq = solve(model, prior, data)
    low, high = prior.av.low, prior.av.high
    _, inv_av = prior.av.moments(jnp.ones_like(theta.av))
    _, inv_rv = prior.rv.moments()
    # eliminate the modulus, then A_V unless it is at the end of its range, then R_V
    chi2 = s_r = s_rr = s_qr = s_qy = s_ry = jnp.zeros_like(theta.av)
    for band, (mag, weight) in enumerate(zip(data.mag, data.weight)):
        q = model.red[band] + theta.rv * model.dred[band]
        y = mag - model.mag[band] - theta.av * q - theta.eta / PER_MAG
        y = jnp.where(weight > 0, y, 0.0)
        r = theta.av * model.dred[band]
        s_r, s_rr = s_r + weight * r, s_rr + weight * r**2
        s_qr = s_qr + weight * (q - mean_q) * r
        s_qy, s_ry = s_qy + weight * (q - mean_q) * y, s_ry + weight * r * y
        chi2 = chi2 + weight * y**2
    from_plx = data.modulus - theta.eta / PER_MAG
    s_qy = s_qy - data.modulus_weight * mean_q * from_plx
    s_rr = s_rr - s_r**2 / total
    prec_av = s_qq + inv_av**2 + 3.0 / (high - low) ** 2
    free = (theta.av > low) & (theta.av < high)
    prec_rv = s_rr + inv_rv**2 + 3.0 / (prior.rv.high - prior.rv.low) ** 2
    prec_rv = jnp.where(free, jnp.maximum(prec_rv - s_qr**2 / prec_av, 0.1 * prec_rv), prec_rv)
    d_rv = jnp.clip(s_ry / prec_rv, prior.rv.low - theta.rv, prior.rv.high - theta.rv)
    gain = d_rv * (s_ry - 0.5 * prec_rv * d_rv)
    # how far the optimum of A_V lies beyond its range, in standard deviations
    beyond = jnp.abs(s_qy) / jnp.sqrt(prec_av)

    # the parallax itself, linear about this point, instead of its Gaussian in the modulus
    per_eta = total * jnp.where(free, prec_av / (prec_av + total * mean_q**2), 1.0) / PER_MAG**2
    plx = star.parallax_weight * jnp.exp(-theta.eta)
    off = star.parallax_weight * star.parallax - plx
    pull = plx * off + data.modulus_weight * from_plx / PER_MAG
    stiff = jnp.maximum(plx**2 - data.modulus_weight / PER_MAG**2, -0.9 * per_eta)
    step = jnp.clip(pull / (per_eta + stiff), -TRUST, TRUST)
    gain = gain + 0.5 * (per_eta + stiff) * step**2
    # no more than the present misfit: far from the observed parallax the linear form is not valid
    gain = jnp.minimum(gain, 0.5 * chi2 + jnp.abs(off * plx * step))

    det = (total / PER_MAG**2) * prec_av * prec_rv * (1.0 + stiff / per_eta)
    inside = jnp.where(free, 1.0, _mills(beyond))
    density = log_prior(theta, star, model, prior) - 0.5 * (chi2 + off**2) + gain
    log_z = density + 1.5 * LN_2PI - 0.5 * jnp.log(det / inside**2)
    return jnp.where(jnp.isfinite(log_z), log_z, -jnp.inf)


def _mills(t: Scalar) -> Scalar:
    """Upper tail probability of a standard normal beyond t >= 0, times exp(t^2 / 2), to 1 %.

    Borjesson & Sundberg (1979, IEEE Trans. Commun. 27, 639).
    """
    body = (1.0 - 1.0 / math.pi) * t + jnp.sqrt(t**2 + 2.0 * math.pi) / math.pi
    return 1.0 / (math.sqrt(2.0 * math.pi) * body)


def magnitude_scores(star: Stars, models: Models, prior: StarPrior) -> Float[Array, " model"]:
    """The `magnitude_score` of every model."""
    data = magnitudes(star)
    return over_models(lambda model: magnitude_score(star, data, model, prior), models)
