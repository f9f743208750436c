"""Zero points and error floors that maximise the summed log-evidence of the stars.

With draws x_s of a star's posterior under the settings p0 that it was fitted with, its evidence
under other settings p is

    Z(p) / Z(p0) = mean over s of L(data | x_s, p) / L(data | x_s, p0),

differentiable in p. L is the normal density of the fluxes as observed, around the flux of the model
divided by the offset. The settings, of which there are two per band, are ln(offset) and the square
of the error floor [mag^2]. The maximum is found by Fisher scoring: the information is the sum of
the outer products of the stars' scores (gradients of their log-evidence), from which the part that
is noise of the draws is subtracted.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.catalog import Catalog, FitResult
from brutax.fitting import Priors
from brutax.models import reddened_mag
from brutax.solver.density import Theta
from brutax.utils.photometry import LN_PER_MAG
from brutax.zeropoints.control_variates import zero_means
from brutax.zeropoints.points import ZeroPoints
from brutax.zeropoints.stars import UsedStars

FLOOR_SCALE = 0.05  # width of the half-normal prior of error floors [mag]: typical of surveys
MAX_STEPS = 50  # of one search; it ends after some 5
# a step shorter than this [sigma, rms over settings] is the last: below it the scatter of the
# draws, not the data, decides where the maximum over fixed draws is
LAST_STEP = 1.0
# effective draws per draw of the median star below which a search goes no further; ratios of
# likelihoods of fewer draws are noise
MIN_ESS_PER_DRAW = 0.3
MIN_INFORMATION = 0.1  # fraction of an information that stays when the noise is subtracted
AVERAGE_FROM = 2.0  # length of a step [sigma, rms] from which on the rounds of a fit are averaged


class Fluxes(NamedTuple):
    """What the evidence depends on, on the device; fluxes in units of each star's mean one."""

    flux: Float[Array, "*star band"]
    err: Float[Array, "*star band"]
    valid: Float[Array, "*star band"]  # 1.0 where there is a measurement, else 0.0
    predicted: Float[Array, "*star draw band"]
    before: Float[Array, "*star draw"]  # log-likelihood as fitted
    spread: Float[Array, "*star"]  # variance of a mean of draws, / that of independent ones
    controls: Float[Array, "*star draw function"] | None = None  # of mean zero, as fitted


class Slope(NamedTuple):
    """The log-evidence of each star about a point."""

    gain: Float[Array, " star"]  # ln Z, less ln Z as fitted
    score: Float[Array, "star setting"]  # its gradient
    noise: Float[Array, "setting setting"]  # covariance of the summed score, from the draws
    ess_per_draw: Float[Array, " star"]  # effective draws per draw


def log_likelihood(star: Fluxes, point: Array) -> Float[Array, " draw"]:
    """ln of the normal density of the observed fluxes of a star, for every draw.

    `point` (2 band,) is ln(offset) and the square of the floor [mag^2], band by band.
    """
    log_offset, variance = jnp.split(point, 2)
    var = star.err**2 + variance * (LN_PER_MAG * star.flux) ** 2

    def one(predicted: Float[Array, " band"]) -> Array:
        resid = star.flux - predicted * jnp.exp(-log_offset)
        return -0.5 * jnp.sum(star.valid * (resid**2 / var + jnp.log(var)))

    return jax.vmap(one)(star.predicted)


@jax.jit
def _predicted(
    coeffs: tuple[Array, Array, Array], av: Array, rv: Array, dist: Array, unit: Array
) -> Array:
    mag, red, dred = coeffs
    mag = reddened_mag(mag, red, dred, av[..., None], rv[..., None])
    return jnp.exp(-LN_PER_MAG * mag) / dist[..., None] ** 2 / unit[:, None, None]


def log_gain(star: Fluxes, point: Array) -> Float[Array, ""]:
    """ln of the ratio of a star's evidence at a point and as fitted."""
    gain = log_likelihood(star, point) - star.before
    return jax.nn.logsumexp(gain) - np.log(gain.shape[0])


@jax.jit
def slope(point: Array, data: Fluxes) -> Slope:
    """Evidence and gradient, and how far the scatter of the draws makes the gradient uncertain."""

    def one(star: Fluxes) -> tuple:
        gain = log_likelihood(star, point) - star.before
        weight = jax.nn.softmax(gain)
        slopes = jax.jacfwd(log_likelihood, argnums=1)(star, point)
        if star.controls is not None:
            slopes = slopes - _linear_part(slopes, star.controls)
        score = weight @ slopes  # the gradient of `log_gain`
        away = weight[:, None] * (slopes - score[None])
        ess_per_draw = 1.0 / jnp.sum(weight**2) / weight.size
        return log_gain(star, point), score, star.spread * (away.T @ away), ess_per_draw

    gain, score, noise, ess_per_draw = jax.lax.map(one, data)
    return Slope(gain, score, jnp.sum(noise, axis=0), ess_per_draw)


