"""From a fit to zero points: offsets of photometry against the models, and their iteration.

Two ways. By *resampling*, `photometric_offsets`: medians of predicted over observed fluxes, a band
at a time, as if it had not been fitted: robust, also for bands that were not fitted. By *evidence*:
zero points and error floors of all bands at once that maximise the summed log-evidence of the
stars. With draws x_s of a star's posterior under the settings p0 that it was fitted with, its
evidence under others is

    Z(p) / Z(p0) = mean over s of L(data | x_s, p) / L(data | x_s, p0),

differentiable in p; L is the normal density of the fluxes as observed, around the model's flux over
the offset.
"""

import json
import logging
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.catalog import Catalog, CatalogError, FitResult
from brutax.catalog.store import FINGERPRINT
from brutax.data import save_offsets
from brutax.fitting.fit import fit, open_grid
from brutax.fitting.options import Priors
from brutax.models import StarGrid, Status, reddened_mag
from brutax.models.grid.sed import LN_PER_MAG
from brutax.solver.density import Theta
from brutax.zeropoints.control_variates import zero_means
from brutax.zeropoints.resampling import PhotometricOffsetsConfig, photometric_offsets

log = logging.getLogger("brutax")

METHODS = ("resampling", "evidence")
DAMPING = 0.5  # of the steps by resampling: bands measured one by one overshoot together
USELESS = Status.NO_PHOTOMETRY | Status.NO_MODELS | Status.LOW_ESS
FLOOR_SCALE = 0.05  # width of the half-normal prior of error floors [mag]
STEPS = 50  # of the search at most
NEAR = 1.0  # length of a step, in sigma, that is the last
REACH = 0.3  # effective draws per draw of the median star below which it goes no further
LEAST = 0.1  # share of an information that the noise of the draws leaves at least
CLOSE = 2.0  # length of a step, in sigma, from which on rounds of `calibrate` are averaged


@dataclass(frozen=True)
class ZeroPoints:
    """Offsets that multiply observed fluxes and errors, band by band (band,).

    `errors` are infinite where no star of `n_stars` says anything. By evidence there are also
    `floors` [mag], to be added to the errors of fluxes in quadrature, `covariance` of
    ln(offset) and floor^2 (2 band, 2 band), `scatter`, the part of it that comes from the finite
    number of draws, and `worth`, effective draws per draw of the median star under the new
    settings; where that is near 0.3 the search has gone as far as the draws reach, and the stars
    should be fitted again, as `calibrate` does.
    """

    bands: tuple[str, ...]
    offsets: np.ndarray
    errors: np.ndarray
    n_stars: np.ndarray
    floors: np.ndarray | None = None
    floor_errors: np.ndarray | None = None
    covariance: np.ndarray | None = None
    scatter: np.ndarray | None = None
    worth: float | None = None

    @property
    def scatter_errors(self) -> np.ndarray:
        """The part of the errors of ln(offset) that the number of draws makes, 0 if unknown."""
        if self.scatter is None:
            return np.zeros(len(self.bands))
        return np.sqrt(np.diag(self.scatter)[: len(self.bands)])

    def save(self, path: Any) -> Path:
        """Writes the offsets as a file that `brutax.data.load_offsets` reads."""
        return save_offsets(path, self.bands, self.offsets)


@dataclass(frozen=True)
class Calibration:
    """The rounds of `calibrate`: zero points after each, and the last fit."""

    rounds: tuple[ZeroPoints, ...]
    converged: bool
    result: FitResult

    @property
    def last(self) -> ZeroPoints:
        return self.rounds[-1]


class _Sample(NamedTuple):
    """Stars of a result that are used, with their photometry as observed (host arrays)."""

    rows: np.ndarray  # of the result
    at: np.ndarray  # the same stars in the catalogue
    flux: np.ndarray  # (star, band), NaN where not observed
    err: np.ndarray
    grid: StarGrid  # in the bands of the stars
    fitted: np.ndarray  # (band,) which bands the result is from


