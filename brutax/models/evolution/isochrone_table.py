"""Isochrones of a file in brutus' layout, interpolated linearly between its models."""

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from brutax.models.linear_table import Table

AXES = ("feh", "afe", "loga", "eep")


def read_isochrones(path: str | os.PathLike, predictions: tuple[str, ...]) -> Table:
    """The isochrones of a file like brutus' `MIST_1.2_iso_vvcrit0.0.h5`, with columns as named.

    Gaps in EEP between models of an isochrone are filled linearly. Raises `ValueError` for
    another layout, naming what the file lacks.
    """
    try:
        with h5py.File(path, "r") as file:
            content: Any = file
            axes = [np.asarray(content[name], np.float64) for name in AXES]
            data = content["predictions"]
            known = [n.decode() if isinstance(n, bytes) else str(n) for n in data.attrs["labels"]]
            if lacking := [name for name in predictions if name not in known]:
                raise ValueError(f"{path} lacks {', '.join(lacking)}; it has {', '.join(known)}")
            value = np.asarray(data, np.float32)[..., [known.index(name) for name in predictions]]
    except (OSError, KeyError) as error:
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no file of isochrones {path}") from None
        raise ValueError(f"{path} is no file of isochrones in brutus' layout: {error}") from error
    if value.shape[:-1] != tuple(len(axis) for axis in axes):
        raise ValueError(f"{path}: predictions {value.shape} for axes of {[*map(len, axes)]}")
    if any(np.any(np.diff(axis) <= 0) for axis in axes):
        raise ValueError(f"{path}: the nodes of {AXES} must increase")
    _fill_gaps(value, axes[3])
    return Table(axes, value)


def _fill_gaps(value: np.ndarray, eep: np.ndarray) -> None:
    for at in np.ndindex(value.shape[:3]):
        curve = value[at]
        on = np.isfinite(curve).all(axis=1)
        if on.sum() < 2 or on.all():
            continue
        first, last = np.flatnonzero(on)[[0, -1]]
        inside = slice(first, last + 1)
        for column in curve.T:
            column[inside] = np.interp(eep[inside], eep[on], column[on])