def _linear_part(
    values: Float[Array, "draw value"], controls: Float[Array, "draw function"]
) -> Float[Array, "draw value"]:
    """The part of values that is linear in functions whose mean over all draws is zero.

    Least squares with a ridge of 1e-5 of the variance of a function, in single precision.
    """
    scale = jnp.sqrt(jnp.mean(controls**2, axis=0)) + 1e-30
    controls = controls / scale[None]
    away = controls - jnp.mean(controls, axis=0)[None]
    n_draws = controls.shape[0]
    with jax.default_matmul_precision("highest"):
        square = away.T @ away / n_draws + 1e-5 * jnp.eye(controls.shape[1])
        share = jnp.linalg.solve(square, away.T @ values / n_draws)
        return controls @ share


class Sums(NamedTuple):
    """Sums over stars at a point (arrays of the host, float64)."""

    point: np.ndarray  # (setting,)
    score: np.ndarray  # (setting,)
    products: np.ndarray  # (setting, setting), outer products of the stars' scores
    noise: np.ndarray  # (setting, setting), covariance of `score` from the draws
    ess_per_draw: float  # of the median star


class Search(NamedTuple):
    """What does not change while the maximum is looked for."""

    bands: tuple[str, ...]
    n_stars: np.ndarray  # (band,)
    precision: np.ndarray  # (setting,) of the normal prior
    slope: np.ndarray  # (setting,) of the rest of the prior, which is exponential in floor^2
    free: np.ndarray  # (setting,) which settings are fitted
    floors: bool

    def information(self, sums: Sums) -> np.ndarray:
        """Outer products less their noise, but nowhere less than `MIN_INFORMATION`; and priors."""
        some = np.ix_(self.free, self.free)
        out = sums.products + np.diag(self.precision)
        values, axes = np.linalg.eigh(out[some])
        scale = np.sqrt(np.maximum(values, 1e-12 * values.max(initial=0.0)))
        whiten = (axes / scale).T
        share, turned = np.linalg.eigh(whiten @ sums.noise[some] @ whiten.T)
        half = (axes * scale) @ turned
        out[some] = (half * np.maximum(1.0 - share, MIN_INFORMATION)) @ half.T
        return out

    def step(self, sums: Sums) -> tuple[np.ndarray, float]:
        """That of Fisher scoring, and its length in sigma, the root of the mean over settings."""
        gradient = sums.score - self.precision * sums.point - self.slope
        # floors at zero that would become negative stay there
        is_floor = np.arange(gradient.size) >= len(self.bands)
        moving = self.free & ~(is_floor & (sums.point <= 0) & (gradient < 0))
        information = self.information(sums)[np.ix_(moving, moving)]
        step = np.zeros(gradient.size)
        step[moving] = np.linalg.solve(information, gradient[moving])
        return step, float(np.sqrt(gradient @ step / max(np.sum(moving), 1)))

    def moved(self, point: np.ndarray, step: np.ndarray) -> np.ndarray:
        """A point after a step, squares of floors not below 0."""
        new = point + step
        return np.where(np.arange(new.size) < len(self.bands), new, np.maximum(new, 0.0))

    def zero_points(
        self, point: np.ndarray, sums: Sums, ess_per_draw: float, rounds: int = 1
    ) -> ZeroPoints:
        """Zero points at a point that was reached by a step from where `sums` were taken.

        `sums` may be the mean of those of several `rounds`, whose noise is independent.
        """
        n_bands, some = len(self.bands), np.ix_(self.free, self.free)
        inverse = np.zeros_like(sums.noise)
        inverse[some] = np.linalg.inv(self.information(sums)[some])
        scatter = inverse @ sums.noise @ inverse / rounds
        covariance = inverse + scatter
        offsets, variance = np.exp(point[:n_bands]), point[n_bands:]
        spread, known = np.sqrt(np.diag(covariance)), self.n_stars > 0
        width = np.sqrt(variance + spread[n_bands:]) - np.sqrt(variance)
        return ZeroPoints(
            self.bands,
            np.where(known, offsets, 1.0),
            np.where(known, offsets * spread[:n_bands], np.inf),
            self.n_stars,
            floors=np.sqrt(variance) if self.floors else None,
            floor_errors=width if self.floors else None,
            covariance=covariance,
            scatter=scatter,
            ess_per_draw=ess_per_draw,
        )


class Start(NamedTuple):
    """Where a search begins: at the settings of the fit."""

    sums: Sums
    data: Fluxes
    search: Search


