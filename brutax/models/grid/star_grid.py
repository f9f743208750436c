"""The grid of stellar models: photometry, labels, and which labels span the lattice."""

import logging
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Float

from brutax.data import GridData, grid_hash, read_grid, write_grid
from brutax.data._layouts import check_bands, to_structured
from brutax.models.grid._notes import Notes, once
from brutax.models.grid._tables import as_grid_data
from brutax.models.grid.lattice import (
    MIN_SUPPORT,
    Lattice,
    Stencil,
    blend,
    build_lattice,
    find_corners,
)
from brutax.models.grid.sed import reddened_mag
from brutax.utils._namespace import ArrayLike, namespace
from brutax.utils.photometry import LN_PER_MAG

logger = logging.getLogger("brutax")


_LAST_READ: dict[tuple, "StarGrid"] = {}


def read_once(path: Any, bands: Sequence[str] | None = None) -> "StarGrid":
    """`StarGrid.read`, or what it returned last, if that was the same file in the same state."""
    names = None if bands is None else tuple(bands)
    state = os.stat(path)
    key = (os.path.realpath(path), state.st_mtime_ns, state.st_size, state.st_ino, names)
    if key not in _LAST_READ:
        grid = StarGrid.read(path, bands=names)
        _LAST_READ.clear()
        _LAST_READ[key] = grid
    return _LAST_READ[key]


