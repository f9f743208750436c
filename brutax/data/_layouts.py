"""The two layouts of grid files, read and written one block of rows at a time.

brutus layout (what `brutus.core.GridGenerator` writes):
    `mag_coeffs`  (N,) compound, one field per band, each float32 (3,): magnitude at 1 kpc,
                  A_band/A_V at R_V = 0, and its slope with R_V
    `labels`      (N,) compound float64: the axes of the lattice
    `parameters`  (N,) compound float64: predicted quantities (optional)
plain layout (what brutus' documentation describes):
    `models`, `reddening`, `reddening_deriv`  (N, band): the same three numbers
    `labels`      (N, 4) with columns mini, eep, feh, afe, or any width with the attribute
                  `names`, or compound; `parameters` as above (optional)
    attributes    `filters`, `reference_distance`
"""

import contextlib
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

BLOCK = 65536  # rows held in memory at once while a file is read or written: some 10 MB
PLAIN_LABELS = ("mini", "eep", "feh", "afe")
REFERENCE_PC = 1000.0  # the distance of every magnitude in memory [pc]
_LATTICE_NAMES = ("Mr", "mini", "eep", "feh", "afe", "smf")


class GridError(ValueError):
    """A grid or its file has wrong shapes, names or values, or cannot be read or written."""


class GridNotFoundError(GridError, FileNotFoundError):
    """There is no such grid file."""


class GridFile(NamedTuple):
    """An open grid file."""

    h5: Any
    name: str  # for messages
    layout: str  # "brutus" or "plain"
    bands: tuple[str, ...]
    n_models: int
    axes: tuple[str, ...]  # label columns that span the lattice
    parameters: tuple[str, ...]  # predicted columns
    shift: float  # to add to magnitudes for a distance of 1 kpc [mag]


@contextlib.contextmanager
def open_grid(path: Any) -> Iterator[GridFile]:
    """Opens a grid file in either layout; every failure is a `GridError` of one line."""
    path = Path(path)
    if not path.is_file():
        raise GridNotFoundError(f"no grid file at {path}")
    try:
        h5 = h5py.File(path, "r")
    except OSError as error:
        reason = "a truncated download?" if "truncated" in str(error) else "it does not open"
        raise GridError(f"{path} is not a readable HDF5 file: {reason}") from error
    with h5:
        try:
            yield _describe(h5, str(path))
        except (OSError, KeyError, RuntimeError) as error:  # what HDF5 cannot read or find
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise GridError(f"{path} is damaged: {reason}") from error


def _describe(h5: Any, name: str) -> GridFile:
    if "mag_coeffs" in h5:
        layout, table = "brutus", h5["mag_coeffs"]
        bands = table.dtype.names
        if bands is None or any(table.dtype[band].shape != (3,) for band in bands):
            raise GridError(f"{name}: `mag_coeffs` needs one field of 3 numbers per band")
    elif all(key in h5 for key in ("models", "reddening", "reddening_deriv")):
        layout, table = "plain", h5["models"]
        if table.ndim != 2 or any(h5[k].shape != table.shape for k in _PLAIN[1:]):
            raise GridError(f"{name}: {', '.join(_PLAIN)} must be (model, band) of one shape")
        bands = tuple(texts(h5.attrs.get("filters", ())))
        if len(bands) != table.shape[1]:
            raise GridError(f"{name}: {table.shape[1]} columns for {len(bands)} `filters`")
    else:
        found = ", ".join(sorted(h5)) or "nothing"
        raise GridError(
            f"{name} is not a grid file: it holds {found}, but neither `mag_coeffs` "
            "nor `models`, `reddening`, `reddening_deriv`"
        )
    n = table.shape[0]
    names = {key: _columns(h5, key, n, name) for key in ("labels", "parameters")}
    axes = names["labels"]
    if "parameters" not in h5:  # one combined table: the lattice is known by its names
        axes = lattice_names(axes) or axes
    rest = [k for k in (*names["labels"], *names["parameters"]) if k not in axes]
    key = "reference_distance_pc" if "reference_distance_pc" in h5.attrs else "reference_distance"
    distance = float(h5.attrs.get(key, REFERENCE_PC))
    if not (np.isfinite(distance) and distance > 0):
        raise GridError(f"{name}: attribute {key} is {distance}, not a distance [pc]")
    shift = 5.0 * float(np.log10(REFERENCE_PC / distance))
    rest = tuple(dict.fromkeys(rest))
    return GridFile(h5, name, layout, tuple(bands), n, axes, rest, shift)


_PLAIN = ("models", "reddening", "reddening_deriv")


def _columns(h5: Any, key: str, n: int, name: str) -> tuple[str, ...]:
    """The column names of the table `labels` or `parameters`."""
    if key not in h5:
        return ()
    table = h5[key]
    if table.shape[:1] != (n,):
        raise GridError(f"{name}: `{key}` has {table.shape} rows for {n} models")
    if table.dtype.names is not None:
        return tuple(table.dtype.names)
    if table.ndim != 2:
        raise GridError(f"{name}: `{key}` has no column names")
    names = tuple(texts(table.attrs.get("names", ())))
    if not names and key == "labels" and table.shape[1] <= len(PLAIN_LABELS):
        names = PLAIN_LABELS[: table.shape[1]]
    if len(names) != table.shape[1]:
        raise GridError(f"{name}: `{key}` has {table.shape[1]} columns and {len(names)} names")
    return names


