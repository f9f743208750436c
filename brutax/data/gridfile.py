"""Grids of stellar models on disk: reading some bands and rows, writing whole files or none."""

import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from brutax.data._layouts import (
    REFERENCE_PC,
    GridError,
    GridFile,
    as_bytes,
    check_bands,
    iter_coefficients,
    open_grid,
    read_labels,
    require_rows,
    texts,
    write_tables,
)
from brutax.data._memmap import cached_coefficients

logger = logging.getLogger("brutax")

EEP_TAMS = 454.0  # last equivalent evolutionary point of the main sequence (Dotter 2016)
# attributes that the writer sets itself
_OWN_ATTRS = (
    "filters",
    "band_system",
    "reference_distance",
    "reference_distance_pc",
    "reference_distance_note",
    "n_models",
    "n_models_valid",
    "brutax_version",
    "creation_date",
)


class GridData(NamedTuple):
    """Photometry and labels of N stellar models in B bands, as NumPy arrays.

    `m = mag + av * (red + rv * dred) + 5 log10(d / kpc)`.
    """

    mag: np.ndarray  # (N, B) float32: unreddened magnitude at 1 kpc
    red: np.ndarray  # (N, B) float32: A_band / A_V extrapolated to R_V = 0
    dred: np.ndarray  # (N, B) float32: slope of A_band / A_V with R_V
    labels: dict[str, np.ndarray]  # name -> (N,) float64, axes and predictions
    axes: tuple[str, ...]  # the labels that span the lattice
    bands: tuple[str, ...]
    attrs: dict[str, Any] = {}  # of the file; `band_system` is a tuple aligned with `bands`


def read_grid(
    path: Any,
    bands: Sequence[str] | None = None,
    rows: Any = None,
    include_ms: bool = True,
    include_postms: bool = True,
    include_binaries: bool = False,
    memmap: bool = False,
    cache_dir: Any = None,
) -> GridData:
    """Reads a grid file in brutus' layout or the plain one (see `brutax.data._layouts`).

    Only the requested bands and rows are kept, and the file is read in blocks, so that memory
    holds little more than the result. `rows` is a slice, a mask or indices; then
    `include_ms` (EEP <= 454), `include_postms` (EEP > 454) and `include_binaries`
    (smf > 0) select by label, and rows that are not finite in a loaded band or an axis are
    dropped. Magnitudes are brought to 1 kpc if the file states another reference distance.

    With `memmap=True` the coefficients stay on disk: they are unpacked once to an
    uncompressed file of 12 bytes per model and band, and memory-mapped from there. The file
    goes to `cache_dir`, where a later call for the same rows and bands of an unchanged grid
    finds it, or else to the temporary folder, from where it is removed with the arrays. Models
    are then in the order of the file, whatever the order of `rows`.

        data = read_grid("grid_mist_v9.h5", ["PS_g", "PS_r", "2MASS_J"])
        data.mag.shape  # (model, band)

    Raises `GridNotFoundError` where there is no file, `GridError` for one that cannot be read, for
    bands that it lacks and for a selection without models.
    """
    with open_grid(path) as file:
        names = file.bands if bands is None else check_bands(bands, file.bands, file.name)
        labels = read_labels(file)
        keep = select_rows(file, labels, rows, include_ms, include_postms, include_binaries)
        n_selected = keep.size
        for axis in file.axes:
            keep = keep[np.isfinite(labels[axis][keep])]
        table, good = load_coefficients(file, names, keep, memmap, cache_dir)
        require_rows(good.size, file)
        if n_selected > good.size:
            logger.info("dropped %d models that are not finite", n_selected - good.size)
        labels = {name: column[keep[good]] for name, column in labels.items()}
        attrs = _read_attrs(file, names)
    return GridData(table[0], table[1], table[2], labels, file.axes, names, attrs)