class StarGrid(eqx.Module):
    """Photometry and labels of N stellar models in B bands.

    `m = mag + av * (red + rv * dred) + 5 log10(d / kpc)`. A frozen pytree whose leaves are
    NumPy arrays as given; `jax.device_put` moves them.

    Labels that span the lattice (`axes`) and predicted ones share one table. The axes are
    those that the file, a mask or the split of the tables says, or else are known by name:

        StarGrid(*load_models(path))                       # models, labels, label_mask
        StarGrid(models, labels)                           # mini, eep, feh, afe, smf; or Mr, feh
        StarGrid(models, labels, {"mini": True, ...})      # a mask by hand
        StarGrid(models, labels[inputs], labels[others])   # split tables
        StarGrid.read(path, bands=["PS_g", "PS_r"])

    `models` is (N, B, 3), (N, 3B), a structured array with a field of 3 numbers per band, a
    dict with `mag_coeffs` (and `labels`, `parameters`), or a `GridData`. `filters` names the
    bands of an unnamed array (default filter_0, ...), or renames them. float64 coefficients
    stay float64; any others become float32.
    """

    mag: Float[np.ndarray | jax.Array, "model band"]  # at 1 kpc, without dust [mag]
    red: Float[np.ndarray | jax.Array, "model band"]  # A_band / A_V at R_V = 0
    dred: Float[np.ndarray | jax.Array, "model band"]  # slope of A_band / A_V with R_V
    label_table: dict[str, Any]  # name -> (model,) float64
    bands: tuple[str, ...] = eqx.field(static=True)
    axes: tuple[str, ...] = eqx.field(static=True)
    label_names: tuple[str, ...] = eqx.field(static=True)  # of all labels, in the order given
    band_system: tuple[str, ...] | None = eqx.field(static=True)  # "AB" or "Vega", if stated
    attrs: Notes = eqx.field(static=True)  # provenance

    def __init__(
        self,
        models: Any,
        models_labels: Any = None,
        models_params: Any = None,
        filters: Sequence[str] | None = None,
        verbose: bool = True,
    ):
        data = as_grid_data(models, models_labels, models_params, filters)
        self.mag, self.red, self.dred = data.mag, data.red, data.dred
        self.label_table = data.labels
        self.bands, self.axes = data.bands, data.axes
        self.label_names = tuple(data.labels)
        system = data.attrs.get("band_system")
        self.band_system = None if system is None else tuple(system)
        self.attrs = Notes({k: v for k, v in data.attrs.items() if k != "band_system"})
        if verbose:
            logger.info("%r", self)

    # files and selections

    @classmethod
    def read(cls, path: Any, bands: Sequence[str] | None = None, **options: Any) -> "StarGrid":
        """Reads a grid file; `options` are those of `brutax.data.read_grid`."""
        return cls(read_grid(path, bands, **options))

    def to_data(self) -> GridData:
        """The grid as plain NumPy arrays with a name."""
        attrs: dict[str, Any] = dict(self.attrs)
        if self.band_system is not None:
            attrs["band_system"] = self.band_system
        mag, red, dred = (np.asarray(x) for x in (self.mag, self.red, self.dred))
        labels = {name: np.asarray(self.label_table[name]) for name in self.label_names}
        return GridData(mag, red, dred, labels, self.axes, self.bands, attrs)

    def write(
        self,
        path: Any,
        layout: str = "brutus",
        overwrite: bool = False,
        attrs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Writes the grid as float32 in the layout "brutus" or "plain"; returns the path."""
        return write_grid(path, self.to_data(), layout, overwrite, attrs)

    def select(self, bands: Sequence[str] | None = None, rows: Any = None) -> "StarGrid":
        """The grid of some bands (by name, in that order) and some models.

        The last selection of bands is remembered: fits of single stars ask for the same again.
        """
        names = self.bands if bands is None else check_bands(bands, self.bands, "the grid")
        if rows is not None:
            return self._select(names, rows)
        last = once(self, "selected", dict)
        if names not in last:
            last.clear()
            last[names] = self._select(names, rows)
        return last[names]

    def _select(self, names: tuple[str, ...], rows: Any) -> "StarGrid":
        data = self.to_data()
        columns = [self.bands.index(name) for name in names]
        rows = slice(None) if rows is None else rows
        mag, red, dred = (x[rows] if names == self.bands else x[rows][:, columns] for x in data[:3])
        labels = {name: column[rows] for name, column in data.labels.items()}
        attrs = dict(data.attrs)
        if self.band_system is not None:
            attrs["band_system"] = tuple(self.band_system[j] for j in columns)
        return StarGrid(GridData(mag, red, dred, labels, self.axes, names, attrs), verbose=False)

    def labels_to_keep(self) -> dict[str, np.ndarray]:
        """The labels as posterior files hold them, in single precision; read-only."""

        def kept() -> dict[str, np.ndarray]:
            columns = {k: np.array(x, np.float32) for k, x in self.label_table.items()}
            for column in columns.values():
                column.setflags(write=False)
            return columns

        return once(self, "kept", kept)

    @property
    def hash(self) -> str:
        """SHA-256 of the content (see `brutax.data.grid_hash`)."""
        return once(self, "hash", lambda: grid_hash(self))

    def __len__(self) -> int:
        return self.mag.shape[0]

    def __repr__(self) -> str:
        axes = ", ".join(self.axes)
        return f"StarGrid({len(self):,} models on ({axes}), bands {', '.join(self.bands)})"

    # brutus' names

    @property
    def nmodels(self) -> int:
        return len(self)

    @property
    def nfilters(self) -> int:
        return len(self.bands)

    @property
    def filters(self) -> tuple[str, ...]:
        return self.bands

    @property
    def models(self) -> np.ndarray:
        """(model, band, 3), put together on demand."""
        return np.stack([np.asarray(x) for x in (self.mag, self.red, self.dred)], axis=-1)

    @property
    def labels(self) -> np.ndarray:
        """All labels as one structured array (model,)."""
        return to_structured(self.label_table, self.label_names)

    @property
    def param_names(self) -> tuple[str, ...]:
        """The predicted labels."""
        return tuple(name for name in self.label_names if name not in self.axes)

    @property
    def params(self) -> np.ndarray | None:
        """The predicted labels as one structured array (model,), None if there are none."""
        return to_structured(self.label_table, self.param_names) if self.param_names else None

    @property
    def labels_mask(self) -> dict[str, bool]:
        """True for the labels that span the lattice, False for the predicted ones."""
        return {name: name in self.axes for name in self.label_names}

    @property
    def grid_axes(self) -> dict[str, np.ndarray]:
        """The nodes of every axis."""
        return dict(zip(self.axes, self._lattice.nodes))

    # between the models

    @property
    def _lattice(self) -> Lattice:
        columns = (np.asarray(self.label_table[axis]) for axis in self.axes)
        return once(self, "lattice", lambda: build_lattice(list(columns)))

    def get_predictions(
        self,
        mini: ArrayLike | None = None,
        eep: ArrayLike | None = None,
        feh: ArrayLike | None = None,
        afe: ArrayLike | None = None,
        smf: ArrayLike | None = None,
        use_multilinear: bool = True,
        outside: str = "raise",
        **axes: Any,
    ) -> dict[str, Any]:
        """Labels at any point of the lattice, interpolated multilinearly: {name: value}.

        Every axis with more than one node needs a value, a number or an array. Outside the
        lattice, and where models that hold more than half of the weight are missing, this
        raises, or returns NaN with `outside="nan"`. If less is missing, the rest is rescaled
        with a `UserWarning`. With JAX values the result is differentiable, missing answers
        are NaN and nothing warns.
        """
        query = {"mini": mini, "eep": eep, "feh": feh, "afe": afe, "smf": smf, **axes}
        point = self._point(query, use_multilinear, outside)
        return self._predictions(point, self._stencil(point, outside))

    def get_seds(
        self,
        mini: ArrayLike | None = None,
        eep: ArrayLike | None = None,
        feh: ArrayLike | None = None,
        afe: ArrayLike | None = None,
        av: ArrayLike = 0.0,
        rv: ArrayLike = 3.3,
        smf: ArrayLike | None = None,
        dist: ArrayLike = 1000.0,
        return_dict: bool = True,
        return_flux: bool = False,
        return_predictions: bool = True,
        use_multilinear: bool = True,
        outside: str = "raise",
        **axes: Any,
    ) -> tuple[Any, Any, Any]:
        """Photometry at any point of the lattice, behind dust, at `dist` [pc].

        Returns `(sed, params, params2)` as brutus does: magnitudes (..., band), or maggies
        with `return_flux`; the labels of `get_predictions`, as an array (..., label) without
        `return_dict`, or None without `return_predictions`; and an empty `params2`. The
        coefficients are interpolated, then reddened. For `outside` see `get_predictions`.
        """
        query = {"mini": mini, "eep": eep, "feh": feh, "afe": afe, "smf": smf, **axes}
        point = self._point(query, use_multilinear, outside)
        xp = namespace(*point, av, rv, dist)
        *point, extinction, ratio, far = xp.broadcast_arrays(
            *(xp.asarray(x, dtype=float) for x in (*point, av, rv, dist))
        )
        if xp is np and not np.all(far > 0):
            raise ValueError("dist must be positive [pc]")
        stencil = self._stencil(point, outside)
        mag, red, dred = (blend(stencil, x) for x in (self.mag, self.red, self.dred))
        mag = xp.where(self._valid(stencil)[..., None], mag, xp.nan)
        sed = reddened_mag(mag, red, dred, extinction[..., None], ratio[..., None])
        sed = sed + 5.0 * xp.log10(far / 1000.0)[..., None]
        if return_flux:
            sed = xp.exp(-LN_PER_MAG * sed)
        params = self._predictions(point, stencil) if return_predictions else None
        if return_dict:
            return sed, params, {}
        if params is not None:
            params = xp.stack([params[name] for name in params], axis=-1)
        return sed, params, np.array([])

    def _point(self, query: dict[str, Any], use_multilinear: bool, outside: str) -> tuple[Any, ...]:
        """Coordinates on every axis, of one shape."""
        if outside not in ("raise", "nan"):
            raise ValueError(f"outside is {outside!r}, not 'raise' or 'nan'")
        if not use_multilinear:
            raise ValueError(
                "interpolation is multilinear; averages over far models are not offered"
            )
        standard = ("mini", "eep", "feh", "afe", "smf")
        for name, value in query.items():
            if name in self.axes:
                continue
            if name not in standard:
                raise TypeError(f"{name!r} is neither an option nor an axis of {self.axes}")
            absent = name in ("afe", "smf") and value is not None and np.all(np.asarray(value) == 0)
            if value is not None and not absent:
                raise ValueError(f"the grid has no axis {name}; it has {', '.join(self.axes)}")
        point = []
        for axis, nodes in self.grid_axes.items():
            value = query.get(axis)
            if value is None and len(nodes) > 1:
                raise ValueError(f"{axis} is needed: the grid has {len(nodes)} values of it")
            point.append(nodes[0] if value is None else value)
        xp = namespace(*point)
        return tuple(xp.broadcast_arrays(*(xp.asarray(x, dtype=float) for x in point)))

    def _stencil(self, point: Sequence[Any], outside: str) -> Stencil:
        """The corners around a query; complains about those it cannot answer."""
        stencil = find_corners(self._lattice, point)
        if namespace(*point) is not np:
            return stencil
        if outside == "raise":
            for axis, nodes, x, inside in zip(
                self.axes, self._lattice.nodes, point, stencil.inside
            ):
                if not np.all(inside):
                    first = np.asarray(x)[~np.asarray(inside)].ravel()[0]
                    raise ValueError(
                        f"{axis} = {first:g} is outside the grid, {nodes[0]:g} to {nodes[-1]:g}; "
                        "outside='nan' returns NaN instead"
                    )
            if n := int(np.sum(stencil.support < MIN_SUPPORT)):
                raise ValueError(
                    f"too few models around {n} of {np.size(point[0])} points: the grid has holes "
                    "there; outside='nan' returns NaN instead"
                )
        partial = (stencil.support < 1.0 - 1e-9) & self._valid(stencil)
        if np.any(partial):
            warnings.warn(
                f"{int(np.sum(partial))} of {np.size(point[0])} points lie next to missing models; "
                "the others around them were used",
                UserWarning,
                stacklevel=3,
            )
        return stencil

    def _valid(self, stencil: Stencil) -> Any:
        valid = stencil.support >= MIN_SUPPORT
        for inside in stencil.inside:
            valid = valid & inside
        return valid

    def _predictions(self, point: Sequence[Any], stencil: Stencil) -> dict[str, Any]:
        xp = namespace(*point)
        out = dict(zip(self.axes, point))
        for name in self.param_names:
            value = blend(stencil, self.label_table[name])
            out[name] = xp.where(self._valid(stencil), value, xp.nan)
        return {name: value[()] if xp is np else value for name, value in out.items()}