def measure_offsets(
    result: FitResult,
    grid: StarGrid | str,
    stars: Catalog,
    *,
    applied: Any = None,
    applied_floors: Any = 0.0,
    method: str = "resampling",
    poor_fits: bool = False,
    prior_std: float = 0.1,
    floors: bool = True,
    config: PhotometricOffsetsConfig | None = None,
) -> ZeroPoints:
    """Zero points of the bands of `stars`, from their posteriors.

    `stars` is the catalogue as it was fitted, its fluxes and errors already multiplied by the
    offsets `applied` (band,), which the result includes, but without the floors `applied_floors`
    [mag] that the fit added. Bands of `stars` that were not fitted can be measured too, by
    resampling. Stars flagged as poor fits are left out unless `poor_fits`.

    By "resampling", see `photometric_offsets`, whose settings are `config`; bands are measured one
    by one, and errors do not hold what is unknown of the others. By "evidence", all bands are
    measured together, with their covariance and (with `floors`) error floors; ln(offset) has a
    normal prior of width `prior_std` about 0, floors a half-normal one of 0.05 mag. The evidence
    trusts the priors of the fit: limits of A_V that are too wide, say, become offsets.

    Raises `ValueError` for an unknown method, no usable star, another grid than that of the
    result, or stars that are missing from the table.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, found {method!r}")
    applied = _per_band(applied, stars)
    sample = _matched(result, open_grid(grid), stars, applied, poor_fits)
    if method == "resampling":
        return _by_resampling(result, sample, applied, config)
    floor = np.broadcast_to(np.asarray(applied_floors, np.float64), applied.shape)
    return _by_evidence(*_start(result, sample, applied, floor, prior_std, floors))


def calibrate(
    grid: StarGrid | str,
    stars: Catalog,
    iterations: int = 10,
    *,
    method: str = "resampling",
    tolerance: float = 0.5,
    prior_std: float = 0.1,
    floors: bool = True,
    poor_fits: bool = False,
    config: PhotometricOffsetsConfig | None = None,
    **options: Any,
) -> Calibration:
    """Fits, measures offsets (and floors), applies them, and repeats.

    Ends when no offset moves by more than `tolerance` of its error, or after `iterations` rounds
    (`converged` is False then, and a warning is logged). By evidence every round has draws of its
    own (`seed` and those that follow); once a step is below two sigma, what is told and applied is
    the mean of the rounds since, and it ends when their draws, too, leave no more than `tolerance`
    of its error uncertain. `options` go to `brutax.fit`; the rest to `measure_offsets`. Every round
    is logged. Raises what those raise.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, found {iterations}")
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, found {method!r}")
    grid = open_grid(grid).select(bands=stars.bands)
    applied, floor = np.ones(len(stars.bands)), np.zeros(len(stars.bands))
    how: dict[str, Any] = {"verbose": False, "seed": 0} | options
    priors = Priors(**{x.name: how[x.name] for x in fields(Priors) if x.name in how})
    rounds: list[ZeroPoints] = []
    places: list[_Place] = []  # by evidence, once near its maximum
    while True:
        given = corrected(stars, applied, floor)
        result = fit(given, grid, **how)
        sample = _matched(result, grid, corrected(stars, applied), applied, poor_fits)
        if method == "resampling":
            found = _by_resampling(result, sample, applied, config)
        else:
            how["seed"] += 1
            start = _start(result, sample, applied, floor, prior_std, floors, given, priors)
            found = _round(*start, places)
        step = _largest(found.offsets - applied, found.errors)
        unsure = _largest(found.offsets * found.scatter_errors, found.errors)
        rounds.append(found)
        log.info(
            "round %d: %s; largest step %.2f sigma",
            len(rounds),
            ", ".join(
                f"{band} {100 * (x - 1):+.2f} +- {100 * e:.2f} %"
                for band, x, e in zip(found.bands, found.offsets, found.errors)
            ),
            step,
        )
        damping = DAMPING if method == "resampling" else 1.0
        applied = applied * (found.offsets / applied) ** damping
        floor = floor if found.floors is None else found.floors
        if max(step, unsure) <= tolerance:
            return Calibration(tuple(rounds), True, result)
        if len(rounds) == iterations:
            log.warning(
                "offsets still move by %.2f sigma after %d rounds", max(step, unsure), iterations
            )
            return Calibration(tuple(rounds), False, result)