def load_coefficients(
    file: GridFile, bands: Sequence[str], keep: np.ndarray, memmap: bool, cache_dir: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients (3, model, band) of the finite rows among `keep`, and their positions."""
    if memmap:
        return cached_coefficients(file, bands, keep, cache_dir)
    table = np.empty((3, keep.size, len(bands)), np.float32)
    for where, block in iter_coefficients(file, bands, keep):
        table[:, where] = block.transpose(1, 0, 2)
    good = np.flatnonzero(np.isfinite(table).all(axis=(0, 2)))
    return (table if good.size == keep.size else table[:, good]), good


def select_rows(
    file: GridFile, labels: dict[str, np.ndarray], rows: Any, ms: bool, postms: bool, binaries: bool
) -> np.ndarray:
    """Indices of the rows that pass the selection by position and by label."""
    if not (ms or postms):
        raise GridError("include_ms and include_postms are both False: no models are left")
    index = np.arange(file.n_models)
    if rows is not None:
        try:
            index = np.atleast_1d(index[rows])
        except IndexError as error:
            raise GridError(f"{file.name}, {file.n_models} models: {error}") from error
    if "eep" in labels and not (ms and postms):
        eep = labels["eep"][index]
        index = index[eep > EEP_TAMS if postms else eep <= EEP_TAMS]
    if "smf" in labels and not binaries:
        index = index[labels["smf"][index] == 0.0]
    require_rows(index.size, file)
    return index


def _read_attrs(file: GridFile, bands: Sequence[str]) -> dict[str, Any]:
    """The attributes of a file; `band_system` becomes a tuple aligned with the bands read."""
    attrs = {}
    for key, value in file.h5.attrs.items():
        if isinstance(value, bytes):
            value = value.decode()
        attrs[key] = value.item() if isinstance(value, np.generic) else value
    attrs["filters"] = tuple(bands)
    if "band_system" in attrs:
        systems = dict(zip(file.bands, texts(attrs.pop("band_system"))))
        if len(systems) == len(file.bands):
            attrs["band_system"] = tuple(systems[band] for band in bands)
    return attrs


def write_grid(
    path: Any,
    data: GridData,
    layout: str = "brutus",
    overwrite: bool = False,
    attrs: Mapping[str, Any] | None = None,
    version: str | None = None,
) -> Path:
    """Writes a grid so that either the whole file appears under its name, or none.

    `layout` is "brutus" (loads in brutus) or "plain". `attrs` are added to those of `data`. Returns
    the path; raises `GridError` for tables whose shapes do not agree, for a file that exists
    unless `overwrite`, and where it cannot be written.
    """
    path = Path(path)
    if layout not in ("brutus", "plain"):
        raise GridError(f"layout is {layout!r}, not 'brutus' or 'plain'")
    _check(data)
    if path.exists() and not overwrite:
        raise GridError(f"{path} exists already; pass overwrite=True to replace it")
    if path.exists() and not (path.is_file() and os.access(path, os.W_OK)):
        raise GridError(f"cannot write {path}: it is read-only or not a file")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with h5py.File(partial, "w") as h5:
            coefficients = (data.mag, data.red, data.dred)
            write_tables(h5, layout, data.bands, coefficients, data.labels, data.axes)
            for key, value in _write_attrs(data, layout, attrs, version).items():
                h5.attrs[key] = value
        with open(partial, "rb") as done:
            os.fsync(done.fileno())
        os.replace(partial, path)
    except OSError as error:
        raise GridError(f"cannot write {path}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def _check(data: GridData) -> None:
    shape = (len(data.mag), len(data.bands))
    for name in ("mag", "red", "dred"):
        if getattr(data, name).shape != shape:
            raise GridError(f"{name} is {getattr(data, name).shape}, not (model, band) {shape}")
    if shape[0] == 0:
        raise GridError("the grid is empty")
    for name, column in data.labels.items():
        if np.shape(column) != shape[:1]:
            raise GridError(f"label {name!r} is {np.shape(column)} for {shape[0]} models")
    if missing := [axis for axis in data.axes if axis not in data.labels]:
        raise GridError(f"no labels for the axes {', '.join(missing)}")


def _write_attrs(
    data: GridData, layout: str, extra: Mapping[str, Any] | None, version: str | None
) -> dict[str, Any]:
    import datetime

    given = {**data.attrs, **(extra or {})}
    n = len(data.mag)
    out = {k: v for k, v in given.items() if k not in _OWN_ATTRS}
    out["filters"] = as_bytes(data.bands)
    if given.get("band_system"):
        out["band_system"] = as_bytes(given["band_system"])
    out["brutax_version"] = version or _version()
    out["creation_date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if layout == "brutus":
        out["reference_distance_pc"] = REFERENCE_PC
        out["reference_distance_note"] = "magnitudes are for a star at 1 kpc: absolute + 10"
        out.setdefault("n_models_total", n)
        out["n_models_valid"] = n
    else:
        out["reference_distance"] = REFERENCE_PC
        out["n_models"] = n
    return out


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("brutax")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def grid_hash(data: Any) -> str:
    """SHA-256 of the content of a grid: bands, coefficients (float32), axes and labels.

    It depends on the order of bands and models, not on the file, its layout or its compression.
    `data` is anything with the fields of `GridData`.
    """
    labels = getattr(data, "labels", None)
    labels = labels if isinstance(labels, Mapping) else data.label_table
    digest = hashlib.sha256()
    digest.update(json.dumps([list(data.bands), list(data.axes), sorted(labels)]).encode())
    for table in (data.mag, data.red, data.dred):
        for start in range(0, len(table), 65536):
            digest.update(np.asarray(table[start : start + 65536], "<f4").tobytes())
    for name in sorted(labels):
        digest.update(np.asarray(labels[name], "<f8").tobytes())
    return digest.hexdigest()
