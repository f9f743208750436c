"""Demonstration models: analytic stars for examples and tests. NOT for science.

Real grids come from evolutionary tracks and model atmospheres. These come from scaling
relations and black bodies, so that a complete, smooth and differentiable grid of the right
shape exists everywhere in a fraction of a second.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from brutax.data import GridData
from brutax.models.grid.star_grid import StarGrid
from brutax.utils._namespace import Numeric

# effective wavelengths [micron] and relative half widths, rounded
_BANDS = {
    "PS_g": (0.481, 0.12),
    "PS_r": (0.617, 0.11),
    "PS_i": (0.752, 0.08),
    "PS_z": (0.866, 0.05),
    "PS_y": (0.962, 0.04),
    "2MASS_J": (1.24, 0.07),
    "2MASS_H": (1.65, 0.08),
    "2MASS_Ks": (2.16, 0.06),
    "Gaia_G_EDR3": (0.622, 0.32),
    "Gaia_BP_EDR3": (0.511, 0.22),
    "Gaia_RP_EDR3": (0.777, 0.17),
    "WISE_W1": (3.35, 0.10),
    "WISE_W2": (4.60, 0.11),
    "SDSS_u": (0.354, 0.08),
    "SDSS_g": (0.477, 0.14),
    "SDSS_r": (0.623, 0.11),
    "SDSS_i": (0.763, 0.10),
    "SDSS_z": (0.905, 0.08),
}
# bands in which the demonstration models have magnitudes
DEMO_BANDS = tuple(_BANDS)

LOGA_MAX = 10.14  # log10 of the largest age [yr], as in brutus' grids

_H_OVER_K = 4.799243073e-11  # Planck / Boltzmann [K s]
_C = 2.99792458e14  # speed of light [micron / s]
_H_OVER_C2 = 6.62607015e-27 / 2.99792458e10**2  # Planck / c² [g s]
# squared dilution of the solar radius at 1 kpc, (6.957e10 cm / 3.0857e21 cm)²
_DILUTION = (6.957e10 / 3.085677581e21) ** 2
_TEFF_SUN = 5772.0  # [K]
_LOGG_SUN = 4.438  # log10 g of the Sun [cm s^-2]
_LIFETIME = 1.0e10  # of the Sun on the main sequence [yr]

# the clock: d(age)/d(EEP) falls smoothly from 1 to `_SLOW` lifetimes per 252 EEPs at the turn-off
_ZAMS, _TURNOFF, _WIDTH, _SLOW, _START = 202.0, 440.0, 18.0, 0.04, 0.01


class _Stars(NamedTuple):
    loga: Any  # log10 age [yr]
    logl: Any  # log10 L [Lsun]
    logt: Any  # log10 Teff [K]
    logg: Any  # log10 g [cgs]
    agewt: Any  # d(age)/d(EEP) [yr]


def _sigmoid(x: Numeric) -> Any:
    return 1.0 / (1.0 + np.exp(-x))


def demo_star(mini: Numeric, eep: Numeric, feh: Numeric) -> _Stars:
    """A star of initial mass [Msun], EEP and [Fe/H]: main sequence, subgiant, red giant.

    `age = t(m) tau(EEP)` with `t = 10 Gyr m^-2.5 10^(0.15 [Fe/H])`; `agewt` is its exact
    derivative. Luminosity goes as `m^4.2`, brightens by 0.4 dex along the main sequence and
    rises to `10^3.2 Lsun`, where giants of all masses meet while they cool to 4000 K.
    """
    logm = np.log10(mini)
    lifetime = _LIFETIME * 10.0 ** (-2.5 * logm + 0.15 * feh)
    z, z0 = (eep - _TURNOFF) / _WIDTH, (_ZAMS - _TURNOFF) / _WIDTH
    clock = -_WIDTH * (np.log1p(np.exp(-z)) - np.log1p(np.exp(-z0)))
    # below the turn-off -log1p(exp(-z)) rises with slope 1, above it is flat
    age = lifetime * (_START + (clock + _SLOW * (eep - _ZAMS)) / 252.0)
    agewt = lifetime * (_sigmoid(-z) + _SLOW) / 252.0

    giant = _sigmoid((eep - 570.0) / 35.0)
    dwarf_logl = 4.2 * logm - 0.15 * feh + 0.4 * np.minimum((eep - _ZAMS) / 252.0, 1.5)
    logl = (1.0 - giant) * dwarf_logl + giant * 3.2
    cool = _sigmoid((eep - 490.0) / 14.0)
    dwarf_logt = 3.762 + 0.56 * logm - 0.04 * feh
    logt = (1.0 - cool) * dwarf_logt + cool * (3.68 - 0.025 * feh - 0.025 * (logl - 1.0))
    logg = logm - logl + 4.0 * (logt - np.log10(_TEFF_SUN)) + _LOGG_SUN
    return _Stars(np.log10(age), logl, logt, logg, agewt)


def demo_mag(stars: _Stars, feh: Numeric, band: str) -> Any:
    """AB magnitude at 1 kpc: the Planck function averaged over five wavelengths of the band.

    `f_nu = pi B_nu(Teff) (R / d)²` with `R` from `L = 4 pi sigma R² Teff⁴`, and metals dim the
    blue by `0.08 [Fe/H] (0.5 micron / lambda)²` mag.
    """
    centre, half_width = _BANDS[band]
    teff = 10.0**stars.logt
    radius2 = 10.0**stars.logl * (_TEFF_SUN / teff) ** 4  # [Rsun²]
    planck = 0.0
    for wavelength in centre * (1.0 + half_width * np.linspace(-0.8, 0.8, 5)):
        nu = _C / wavelength
        planck = planck + 0.4 * _H_OVER_C2 * nu**3 / np.expm1(_H_OVER_K * nu / teff)
    flux = np.pi * planck * radius2 * _DILUTION  # [erg / s / cm² / Hz]
    return -2.5 * np.log10(flux) - 48.6 + 0.08 * feh * (0.5 / centre) ** 2


def demo_reddening(band: str) -> tuple[float, float]:
    """`(r0, dr)` of a band, with `A_band / A_V = r0 + R_V dr`.

    A power law `(lambda / 0.55 micron)^-1.5` at R_V = 3.1, whose slope with R_V has the sign and
    about the size of that of Cardelli, Clayton & Mathis (1989, ApJ 345, 245).
    """
    law = (0.55 / _BANDS[band][0]) ** 1.5
    slope = 0.2 * min(law, 1.0) * (1.0 - law)
    return law - 3.1 * slope, slope


def demo_grid(
    bands: Sequence[str] = DEMO_BANDS, n_mass: int = 40, n_eep: int = 60, n_feh: int = 12
) -> StarGrid:
    """The demonstration models on a lattice of mass, EEP and [Fe/H]: NOT for science.

    0.3-2 Msun, EEP 202-808, [Fe/H] -2 to 0.5. Models older than the Universe
    (`loga > 10.14`) are left out, so the lattice has the holes of a real one. All AB.
    """
    if unknown := [band for band in bands if band not in _BANDS]:
        raise ValueError(f"no demonstration band {', '.join(unknown)}; there are {DEMO_BANDS}")
    nodes = (
        np.round(np.geomspace(0.3, 2.0, n_mass), 6),
        np.round(np.linspace(202.0, 808.0, n_eep), 6),
        np.round(np.linspace(-2.0, 0.5, n_feh), 6),
    )
    mini, eep, feh = (x.ravel() for x in np.meshgrid(*nodes, indexing="ij"))
    young = demo_star(mini, eep, feh).loga <= LOGA_MAX
    mini, eep, feh = mini[young], eep[young], feh[young]
    stars = demo_star(mini, eep, feh)
    mag = np.stack([demo_mag(stars, feh, band) for band in bands], axis=-1).astype(np.float32)
    law = np.array([demo_reddening(band) for band in bands], np.float32)
    red, dred = (np.ascontiguousarray(np.broadcast_to(law[:, k], mag.shape)) for k in range(2))
    labels = {"mini": mini, "eep": eep, "feh": feh, **stars._asdict()}
    attrs = {
        "provenance": "brutax demonstration models: analytic black bodies, NOT for science",
        "n_models_total": int(young.size),
        "band_system": ("AB",) * len(bands),
    }
    axes = ("mini", "eep", "feh")
    data = GridData(mag, red, dred, labels, axes, tuple(bands), attrs)
    return StarGrid(data, verbose=False)
