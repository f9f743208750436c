"""Mock catalogues: stars drawn from the prior of the fit, observed with noise."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.catalog import resolve_bands
from brutax.fitting.prior_draws import Sampler, Truth, draw_stars
from brutax.models import StarGrid, reddened_mag
from brutax.utils import magnitude

if TYPE_CHECKING:
    from astropy.table import Table

MIN_BANDS = 4  # that are never missing
MAX_ERROR = 0.2  # 5 sigma from a flux of zero, which has no magnitude


def mock_catalog(
    grid: StarGrid,
    n_stars: int,
    *,
    bands: Sequence[str] | None = None,
    seed: int = 0,
    coords: Any = None,
    error: Any = 0.02,
    parallax_error: float | None = 0.05,
    av: float | Sequence[float] = (0.0, 3.0),
    rv_gauss: Sequence[float] = (3.32, 0.18),
    rvlim: Sequence[float] = (1.0, 8.0),
    mag_limit: tuple[str, float] | None = None,
    missing: float = 0.0,
) -> "Table":
    """Stars drawn from the default prior of `brutax.fit`, as an astropy table.

    `coords`: (l, b) [deg] of all stars or (star, 2), NaN where not known; None spreads them
    over the sky. `error`: fraction of the true flux, a number or one per band.
    `parallax_error` [mas]; None leaves parallaxes out. `av`: the bounds of a uniform
    distribution [mag], or the mean of an exponential one. `missing`: fraction of magnitudes
    that are left out at random, while every star keeps four.

    Magnitudes, parallaxes and positions are in columns that `brutax.fit` recognises. The truth
    is in `true_dist` [kpc], `true_av` [mag], `true_rv`, `true_model` (row of the grid) and
    `true_<label>`. Fits with the same bounds on A_V and R_V are calibrated on such stars, up to
    order `error`, since a fit takes the errors as known and not as a measure of the flux.

    `mag_limit` (band, faint) keeps stars whose true magnitude is brighter. What is then in the
    table is the prior given detection, which favours near and luminous stars, while the fit
    knows nothing of the selection: calibration cannot be tested with such a table.
    """
    observed = grid if bands is None else grid.select(bands=resolve_bands(bands, grid.bands))
    fraction = _check(n_stars, error, parallax_error, missing, len(observed.bands))
    rng = np.random.default_rng(seed)
    sky = _directions(coords, n_stars, rng)
    seen = None if mag_limit is None else _detection(grid, *mag_limit)
    truth = draw_stars(grid, sky, _extinction(av), _reddening(rv_gauss, rvlim), rng, seen)
    flux = 10.0 ** (-0.4 * _magnitudes(observed, truth))
    err = fraction * flux
    mag, mag_err = magnitude(flux + err * rng.standard_normal(flux.shape), err)
    gone = _missing(flux.shape, missing, rng)
    table = _table(sky)
    if parallax_error is not None:
        noise = parallax_error * rng.standard_normal(n_stars)
        _add(table, "parallax", 1.0 / truth.dist + noise, "mas")
        _add(table, "parallax_err", np.full(n_stars, float(parallax_error)), "mas")
    for i, band in enumerate(observed.bands):
        _add(table, band, mag[:, i], "mag", gone[:, i])
        _add(table, f"{band}_err", mag_err[:, i], "mag", gone[:, i])
    columns = {"dist": truth.dist, "av": truth.av, "rv": truth.rv, "model": truth.model}
    columns |= {name: grid.label_table[name][truth.model] for name in grid.label_names}
    units = {"dist": "kpc", "av": "mag", "mini": "solMass"}
    for name, values in columns.items():
        _add(table, f"true_{name}", values, units.get(name))
    return table


def _check(
    n_stars: int, error: Any, parallax_error: float | None, missing: float, n_bands: int
) -> np.ndarray:
    """Refuses numbers that describe no catalogue; the fractional errors as an array."""
    if int(n_stars) != n_stars or n_stars < 1:
        raise ValueError(f"the number of stars must be a whole number above 0, got {n_stars}")
    fraction = np.asarray(error, np.float64)
    if fraction.shape not in ((), (n_bands,)):
        raise ValueError(f"error has shape {fraction.shape} for {n_bands} bands")
    if not np.all((fraction > 0) & (fraction <= MAX_ERROR)):
        raise ValueError(
            f"error is {error}: it must be above 0 and at most {MAX_ERROR} of the flux, so that "
            "no flux turns negative, which has no magnitude"
        )
    if parallax_error is not None and not (np.isfinite(parallax_error) and parallax_error > 0):
        raise ValueError(f"parallax_error must be positive [mas], got {parallax_error}")
    if not 0 <= missing < 1:
        raise ValueError(f"missing is a fraction, at least 0 and below 1, got {missing}")
    return fraction


def _directions(coords: Any, n_stars: int, rng: np.random.Generator) -> np.ndarray:
    """Galactic (l, b) [deg] of every star, (star, 2)."""
    if coords is None:
        ell = rng.uniform(0.0, 360.0, n_stars)
        return np.stack([ell, np.degrees(np.arcsin(rng.uniform(-1.0, 1.0, n_stars)))], axis=1)
    sky = np.asarray(coords, np.float64)
    if sky.shape not in ((2,), (n_stars, 2)):
        raise ValueError(f"coords {sky.shape}: give (l, b) or one pair for each of {n_stars} stars")
    if np.any(np.abs(sky[..., 1]) > 90):
        raise ValueError("coords: a Galactic latitude is beyond 90 deg; give (l, b) in degrees")
    return np.broadcast_to(sky, (n_stars, 2))


def _detection(grid: StarGrid, band: str, faint: float) -> Callable[[Truth], np.ndarray]:
    limiting = grid.select(bands=resolve_bands([band], grid.bands))
    return lambda truth: _magnitudes(limiting, truth)[..., 0] < float(faint)


def _extinction(av: Any) -> Sampler:
    if np.ndim(av) == 0:
        mean = float(av)
        if not (np.isfinite(mean) and mean > 0):
            raise ValueError(f"av, the mean of an exponential distribution, is {mean}")
        return lambda rng, shape: rng.exponential(mean, shape)
    if np.shape(av) != (2,) or not 0 <= av[0] < av[1] < np.inf:
        raise ValueError(f"av must be a mean, or (low, high) with 0 <= low < high, got {av}")
    return lambda rng, shape: rng.uniform(av[0], av[1], shape)


def _reddening(rv_gauss: Sequence[float], rvlim: Sequence[float]) -> Sampler:
    (mean, std), (low, high) = rv_gauss, rvlim
    if not (std > 0 and low < high):
        raise ValueError(f"rv_gauss {rv_gauss} and rvlim {rvlim} describe no distribution")
    from scipy.stats import truncnorm  # slow to import

    normal = truncnorm((low - mean) / std, (high - mean) / std, loc=mean, scale=std)
    return lambda rng, shape: normal.rvs(shape, random_state=rng)


def _magnitudes(grid: StarGrid, truth: Truth) -> np.ndarray:
    """True apparent magnitudes (..., band), in float64."""
    mag, red, dred = (
        np.asarray(x)[truth.model].astype(np.float64) for x in (grid.mag, grid.red, grid.dred)
    )
    shifted = mag + 5.0 * np.log10(truth.dist)[..., None]
    return reddened_mag(shifted, red, dred, truth.av[..., None], truth.rv[..., None])


def _missing(shape: tuple[int, ...], fraction: float, rng: np.random.Generator) -> np.ndarray:
    """Which bands are left out, at random; never the `MIN_BANDS` of largest random number."""
    lot = rng.random(shape)
    rank = np.argsort(np.argsort(-lot, axis=1), axis=1)
    return (lot < fraction) & (rank >= MIN_BANDS)


def _table(sky: np.ndarray) -> "Table":
    """A table of identifiers and, where there are any, positions."""
    try:
        from astropy.table import Table
    except ImportError:
        raise ImportError("mock tables need astropy: pip install 'brutax[tables]'") from None
    table = Table()
    table["source_id"] = np.arange(1, len(sky) + 1)
    if np.isfinite(sky).any():
        for i, name in enumerate(("l", "b")):
            _add(table, name, sky[:, i], "deg", ~np.isfinite(sky[:, i]))
    return table


def _add(
    table: "Table", name: str, values: np.ndarray, unit: str | None, gone: Any = False
) -> None:
    from astropy.table import Column, MaskedColumn

    if np.any(gone):
        table[name] = MaskedColumn(np.where(gone, np.nan, values), mask=gone, unit=unit)
    else:
        table[name] = Column(values, unit=unit)
