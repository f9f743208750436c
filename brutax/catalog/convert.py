"""Columns of a table in the units of a catalogue."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from brutax.catalog.catalogue import CatalogError, is_missing_number
from brutax.catalog.columns import Match, Names, find_coords, find_parallax
from brutax.catalog.tables import Column
from brutax.catalog.units import (
    PhotUnit,
    degree_factor,
    parallax_factor,
    photometric_unit,
    to_maggies,
)
from brutax.utils.photometry import LN_PER_MAG

_NINES = (99.0, 99.9, 99.99, 99.999, 999.0, 999.9, 999.99, 9999.0, 99999.0)  # "not measured"


class Source(NamedTuple):
    """A table, how it is to be read, and the notes about it."""

    columns: dict[str, Column]
    name: str
    names: Names
    map: Mapping[str, str | None]
    units: Mapping[str, str]
    said: list[str]

    def numbers(self, column: str, element: int | None = None) -> np.ndarray:
        return self.columns[column].numbers(column, element)

    def asked_unit(self, *keys: str) -> str | None:
        """The unit given by the user for the first of `keys` that has one."""
        return next((self.units[key] for key in keys if key in self.units), None)

    def unit(self, column: str, *keys: str) -> str | None:
        """The unit given for any of `keys` or the column, else the column's own."""
        return self.asked_unit(*keys, column) or self.columns[column].unit


def read_photometry(
    source: Source, matches: Sequence[Match], band_system: Mapping[str, str] | None
) -> tuple[np.ndarray, np.ndarray]:
    """Fluxes and errors (star, band) [maggies of each band's own zero point]."""
    pairs = [_value_and_error(source, match) for match in matches]
    units = [_given_unit(source, match) for match in matches]
    open_ = [i for i, unit in enumerate(units) if unit is None]
    if open_:
        inferred = _infer_unit([pairs[i] for i in open_], [matches[i].band for i in open_])
        units = [unit or inferred for unit in units]
    fluxes, missing = [], 0
    for match, (value, err), unit in zip(matches, pairs, units):
        assert unit is not None
        err_unit = _error_unit(source, match, unit)
        flux, flux_err, gone = to_maggies(value, err, unit, err_unit, match.band, band_system)
        fluxes.append((flux, flux_err))
        missing += gone
        errors = " and ".join(match.error)
        at = "" if match.element is None else f"[{match.element}]"
        source.said.append(
            f"{match.band} from {match.value}{at}, error from {errors}{at} [{unit.name}]"
        )
        if match.value.lower().startswith("psfmag_"):
            source.said.append(f"{match.value} is an asinh magnitude, read as a logarithmic one")
    if missing:
        source.said.append(f"{missing} values like -999 or 99 read as missing photometry")
    flux, err = zip(*fluxes)
    return np.stack(flux, axis=1), np.stack(err, axis=1)


def _value_and_error(source: Source, match: Match) -> tuple[np.ndarray, np.ndarray]:
    value = source.numbers(match.value, match.element)
    err = source.numbers(match.error[0], match.element)
    if value.ndim != 1 or err.ndim != 1:
        raise CatalogError(f"columns {match.value}, {match.error[0]} hold vectors, not numbers")
    if match.how == "error":
        return value, err
    # sigma_m = 2.5 / ln 10 / (S/N), S/N = flux / error of the flux
    snr = err if match.how == "over_error" else _ratio(err, source.numbers(match.error[1]))
    return value, _ratio(np.full_like(snr, 1 / LN_PER_MAG), snr)


def _ratio(num: np.ndarray, den: np.ndarray) -> np.ndarray:
    good = den > 0
    return np.where(good, num / np.where(good, den, 1.0), np.nan)


def _given_unit(source: Source, match: Match) -> PhotUnit | None:
    """The unit that was asked for, or else that of the table or of the column's name."""
    where = f"column {match.value} ({match.band})"
    asked = source.asked_unit(match.band, match.value, "photometry")
    own = source.columns[match.value].unit
    given = asked or own
    if given is not None:
        unit = photometric_unit(given, where)
        if own is not None and own != given:
            source.said.append(f"{where}: unit {own} of the table replaced by {given}")
        return unit
    return PhotUnit("mag", name="mag, by its name") if match.magnitude else None


def _error_unit(source: Source, match: Match, unit: PhotUnit) -> PhotUnit:
    if match.how != "error":
        return unit
    column = match.error[0]
    given = source.asked_unit(f"{match.band}_err", column)
    if given is None and source.asked_unit(match.band, match.value, "photometry") is None:
        given = source.columns[column].unit
    if given is None:
        return unit
    return photometric_unit(given, f"column {column} (error of {match.band})")


