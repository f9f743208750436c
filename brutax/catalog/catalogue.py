"""Validated photometry, parallaxes and positions of stars, on the host, in float64."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, Int32, Shaped

from brutax.models.stars import Stars, Status
from brutax.utils.photometry import LN_PER_MAG, inv_magnitude

logger = logging.getLogger("brutax")

MIN_BANDS = 4  # distance, A_V, R_V and one more
MISSING_NUMBERS = (-99.0, -999.0, -9999.0, 9999.0)  # written by catalogues for "not measured"
NO_PARALLAX_ERR = 1e6  # [mas]; errors this large mean "no parallax"
# median parallax errors outside this range are another unit: the best astrometry reaches some
# 7e-3 mas, and the same numbers in arcsec are below 1e-3  [mas]
PARALLAX_ERR_RANGE = (1e-3, 1e3)


class CatalogError(ValueError):
    """A catalogue cannot be used; the message is one line with what was found and what to do."""


@dataclass(frozen=True, eq=False)
class Catalog:
    """Checked photometry, parallaxes and positions of stars; NaN: not observed, or not usable.

    Fluxes are maggies in each band's native zero point (10^(-0.4 mag) with the magnitude in the
    survey's own system). `status` holds the `Status` flags that were set while reading. Made by
    `brutax.read_stars` and `make_catalog`.
    """

    bands: tuple[str, ...]
    flux: Float64[np.ndarray, "star band"]  # [maggies]
    flux_err: Float64[np.ndarray, "star band"]  # [maggies]
    parallax: Float64[np.ndarray, " star"]  # [mas]
    parallax_err: Float64[np.ndarray, " star"]  # [mas]
    coords: Float64[np.ndarray, "star 2"]  # Galactic l, b [deg]
    source_id: Shaped[np.ndarray, " star"]  # int64, uint64 or bytes
    status: Int32[np.ndarray, " star"]
    notes: tuple[str, ...] = ()  # every choice made while reading, in words

    def __len__(self) -> int:
        return len(self.status)

    @property
    def n_bands(self) -> Int[np.ndarray, " star"]:
        """How many bands of each star are used."""
        return np.sum(np.isfinite(self.flux), axis=1)

    def select(self, rows: Any) -> "Catalog":
        """The stars at `rows` (an index, a slice, a boolean mask or an array of indices)."""
        at = np.atleast_1d(np.arange(len(self))[rows])
        names = ("flux", "flux_err", "parallax", "parallax_err", "coords", "source_id", "status")
        picked = {name: getattr(self, name)[at] for name in names}
        return Catalog(bands=self.bands, notes=self.notes, **picked)

    def stars(self, rows: Any = None) -> Stars:
        """The stars (all, or those at `rows`) as arrays on the device."""
        some = self if rows is None else self.select(rows)
        return Stars.from_fluxes(
            some.flux, some.flux_err, some.parallax, some.parallax_err, some.coords
        )


def make_catalog(
    flux: Any,
    flux_err: Any,
    bands: Sequence[str],
    *,
    mask: Any = None,
    parallax: Any = None,
    parallax_err: Any = None,
    coords: Any = None,
    source_id: Any = None,
    error_floor: Any = 0.0,
    phot_offsets: Any = None,
    mag_max: float | None = None,
    merr_max: float | None = None,
    units: str = "maggies",
    notes: Sequence[str] = (),
) -> Catalog:
    """Checks arrays of photometry and makes a catalogue of them.

    `flux`, `flux_err`: (star, band), in maggies, or in magnitudes with `units="mag"`; NaN where
    unobserved, or where `mask` is False. `parallax`, `parallax_err`: (star,) [mas]. `coords`:
    (star, 2) Galactic (l, b) [deg]. `phot_offsets` multiply fluxes and errors, per band.
    `error_floor` [mag] is added in quadrature, sigma² + (0.4 ln10 floor flux)², and is a number
    or one per band (sequence or mapping). `mag_max`, `merr_max` [mag], where given, drop bands
    that are fainter or less certain, and all with flux <= 0, as brutus does.

    Raises `CatalogError` for shapes, units and options that make the whole table unusable; what is
    wrong with single stars sets flags in `status`.

        make_catalog([[1e-6, 2e-6]], [[2e-8, 4e-8]], ["PS_g", "PS_r"], parallax=[1.2],
                     parallax_err=[0.05])
    """
    bands = _check_bands(bands)
    said = list(notes)
    flux, err = _check_shapes(flux, flux_err, bands)
    if units == "mag":
        flux, err = _from_magnitudes(flux, err, said)
    elif units == "maggies":
        flux, err = _without_sentinels(flux, err, said)
    else:
        raise CatalogError(f"units={units!r} for arrays: use 'maggies' or 'mag'")
    if mask is not None:
        keep = _check_mask(mask, flux.shape)
        flux, err = np.where(keep, flux, np.nan), np.where(keep, err, np.nan)
    offset = per_band(phot_offsets, bands, "phot_offsets", default=1.0)
    if not np.all((offset > 0) & np.isfinite(offset)):
        raise CatalogError(f"phot_offsets {offset} multiply fluxes: they must be positive")
    flux, err = flux * offset, err * offset

    bad = np.isinf(flux) | (np.isfinite(flux) & ~_is_error(err))
    valid = np.isfinite(flux) & _is_error(err)
    if not np.any(valid):
        raise CatalogError(
            f"no star has a usable band (finite flux, positive error) in {', '.join(bands)}: "
            "check the columns, their units and the mask"
        )
    if units == "maggies" and np.median(np.abs(flux[valid])) > 1:
        raise CatalogError(
            f"fluxes in maggies have a median of {np.median(flux[valid]):.3g}, brighter than "
            "magnitude 0: if they are magnitudes, say units='mag'"
        )
    if mag_max is not None or merr_max is not None:
        valid = valid & _bright_and_sure(flux, err, mag_max, merr_max)
        said.append(f"bands dropped by mag_max={mag_max}, merr_max={merr_max} or flux <= 0")
    floor = per_band(error_floor, bands, "error_floor", default=0.0)
    if not np.all((floor >= 0) & np.isfinite(floor)):
        raise CatalogError(f"error_floor {floor} mag: it must be finite and not negative")
    flux, err = np.where(valid, flux, np.nan), np.where(valid, err, np.nan)
    if np.any(floor > 0):
        err = np.sqrt(err**2 + (LN_PER_MAG * floor * flux) ** 2)

    plx, perr, bad_plx = _check_parallax(parallax, parallax_err, len(flux), said)
    sky, no_sky = _check_coords(coords, len(flux), said)
    count = np.sum(valid, axis=1)
    status = (
        Status.NO_PHOTOMETRY * (count == 0)
        + Status.FEW_BANDS * ((count > 0) & (count < MIN_BANDS))
        + Status.BAD_PARALLAX * bad_plx
        + Status.NO_COORDINATES * no_sky
        + Status.NEGATIVE_FLUX * np.any(valid & (np.where(valid, flux, 1.0) <= 0), axis=1)
        + Status.BAD_BANDS * np.any(bad, axis=1)
    ).astype(np.int32)
    for note in said:
        logger.info(note)
    ids = _check_source_id(source_id, len(flux))
    return Catalog(bands, flux, err, plx, perr, sky, ids, status, tuple(said))


def per_band(value: Any, bands: Sequence[str], name: str, default: float) -> np.ndarray:
    """One number per band, from None, a number, a sequence, or a mapping of some bands."""
    if value is None:
        return np.full(len(bands), default)
    if isinstance(value, Mapping):
        unknown = [band for band in value if band not in bands]
        if unknown:
            raise CatalogError(f"{name} names {', '.join(unknown)}; bands are {', '.join(bands)}")
        return np.array([float(value.get(band, default)) for band in bands])
    numbers = np.asarray(value, np.float64)
    if numbers.shape not in ((), (len(bands),)):
        raise CatalogError(f"{name} has shape {numbers.shape} for {len(bands)} bands")
    return np.broadcast_to(numbers, (len(bands),))


def is_missing_number(x: np.ndarray, magnitude: bool = False) -> np.ndarray:
    """True where a number stands for "not measured": -999 and its like, |mag| >= 99."""
    if magnitude:
        return (x <= -99) | (x >= 99)
    return np.isin(x, MISSING_NUMBERS)


def check_magnitudes(mag: np.ndarray, name: str) -> None:
    """Raises `CatalogError` where numbers cannot be magnitudes."""
    known = mag[np.isfinite(mag)]
    if known.size and 0 < np.median(known) < 1e-3:
        raise CatalogError(
            f"{name} have a median of {np.median(known):.3g}: if they are fluxes in maggies, "
            "say units='maggies'"
        )
    if known.size and np.median(known) > 40:
        raise CatalogError(
            f"{name} have a median of {np.median(known):.3g}: these are no magnitudes, check "
            "the columns and units"
        )


def _is_error(err: np.ndarray) -> np.ndarray:
    return np.isfinite(err) & (err > 0)


def _check_bands(bands: Sequence[str]) -> tuple[str, ...]:
    names = (bands,) if isinstance(bands, str) else tuple(str(band) for band in bands)
    twice = sorted({band for band in names if names.count(band) > 1})
    if twice:
        raise CatalogError(f"listed more than once: band {', '.join(twice)}")
    return names


def _as_numbers(values: Any, name: str) -> np.ndarray:
    if np.ma.isMaskedArray(values):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    try:
        return np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise CatalogError(f"{name} is not an array of numbers: {error}") from None


def _check_shapes(flux: Any, err: Any, bands: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    flux, err = _as_numbers(flux, "flux"), _as_numbers(err, "flux_err")
    if flux.shape != err.shape:
        raise CatalogError(f"flux {flux.shape} and flux_err {err.shape} differ in shape")
    if flux.ndim != 2:
        raise CatalogError(f"flux has shape {flux.shape}: give (star, band), even for one star")
    if flux.shape[1] != len(bands):
        raise CatalogError(f"flux has {flux.shape[1]} columns for {len(bands)} bands")
    if len(flux) == 0:
        raise CatalogError("no stars: the table has zero rows")
    return flux, err


def _check_mask(mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    keep = np.asarray(mask)
    if keep.shape != shape:
        raise CatalogError(f"mask {keep.shape} and flux {shape} differ in shape")
    if keep.dtype != bool and not np.all((keep == 0) | (keep == 1)):
        raise CatalogError("mask holds other values than True and False (1 and 0)")
    return keep.astype(bool)


def _without_sentinels(
    flux: np.ndarray, err: np.ndarray, said: list[str], magnitude: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Replaces numbers that stand for "not measured" by NaN, and says how many."""
    gone, gone_err = is_missing_number(flux, magnitude), is_missing_number(err, magnitude)
    if np.any(gone):
        said.append(f"{np.sum(gone)} values like {flux[gone][0]:g} read as missing photometry")
    return np.where(gone, np.nan, flux), np.where(gone_err, np.nan, err)


