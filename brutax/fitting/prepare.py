"""From a grid and a user's options to what the solver needs: models with prior mass, priors."""

import io
import logging
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from brutax.cache import files
from brutax.catalog import digest
from brutax.fitting.functions import TYPICAL, CustomDistance, check_distance, dust_priors
from brutax.fitting.options import Priors
from brutax.models import StarGrid
from brutax.priors import (
    AbstractPrior,
    AgeWeight,
    ExponentialDiskDistance,
    GalacticStructure,
    KroupaIMF,
    Point,
    PS1LuminosityFunction,
    TruncatedNormalAv,
    TruncatedNormalRv,
    UniformAv,
    UniformRv,
    grid_cell_log_weight,
)
from brutax.solver import StarPrior, Tile, TiledModels, lay_out, tile_models
from brutax.utils import as_float

log = logging.getLogger("brutax")


class WithoutLabels(AbstractPrior):
    """A distance prior that is not told the metallicity and age of the model."""

    prior: AbstractPrior

    def log_prob(self, point: Point) -> Any:
        return self.prior.log_prob(point._replace(feh=None, loga=None))


class WhereSeen(AbstractPrior):
    """One distance prior where the direction is known, another where it is not."""

    with_direction: AbstractPrior
    without: AbstractPrior

    def log_prob(self, point: Point) -> Any:
        seen = jnp.isfinite(point.ell) & jnp.isfinite(point.b)
        sky = point._replace(ell=jnp.where(seen, point.ell, 0.0), b=jnp.where(seen, point.b, 0.0))
        return jnp.where(seen, self.with_direction.log_prob(sky), self.without.log_prob(point))


def model_log_prior(
    grid: StarGrid,
    *,
    lnprior: np.ndarray | None = None,
    apply_agewt: bool = True,
    apply_grad: bool = True,
) -> np.ndarray:
    """Log prior mass of each model (float64): mass function, age weight, size of the grid cell.

    The mass function is Kroupa's where the grid has initial masses, else the PS1 luminosity
    function where it has M_r, else flat; `lnprior` (model,) replaces it. Raises `ValueError` if
    `lnprior` has another length, holds NaN, or leaves no model possible.
    """
    labels = grid.label_table
    point = Point(**{name: labels[name] for name in Point._fields if name in labels})
    if lnprior is not None:
        total = np.array(lnprior, np.float64)
        if total.shape != (len(grid),):
            raise ValueError(
                f"lnprior has shape {total.shape}; one value for each of {len(grid)} models needed"
            )
        bad = np.isnan(total) | (total == np.inf)
        if bad.any():
            raise ValueError(f"lnprior holds {bad.sum()} NaN or +inf; use -inf to exclude a model")
    elif point.mini is not None:
        total = np.asarray(KroupaIMF().log_prob(point), np.float64)
    elif point.Mr is not None:
        total = np.asarray(PS1LuminosityFunction().log_prob(point), np.float64)
    else:
        total = np.zeros(len(grid))
    if apply_agewt and point.agewt is not None:
        total = total + np.asarray(AgeWeight().log_prob(point), np.float64)
    elif apply_agewt and point.mini is not None:
        log.warning("the grid has no 'agewt': every evolutionary point gets the same weight")
    if apply_grad:
        total = total + grid_cell_log_weight(labels, grid.axes)
    for name in ("feh", "loga"):  # what the Galactic prior looks at
        unknown = ~np.isfinite(labels.get(name, 0.0)) & np.isfinite(total)
        if unknown.any():
            log.warning("%d models without a finite '%s' are left out", unknown.sum(), name)
            total = np.where(unknown, -np.inf, total)
    if not np.isfinite(total).any():
        raise ValueError("no model of the grid has a finite prior mass")
    return total


class ReadyModels(NamedTuple):
    """A grid prepared for fits under some priors."""

    log_prior: np.ndarray  # of the rows of the grid
    models: TiledModels
    rows: np.ndarray  # of the grid, in the order of `models`; -1 for padding