def _largest(moves: np.ndarray, errors: np.ndarray) -> float:
    """The largest move in units of its error, of offsets that have one."""
    known = np.isfinite(errors)
    return float((np.abs(moves[known]) / errors[known]).max(initial=0.0))


def corrected(stars: Catalog, offsets: Any, floors: Any = 0.0) -> Catalog:
    """Stars whose fluxes and errors are multiplied by offsets (band,), floors [mag] added."""
    flux, err = stars.flux * offsets, stars.flux_err * offsets
    return replace(stars, flux=flux, flux_err=np.hypot(err, LN_PER_MAG * floors * flux))


def _per_band(applied: Any, stars: Catalog) -> np.ndarray:
    applied = np.ones(len(stars.bands)) if applied is None else np.asarray(applied, np.float64)
    if applied.shape != (len(stars.bands),) or not (applied > 0).all():
        raise ValueError(f"applied is {applied}; give a positive offset for each of {stars.bands}")
    return applied


def _matched(
    result: FitResult, grid: StarGrid, stars: Catalog, applied: np.ndarray, poor_fits: bool
) -> _Sample:
    """The usable stars of a result, found in a catalogue by their identifiers."""
    bands = [str(band) for band in np.atleast_1d(result.attrs["bands"])]
    lacking = [band for band in bands if band not in stars.bands]
    if lacking:
        raise CatalogError(f"bands {', '.join(lacking)} were fitted and are not in the table")
    told = json.loads(result.attrs[FINGERPRINT])["grid"]
    if told not in (grid.hash, grid.select(bands=bands).hash):
        raise CatalogError("the posteriors come from another grid: give the one they were made on")
    where = {key: k for k, key in enumerate(_keys(stars.source_id))}
    ids = _keys(result["source_id"])
    missing = [key for key in ids if key not in where]
    if missing:
        raise CatalogError(
            f"{len(missing)} of {len(ids)} stars of the posteriors are not in the table, the first "
            f"is {missing[0]!r}: give the table that was fitted, with the same identifiers"
        )
    useless = USELESS if poor_fits else USELESS | Status.POOR_FIT
    rows = np.flatnonzero((np.asarray(result["status"]) & int(useless)) == 0)
    if not rows.size:
        raise CatalogError(
            f"none of {len(ids)} stars is usable: all are flagged as not fitted or poorly fitted "
            "(poor_fits=True uses those too)"
        )
    if rows.size < len(ids):
        log.info("%d of %d stars are used", rows.size, len(ids))
    at = np.array([where[key] for key in ids], int)[rows]
    fitted = np.array([band in bands for band in stars.bands])
    flux, err = stars.flux[at] / applied, stars.flux_err[at] / applied
    return _Sample(rows, at, flux, err, grid.select(bands=stars.bands), fitted)


def _keys(ids: Any) -> list:
    return [x.decode() if isinstance(x, bytes) else x for x in np.asarray(ids).tolist()]


def _by_resampling(
    result: FitResult,
    sample: _Sample,
    applied: np.ndarray,
    config: PhotometricOffsetsConfig | None,
) -> ZeroPoints:
    rows, grid = sample.rows, sample.grid
    offsets, errors, used = photometric_offsets(
        sample.flux,
        sample.err,
        np.isfinite(sample.flux).astype(int),
        np.stack([np.asarray(x) for x in (grid.mag, grid.red, grid.dred)], axis=-1),
        result["model_idx"][rows],
        *(result[name][rows] for name in ("samps_red", "samps_dred", "samps_dist")),
        weights=result["samps_weight"][rows],
        mask_fit=sample.fitted,
        old_offsets=applied,
        dim_prior=False,
        config=config,
    )
    return ZeroPoints(grid.bands, offsets, errors, used)


