"""The documented ways to hand over a grid, brought to one form.

Whatever the form, one table holds all labels, and `axes` says which of them span the lattice.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from brutax.data import GridData, GridError
from brutax.data._layouts import lattice_names
from brutax.utils import ArrayLike

# quantities that stellar models predict: never axes unless a mask says so
_PREDICTED = ("loga", "logl", "logt", "logg", "logr", "mass", "agewt", "feh_surf", "afe_surf")


def as_grid_data(
    models: Any, labels: Any = None, params: Any = None, filters: Sequence[str] | None = None
) -> GridData:
    """One checked `GridData` from any documented form; see `StarGrid`."""
    attrs: dict[str, Any] = {}
    if isinstance(models, GridData):
        if labels is not None or params is not None:
            raise GridError("a GridData brings its own labels; pass no others")
        mag, red, dred, table, axes, names, attrs = models
    else:
        if isinstance(models, Mapping):
            labels = models.get("labels") if labels is None else labels
            params = models.get("parameters") if params is None else params
            if "mag_coeffs" not in models:
                raise GridError(f"a dict of models needs 'mag_coeffs'; it has {sorted(models)}")
            models = models["mag_coeffs"]
        (mag, red, dred), names = _coefficients(models)
        if labels is None:
            raise GridError("models need labels: a structured array or a dict of columns")
        table, axes = _labels(labels, params)
    bands = tuple(str(name) for name in (names if filters is None else filters))
    if len(bands) != mag.shape[1]:
        raise GridError(f"{len(bands)} filters for models of {mag.shape[1]} bands")
    if len(set(bands)) < len(bands):
        raise GridError(f"filters are listed twice: {', '.join(bands)}")
    if filters is not None and bands != tuple(names):
        attrs = {k: v for k, v in attrs.items() if k != "band_system"}
    axes = (*lattice_names(axes), *(a for a in axes if a not in lattice_names(axes)))
    data = GridData(_array(mag), _array(red), _array(dred), dict(table), axes, bands, attrs)
    _check(data)
    return data


def _array(x: ArrayLike) -> np.ndarray:
    """As given if float64, else float32; a memory map stays on disk."""
    x = np.asarray(x)
    return x if x.dtype == np.float64 else np.asarray(x, np.float32)


def _coefficients(models: Any) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
    """`(mag, red, dred)` and band names from the array forms."""
    models = np.asarray(models)
    names = models.dtype.names
    if names is not None:
        if models.ndim != 1 or any(models.dtype[name].shape != (3,) for name in names):
            raise GridError("structured models need one row per model and 3 numbers per field")
        parts = (np.stack([models[n][:, k] for n in names], axis=-1) for k in range(3))
        return tuple(parts), tuple(names)
    if models.ndim == 2 and models.shape[1] % 3 == 0:
        models = models.reshape(len(models), -1, 3)
    if models.ndim != 3 or models.shape[-1] != 3:
        raise GridError(
            f"models are {models.shape}; they should be (model, band, 3), (model, 3 * band), "
            "or structured with one field of 3 numbers per band"
        )
    names = tuple(f"filter_{i}" for i in range(models.shape[1]))
    return tuple(np.ascontiguousarray(models[..., k]) for k in range(3)), names


def _columns(table: Any, what: str) -> dict[str, np.ndarray]:
    """The columns of a structured array or a dict, as float64."""
    if isinstance(table, Mapping):
        return {str(k): np.asarray(v, np.float64) for k, v in table.items()}
    table = np.asarray(table)
    if table.dtype.names is None:
        raise GridError(
            f"{what} are a {table.shape} array without names; pass a structured array or a "
            "dict of columns, so that mass, EEP and metallicity can be told apart"
        )
    return {name: np.array(table[name], np.float64) for name in table.dtype.names}


def _mask(params: Any) -> dict[str, bool] | None:
    """The dict of a mask "spans the lattice", or None if this is no mask."""
    if isinstance(params, Mapping):
        columns = {str(k): np.asarray(v) for k, v in params.items()}
    else:
        params = np.asarray(params)
        columns = {name: params[name] for name in params.dtype.names or ()}
    if not columns or any(c.dtype != np.bool_ or c.size != 1 for c in columns.values()):
        return None
    return {name: bool(column.reshape(())) for name, column in columns.items()}


def _labels(labels: Any, params: Any) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """One table of all labels, and the names of those that span the lattice."""
    table = _columns(labels, "labels")
    if params is None:  # one table: known by name
        axes = lattice_names(tuple(table))
        if not axes:
            raise GridError(
                f"none of the labels {', '.join(table)} is known to span a lattice; pass a mask "
                "{name: True or False} as the third argument"
            )
        return table, axes
    mask = _mask(params)
    if mask is not None:
        if missing := [name for name in mask if name not in table]:
            raise GridError(f"the label mask names {', '.join(missing)}, which are no labels")
        axes = tuple(name for name in table if mask.get(name, False))
        if not axes:
            raise GridError("the label mask is False everywhere: no label spans the lattice")
        return table, axes
    predicted = _columns(params, "parameters")
    axes = tuple(name for name in table if name not in predicted and name not in _PREDICTED)
    if not axes:
        raise GridError("no label is left to span the lattice: labels and parameters agree")
    return {**table, **predicted}, axes


def _check(data: GridData) -> None:
    shape = data.mag.shape
    if len(shape) != 2 or data.red.shape != shape or data.dred.shape != shape:
        raise GridError(f"mag {shape}, red {data.red.shape}, dred {data.dred.shape} differ")
    if 0 in shape:
        raise GridError(f"the grid is empty: {shape[0]} models in {shape[1]} bands")
    bad = np.zeros(shape[0], bool)
    for name, column in data.labels.items():
        if column.shape != shape[:1]:
            raise GridError(f"label {name!r} is {column.shape} for {shape[0]} models")
        if name in data.axes:
            bad |= ~np.isfinite(column)
    if missing := [axis for axis in data.axes if axis not in data.labels]:
        raise GridError(f"no labels for the axes {', '.join(missing)}")
    for table in (data.mag, data.red, data.dred):
        bad |= ~np.isfinite(table).all(axis=1)
    if bad.any():
        raise GridError(
            f"{bad.sum()} of {bad.size} models are not finite in a coefficient or an axis "
            f"(the first is row {np.argmax(bad)}); drop them, as load_models and read_grid do"
        )
