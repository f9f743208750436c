"""From a fit of stars to zero points: offsets against the models, and their iteration.

There are two methods. By *resampling* (`brutax.zeropoints.resampling`), medians of predicted
divided by observed fluxes, one band at a time, as if it had not been fitted: robust, and possible
for bands that were not fitted. By *evidence* (`brutax.zeropoints.evidence`), zero points and error
floors of all bands at once that maximise the summed log-evidence of the stars.
"""

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

from brutax.catalog import Catalog, FitResult
from brutax.fitting import Priors, open_grid
from brutax.fitting import fit as fit_stars
from brutax.models import StarGrid
from brutax.utils import ArrayLike
from brutax.zeropoints.evidence import Sums, maximum, next_round, start_search
from brutax.zeropoints.points import ZeroPoints
from brutax.zeropoints.resampling import PhotometricOffsetsConfig, photometric_offsets
from brutax.zeropoints.stars import UsedStars, corrected, per_band, used_stars

log = logging.getLogger("brutax")

METHODS = ("resampling", "evidence")
# fraction of each step by resampling that is applied: bands that are measured one by one, each as
# if the others were right, overshoot together and oscillate otherwise
DAMPING = 0.5


@dataclass(frozen=True)
class ZeroPointFit:
    """The rounds of `brutax.zeropoints.fit`: the zero points after each, and the last fit."""

    rounds: tuple[ZeroPoints, ...]
    converged: bool
    result: FitResult

    @property
    def last(self) -> ZeroPoints:
        """The zero points after the last round."""
        return self.rounds[-1]


def measure(
    result: FitResult,
    grid: StarGrid | str,
    stars: Catalog,
    *,
    applied: ArrayLike | None = None,
    applied_floors: ArrayLike = 0.0,
    method: str = "resampling",
    poor_fits: bool = False,
    prior_std: float = 0.1,
    floors: bool = True,
    config: PhotometricOffsetsConfig | None = None,
) -> ZeroPoints:
    """Zero points of the bands of `stars`, from their posteriors.

    `stars` is the catalogue as it was fitted, its fluxes and errors already multiplied by the
    offsets `applied` (band,), which are part of the offsets that are returned, but without the
    floors `applied_floors` [mag] (one, or one for each band) that the fit added. By resampling,
    bands of `stars` that were not fitted are measured too. Stars flagged as poor fits are left out
    unless `poor_fits`.

    By "resampling", see `photometric_offsets`, whose settings are `config`. Bands are measured one
    by one, and errors do not include the uncertainty of the others. By "evidence", all bands are
    measured together, with their covariance and (with `floors`) error floors; ln(offset) has a
    normal prior of width `prior_std` about 0, floors a half-normal one of width 0.05 mag. The
    evidence takes the priors of the fit to be true: limits of A_V that are too wide, for example,
    shift the offsets.

        found = brutax.zeropoints.measure(brutax.load("posterior.h5"), grid, stars)
        dict(zip(found.bands, found.offsets))

    Raises `ValueError` for an unknown method, no usable star, another grid than that of the
    result, or stars that are missing from the table.
    """
    _check_method(method)
    applied = per_band(applied, stars)
    used = used_stars(result, open_grid(grid), stars, applied, poor_fits)
    if method == "resampling":
        return _by_resampling(result, used, applied, config)
    floor = np.broadcast_to(np.asarray(applied_floors, np.float64), applied.shape)
    return maximum(*start_search(result, used, applied, floor, prior_std, floors))


def fit(
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
) -> ZeroPointFit:
    """Fits, measures offsets (and floors), applies them, and repeats.

    Ends when no offset moves by more than `tolerance` of its error, or after `iterations` rounds
    (`converged` is False then, and a warning is logged). By evidence every round has draws of its
    own (`seed` and those that follow). Once a step is below two sigma, what is reported and applied
    is the mean of the rounds since then, and the last round is the one after which the number of
    draws leaves no more than `tolerance` of an error uncertain. `options` go to `brutax.fit`, the
    other arguments are those of `measure`. Every round is logged.

        done = brutax.zeropoints.fit(grid, brutax.read_stars("stars.csv", grid.bands))
        done.last.save("offsets.txt")

    Raises `ValueError` for fewer than one iteration, and what `brutax.fit` and `measure` raise.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be at least 1, found {iterations}")
    _check_method(method)
    grid = open_grid(grid).select(bands=stars.bands)
    applied, floor = np.ones(len(stars.bands)), np.zeros(len(stars.bands))
    how: dict[str, Any] = {"progress": False, "seed": 0} | options
    rounds: list[ZeroPoints] = []
    near: list[Sums] = []  # by evidence: the rounds near its maximum
    while True:
        given = corrected(stars, applied, floor)
        result = fit_stars(given, grid, **how)
        used = used_stars(result, grid, corrected(stars, applied), applied, poor_fits)
        if method == "resampling":
            found = _by_resampling(result, used, applied, config)
        else:
            how["seed"] += 1
            priors = how.get("priors") or Priors()
            start = start_search(result, used, applied, floor, prior_std, floors, given, priors)
            found = next_round(*start, near)
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
            return ZeroPointFit(tuple(rounds), True, result)
        if len(rounds) == iterations:
            log.warning(
                "offsets still move by %.2f sigma after %d rounds", max(step, unsure), iterations
            )
            return ZeroPointFit(tuple(rounds), False, result)


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, found {method!r}")


def _largest(moves: np.ndarray, errors: np.ndarray) -> float:
    """The largest move in units of its error, of offsets that have one."""
    known = np.isfinite(errors)
    return float((np.abs(moves[known]) / errors[known]).max(initial=0.0))


def _by_resampling(
    result: FitResult,
    used: UsedStars,
    applied: np.ndarray,
    config: PhotometricOffsetsConfig | None,
) -> ZeroPoints:
    rows, grid = used.rows, used.grid
    offsets, errors, n_stars = photometric_offsets(
        used.flux,
        used.err,
        np.isfinite(used.flux).astype(int),
        np.stack([np.asarray(x) for x in (grid.mag, grid.red, grid.dred)], axis=-1),
        result["model_idx"][rows],
        *(result[name][rows] for name in ("samps_red", "samps_dred", "samps_dist")),
        weights=result["samps_weight"][rows],
        mask_fit=used.fitted,
        old_offsets=applied,
        dim_prior=False,
        config=config,
    )
    return ZeroPoints(grid.bands, offsets, errors, n_stars)