class _Fluxes(NamedTuple):
    """What the evidence depends on, on the device; fluxes in units of each star's mean one."""

    flux: Float[Array, "*star band"]
    err: Float[Array, "*star band"]
    seen: Float[Array, "*star band"]  # 1.0 or 0.0
    predicted: Float[Array, "*star draw band"]
    before: Float[Array, "*star draw"]  # log-likelihood as fitted
    spread: Float[Array, "*star"]  # variance of a mean of draws, over that of as many free ones
    balance: Float[Array, "*star draw function"] | None = None  # zero on average, as fitted


class _Slope(NamedTuple):
    """The log-evidence of each star about a point."""

    gain: Float[Array, " star"]  # over that as fitted
    score: Float[Array, "star parameter"]  # its gradient
    noise: Float[Array, "parameter parameter"]  # covariance of the summed score, from the draws
    worth: Float[Array, " star"]  # effective draws per draw


def _log_like(star: _Fluxes, point: Array) -> Float[Array, " draw"]:
    """ln of the normal density of the observed fluxes of a star, for every draw.

    `point` is ln(offset) and the square of the floor, band by band.
    """
    log_offset, variance = jnp.split(point, 2)
    var = star.err**2 + variance * (LN_PER_MAG * star.flux) ** 2

    def one(predicted: Float[Array, " band"]) -> Array:
        resid = star.flux - predicted * jnp.exp(-log_offset)
        return -0.5 * jnp.sum(star.seen * (resid**2 / var + jnp.log(var)))

    return jax.vmap(one)(star.predicted)


@jax.jit
def _predicted(coeffs: Any, av: Array, rv: Array, dist: Array, unit: Array) -> Array:
    mag, red, dred = coeffs
    mag = reddened_mag(mag, red, dred, av[..., None], rv[..., None])
    return jnp.exp(-LN_PER_MAG * mag) / dist[..., None] ** 2 / unit[:, None, None]


def _gain(star: _Fluxes, point: Array) -> Float[Array, ""]:
    """ln of the evidence of a star over that as fitted."""
    gain = _log_like(star, point) - star.before
    return jax.nn.logsumexp(gain) - np.log(gain.shape[0])


@jax.jit
def _slope(point: Array, data: _Fluxes) -> _Slope:
    """Evidence and gradient, and how far the scatter of the draws makes the gradient uncertain."""

    def one(star: _Fluxes) -> tuple:
        gain = _log_like(star, point) - star.before
        weight = jax.nn.softmax(gain)
        slopes = jax.jacfwd(_log_like, argnums=1)(star, point)
        if star.balance is not None:
            slopes = slopes - _shared(slopes, star.balance)
        score = weight @ slopes  # the gradient of `_gain`
        away = weight[:, None] * (slopes - score[None])
        worth = 1.0 / jnp.sum(weight**2) / weight.size
        return _gain(star, point), score, star.spread * (away.T @ away), worth

    gain, score, noise, worth = jax.lax.map(one, data)
    return _Slope(gain, score, jnp.sum(noise, axis=0), worth)


def _shared(
    values: Float[Array, "draw value"], balance: Float[Array, "draw function"]
) -> Float[Array, "draw value"]:
    """The part of values that is linear in functions whose mean over all draws is zero."""
    scale = jnp.sqrt(jnp.mean(balance**2, axis=0)) + 1e-30
    balance = balance / scale[None]
    away = balance - jnp.mean(balance, axis=0)[None]
    n_draws = balance.shape[0]
    with jax.default_matmul_precision("highest"):
        square = away.T @ away / n_draws + 1e-5 * jnp.eye(balance.shape[1])
        share = jnp.linalg.solve(square, away.T @ values / n_draws)
        return balance @ share


class _Place(NamedTuple):
    """Sums over stars at a point (host arrays, float64)."""

    point: np.ndarray
    score: np.ndarray
    products: np.ndarray  # of the stars' scores
    noise: np.ndarray
    worth: float