def _infer_unit(pairs: Sequence[tuple[np.ndarray, np.ndarray]], bands: Sequence[str]) -> PhotUnit:
    """Magnitudes where nothing else is likely: between -5 and 40, with errors below 2."""
    values = np.concatenate([value for value, _ in pairs])
    errors = np.concatenate([err for _, err in pairs])
    measured = np.isfinite(values) & ~is_missing_number(values)
    measured &= ~np.isin(np.round(np.abs(values), 3), _NINES)
    values, errors = values[measured], errors[measured]
    errors = errors[np.isfinite(errors) & (errors > 0)]
    median = float(np.median(values)) if values.size else np.nan
    inside = np.mean((values > -5) & (values < 40)) if values.size else 0.0
    if values.size and 2 < median < 35 and inside > 0.99 and errors.size and np.median(errors) < 2:
        return PhotUnit("mag", name="mag, inferred from the values")
    raise CatalogError(
        f"photometry of {', '.join(bands)} has no unit and its values (median {median:.3g}) are "
        "not clearly magnitudes: say units='mag', 'maggies', 'Jy' or a mapping"
    )


def read_parallax(source: Source) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Parallaxes and their errors [mas]."""
    value, error = find_parallax(source.names, source.map)
    if value is None or error is None:
        return None, None
    unit = source.unit(value, "parallax")
    err_unit = source.asked_unit("parallax_err", error)
    if err_unit is None and source.asked_unit("parallax", value) is None:
        err_unit = source.columns[error].unit
    if unit is None:
        unit = "mas"
        source.said.append(f"parallax from {value}, error from {error} [mas, assumed]")
    else:
        source.said.append(f"parallax from {value}, error from {error} [{unit}]")
    plx, err = source.numbers(value), source.numbers(error)
    plx = np.where(is_missing_number(plx), np.nan, plx)
    err = np.where(is_missing_number(err), np.nan, err)
    factor = parallax_factor(unit, f"column {value}")
    return plx * factor, err * parallax_factor(err_unit or unit, f"column {error}")


def read_coords(source: Source) -> np.ndarray | None:
    """Galactic l, b [deg], from l, b or from ra, dec (ICRS)."""
    found = find_coords(source.names, source.map)
    if found is None:
        return None
    first, second, galactic = found
    keys = ("l", "b") if galactic else ("ra", "dec")
    lon, lat = (_degrees(source, key, column) for key, column in zip(keys, (first, second)))
    frame = "Galactic l, b" if galactic else "ra, dec (ICRS)"
    source.said.append(f"coordinates from {first}, {second}: {frame}")
    if galactic:
        return np.stack([lon, lat], axis=1)
    if np.any(np.isfinite(lat)) and np.all(np.abs(lat[np.isfinite(lat)]) > 90):
        raise CatalogError(
            f"every declination in column {second} is beyond 90 deg: check map= and units="
        )
    return _to_galactic(lon, lat)


def _degrees(source: Source, key: str, column: str) -> np.ndarray:
    values = source.columns[column]
    unit = source.unit(column, key, "coords")
    if values.values.dtype.kind in "OSU" and _sexagesimal(values.values):
        from astropy.coordinates import Angle  # text comes from tables that astropy has read

        hours = key == "ra"
        source.said.append(f"{column} read as {'hours' if hours else 'degrees'}, minutes, seconds")
        text = [str(one.decode() if isinstance(one, bytes) else one) for one in values.values]
        try:
            return np.asarray(Angle(text, unit="hourangle" if hours else "deg").deg, np.float64)
        except ValueError as error:
            raise CatalogError(f"column {column} is not an angle: {error}") from None
    if unit is None:
        unit = "deg"
        source.said.append(f"{column} taken in deg")
    numbers = values.numbers(column)
    numbers = np.where(is_missing_number(numbers), np.nan, numbers)
    return numbers * degree_factor(unit, f"column {column}")


def _sexagesimal(values: np.ndarray) -> bool:
    text = [str(one.decode() if isinstance(one, bytes) else one).strip() for one in values[:20]]
    return any(":" in one or " " in one or "h" in one for one in text)


def _to_galactic(ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    try:
        from astropy.coordinates import SkyCoord
    except ImportError as error:
        raise ImportError("ra and dec need astropy: pip install 'brutax[tables]'") from error
    good = np.isfinite(ra) & np.isfinite(dec) & (np.abs(np.where(np.isfinite(dec), dec, 99)) <= 90)
    sky = np.full((len(ra), 2), np.nan)
    galactic = SkyCoord(ra[good], dec[good], unit="deg", frame="icrs").galactic
    sky[good] = np.array([galactic.l.deg, galactic.b.deg]).T  # pyright: ignore
    return sky