def ready_models(grid: StarGrid, priors: Priors) -> ReadyModels:
    """The prior masses of a grid's models, and its `device_models`.

    Those used last are kept for the next fit; masses and tiles also for later processes, beside
    compiled programs (`brutax.cache.folder`).
    """
    given = None if priors.lnprior is None else digest(np.asarray(priors.lnprior))
    key = (grid.hash, grid.bands, given, priors.apply_agewt, priors.apply_grad)
    key = (*key, jax.config.read("jax_enable_x64"))
    if key not in _ready:
        name = f"{files.name_of(key, files.code(), np.__version__)}.npz"
        kept = _read_tiles(name)
        if kept is None:
            log_prior = model_log_prior(
                grid,
                lnprior=priors.lnprior,
                apply_agewt=priors.apply_agewt,
                apply_grad=priors.apply_grad,
            )
            kept = tile_grid(grid, log_prior)
            _write_tiles(name, kept)
        _ready.clear()
        _ready[key] = ReadyModels(kept.log_prior, on_device(grid, kept), kept.rows)
    return _ready[key]


_ready: dict[tuple, ReadyModels] = {}


class TiledGrid(NamedTuple):
    """How the models of a grid are sorted into tiles."""

    log_prior: np.ndarray  # of the rows of the grid
    tiles: Tile
    rows: np.ndarray  # of the grid, tile by tile; -1 for padding
    labels: list[str]  # that are summarised


def device_models(grid: StarGrid, log_prior: np.ndarray) -> tuple[TiledModels, np.ndarray]:
    """The grid on the device in the order of its tiles, and the row of each model in the grid.

    -1 stands for padding.
    """
    tiled = tile_grid(grid, log_prior)
    return on_device(grid, tiled), tiled.rows


def tile_grid(grid: StarGrid, log_prior: np.ndarray) -> TiledGrid:
    """Sorts models into tiles alike in colour and brightness (`brutax.solver.tiles`).

    The order follows the content (magnitudes, then labels), so that draws do not depend on the
    order in which a file lists its models.
    """
    table, names = grid.label_table, _informative(grid.label_table)
    order = np.lexsort([*(table[name] for name in sorted(table)), *grid.mag.T])
    tiles, rows = tile_models(
        np.asarray(grid.mag)[order],
        np.asarray(grid.red)[order],
        np.asarray(grid.dred)[order],
        log_prior[order],
        {name: np.nan_to_num(table[name][order]) for name in names},
    )
    return TiledGrid(log_prior, tiles, np.where(rows >= 0, order[rows], -1), names)


def on_device(grid: StarGrid, tiled: TiledGrid) -> TiledModels:
    """A grid on the device in the order of its tiles."""
    labels = {name: np.nan_to_num(grid.label_table[name]) for name in tiled.labels}
    mag, red, dred = (np.asarray(x) for x in (grid.mag, grid.red, grid.dred))
    return lay_out(tiled.tiles, tiled.rows, mag, red, dred, tiled.log_prior, labels)


def _write_tiles(name: str, tiled: TiledGrid) -> None:
    if files.folder() is None:
        return
    tiles = tiled.tiles._asdict()
    arrays = {f"label {key}": value for key, value in tiles.pop("labels").items()}
    arrays |= {f"tile {key}": value for key, value in tiles.items()}
    arrays |= {"log_prior": tiled.log_prior, "rows": tiled.rows.astype(np.int32)}
    content = io.BytesIO()
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    np.savez(content, labels=np.array(tiled.labels, str), **arrays)  # pyright: ignore
    files.write(name, content.getvalue())


def _read_tiles(name: str) -> TiledGrid | None:
    content = files.read(name)
    if content is None:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = dict(file)
        leaves: dict[str, Any] = {
            key: as_float(arrays[f"tile {key}"]) for key in Tile._fields if key != "labels"
        }
        seen = [key for key in arrays if key.startswith("label ")]
        leaves["labels"] = {key.removeprefix("label "): as_float(arrays[key]) for key in seen}
        rows, names = arrays["rows"].astype(np.int64), arrays["labels"].tolist()
        return TiledGrid(arrays["log_prior"], Tile(**leaves), rows, names)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        log.warning("tiles in the cache cannot be read, and are made again: %s", error)
        return None