class _Search(NamedTuple):
    """What does not change while the maximum is looked for."""

    bands: tuple[str, ...]
    n_stars: np.ndarray  # (band,)
    precision: np.ndarray  # (parameter,) of the normal prior
    slope: np.ndarray  # of the rest of the prior, which is exponential in floor^2
    free: np.ndarray
    floors: bool

    def information(self, place: _Place) -> np.ndarray:
        """Outer products less their noise, but nowhere less than a share `LEAST`; and priors."""
        some = np.ix_(self.free, self.free)
        out = place.products + np.diag(self.precision)
        values, axes = np.linalg.eigh(out[some])
        scale = np.sqrt(np.maximum(values, 1e-12 * values.max(initial=0.0)))
        whiten = (axes / scale).T
        share, turned = np.linalg.eigh(whiten @ place.noise[some] @ whiten.T)
        half = (axes * scale) @ turned
        out[some] = (half * np.maximum(1.0 - share, LEAST)) @ half.T
        return out

    def step(self, place: _Place) -> tuple[np.ndarray, float]:
        """That of Fisher scoring, and its length in sigma, the root of the mean over parameters."""
        gradient = place.score - self.precision * place.point - self.slope
        # floors at zero that would become negative stay there
        is_floor = np.arange(gradient.size) >= len(self.bands)
        moving = self.free & ~(is_floor & (place.point <= 0) & (gradient < 0))
        information = self.information(place)[np.ix_(moving, moving)]
        step = np.zeros(gradient.size)
        step[moving] = np.linalg.solve(information, gradient[moving])
        return step, float(np.sqrt(gradient @ step / max(np.sum(moving), 1)))

    def moved(self, point: np.ndarray, step: np.ndarray) -> np.ndarray:
        new = point + step
        return np.where(np.arange(new.size) < len(self.bands), new, np.maximum(new, 0.0))

    def zero_points(
        self, point: np.ndarray, place: _Place, worth: float, rounds: int = 1
    ) -> ZeroPoints:
        """Zero points at a point reached by a step from a place, or from the mean of several."""
        n_bands, some = len(self.bands), np.ix_(self.free, self.free)
        inverse = np.zeros_like(place.noise)
        inverse[some] = np.linalg.inv(self.information(place)[some])
        scatter = inverse @ place.noise @ inverse / rounds
        covariance = inverse + scatter
        offsets, variance = np.exp(point[:n_bands]), point[n_bands:]
        spread, seen = np.sqrt(np.diag(covariance)), self.n_stars > 0
        width = np.sqrt(variance + spread[n_bands:]) - np.sqrt(variance)
        return ZeroPoints(
            self.bands,
            np.where(seen, offsets, 1.0),
            np.where(seen, offsets * spread[:n_bands], np.inf),
            self.n_stars,
            floors=np.sqrt(variance) if self.floors else None,
            floor_errors=width if self.floors else None,
            covariance=covariance,
            scatter=scatter,
            worth=worth,
        )


def _start(
    result: FitResult,
    sample: _Sample,
    applied: np.ndarray,
    floor: np.ndarray,
    prior_std: float,
    floors: bool,
    stars: Catalog | None = None,
    priors: Priors | None = None,
) -> tuple[_Place, _Fluxes, _Search]:
    """The evidence where the stars were fitted, and what else the search for its maximum needs.

    Given the `stars` and `priors` of the fit, the scores are rid of most scatter of the draws.
    """
    if not sample.fitted.all():
        raise ValueError(
            "the evidence is that of fitted bands: measure the others with method='resampling'"
        )
    data = _fluxes(result, sample, applied, floor)
    if stars is not None and priors is not None:
        names = ("samps_dist", "samps_red", "samps_dred")
        dist, av, rv = (jnp.asarray(result[name][sample.rows], data.flux.dtype) for name in names)
        model = result["model_idx"][sample.rows]
        theta = Theta(jnp.log(dist), av, rv)
        balance = zero_means(stars.select(sample.at), sample.grid, priors, model, theta)
        data = data._replace(balance=balance)
    n_bands, n_stars = applied.size, np.isfinite(sample.flux).sum(axis=0)
    search = _Search(
        sample.grid.bands,
        n_stars,
        precision=np.repeat([prior_std**-2, 0.0], n_bands),
        slope=np.repeat([0.0, 0.5 * FLOOR_SCALE**-2], n_bands),
        free=np.repeat([True, floors], n_bands) & np.tile(n_stars > 0, 2),
        floors=floors,
    )
    return _look(np.concatenate([np.log(applied), floor**2]), data), data, search