def _from_magnitudes(
    mag: np.ndarray, err: np.ndarray, said: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    mag, err = _without_sentinels(mag, err, said, magnitude=True)
    check_magnitudes(mag, "magnitudes")
    return inv_magnitude(mag, err)


def _bright_and_sure(
    flux: np.ndarray, err: np.ndarray, mag_max: float | None, merr_max: float | None
) -> np.ndarray:
    positive = flux > 0
    safe = np.where(positive, flux, 1.0)
    mag, merr = -np.log(safe) / LN_PER_MAG, err / (LN_PER_MAG * safe)
    faint = False if mag_max is None else ~(mag < mag_max)
    vague = False if merr_max is None else ~(merr < merr_max)
    return positive & ~(faint | vague)


def _check_parallax(
    parallax: Any, parallax_err: Any, n: int, said: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parallax and error [mas] with NaN where absent or bad, and where they are bad."""
    if parallax is None and parallax_err is None:
        said.append("no parallaxes")
        return np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, bool)
    if parallax is None or parallax_err is None:
        have, lack = ("parallax", "parallax_err")[:: 1 if parallax_err is None else -1]
        raise CatalogError(f"{have} is given without {lack}: give both or neither")
    plx, err = _as_numbers(parallax, "parallax"), _as_numbers(parallax_err, "parallax_err")
    if plx.shape != (n,) or err.shape != (n,):
        raise CatalogError(f"parallax {plx.shape}, parallax_err {err.shape} for {n} stars")
    none = is_missing_number(plx) | (err >= NO_PARALLAX_ERR)
    if np.any(none):
        said.append(f"{int(np.sum(none))} parallaxes read as missing (-999 or error >= 1e6 mas)")
    plx, err = np.where(none, np.nan, plx), np.where(none, np.nan, err)
    good = np.isfinite(plx) & _is_error(err)
    low, high = PARALLAX_ERR_RANGE
    if np.any(good) and not low <= np.median(err[good]) <= high:
        raise CatalogError(
            f"parallax errors have a median of {np.median(err[good]):.3g} mas: another unit? "
            "when reading a table say, for example, units={'parallax': 'arcsec'}"
        )
    bad = ~good & ~(np.isnan(plx) & np.isnan(err))
    return np.where(good, plx, np.nan), np.where(good, err, np.nan), bad


def _check_coords(coords: Any, n: int, said: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Galactic l in [0, 360) and b [deg], NaN where not valid, and where they are not."""
    if coords is None:
        said.append("no coordinates: a distance prior without direction is used")
        return np.full((n, 2), np.nan), np.ones(n, bool)
    sky = _as_numbers(coords, "coords")
    if sky.shape != (n, 2):
        raise CatalogError(f"coords {sky.shape} for {n} stars: give (star, 2), l and b in deg")
    b = sky[:, 1]
    if np.any(np.isfinite(b)) and np.all(np.abs(b[np.isfinite(b)]) > 90):
        raise CatalogError(
            f"every Galactic latitude is beyond 90 deg (the first is {b[0]:.6g}): give l, b in "
            "this order and in degrees"
        )
    good = np.all(np.isfinite(sky), axis=1) & (np.abs(np.where(np.isfinite(b), b, 99)) <= 90)
    wrapped = np.mod(np.where(good, sky[:, 0], 0.0), 360.0)
    wrapped = np.where(wrapped == 360.0, 0.0, wrapped)  # -1e-17 rounds up to 360
    sky = np.where(good[:, None], np.stack([wrapped, b], axis=1), np.nan)
    if good.sum() >= 20 and np.all(np.abs(sky[good]) <= (2.0 * np.pi, 0.5 * np.pi)):
        said.append("all l, b are within 2 pi and pi / 2: taken in degrees, but are they radians?")
        logger.warning("%s", said[-1])
    return sky, ~good


def _check_source_id(source_id: Any, n: int) -> np.ndarray:
    """Identifiers as int64, uint64 or bytes, each of them once; row numbers without any."""
    if source_id is None:
        return np.arange(n, dtype=np.int64)
    ids = np.asarray(source_id)
    if ids.shape != (n,):
        raise CatalogError(f"source_id {ids.shape} for {n} stars")
    ids = _normal_ids(ids)
    names, first, count = np.unique(ids, return_index=True, return_counts=True)
    if len(names) < n:
        which = names[count > 1][np.argmin(first[count > 1])]
        times = int(count[names == which][0])
        raise CatalogError(
            f"source_id {which} appears {times} times ({n - len(names)} duplicates in all): use "
            "another column, or source_id='row' for row numbers"
        )
    return ids


def _normal_ids(ids: np.ndarray) -> np.ndarray:
    if ids.dtype.kind in "iu":
        return ids.astype(np.uint64 if ids.dtype == np.uint64 else np.int64)
    if ids.dtype.kind == "f":
        exact = np.isfinite(ids) & (np.abs(ids) < 2**53) & (ids == np.round(ids))
        if not np.all(exact):
            raise CatalogError(
                f"source_id holds {ids[~exact][0]!r}, not an integer that floating point keeps "
                "exactly: store identifiers as 64-bit integers or text, or use source_id='row'"
            )
        return ids.astype(np.int64)
    if ids.dtype.kind == "O":
        if all(isinstance(one, int | np.integer) for one in ids):
            return _normal_ids(np.array(ids.tolist()))
        ids = np.array([one.decode() if isinstance(one, bytes) else str(one) for one in ids])
    if ids.dtype.kind == "U":
        return np.char.encode(np.char.strip(ids), "utf-8")
    if ids.dtype.kind == "S":
        return np.char.strip(ids)
    raise CatalogError(f"source_id of type {ids.dtype}: give integers or text")
