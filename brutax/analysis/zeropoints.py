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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.analysis.api import fit, open_grid
from brutax.analysis.offsets import PhotometricOffsetsConfig, photometric_offsets
from brutax.catalog import Catalog, CatalogError, FitResult
from brutax.catalog.store import FINGERPRINT
from brutax.core import StarGrid, Status, reddened_mag
from brutax.core.sed import LN_PER_MAG
from brutax.data import save_offsets

log = logging.getLogger("brutax")

METHODS = ("resampling", "evidence")
DAMPING = 0.5  # of the steps by resampling: bands measured one by one overshoot together
USELESS = Status.NO_PHOTOMETRY | Status.NO_MODELS | Status.LOW_ESS
FLOOR_SCALE = 0.05  # width of the half-normal prior of error floors [mag]
STEPS = 50  # of the search at most
FLAT = 1e-2  # step, in sigma, at which it ends
REACH = 0.3  # effective draws per draw of the median star below which it goes no further


@dataclass(frozen=True)
class ZeroPoints:
    """Offsets that multiply observed fluxes and errors, band by band (band,).

    `errors` are infinite where no star of `n_stars` says anything. By evidence there are also
    `floors` [mag], to be added to the errors of fluxes in quadrature, `covariance` of
    ln(offset) and floor^2 (2 band, 2 band), and `worth`, effective draws per draw of the median
    star under the new settings; where that is near 0.3 the search has gone as far as the draws
    reach, and the stars should be fitted again, as `calibrate` does.
    """

    bands: tuple[str, ...]
    offsets: np.ndarray
    errors: np.ndarray
    n_stars: np.ndarray
    floors: np.ndarray | None = None
    floor_errors: np.ndarray | None = None
    covariance: np.ndarray | None = None
    worth: float | None = None

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
    if method == "evidence" and not sample.fitted.all():
        raise ValueError(
            "the evidence is that of fitted bands: measure the others with method='resampling'"
        )
    if method == "resampling":
        return _by_resampling(result, sample, applied, config)
    floor = np.broadcast_to(np.asarray(applied_floors, np.float64), applied.shape)
    data = _fluxes(result, sample, applied, floor)
    return _by_evidence(sample, data, applied, floor, (prior_std, floors))


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
    (`converged` is False then, and a warning is logged). `options` go to `brutax.fit`; the rest to
    `measure_offsets`. Every round is logged. Raises what those raise.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, found {iterations}")
    grid = open_grid(grid).select(bands=stars.bands)
    applied, floor = np.ones(len(stars.bands)), np.zeros(len(stars.bands))
    how: dict[str, Any] = {"verbose": False} | options
    rounds: list[ZeroPoints] = []
    while True:
        result = fit(corrected(stars, applied, floor), grid, **how)
        found = measure_offsets(
            result,
            grid,
            corrected(stars, applied),
            applied=applied,
            applied_floors=floor,
            method=method,
            poor_fits=poor_fits,
            prior_std=prior_std,
            floors=floors,
            config=config,
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            moves = np.abs(found.offsets - applied) / found.errors
        step = float(np.nanmax(np.where(np.isfinite(found.errors), moves, 0.0)))
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
        if step <= tolerance:
            return Calibration(tuple(rounds), True, result)
        if len(rounds) == iterations:
            log.warning("offsets still move by %.2f sigma after %d rounds", step, iterations)
            return Calibration(tuple(rounds), False, result)


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
    return _Sample(rows, flux, err, grid.select(bands=stars.bands), fitted)


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

    flux: Float[Array, "star band"]
    err: Float[Array, "star band"]
    seen: Float[Array, "star band"]  # 1.0 or 0.0
    predicted: Float[Array, "star draw band"]
    before: Float[Array, "star draw"]  # log-likelihood as fitted


def _log_like(data: _Fluxes, point: Array) -> Float[Array, "star draw"]:
    """ln of the normal density of the observed fluxes, for every draw.

    `point` is ln(offset) and the square of the floor, band by band.
    """
    log_offset, variance = jnp.split(point, 2)

    def one(flux: Array, err: Array, seen: Array, predicted: Array) -> Array:
        var = err**2 + variance * (LN_PER_MAG * flux) ** 2
        resid = flux - predicted * jnp.exp(-log_offset)
        return -0.5 * jnp.sum(seen * (resid**2 / var + jnp.log(var)))

    of_draws = jax.vmap(one, in_axes=(None, None, None, 0))
    return jax.vmap(of_draws)(data.flux, data.err, data.seen, data.predicted)


@jax.jit
def _predicted(coeffs: Any, av: Array, rv: Array, dist: Array, unit: Array) -> Array:
    mag, red, dred = coeffs
    mag = reddened_mag(mag, red, dred, av[..., None], rv[..., None])
    return jnp.exp(-LN_PER_MAG * mag) / dist[..., None] ** 2 / unit[:, None, None]


def _gains(point: Array, data: _Fluxes) -> Float[Array, " star"]:
    """ln of the evidence of each star over that as fitted."""
    gain = _log_like(data, point) - data.before
    return jax.nn.logsumexp(gain, axis=1) - np.log(gain.shape[1])


@jax.jit
def _scores(point: Array, data: _Fluxes) -> tuple[Array, Array]:
    """Gradient of the log-evidence of each star (star, parameter), and its draws' worth."""
    scores = jax.jacfwd(_gains)(point, data)
    gain = _log_like(data, point) - data.before
    weight = jax.nn.softmax(gain, axis=1)
    return scores, 1.0 / jnp.sum(weight**2, axis=1) / gain.shape[1]


def _by_evidence(
    sample: _Sample, data: _Fluxes, applied: np.ndarray, floor: np.ndarray, settings: tuple
) -> ZeroPoints:
    """The maximum by Fisher scoring, as far as the draws reach.

    The information is the sum over stars of the outer products of their scores, plus that of the
    priors: it does not suffer from the scatter of the draws as second derivatives do.
    """
    prior_std, floors = settings
    n_bands = applied.size
    precision = np.repeat([prior_std**-2, 0.0], n_bands)
    slope = np.repeat([0.0, 0.5 * FLOOR_SCALE**-2], n_bands)  # of the prior, in floor^2
    point = np.concatenate([np.log(applied), floor**2])
    free = np.repeat([True, floors], n_bands) & np.tile(data.seen.any(axis=0), 2)

    def look(point: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        scores, worth = _scores(jnp.asarray(point, data.flux.dtype), data)
        scores = np.asarray(scores, np.float64)
        gradient = scores.sum(axis=0) - precision * point - slope
        return gradient, scores.T @ scores + np.diag(precision), float(np.median(worth))

    gradient, information, worth = look(point)
    for _ in range(STEPS):
        # floors at zero that would become negative stay there
        moving = free & ~((point <= 0) & (gradient < 0) & (np.arange(point.size) >= n_bands))
        step = np.zeros(point.size)
        step[moving] = np.linalg.solve(information[np.ix_(moving, moving)], gradient[moving])
        sigma = np.sqrt(np.diag(np.linalg.pinv(information)))
        while True:
            new = point + step
            new[n_bands:] = np.maximum(new[n_bands:], 0.0)
            found = look(new)
            if found[2] >= REACH or np.abs(step / sigma).max() < 1e-3:
                break
            step = 0.5 * step
        small = np.abs((new - point)[moving] / sigma[moving]).max(initial=0.0) < FLAT
        point, (gradient, information, worth) = new, found
        if small or worth < 1.2 * REACH:
            break
    covariance = np.zeros((2 * n_bands, 2 * n_bands))
    covariance[np.ix_(free, free)] = np.linalg.inv(information[np.ix_(free, free)])
    offsets, variance = np.exp(point[:n_bands]), point[n_bands:]
    spread = np.sqrt(np.diag(covariance))
    known = free[:n_bands]
    width = np.sqrt(variance + spread[n_bands:]) - np.sqrt(variance)
    return ZeroPoints(
        sample.grid.bands,
        np.where(known, offsets, 1.0),
        np.where(known, offsets * spread[:n_bands], np.inf),
        np.asarray(data.seen.sum(axis=0)).astype(int),
        floors=np.sqrt(variance) if floors else None,
        floor_errors=width if floors else None,
        covariance=covariance,
        worth=worth,
    )


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
    data = _Fluxes(flux, err, seen, predicted, jnp.zeros(predicted.shape[:2], kind))
    point = jnp.asarray(np.concatenate([np.log(applied), floor**2]), kind)
    return data._replace(before=_log_like(data, point))