def start_search(
    result: FitResult,
    used: UsedStars,
    applied: np.ndarray,
    floor: np.ndarray,
    prior_std: float,
    floors: bool,
    stars: Catalog | None = None,
    priors: Priors | None = None,
) -> Start:
    """The evidence where the stars were fitted, and what else the search for its maximum needs.

    `applied` (band,) and `floor` (band,) [mag] are the settings of the fit. Given its `stars` and
    `priors`, most of the scatter of the draws is taken off the scores (`control_variates`). Raises
    `ValueError` if a band was not fitted.
    """
    if not used.fitted.all():
        raise ValueError(
            "the evidence is that of fitted bands: measure the others with method='resampling'"
        )
    data = _fluxes(result, used, applied, floor)
    if stars is not None and priors is not None:
        names = ("samps_dist", "samps_red", "samps_dred")
        dist, av, rv = (jnp.asarray(result[name][used.rows], data.flux.dtype) for name in names)
        model = result["model_idx"][used.rows]
        theta = Theta(jnp.log(dist), av, rv)
        controls = zero_means(stars.select(used.at), used.grid, priors, model, theta)
        data = data._replace(controls=controls)
    n_bands, n_stars = applied.size, np.isfinite(used.flux).sum(axis=0)
    search = Search(
        used.grid.bands,
        n_stars,
        precision=np.repeat([prior_std**-2, 0.0], n_bands),
        slope=np.repeat([0.0, 0.5 * FLOOR_SCALE**-2], n_bands),
        free=np.repeat([True, floors], n_bands) & np.tile(n_stars > 0, 2),
        floors=floors,
    )
    return Start(sums_at(np.concatenate([np.log(applied), floor**2]), data), data, search)


def sums_at(point: np.ndarray, data: Fluxes) -> Sums:
    """Score, outer products and noise at a point (setting,), summed over stars in float64."""
    found = slope(jnp.asarray(point, data.flux.dtype), data)
    score, noise = np.asarray(found.score, np.float64), np.asarray(found.noise, np.float64)
    ess_per_draw = float(np.median(found.ess_per_draw))
    return Sums(point, score.sum(axis=0), score.T @ score, noise, ess_per_draw)


def maximum(start: Sums, data: Fluxes, search: Search) -> ZeroPoints:
    """Towards the maximum by Fisher scoring, as far as the draws reach.

    Outer products of scores do not suffer from the scatter of the draws as second derivatives do.
    The first step below `LAST_STEP` is the last: the evidence over fixed draws bends with their
    scatter, and at its maximum fits that.
    """
    here = last = start
    data = data._replace(controls=None)  # their mean is zero at the settings of the fit only
    for _ in range(MAX_STEPS):
        step, size = search.step(here)
        while True:
            there = sums_at(search.moved(here.point, step), data)
            enough = there.ess_per_draw >= MIN_ESS_PER_DRAW
            if enough or not step.any() or np.abs(step).max() < 1e-9:
                break
            step = 0.5 * step
        last, here = here, there
        if size < LAST_STEP or here.ess_per_draw < 1.2 * MIN_ESS_PER_DRAW:
            break
    return search.zero_points(here.point, last, here.ess_per_draw)


def next_round(start: Sums, data: Fluxes, search: Search, near: list[Sums]) -> ZeroPoints:
    """The zero points after a round of a fit.

    Far from the maximum they are those of a search. From the first step below `AVERAGE_FROM` on,
    the sums of each round are appended to `near` (in place) and the step is that of their mean.
    """
    if not near and search.step(start)[1] > AVERAGE_FROM:
        return maximum(start, data, search)
    near.append(start)
    return _step_of_mean(near, search)


def _step_of_mean(near: list[Sums], search: Search) -> ZeroPoints:
    """One step from the mean of rounds whose draws are independent, and whose scatter averages."""
    mean = Sums(*(np.mean(values, axis=0) for values in zip(*near, strict=True)))
    point = search.moved(mean.point, search.step(mean)[0])
    return search.zero_points(point, mean, float(mean.ess_per_draw), len(near))


def _fluxes(result: FitResult, used: UsedStars, applied: np.ndarray, floor: np.ndarray) -> Fluxes:
    """Fluxes as observed and as predicted for each draw, and the likelihoods as fitted."""
    rows, grid = used.rows, used.grid
    kind = jax.dtypes.canonicalize_dtype(float)
    valid = np.isfinite(used.flux)
    unit = np.nanmean(np.abs(used.flux), axis=1)
    flux = np.where(valid, used.flux, 0.0) / unit[:, None]
    err = np.where(valid, used.err / unit[:, None], 1.0)
    index = result["model_idx"][rows]
    mag, red, dred = (
        jnp.asarray(np.asarray(x)[index], kind) for x in (grid.mag, grid.red, grid.dred)
    )
    draws = (result[name][rows] for name in ("samps_red", "samps_dred", "samps_dist"))
    av, rv, dist = (jnp.asarray(x, kind) for x in draws)
    predicted = _predicted((mag, red, dred), av, rv, dist, jnp.asarray(unit, kind))
    flux, err, valid = (jnp.asarray(x, kind) for x in (flux, err, valid))
    # equal-weight draws are no more independent than the weighted ones they were taken from
    spread = np.maximum(predicted.shape[1] / np.maximum(result["obj_ess"][rows], 1.0), 1.0)
    before = jnp.zeros(predicted.shape[:2], kind)
    data = Fluxes(flux, err, valid, predicted, before, jnp.asarray(spread, kind))
    point = jnp.asarray(np.concatenate([np.log(applied), floor**2]), kind)
    return data._replace(before=jax.vmap(log_likelihood, in_axes=(0, None))(data, point))
