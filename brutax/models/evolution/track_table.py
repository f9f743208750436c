"""Evolutionary tracks of a file in brutus' layout, interpolated linearly between its models."""

import os
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np
from jaxtyping import Array, Float

from brutax.models.evolution.abstract_tracks import AbstractTracks
from brutax.models.evolution.track_model import Ages
from brutax.models.linear_table import Table
from brutax.models.state import StarState

# columns of the file for our names (brutus' MIST_1.2_EEPtrk.h5)
AXES = {"mini": "initial_mass", "eep": "EEP", "feh": "initial_[Fe/H]", "afe": "initial_[a/Fe]"}
COLUMNS = {"loga": "log_age", "logl": "log_L", "logt": "log_Teff", "logg": "log_g"}
COLUMNS |= {"feh_surf": "[Fe/H]", "afe_surf": "[a/Fe]"}
NODES_MAX = 5e7  # more are no tracks on a lattice


class TrackTable(AbstractTracks):
    """Stars of a library of tracks, linear in mass, EEP, [Fe/H] and [alpha/Fe]."""

    table: Table  # loga, logl, logt, logg, feh_surf, afe_surf, agewt

    def evaluate(
        self,
        mini: Float[Array, ""],
        eep: Float[Array, ""],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> StarState:
        """One star of initial mass [Msun], EEP and initial composition."""
        point = self.table(mini, eep, feh, afe)
        loga, logl, logt, logg, feh_surf, afe_surf, agewt = point.value
        return StarState(loga, logl, logt, logg, feh_surf, afe_surf, agewt, point.valid)

    def lattice(
        self,
        mini: Float[Array, " m"],
        eep: Float[Array, " e"],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> StarState:
        """Every combination of masses and EEPs of one composition, (m, e)."""
        along = jax.vmap(self.evaluate, in_axes=(None, 0, None, None))
        return jax.vmap(along, in_axes=(0, None, None, None))(mini, eep, feh, afe)

    def ages(
        self,
        mini: Float[Array, " m"],
        eep: Float[Array, " e"],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> Ages:
        star = self.lattice(mini, eep, feh, afe)
        return Ages(star.loga, star.valid)

    @property
    def mini_nodes(self) -> Float[Array, " mass"]:
        return self.table.nodes[0]

    def stages(self, eep_max: float) -> Float[Array, " eep"]:
        return self.table.nodes[1]

    @property
    def gridpoints(self) -> dict[str, np.ndarray]:
        """The nodes of every axis."""
        return {n: np.asarray(x, np.float64) for n, x in zip(AXES, self.table.nodes)}


def read_tracks(path: str | os.PathLike) -> TrackTable:
    """The tracks of a file like brutus' `MIST_1.2_EEPtrk.h5`.

    Datasets named by the dataset `index` hold one row per (mass, EEP). d(age)/d(EEP) comes from
    second-order differences along every track. Raises `ValueError` for another layout.
    """
    try:
        with h5py.File(path, "r") as file:
            rows = _read_rows(file)
    except (OSError, KeyError) as error:
        if not Path(path).exists():
            raise FileNotFoundError(f"there is no file of tracks {path}") from None
        raise ValueError(f"{path} is no file of tracks in brutus' layout: {error}") from error
    axes = [np.unique(rows[name]) for name in AXES]
    shape = tuple(len(axis) for axis in axes)
    if not all(shape) or np.prod([float(n) for n in shape]) > NODES_MAX:
        raise ValueError(f"{path}: masses, EEPs and compositions {shape} do not form a lattice")
    where = tuple(np.searchsorted(axis, rows[name]) for axis, name in zip(axes, AXES))
    value = np.full((*shape, len(COLUMNS) + 1), np.nan, np.float32)
    for k, name in enumerate(COLUMNS):
        value[(*where, k)] = rows[name]
    age = np.full(shape, np.nan)
    age[where] = 10.0 ** rows["loga"]
    value[..., -1] = _age_weights(age, axes[1])
    return TrackTable(Table(axes, value))


def _read_rows(file: h5py.File) -> dict[str, np.ndarray]:
    index: Any = file["index"]
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in index[:]]
    parts: list[Any] = [file[name] for name in names]
    parts = [part[:] for part in parts]
    out = {}
    for ours, column in {**AXES, **COLUMNS}.items():
        if ours == "afe_surf" and column not in parts[0].dtype.names:
            out[ours] = np.zeros(sum(len(part) for part in parts))
        else:
            out[ours] = np.concatenate([np.asarray(part[column], np.float64) for part in parts])
    return out


def _age_weights(age: np.ndarray, eep: np.ndarray) -> np.ndarray:
    """d(age)/d(EEP) [yr] of tracks (mass, EEP, feh, afe), 0 for those of a single point."""
    out = np.full(age.shape, np.nan)
    for m, f, a in np.ndindex(age.shape[0], *age.shape[2:]):
        on = np.flatnonzero(np.isfinite(age[m, :, f, a]))
        if on.size > 1:
            out[m, on, f, a] = np.gradient(age[m, on, f, a], eep[on])
        else:
            out[m, on, f, a] = 0.0
    return out
