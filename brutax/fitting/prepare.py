"""The models of a grid made ready for the solver: prior masses, and tiles of similar models."""

import io
import logging
import zipfile
from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np

from brutax.cache import files
from brutax.catalog import digest
from brutax.fitting.prior import ModelPrior
from brutax.models import StarGrid
from brutax.priors import (
    AgeWeight,
    KroupaIMF,
    Point,
    PS1LuminosityFunction,
    grid_cell_log_weight,
)
from brutax.solver import Tile, TiledModels, lay_out, tile_models
from brutax.utils import as_float

log = logging.getLogger("brutax")


def model_log_prior(grid: StarGrid, prior: ModelPrior | None = None) -> np.ndarray:
    """ln of the prior mass of each model (float64): mass function, age weight, size of its cell.

    Without an `imf` the mass function is Kroupa's where the grid has initial masses, else the
    luminosity function of Pan-STARRS where it has M_r, else flat. Raises `ValueError` if
    `prior.log_mass` has another length, holds NaN, or leaves no model possible.
    """
    prior, labels = prior or ModelPrior(), grid.label_table
    point = Point(**{name: labels[name] for name in Point._fields if name in labels})
    if prior.log_mass is not None:
        total = _checked_log_mass(prior.log_mass, len(grid))
    elif prior.imf is not None:
        total = np.asarray(prior.imf.log_prob(point), np.float64)
    elif point.mini is not None:
        total = np.asarray(KroupaIMF().log_prob(point), np.float64)
    elif point.Mr is not None:
        total = np.asarray(PS1LuminosityFunction().log_prob(point), np.float64)
    else:
        total = np.zeros(len(grid))
    if prior.age_weight and point.agewt is not None:
        total = total + np.asarray(AgeWeight().log_prob(point), np.float64)
    elif prior.age_weight and point.mini is not None:
        log.warning("the grid has no 'agewt': every evolutionary point gets the same weight")
    if prior.cell_size:
        total = total + grid_cell_log_weight(labels, grid.axes)
    for name in ("feh", "loga"):  # what the Galactic prior looks at
        unknown = ~np.isfinite(labels.get(name, 0.0)) & np.isfinite(total)
        if unknown.any():
            log.warning("%d models without a finite '%s' are left out", unknown.sum(), name)
            total = np.where(unknown, -np.inf, total)
    if not np.isfinite(total).any():
        raise ValueError("no model of the grid has a finite prior mass")
    return total


def _checked_log_mass(given: np.ndarray, count: int) -> np.ndarray:
    if given.shape != (count,):
        raise ValueError(
            f"lnprior has shape {given.shape}; one value for each of {count} models needed"
        )
    bad = np.isnan(given) | (given == np.inf)
    if bad.any():
        raise ValueError(f"lnprior holds {bad.sum()} NaN or +inf; use -inf to exclude a model")
    return given


class ReadyModels(NamedTuple):
    """A grid prepared for fits under some priors."""

    log_prior: np.ndarray  # of the rows of the grid
    models: TiledModels
    rows: np.ndarray  # of the grid, in the order of `models`; -1 for padding
    digest: str  # of `log_prior`


def ready_models(grid: StarGrid, prior: ModelPrior | None = None) -> ReadyModels:
    """The prior masses of a grid's models, and its `device_models`.

    Those used last are kept for the next fit; masses and tiles also for later processes, beside
    compiled programs (`brutax.cache`).
    """
    prior = prior or ModelPrior()
    key = (grid.hash, grid.bands, *_content(prior), jax.config.read("jax_enable_x64"))
    if key not in _ready:
        name = f"{files.name_of(key, files.code(), np.__version__)}.npz"
        kept = _read_tiles(name)
        if kept is None:
            kept = tile_grid(grid, model_log_prior(grid, prior))
            _write_tiles(name, kept)
        _ready.clear()
        _ready[key] = ReadyModels(
            kept.log_prior, on_device(grid, kept), kept.rows, digest(kept.log_prior)
        )
    return _ready[key]


def _content(prior: ModelPrior) -> tuple:
    """What distinguishes one prior of models from another."""
    given = None if prior.log_mass is None else digest(prior.log_mass)
    imf = None
    if prior.imf is not None:
        leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(prior.imf)]
        imf = (eqx.tree_pformat(prior.imf, width=10**6), digest(*leaves))
    return (given, imf, prior.age_weight, prior.cell_size)


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
    """Labels that are summarised: those that vary, and those that priors look at."""
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