def lattice_names(names: Sequence[str]) -> tuple[str, ...]:
    """Which labels span a lattice, judged by name: mini, eep, feh, afe, smf, or Mr, feh."""
    known = [k for k in _LATTICE_NAMES if k in names]
    if "mini" in known and "Mr" in known:
        known.remove("Mr")  # then a prediction
    return tuple(known)


def read_labels(file: GridFile) -> dict[str, np.ndarray]:
    """Every label of every row; a name in both tables takes its values from `parameters`."""
    out = {}
    for key in ("labels", "parameters"):
        if key not in file.h5:
            continue
        table = file.h5[key][:]
        for i, name in enumerate(_columns(file.h5, key, file.n_models, file.name)):
            column = table[name] if table.dtype.names else table[:, i]
            out[name] = np.ascontiguousarray(column, dtype=np.float64)
    return out


def iter_coefficients(
    file: GridFile, bands: Sequence[str], rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of `(positions in rows, coefficients (block, 3, band) float32)`."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    for start in range(0, file.n_models, BLOCK):
        lo, hi = np.searchsorted(ordered, (start, start + BLOCK))
        if lo == hi:
            continue
        block = _read_block(file, bands, start, min(start + BLOCK, file.n_models))
        block = block[ordered[lo:hi] - start]
        if file.shift:
            block[:, 0] += np.float32(file.shift)
        yield order[lo:hi], block


def _read_block(file: GridFile, bands: Sequence[str], start: int, stop: int) -> np.ndarray:
    out = np.empty((stop - start, 3, len(bands)), np.float32)
    if file.layout == "brutus":
        table = file.h5["mag_coeffs"].fields(list(bands))[start:stop]
        for j, band in enumerate(bands):
            out[:, :, j] = table[band]
    else:
        columns = [file.bands.index(band) for band in bands]
        for k, key in enumerate(_PLAIN):
            out[:, k] = file.h5[key][start:stop][:, columns]
    return out


def require_rows(n: int, file: GridFile) -> None:
    if n == 0:
        raise GridError(
            f"{file.name}: none of its {file.n_models} models is both selected and finite "
            "in the bands asked for"
        )


def check_bands(bands: Sequence[str], available: Sequence[str], name: str) -> tuple[str, ...]:
    """The bands asked for, or a `GridError` that names the nearest available ones."""
    bands = (bands,) if isinstance(bands, str) else tuple(bands)
    unknown = [band for band in bands if band not in available]
    if unknown or not bands:
        raise GridError(f"{name} has no {_suggest(unknown, available) or 'bands to read'}")
    if len(set(bands)) < len(bands):
        raise GridError(f"bands are listed twice: {', '.join(bands)}")
    return bands


def _suggest(unknown: Sequence[str], available: Sequence[str]) -> str:
    """The unknown names, each with the most similar available ones."""
    out = []
    for band in unknown:
        near = difflib.get_close_matches(band, available, n=3, cutoff=0.5)
        out.append(f"{band!r} (nearest: {', '.join(near or available)})")
    return ", ".join(out)


def texts(values: Any) -> list[str]:
    """A list of text attributes, stored as bytes or as str."""
    return [v.decode() if isinstance(v, bytes) else str(v) for v in np.atleast_1d(values)]


def write_tables(
    h5: Any,
    layout: str,
    bands: Sequence[str],
    coefficients: Sequence[np.ndarray],
    labels: dict[str, np.ndarray],
    axes: Sequence[str],
) -> None:
    """Writes `(mag, red, dred)` and the labels as datasets of the layout, gzip level 4."""
    n = coefficients[0].shape[0]
    options = {"compression": "gzip", "compression_opts": 4}
    chunk = min(n, 16384)
    if layout == "brutus":
        kind = np.dtype([(band, "<f4", (3,)) for band in bands])
        table = h5.create_dataset("mag_coeffs", (n,), kind, chunks=(chunk,), **options)
        for rows in _blocks(n):
            block = np.empty(rows.stop - rows.start, kind)
            for j, band in enumerate(bands):
                block[band] = np.stack([c[rows, j] for c in coefficients], axis=-1)
            table[rows] = block
        h5.create_dataset("labels", data=to_structured(labels, axes), **options)
    else:
        for key, values in zip(_PLAIN, coefficients, strict=True):
            chunks = (chunk, len(bands))
            table = h5.create_dataset(key, values.shape, "<f4", chunks=chunks, **options)
            for rows in _blocks(n):
                table[rows] = values[rows]
        columns = np.stack([labels[k] for k in axes], axis=-1)
        h5.create_dataset("labels", data=columns, **options).attrs["names"] = as_bytes(axes)
    predicted = [k for k in labels if k not in axes]
    if predicted:
        h5.create_dataset("parameters", data=to_structured(labels, predicted), **options)


def _blocks(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def to_structured(labels: dict[str, Any], names: Sequence[str]) -> np.ndarray:
    """Columns of a table of labels as a structured float64 array."""
    n = len(next(iter(labels.values()))) if labels else 0
    out = np.empty(n, np.dtype([(name, "<f8") for name in names]))
    for name in names:
        out[name] = labels[name]
    return out


def as_bytes(names: Sequence[str]) -> np.ndarray:
    """Names as fixed-width ASCII, the form in which brutus stores them."""
    return np.array([name.encode() for name in names])
