"""Bands from transmission curves, predicted from the bands inside brutax.

There are no spectra inside brutax. At every node of the bolometric corrections the magnitudes of
bands with well-known curves, from the ultraviolet to the mid-infrared, are read as samples of the
spectrum at their pivot wavelengths: a black body of the star's Teff times a smooth curve through
them. Synthetic photometry of that spectrum gives the new band (Bessell & Murphy 2012, PASP 124,
140, for the integrals). `benchmarks/passbands.py` measures what that costs, band by band.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from brutax.models.spline import DEGREE, TensorSpline, design_matrix

logger = logging.getLogger("brutax")


class Anchor(NamedTuple):
    """A band whose magnitude samples the spectrum."""

    pivot: float  # wavelength [angstrom]
    vega: float  # AB magnitude of Vega in the band
    system: str


# pivots and Vega by synthetic photometry of CALSPEC alpha_lyr_stis_005 (Bohlin et al. 2014) through
# the surveys' curves; GALEX from Morrissey et al. 2007, Stromgren from the MIST tables
ANCHORS = {
    "GALEX_FUV": Anchor(1535.1, 2.128, "AB"),
    "GALEX_NUV": Anchor(2300.8, 1.662, "AB"),
    "SDSS_u": Anchor(3556.5, 0.931, "AB"),
    "Stromgren_v": Anchor(4110.4, -0.132, "Vega"),
    "Stromgren_b": Anchor(4663.3, -0.153, "Vega"),
    "PS_g": Anchor(4849.1, -0.088, "AB"),
    "Stromgren_y": Anchor(5472.4, 0.003, "Vega"),
    "PS_r": Anchor(6201.2, 0.144, "AB"),
    "PS_i": Anchor(7535.0, 0.363, "AB"),
    "PS_z": Anchor(8674.2, 0.507, "AB"),
    "PS_y": Anchor(9627.8, 0.539, "AB"),
    "2MASS_J": Anchor(12355.0, 0.889, "Vega"),
    "2MASS_H": Anchor(16457.2, 1.364, "Vega"),
    "2MASS_Ks": Anchor(21602.9, 1.834, "Vega"),
    "WISE_W1": Anchor(33682.2, 2.666, "Vega"),
    "WISE_W2": Anchor(46179.1, 3.305, "Vega"),
    "WISE_W3": Anchor(120718.5, 5.139, "Vega"),
    "WISE_W4": Anchor(221943.6, 6.615, "Vega"),
}
TEFF_VEGA = 9550.0  # [K], Castelli & Kurucz 1994
RANGE = (1300.0, 280_000.0)  # wavelengths that the anchors cover [angstrom]
UNITS = {"angstrom": 1.0, "nm": 10.0, "micron": 1e4}
SYSTEMS, DETECTORS = ("AB", "Vega"), ("photon", "energy")
MIN_POINTS = 4  # of a curve: fewer have no shape
NEGATIVE = 5e-3  # of the peak: what a splined curve may dip below zero
EDGE = 0.02  # transmission at the ends, over the peak, that means that a curve is cut off
GAP = 0.15  # largest step in ln wavelength inside a band
LEAK = 0.01  # share of the light of a flat spectrum that comes from far off the band
FAR = 1.6  # times the wavelength of the peak
SAMPLES = 240  # wavelengths of the integrals
_HC_OVER_K = 1.438776877e8  # Planck's h c over k [angstrom K]


@dataclass(frozen=True)
class Passband:
    """A transmission curve: a name, wavelengths and transmissions (any scale).

    `system` is "AB" or "Vega", `detector` "photon" (transmission per photon, the usual) or
    "energy"; `unit` that of the wavelengths: angstrom, nm or micron. Raises `ValueError` for
    curves that are cut off, have gaps or leaks, or do not look like their unit.
    """

    name: str
    wavelength: Any
    transmission: Any
    system: str = "AB"
    detector: str = "photon"
    unit: str = "angstrom"

    def __post_init__(self):
        for what, value, known in (
            ("system", self.system, SYSTEMS),
            ("detector", self.detector, DETECTORS),
            ("unit", self.unit, tuple(UNITS)),
        ):
            if value not in known:
                raise ValueError(f"{self.name}: {what} {value!r} is not one of {', '.join(known)}")
        wave, through = _checked(self.name, self.wavelength, self.transmission, self.unit)
        object.__setattr__(self, "wavelength", wave)
        object.__setattr__(self, "transmission", through)
        object.__setattr__(self, "unit", "angstrom")

    @classmethod
    def read(cls, path: str | os.PathLike, name: str | None = None, **options: Any) -> "Passband":
        """A curve from a text file of two columns, or a VOTable (as from the SVO filter service).

        `#` starts a comment; further columns are ignored. The name defaults to that of the file;
        `options` are those of `Passband`. Raises `ValueError` for anything else.
        """
        path = Path(path)
        name = path.stem if name is None else name
        if path.suffix.lower() in (".xml", ".vot"):
            wave, through, unit = _read_votable(path)
            options = {"unit": unit} | options
        else:
            try:
                table = np.loadtxt(path, ndmin=2)
            except ValueError as error:
                raise ValueError(f"{path} is no table of numbers: {error}") from None
            if table.shape[1] < 2:
                raise ValueError(f"{path} needs two columns: wavelength and transmission")
            wave, through = table[:, 0], table[:, 1]
        return cls(name, wave, through, **options)

    @property
    def photons(self) -> np.ndarray:
        """The transmission per photon."""
        if self.detector == "photon":
            return self.transmission
        return self.transmission / self.wavelength

    @property
    def pivot(self) -> float:
        """The pivot wavelength [angstrom]: independent of the spectrum."""
        wave, through = self.wavelength, self.photons
        return float(
            np.sqrt(np.trapezoid(through * wave, wave) / np.trapezoid(through / wave, wave))
        )


def _checked(name: str, wavelength: Any, transmission: Any, unit: str) -> tuple[Any, Any]:
    """A curve as increasing wavelengths [angstrom] and transmissions up to one."""
    wave = np.asarray(wavelength, np.float64) * UNITS[unit]
    through = np.asarray(transmission, np.float64)
    if wave.ndim != 1 or wave.shape != through.shape or wave.size < MIN_POINTS:
        raise ValueError(
            f"{name}: wavelengths {wave.shape} and transmissions {through.shape}; a curve has "
            f"{MIN_POINTS} points or more"
        )
    if not (np.isfinite(wave).all() and np.isfinite(through).all()):
        raise ValueError(f"{name}: wavelengths and transmissions must be finite")
    if wave[0] > wave[-1]:
        wave, through = wave[::-1], through[::-1]
    if np.any(np.diff(wave) <= 0):
        raise ValueError(f"{name}: wavelengths must increase (or decrease) all along the curve")
    if np.any(through < -NEGATIVE * through.max()) or through.max() <= 0:
        raise ValueError(f"{name}: transmissions must not be negative, nor all zero")
    through = np.clip(through, 0.0, None) / through.max()
    low, high = wave[through > EDGE][[0, -1]]
    if low < RANGE[0] or high > RANGE[1]:
        fits = [
            one for one, scale in UNITS.items()
            if RANGE[0] < low / UNITS[unit] * scale and high / UNITS[unit] * scale < RANGE[1]
        ]  # fmt: skip
        hint = f"; in {' or '.join(fits)} they would fit: give unit=" if fits else ""
        raise ValueError(
            f"{name}: the band goes from {low:.4g} to {high:.4g} angstrom if wavelengths are in "
            f"{unit}; the models cover {RANGE[0]:g} to {RANGE[1]:g}{hint}"
        )
    for end, where in ((0, "blue"), (-1, "red")):
        if through[end] > EDGE:
            raise ValueError(
                f"{name}: at the {where} end, {wave[end]:.5g} angstrom, the transmission is still "
                f"{through[end]:.0%} of the peak: the curve is cut off; add points down to zero"
            )
    inside = (wave >= low) & (wave <= high)
    steps = np.diff(np.log(wave[inside]))
    usual = np.median(steps) if steps.size else 0.0
    if steps.size and steps.max() > GAP and steps.max() > 4.0 * usual:
        k = int(np.argmax(steps))
        raise ValueError(
            f"{name}: no points between {wave[inside][k]:.5g} and {wave[inside][k + 1]:.5g} "
            "angstrom, inside the band: the curve has a gap"
        )
    peak = wave[np.argmax(through)]
    share = through / wave
    total = np.trapezoid(share, wave)
    far = (wave > FAR * max(peak, _median_wavelength(wave, share))) | (wave < peak / FAR)
    leak = np.trapezoid(np.where(far & _apart(through), share, 0.0), wave) / total
    if leak > LEAK:
        raise ValueError(
            f"{name}: {leak:.1%} of the light of a flat spectrum comes from far off the band (a "
            "red or blue leak); cut the curve, or use measurements corrected for it"
        )
    return wave, through


def _median_wavelength(wave: np.ndarray, share: np.ndarray) -> float:
    steps = np.diff(wave) * 0.5 * (share[1:] + share[:-1])
    return float(np.interp(0.5 * steps.sum(), np.concatenate([[0.0], np.cumsum(steps)]), wave))


def _apart(through: np.ndarray) -> np.ndarray:
    """Points that are separated from the peak by ones without transmission."""
    dark = through < 1e-4
    peak = int(np.argmax(through))
    right, left = np.flatnonzero(dark[peak:]), np.flatnonzero(dark[:peak])
    out = np.ones(through.size, bool)
    start = left[-1] if left.size else 0
    stop = peak + right[0] if right.size else through.size
    out[start:stop] = False
    return out


def _read_votable(path: Path) -> tuple[np.ndarray, np.ndarray, str]:
    try:
        import astropy.units as u
        from astropy.table import Table
    except ImportError:
        raise ImportError("VOTables need astropy: pip install 'brutax[tables]'") from None
    table = Table.read(path, format="votable")
    wave, through = table.columns[0], table.columns[1]
    unit = wave.unit or u.AA
    return (np.asarray(wave * unit.to(u.AA), float), np.asarray(through, float), "angstrom")


class Bands(NamedTuple):
    """Splines and numbers of new bands, as `Bolometric` holds them."""

    bare: np.ndarray  # coefficients (teff, logg, feh, band)
    dust: np.ndarray  # (teff, logg, feh, band, 3)
    law_ratio: np.ndarray  # (band, power)


def predict_bands(
    passbands: Sequence[Passband],
    bare: TensorSpline,
    dust: TensorSpline,
    anchors: Sequence[str],
    law: str,
) -> Bands:
    """New bands from splines `bare` of the bolometric corrections of `anchors`.

    The extinction of a band is that of its spectrum behind the curve of Cardelli, Clayton & Mathis
    (1989) at R_V = 3.1, a quadratic in A_V as for the other bands; `law` scales it as there.
    """
    nodes = [_greville(np.asarray(k)) for k in bare.knots]
    magnitudes = -_on_nodes(bare, nodes)  # of stars of one bolometric magnitude
    spectra = [Spectra(10.0 ** nodes[0], magnitudes, anchors, x) for x in passbands]
    new = np.stack([one.bolometric_correction() for one in spectra], axis=-1)
    matrices = [design_matrix(np.asarray(k), x) for k, x in zip(bare.knots, nodes)]
    coarse = [_greville(np.asarray(k)) for k in dust.knots]
    there = -_on_nodes(bare, coarse)
    quadratics = [Spectra(10.0 ** coarse[0], there, anchors, x).extinction() for x in passbands]
    between = [design_matrix(np.asarray(k), x) for k, x in zip(dust.knots, coarse)]
    return Bands(
        _solve(matrices, new),
        _solve(between, np.stack(quadratics, axis=-2)),
        law_ratios(np.array([one.pivot for one in passbands]), law),
    )


class Spectra:
    """Reconstructed spectra of the stars of a lattice in one band."""

    def __init__(
        self, teff: np.ndarray, magnitude: np.ndarray, anchors: Sequence[str], band: Passband
    ):
        self.band = band
        self.wave = _samples(band)
        through = np.interp(self.wave, band.wavelength, band.photons)
        self.weight = through / self.wave * _trapezoid_steps(self.wave)  # of f_nu: T dlambda/lambda
        self.weight = self.weight / self.weight.sum()
        known = [ANCHORS[name] for name in anchors]
        order = np.argsort([one.pivot for one in known])
        pivots = np.array([known[k].pivot for k in order])
        offset = np.array([known[k].vega * (known[k].system == "Vega") for k in order])
        self.flux = _smooth(teff, magnitude[..., order] + offset, pivots, self.wave)
        vega = np.array([[known[k].vega for k in order]])
        bright = _smooth(np.array([TEFF_VEGA]), vega, pivots, self.wave)[0]
        self.vega = -2.5 * np.log10(bright @ self.weight) if band.system == "Vega" else 0.0

    def bolometric_correction(self) -> np.ndarray:
        """Of every star."""
        return 2.5 * np.log10(self.flux @ self.weight) + self.vega

    def extinction(self) -> np.ndarray:
        """`A_band / A_V = k0 + k1 A_V + k2 A_V²` by least squares up to 6 mag, (..., 3)."""
        curve = _law("CCM89", self.wave, 3.1)
        av = np.array([0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
        bare = self.flux @ self.weight
        dimmed = [self.flux @ (self.weight * 10.0 ** (-0.4 * a * curve)) for a in av]
        ratio = np.stack([-2.5 * np.log10(one / bare) / a for one, a in zip(dimmed, av)], axis=-1)
        vander = np.stack([np.ones_like(av), av, av**2], axis=1)
        return ratio @ np.linalg.pinv(vander).T


def _smooth(
    teff: np.ndarray, magnitude: np.ndarray, pivots: np.ndarray, wave: np.ndarray
) -> np.ndarray:
    """f_nu at wavelengths: a black body times a monotone curve through magnitudes, (..., wave)."""
    from scipy.interpolate import PchipInterpolator

    shape = (-1, *[1] * (magnitude.ndim - 1))
    body = _black_body(teff.reshape(shape), pivots)
    excess = PchipInterpolator(np.log(pivots), magnitude - body, axis=-1, extrapolate=False)
    at = np.clip(np.log(wave), np.log(pivots[0]), np.log(pivots[-1]))
    return 10.0 ** (-0.4 * (excess(at) + _black_body(teff.reshape(shape), wave)))


def _black_body(teff: np.ndarray, wave: np.ndarray) -> np.ndarray:
    """Magnitudes -2.5 log10 B_nu, but for a constant of the temperature."""
    x, reference = _HC_OVER_K / (wave * teff), _HC_OVER_K / (1e4 * teff)
    log = 3.0 * np.log(wave / 1e4) + _log_expm1(x) - _log_expm1(reference)
    return 2.5 / np.log(10.0) * log


def _log_expm1(x: np.ndarray) -> np.ndarray:
    return x + np.log1p(-np.exp(-x))


def _samples(band: Passband) -> np.ndarray:
    """Wavelengths for the integrals: those of the curve, thinned or with more between them."""
    seen = np.flatnonzero(band.transmission > 0)
    first, last = max(seen[0] - 1, 0), min(seen[-1] + 1, band.wavelength.size - 1)
    wave = band.wavelength[first : last + 1]
    return np.interp(np.linspace(0, wave.size - 1, SAMPLES), np.arange(wave.size), wave)


def _trapezoid_steps(x: np.ndarray) -> np.ndarray:
    steps = np.diff(x)
    return 0.5 * (np.concatenate([[0.0], steps]) + np.concatenate([steps, [0.0]]))


def _greville(knots: np.ndarray) -> np.ndarray:
    """Points at which the values of a spline determine it."""
    count = knots.size - DEGREE - 1
    points = np.array([knots[k + 1 : k + 1 + DEGREE].mean() for k in range(count)])
    return np.clip(points, knots[0], knots[-1])


def _on_nodes(spline: TensorSpline, nodes: Sequence[np.ndarray]) -> np.ndarray:
    table = np.asarray(spline.coef, np.float64)
    for axis, (knots, x) in enumerate(zip(spline.knots, nodes)):
        table = _along(design_matrix(np.asarray(knots, np.float64), x), table, axis)
    return table


def _solve(matrices: Sequence[np.ndarray], table: np.ndarray) -> np.ndarray:
    for axis, matrix in enumerate(matrices):
        table = _along(np.linalg.inv(matrix), table, axis)
    return table


def _along(matrix: np.ndarray, table: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(np.tensordot(matrix, table, axes=(1, axis)), 0, axis)


LAW_DEGREE = 4  # of the polynomials in 3.1 / R_V that stand for the laws
RV_RANGE = (2.3, 5.6)  # where all laws are defined


def law_ratios(wavelength: np.ndarray, law: str) -> np.ndarray:
    """`a(R_V)` of a law divided by CCM89 at 3.1, as polynomials in 3.1 / R_V, (band, power)."""
    rv = np.linspace(*RV_RANGE, 41)
    base = _law("CCM89", wavelength, 3.1)
    table = np.stack([_law(law, wavelength, r) / base for r in rv])
    vander = (3.1 / rv[:, None]) ** np.arange(LAW_DEGREE + 1)
    coef, *_ = np.linalg.lstsq(vander, table, rcond=None)
    return coef.T


def _law(law: str, wavelength: np.ndarray, rv: float) -> np.ndarray:
    """A(wavelength) / A_V; beyond the red end of a law the curve falls as wavelength^-1.7."""
    try:
        import astropy.units as u
        from dust_extinction import parameter_averages
    except ImportError:
        raise ImportError(
            "bands from transmission curves need dust_extinction: pip install 'brutax[bands]'"
        ) from None
    curve = getattr(parameter_averages, law)(Rv=rv)
    low, high = curve.x_range  # [1 / micron]
    x = 1e4 / np.asarray(wavelength, np.float64)
    inside = np.clip(x, low * 1.0001, high * 0.9999)
    red = np.where(x < low, (np.minimum(x, low) / (low * 1.0001)) ** 1.7, 1.0)
    return np.asarray(curve(inside / u.micron)) * red
