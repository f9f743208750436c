"""Scores every model of the grid: the log of its approximate posterior mass.

In magnitudes a model is linear in the distance modulus and A_V, so the best pair at the mean
R_V is closed-form. Around that point one expansion of the full flux-space objective (parallax,
priors and low-signal bands included) gives the mass of the model as a truncated Gaussian.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from brutax.models.stars import Stars
from brutax.solver.density import ETA_LIMIT, Expansion, Scalar, Theta, expand
from brutax.solver.gaussian import laplace
from brutax.solver.inputs import Models, StarPrior, over_models
from brutax.utils.fence import fenced
from brutax.utils.photometry import LN_PER_MAG

SLACK = 40.0  # gain [nats] that is allowed however small chi-square is, see `largest_gain`
# signal-to-noise ratio below which a band has no magnitude (its error is not Gaussian there); such
# bands are part of the expansion only
MIN_SNR = 3.0


class Magnitudes(NamedTuple):
    """The data of a star that have a magnitude: weights are 0 where there is none."""

    mag: list[Scalar]  # per band
    weight: list[Scalar]  # 1 / variance [mag^-2]
    modulus: Scalar  # distance modulus of the parallax, less that of 1 kpc [mag]
    modulus_weight: Scalar  # 1 / variance [mag^-2]


def magnitudes(star: Stars) -> Magnitudes:
    """Magnitudes of bands, and of the parallax, with a signal-to-noise ratio above MIN_SNR."""
    mag, weight = [], []
    for band in range(star.weight.shape[-1]):
        snr = star.flux[band] * star.weight[band]
        bright = snr > MIN_SNR
        flux = jnp.where(bright, star.flux[band], 1.0)
        mag.append(star.unit_mag - jnp.log(flux) / LN_PER_MAG)
        weight.append(jnp.where(bright, (LN_PER_MAG * snr) ** 2, 0.0))
    snr = star.parallax * star.parallax_weight
    good = snr > MIN_SNR
    modulus = -2.0 * jnp.log(jnp.where(good, star.parallax, 1.0)) / LN_PER_MAG
    return Magnitudes(mag, weight, modulus, jnp.where(good, (0.5 * LN_PER_MAG * snr) ** 2, 0.0))


class Start(NamedTuple):
    """A closed-form solution, with the sums over bands that it was made from."""

    theta: Theta
    total: Scalar  # of the weights
    mean_q: Scalar  # weighted mean of the reddening
    s_qq: Scalar  # its weighted sum of squares about the mean


def start(star: Stars, model: Models, prior: StarPrior, data: Magnitudes | None = None) -> Theta:
    """The closed-form least-squares (distance modulus, A_V) in magnitudes, at the mean R_V.

    A good parallax counts as one more magnitude, that of the distance modulus; A_V has a weak
    prior, so that one band is enough for an answer. `data` are the star's `magnitudes`.
    """
    return solve(model, prior, magnitudes(star) if data is None else data).theta


def solve(model: Models, prior: StarPrior, data: Magnitudes) -> Start:
    """The `start` of a model, and the sums that it is made from."""
    rv, _ = prior.rv.moments()
    rv = jnp.clip(rv, prior.rv.low, prior.rv.high)
    low, high = prior.av.low, prior.av.high
    rows = [(data.modulus_weight, data.modulus, jnp.zeros_like(model.log_prior))]
    for band, (mag, weight) in enumerate(zip(data.mag, data.weight)):
        y = jnp.where(weight > 0, mag - model.mag[band], 0.0)
        rows.append((weight, y, model.red[band] + rv * model.dred[band]))
    mean_av, inv_std = prior.av.moments(jnp.ones_like(rv))
    weak = 12.0 / (high - low) ** 2  # precision of a uniform distribution, about an A_V of 1 mag
    little = jnp.minimum(low + 1.0, high)
    prec = inv_std**2 + weak
    # without a bright band or a parallax: no distance is known, start at 1 kpc
    total = jnp.maximum(sum(weight for weight, _, _ in rows), 1e-6)
    mean_y = sum(weight * y for weight, y, _ in rows) / total
    mean_q = sum(weight * q for weight, _, q in rows) / total
    s_qq = sum((weight * (q - mean_q) ** 2 for weight, _, q in rows), jnp.zeros_like(total))
    s_qy = sum(weight * (q - mean_q) * (y - mean_y) for weight, y, q in rows)
    av = (s_qy + inv_std**2 * mean_av + weak * little) / (s_qq + prec)
    av = jnp.clip(av, low, high)
    eta = 0.5 * LN_PER_MAG * (mean_y - av * mean_q)
    theta = Theta(jnp.clip(eta, -ETA_LIMIT, ETA_LIMIT), av, jnp.broadcast_to(rv, eta.shape))
    return Start(theta, total, mean_q, s_qq)


class Score(NamedTuple):
    """The score of a model."""

    log_z: Scalar  # log of the approximate posterior mass, without the star's constant
    chi2: Scalar  # photometry and parallax, near the optimum


def score_model(star: Stars, model: Models, prior: StarPrior) -> Score:
    """Approximate posterior mass of one model; -inf for a model without prior mass."""
    return _score(expand(start(star, model, prior), star, model, prior), prior)


def largest_gain(chi2: Scalar) -> Scalar:
    """The most that a step to the optimum may add to the score [nats]: 99 % of chi-square / 2.

    Otherwise the score of a model that is off by thousands of standard deviations would be the
    rounding error of the difference of two large numbers.
    """
    return 0.495 * chi2 + SLACK


def _score(point: Expansion, prior: StarPrior) -> Score:
    log_z = laplace(point, prior, approximate=True).log_z
    log_z = jnp.minimum(log_z, largest_gain(point.chi2) - point.phi)
    ok = jnp.isfinite(log_z)
    return Score(jnp.where(ok, log_z, -jnp.inf), jnp.where(ok, point.chi2, jnp.inf))


def screen(star: Stars, models: Models, prior: StarPrior) -> Score:
    """Scores of all models, each field of shape (model,): `score_model` in three passes.

    Without `_pass`, XLA for CPUs fuses the passes and computes the first again inside each
    output of the later ones.
    """

    def expand_at(model: Models, theta: Theta) -> Expansion:
        return expand(theta, star, model, prior)

    theta = _pass(star, lambda m: over_models(lambda m: start(star, m, prior), m), models)
    point = _pass(star, lambda m, t: over_models(expand_at, m, t), models, theta)
    return _pass(star, jax.vmap(lambda point: _score(point, prior)), point)


def _pass(star: Stars, function: Callable, *args: Any) -> Any:
    """Runs a pass as a computation of its own, behind a condition that XLA does not fuse across."""
    return where_observed(star, jax.jit(function), *args)


def where_observed(star: Stars, function: Callable, *args: Any) -> Any:
    """The value of a jitted function, or zeros for a star without photometry, at no cost.

    Of stars that are computed side by side, all have values where one of them has photometry.
    """
    return fenced(any_star(jnp.any(star.weight > 0)), function, *args)


@jax.custom_batching.custom_vmap
def any_star(flag: Bool[Array, ""]) -> Bool[Array, ""]:
    """A condition of one star; of stars side by side, whether one of them fulfils it.

    One answer for all keeps conditions and loops what they are: XLA would compute both branches,
    and copy all that a loop carries each time around.
    """
    return flag


@any_star.def_vmap
def _(size: int, batched: list[bool], flag: Bool[Array, " star"]) -> tuple[Array, bool]:
    del size, batched
    return jnp.any(flag), False