def _informative(labels: Mapping[str, np.ndarray]) -> list[str]:
    """Labels worth a summary: those that vary, and those that priors look at."""
    needed = {*Point._fields} - {"agewt"}  # the age weight is part of the prior mass
    chosen = []
    for name, values in labels.items():
        same = (values == values[:1]) | (np.isnan(values) & np.isnan(values[:1]))
        varies = name != "agewt" and not same.all()
        if varies and name not in ("feh", "loga") and not np.isfinite(values).all():
            log.warning("label '%s' is not finite for all models: it is not summarised", name)
        elif varies or name in needed:
            chosen.append(name)
    return chosen


def _bounds(name: str, limits: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(x) for x in limits)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (low, high), got {limits!r}") from None
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"{name} must be finite and increasing, got ({low}, {high})")
    return low, high


def _gauss(name: str, gauss: Sequence[float]) -> tuple[float, float]:
    try:
        mean, std = (float(x) for x in gauss)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (mean, deviation), got {gauss!r}") from None
    if not (np.isfinite(mean) and std > 0):
        raise ValueError(f"{name} needs a finite mean and a positive deviation, got {gauss!r}")
    return mean, std


def av_prior(
    avlim: Sequence[float], av_gauss: Sequence[float] | None
) -> UniformAv | TruncatedNormalAv:
    """Uniform on `avlim` [mag], or a Gaussian (mean, std) truncated there."""
    low, high = _bounds("avlim", avlim)
    if low < 0:
        raise ValueError(f"avlim starts at {low}: negative extinction is not a model here")
    if av_gauss is None or _gauss("av_gauss", av_gauss)[1] >= 1e5:
        return UniformAv(low, high)
    return TruncatedNormalAv(*_gauss("av_gauss", av_gauss), low, high)


def rv_prior(
    rvlim: Sequence[float], rv_gauss: Sequence[float] | None
) -> UniformRv | TruncatedNormalRv:
    """Gaussian (mean, std) truncated to `rvlim`, or uniform there."""
    low, high = _bounds("rvlim", rvlim)
    if rv_gauss is None or _gauss("rv_gauss", rv_gauss)[1] >= 1e5:
        return UniformRv(low, high)
    return TruncatedNormalRv(*_gauss("rv_gauss", rv_gauss), low, high)


def star_priors(
    priors: Priors, coords: np.ndarray, names: Collection[str] = ()
) -> tuple[StarPrior, AbstractPrior | None]:
    """The priors of the stars, and the A_V prior of each where a dust map makes them differ.

    `coords`: (star, 2) Galactic l, b [deg], NaN where there are none; `names`: the labels that the
    grid has. Stars without coordinates get an exponential disk seen from within.
    """
    distance = _distance_prior(priors, names)
    if not priors.apply_dlabels:
        distance = WithoutLabels(distance)
    av = av_prior(priors.avlim, priors.av_gauss)
    rv = rv_prior(priors.rvlim, priors.rv_gauss)
    per_star = None
    if priors.dustfile is not None:
        av, per_star = dust_priors(priors, coords, float(av.low), float(av.high))
    elif priors.lndustprior is not None:
        raise ValueError("lndustprior needs dustfile: the map that it is given")
    return StarPrior(WhereSeen(distance, ExponentialDiskDistance()), av, rv), per_star


def _distance_prior(priors: Priors, names: Collection[str]) -> AbstractPrior:
    given = priors.lngalprior
    if given is None:
        return GalacticStructure(R_solar=as_float(priors.R_solar), Z_solar=as_float(priors.Z_solar))
    if isinstance(given, AbstractPrior):
        return given
    hidden = () if priors.apply_dlabels else ("feh", "loga")
    check_distance(given, tuple(n for n in TYPICAL if n in names and n not in hidden))
    return CustomDistance(given)


def repeat(prior: AbstractPrior, size: int) -> AbstractPrior:
    """The same prior for each of many stars, as one pytree with a leading axis."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.broadcast_to(np.asarray(leaf), (size, *np.shape(leaf)))),
        prior,
        is_leaf=eqx.is_array,
    )