def _look(point: np.ndarray, data: _Fluxes) -> _Place:
    found = _slope(jnp.asarray(point, data.flux.dtype), data)
    score, noise = np.asarray(found.score, np.float64), np.asarray(found.noise, np.float64)
    return _Place(point, score.sum(axis=0), score.T @ score, noise, float(np.median(found.worth)))


def _by_evidence(start: _Place, data: _Fluxes, search: _Search) -> ZeroPoints:
    """Towards the maximum by Fisher scoring, as far as the draws reach.

    Outer products of scores do not suffer from the scatter of the draws as second derivatives do.
    The first step below `NEAR` sigma is the last: the evidence over fixed draws bends with their
    scatter, and at its maximum fits that.
    """
    here = last = start
    data = data._replace(balance=None)  # which holds as fitted
    for _ in range(STEPS):
        step, size = search.step(here)
        while True:
            there = _look(search.moved(here.point, step), data)
            if there.worth >= REACH or not step.any() or np.abs(step).max() < 1e-9:
                break
            step = 0.5 * step
        last, here = here, there
        if size < NEAR or here.worth < 1.2 * REACH:
            break
    return search.zero_points(here.point, last, here.worth)


def _round(start: _Place, data: _Fluxes, search: _Search, places: list[_Place]) -> ZeroPoints:
    """The next zero points, by evidence: from a search, or, near the maximum, `places` together."""
    if not places and search.step(start)[1] > CLOSE:
        return _by_evidence(start, data, search)
    places.append(start)
    return _together(places, search)


def _together(places: list[_Place], search: _Search) -> ZeroPoints:
    """One step from the mean of places whose draws are independent, and whose scatter averages."""
    mean = _Place(*(np.mean(values, axis=0) for values in zip(*places, strict=True)))
    point = search.moved(mean.point, search.step(mean)[0])
    return search.zero_points(point, mean, float(mean.worth), len(places))


def _fluxes(result: FitResult, sample: _Sample, applied: np.ndarray, floor: np.ndarray) -> _Fluxes:
    rows, grid = sample.rows, sample.grid
    kind = jax.dtypes.canonicalize_dtype(float)
    seen = np.isfinite(sample.flux)
    unit = np.nanmean(np.abs(sample.flux), axis=1)
    flux = np.where(seen, sample.flux, 0.0) / unit[:, None]
    err = np.where(seen, sample.err / unit[:, None], 1.0)
    index = result["model_idx"][rows]
    coeffs = tuple(jnp.asarray(np.asarray(x)[index], kind) for x in (grid.mag, grid.red, grid.dred))
    draws = (result[name][rows] for name in ("samps_red", "samps_dred", "samps_dist"))
    predicted = _predicted(coeffs, *(jnp.asarray(x, kind) for x in draws), jnp.asarray(unit, kind))
    flux, err, seen = (jnp.asarray(x, kind) for x in (flux, err, seen))
    # no more than the weighted draws were worth
    spread = np.maximum(predicted.shape[1] / np.maximum(result["obj_ess"][rows], 1.0), 1.0)
    before = jnp.zeros(predicted.shape[:2], kind)
    data = _Fluxes(flux, err, seen, predicted, before, jnp.asarray(spread, kind))
    point = jnp.asarray(np.concatenate([np.log(applied), floor**2]), kind)
    return data._replace(before=jax.vmap(_log_like, in_axes=(0, None))(data, point))
