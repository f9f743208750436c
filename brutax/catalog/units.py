"""Units of catalogue columns: what they mean in maggies, degrees and milliarcseconds."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from brutax.catalog.catalogue import CatalogError, check_magnitudes, is_missing_number
from brutax.utils.photometry import inv_magnitude

AB_ZERO_JY = 3631.0  # flux of AB magnitude 0 [Jy] (Oke & Gunn 1983)


class PhotUnit(NamedTuple):
    """A unit of brightness: magnitudes, maggies of the band's own zero point, or Jy."""

    kind: str  # "mag", "maggies" or "Jy"
    factor: float = 1.0  # numbers times this are in `kind`
    system: str | None = None  # "AB" or "Vega" where the unit says so
    name: str = ""


_PHOT = {
    PhotUnit("mag"): "mag mags magnitude magnitudes pogson",
    PhotUnit("mag", 1e-3): "mmag millimag",
    PhotUnit("mag", 1.0, "AB"): "abmag mag(ab) magab mag_ab ab",
    PhotUnit("mag", 1.0, "Vega"): "vegamag mag(vega) magvega mag_vega vega",
    PhotUnit("maggies"): "maggies maggy mgy",
    # by definition 3.631e-6 Jy, which fixes the zero point to AB
    PhotUnit("Jy", AB_ZERO_JY * 1e-9): "nanomaggies nanomaggy nmgy nmaggy",
    PhotUnit("Jy"): "jy jansky janskys",
    PhotUnit("Jy", 1e-3): "mjy millijansky",
    PhotUnit("Jy", 1e-6): "ujy µjy μjy microjansky",
    PhotUnit("Jy", 1e-9): "njy nanojansky",
}
_PHOT_BY_NAME = {name: unit for unit, names in _PHOT.items() for name in names.split()}
_MAS = {
    1.0: "mas milliarcsec milliarcsecond milliarcseconds marcsec",
    1e3: "arcsec arcsecond arcseconds",
    1e-3: "uas µas μas microarcsec microarcsecond microarcseconds uarcsec",
    3.6e6: "deg degree degrees",
    np.degrees(3.6e6): "rad radian radians",
}
_MAS_BY_NAME = {name: factor for factor, names in _MAS.items() for name in names.split()}
_DEGREES = {
    1.0: "deg degree degrees °",
    15.0: "hourangle hour hours h hr hrs",
    np.degrees(1.0): "rad radian radians",
    1 / 3600: "arcsec",
}
_DEGREES_BY_NAME = {name: factor for factor, names in _DEGREES.items() for name in names.split()}

# the zero points in which surveys publish magnitudes, and grids hold theirs
_SYSTEMS = {
    "AB": ("PS_", "SDSS_", "DECam_", "GALEX_"),
    "Vega": ("Gaia_", "2MASS_", "WISE_", "Bessell_", "VISTA_", "UKIDSS_", "Tycho_", "TESS"),
}


def band_zero_point(band: str, band_system: Mapping[str, str] | None) -> str | None:
    """ "AB" or "Vega": the system of a band's native magnitudes; None if not known."""
    if band_system is not None and band in band_system:
        system = {"ab": "AB", "vega": "Vega"}.get(str(band_system[band]).lower())
        if system is None:
            raise CatalogError(
                f"band_system[{band!r}] is {band_system[band]!r}: use 'AB' or 'Vega'"
            )
        return system
    for system, families in _SYSTEMS.items():
        if band.startswith(families):
            return system
    return None


def photometric_unit(unit: str, where: str) -> PhotUnit:
    """The meaning of a unit of brightness; `where` names the column in errors."""
    known = _PHOT_BY_NAME.get(_plain(unit))
    if known is not None and not unit.strip().startswith("MJ"):  # mega, not milli
        return known._replace(name=unit)
    factor = _astropy_factor(unit, "Jy")
    if factor is None:
        raise CatalogError(
            f"{where} has the unit {unit!r}, which is no brightness understood here: give "
            "units= one of mag, ABmag, Vegamag, maggies, nanomaggies, Jy, mJy, uJy, nJy"
        )
    return PhotUnit("Jy", factor, None, unit)


def parallax_factor(unit: str, where: str) -> float:
    """Milliarcseconds in one unit."""
    return _factor(unit, where, _MAS_BY_NAME, "mas", "mas, arcsec, uas, deg")


def degree_factor(unit: str, where: str) -> float:
    """Degrees in one unit."""
    return _factor(unit, where, _DEGREES_BY_NAME, "deg", "deg, rad, hourangle")


def to_maggies(
    value: np.ndarray,
    err: np.ndarray,
    unit: PhotUnit,
    err_unit: PhotUnit,
    band: str,
    band_system: Mapping[str, str] | None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Flux and error [maggies of the band's own zero point], and how many were sentinels."""
    if unit.kind != err_unit.kind:
        raise CatalogError(
            f"{band} is in {unit.name} and its error in {err_unit.name}: give both in one kind "
            f"of unit, units={{'{band}': ..., '{band}_err': ...}}"
        )
    magnitude = unit.kind == "mag"
    gone = is_missing_number(value, magnitude)
    value = np.where(gone, np.nan, value) * unit.factor
    err = np.where(is_missing_number(err, magnitude), np.nan, err) * err_unit.factor
    native = band_zero_point(band, band_system)
    count = int(np.sum(gone))
    if magnitude:
        if unit.system is not None and native is not None and unit.system != native:
            raise CatalogError(
                f"{band} is given in {unit.system} magnitudes, the grid's {band} is in {native}: "
                f"convert the column to {native} magnitudes"
            )
        check_magnitudes(value, f"magnitudes of {band}")
        return *inv_magnitude(value, err), count
    if unit.kind == "maggies":
        return value, err, count
    if native != "AB":
        raise CatalogError(
            f"{band} is in {unit.name}, but its zero point is {native or 'not known'}, not AB: "
            "give magnitudes, or maggies of the band's own zero point (10**(-0.4 mag))"
        )
    return value / AB_ZERO_JY, err / AB_ZERO_JY, count


def _plain(unit: str) -> str:
    return unit.strip().strip("[]").replace(" ", "").lower()


def _factor(unit: str, where: str, known: dict[str, float], target: str, allowed: str) -> float:
    factor = known.get(_plain(unit))
    if factor is None:
        factor = _astropy_factor(unit, target)
    if factor is None:
        raise CatalogError(f"{where} has the unit {unit!r}: give units= one of {allowed}")
    return float(factor)


def _astropy_factor(unit: str, target: str) -> float | None:
    """How many `target` one `unit` holds, or None if it is no such unit."""
    try:
        from astropy import units
    except ImportError:
        return None
    try:
        return float(units.Unit(unit).to(units.Unit(target)))  # pyright: ignore
    except (ValueError, TypeError, AttributeError):  # UnitsError is a ValueError
        return None
