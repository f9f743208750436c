"""Which stars of a fit are used for zero points, with their photometry as it was observed."""

import json
import logging
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from brutax.catalog import Catalog, CatalogError, FitResult
from brutax.catalog.store import FINGERPRINT
from brutax.models import StarGrid, Status
from brutax.utils import ArrayLike
from brutax.utils.photometry import LN_PER_MAG

log = logging.getLogger("brutax")

USELESS = Status.NO_PHOTOMETRY | Status.NO_MODELS | Status.LOW_ESS  # stars with no good posterior


class UsedStars(NamedTuple):
    """The usable stars of a result (arrays of the host, float64)."""

    rows: np.ndarray  # (star,) of the result
    at: np.ndarray  # (star,) the same stars in the catalogue
    flux: np.ndarray  # (star, band) as observed [maggies], NaN where there is no measurement
    err: np.ndarray  # (star, band) its errors [maggies]
    grid: StarGrid  # in the bands of the stars
    fitted: np.ndarray  # (band,) which bands the result is from


def corrected(stars: Catalog, offsets: ArrayLike, floors: ArrayLike = 0.0) -> Catalog:
    """Stars whose fluxes and errors are multiplied by offsets (band,).

    `floors` [mag], of each band or one for all, are added to the relative errors in quadrature.
    """
    factors, floors = np.asarray(offsets, np.float64), np.asarray(floors, np.float64)
    flux, err = stars.flux * factors, stars.flux_err * factors
    return replace(stars, flux=flux, flux_err=np.hypot(err, LN_PER_MAG * floors * flux))


def per_band(applied: ArrayLike | None, stars: Catalog) -> np.ndarray:
    """Offsets (band,) as float64, 1 where none are given; `ValueError` unless all are positive."""
    applied = np.ones(len(stars.bands)) if applied is None else np.asarray(applied, np.float64)
    if applied.shape != (len(stars.bands),) or not (applied > 0).all():
        raise ValueError(f"applied is {applied}; give a positive offset for each of {stars.bands}")
    return applied


def used_stars(
    result: FitResult, grid: StarGrid, stars: Catalog, applied: np.ndarray, poor_fits: bool
) -> UsedStars:
    """The usable stars of a result, found in a catalogue by their identifiers.

    `applied` (band,) are the offsets by which the fluxes of `stars` are multiplied. Stars flagged
    as poor fits are used with `poor_fits` only. Raises `CatalogError` if the grid is not that of
    the result, if fitted bands or stars are missing from the catalogue, or if no star is usable.
    """
    bands = [str(band) for band in np.atleast_1d(result.attrs["bands"])]
    lacking = [band for band in bands if band not in stars.bands]
    if lacking:
        raise CatalogError(f"bands {', '.join(lacking)} were fitted and are not in the table")
    made_on = json.loads(result.attrs[FINGERPRINT])["grid"]
    if made_on not in (grid.hash, grid.select(bands=bands).hash):
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
    return UsedStars(rows, at, flux, err, grid.select(bands=stars.bands), fitted)


def _keys(ids: np.ndarray) -> list:
    return [x.decode() if isinstance(x, bytes) else x for x in np.asarray(ids).tolist()]
