"""Grids and photometric offsets as brutus' functions of the same names return them."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brutax.data._layouts import GridError, check_bands, open_grid, read_labels, require_rows
from brutax.data.download import find_nn_file as find_nn_file  # where brutus has it
from brutax.data.filters import FILTERS
from brutax.data.gridfile import load_coefficients, select_rows

logger = logging.getLogger("brutax")

# what brutus returns by default, in its order
_LABELS = ("mini", "feh", "eep", "smf", "afe", "loga", "logl", "logt", "logg", "Mr", "agewt")


def load_models(
    filepath: Any,
    filters: Sequence[str] | None = None,
    labels: Sequence[str] | None = None,
    include_ms: bool = True,
    include_postms: bool = True,
    include_binaries: bool = False,
    verbose: bool = True,
    memmap: bool = False,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Loads a grid as `(models, labels, label_mask)`.

    `models` is (model, filter, 3) float32: magnitude at 1 kpc and the two reddening
    coefficients. `labels` is a structured float64 table. `label_mask` has the same fields, one
    row, and is True where a label spans the lattice and False where it is predicted.

    `filters` that the file lacks are skipped with a `UserWarning`; by default all bands of the
    file come, those of `FILTERS` first, in the order of `FILTERS`, and then the others in the
    order of the file. `labels` defaults to brutus' list; labels that the file lacks are left
    out, as are `smf` without `include_binaries` and a constant `afe` unless it was asked for.
    With `memmap=True` the models stay on disk (see `read_grid`) as a read-only view.

        models, labels, label_mask = load_models("grid_mist_v9.h5", filters=["PS_g", "PS_r"])

    Raises `GridError` for a file that cannot be read and where none of the filters is in it.
    """
    with open_grid(filepath) as file:
        bands = _choose_bands(file.bands, filters, file.name)
        table = read_labels(file)
        keep = select_rows(file, table, None, include_ms, include_postms, include_binaries)
        coefficients, good = load_coefficients(file, bands, keep, memmap, None)
        require_rows(good.size, file)
        if verbose:
            logger.info(
                "%s: %d of %d models, bands %s",
                *(file.name, good.size, file.n_models, ", ".join(bands)),
            )
        axes = file.axes
    keep = keep[good]
    chosen = _choose_labels(table, keep, labels, include_binaries, verbose)
    out = np.empty(keep.size, [(name, np.float64) for name in chosen])
    mask = np.zeros(1, [(name, np.bool_) for name in chosen])
    for name in chosen:
        out[name] = table[name][keep]
        mask[name] = name in axes
    models = coefficients.transpose(1, 2, 0)
    return (models if memmap else np.ascontiguousarray(models)), out, mask


def _choose_bands(
    available: Sequence[str], filters: Sequence[str] | None, name: str
) -> tuple[str, ...]:
    if filters is None:
        known = [band for band in FILTERS if band in available]
        return (*known, *(band for band in available if band not in known))
    if isinstance(filters, str):
        raise GridError(f"filters is the text {filters!r}; pass a list of names")
    found = [band for band in filters if band in available]
    missing = [band for band in filters if band not in available]
    if not found:
        check_bands(filters, available, name)  # raises, and names the nearest bands
    if missing:
        warnings.warn(
            f"{name} lacks the filters {missing}; the columns of the models are {found}",
            UserWarning,
            stacklevel=3,
        )
    return check_bands(found, available, name)


def _choose_labels(
    table: dict[str, np.ndarray],
    keep: np.ndarray,
    labels: Sequence[str] | None,
    include_binaries: bool,
    verbose: bool,
) -> list[str]:
    """The columns to return: those requested that hold any number, less constant ones."""
    wanted = _LABELS if labels is None else labels
    chosen = [name for name in wanted if name in table and not np.isnan(table[name]).all()]
    if not include_binaries and "smf" in chosen:
        chosen.remove("smf")
    if labels is None and "afe" in chosen:
        afe = table["afe"][keep]
        values = np.unique(afe[np.isfinite(afe)])
        if values.size <= 1:
            chosen.remove("afe")
            if verbose:
                logger.info("left out the label afe, which is constant (%s)", values)
    return chosen


def load_offsets(
    filepath: Any, filters: Sequence[str] | None = None, verbose: bool = True
) -> np.ndarray:
    """Reads multiplicative photometric offsets, aligned with `filters` (default `FILTERS`).

    The file has two columns, filter name and offset; `#` starts a comment. A filter that is not
    listed has offset 1. Offsets multiply both observed fluxes and their errors. Returns (filter,).
    Raises `FileNotFoundError`, and `ValueError` for lines that are not a filter and a positive
    number.
    """
    filters = list(FILTERS if filters is None else filters)
    listed: dict[str, float] = {}
    for number, line in enumerate(_lines(filepath), start=1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        try:
            name, value = words[0], float(words[1])
        except (IndexError, ValueError):
            raise ValueError(
                f"{filepath}, line {number}: {line.strip()!r} is not a filter and a number"
            ) from None
        if not (np.isfinite(value) and value > 0):
            raise ValueError(f"{filepath}, line {number}: offset {value} is not positive")
        if name in listed:
            raise ValueError(f"{filepath}, line {number}: filter {name} is listed twice")
        listed[name] = value
    offsets = np.array([listed.get(name, 1.0) for name in filters])
    if verbose:
        for name, offset in zip(filters, offsets):
            logger.info("%s: %+.2f%%", name, 100.0 * (offset - 1.0))
    return offsets


def _lines(filepath: Any) -> list[str]:
    try:
        return Path(filepath).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise FileNotFoundError(f"no file of offsets at {filepath}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{filepath} is not a readable text file: {error}") from error


def save_offsets(filepath: Any, filters: Sequence[str], offsets: Any) -> Path:
    """Writes offsets (filter,) as a text file of two columns that `load_offsets` reads exactly.

    Returns the path; raises `ValueError` unless there is one offset for each of different filters.
    """
    values = np.asarray(offsets, np.float64)
    if values.shape != (len(filters),):
        raise ValueError(f"offsets {values.shape} for {len(filters)} filters")
    if len(set(filters)) < len(filters):
        raise ValueError(f"filters are listed twice: {list(filters)}")
    path = Path(filepath)
    rows = (f"{name} {float(value)!r}\n" for name, value in zip(filters, values))
    path.write_text("# filter  offset (multiplies fluxes and errors)\n" + "".join(rows))
    return path
