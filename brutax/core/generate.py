"""Grids of stellar models in any bands, built from the models inside brutax."""

import itertools
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.core.bolometric import Bolometric, load_bolometric
from brutax.core.corrections import as_params
from brutax.core.grid import StarGrid
from brutax.core.tracks import LABELS, EEPTracks, StarState, corrected
from brutax.data import GridData

logger = logging.getLogger("brutax")

PARAMETERS = ("loga", "logl", "logt", "logg", "feh_surf", "afe_surf", "agewt")
LOGA_MAX = 10.14  # log10 age of the oldest models kept [yr], as in brutus
CHUNK = 16384  # models at once: bounds the memory of the photometry
CITATION = (
    "MIST: Dotter 2016, ApJS 222, 8; Choi et al. 2016, ApJ 823, 102; Paxton et al. 2011, 2013, 2015"
)


class GridGenerator:
    """Builds grids of stars in some bands: `GridGenerator(tracks, filters).make_grid(...)`.

    `filters` names bands of the models inside brutax (None: all); `law` is the extinction curve
    (CCM89, F99, F19, G23). Raises `TypeError` unless `tracks` are `EEPTracks`, `ValueError` for
    unknown bands, with the ones that come close.
    """

    def __init__(
        self,
        tracks: EEPTracks | None = None,
        filters: Sequence[str] | None = None,
        verbose: bool = True,
        *,
        law: str = "F99",
    ):
        tracks = EEPTracks(verbose=verbose) if tracks is None else tracks
        if not isinstance(tracks, EEPTracks):
            raise TypeError(f"tracks must be EEPTracks, not {type(tracks).__name__}")
        self.tracks, self.photometry = tracks, load_bolometric(filters, law=law)

    @property
    def filters(self) -> tuple[str, ...]:
        """The bands."""
        return self.photometry.bands

    def make_grid(
        self,
        mini_grid: Any = None,
        eep_grid: Any = None,
        feh_grid: Any = None,
        afe_grid: Any = None,
        *,
        mini_range: Any = None,
        eep_range: Any = None,
        feh_range: Any = None,
        loga_max: float = LOGA_MAX,
        apply_corr: bool = True,
        corr_params: Any = None,
        output_file: str | os.PathLike | None = None,
        verbose: bool = True,
        progress: Any = None,
    ) -> StarGrid:
        """Every valid combination of masses [Msun], EEPs and [Fe/H], at 1 kpc.

        The nodes default to those of brutus' generator (masses 0.5-2 in steps of 0.025, EEP
        202-808, [Fe/H] -3 to 0.5); a `*_range` asks for nodes of the same spacing (masses: 200
        logarithmic steps) over another range, cut to that of the models with a warning. Models
        that no track or atmosphere covers, or older than 10**`loga_max` yr, are left out.

        `output_file` saves the grid in brutus' layout. Returns the grid. `progress` wraps the
        loop over compositions, as `tqdm.tqdm` does. Raises `ValueError` for nodes that are not
        finite and increasing or outside the models, and where no model is valid.
        """
        limits = self.tracks.gridpoints
        nodes = {
            "mini": _nodes("mini", mini_grid, mini_range, limits["mini"]),
            "eep": _nodes("eep", eep_grid, eep_range, limits["eep"]),
            "feh": _nodes("feh", feh_grid, feh_range, limits["feh"]),
            "afe": _nodes("afe", afe_grid, None, limits["afe"]),
        }
        params = as_params(corr_params) if apply_corr else None
        parts = []
        compositions = list(itertools.product(nodes["feh"], nodes["afe"]))
        for feh, afe in compositions if progress is None else progress(compositions):
            parts.append(self._one(nodes["mini"], nodes["eep"], feh, afe, loga_max, params))
        columns = {n: np.concatenate([part[0][n] for part in parts]) for n in parts[0][0]}
        mag, red, dred = (np.concatenate([part[k] for part in parts]) for k in (1, 2, 3))
        if not len(mag):
            raise ValueError("no model of these masses, EEPs and [Fe/H] is valid; widen the ranges")
        total = int(np.prod([len(x) for x in nodes.values()]))
        # as in brutus' files: masses vary slowest
        order = np.lexsort([columns[name] for name in ("afe", "feh", "eep", "mini")])
        data = GridData(
            mag[order], red[order], dred[order],
            {name: column[order] for name, column in columns.items()},
            (*LABELS, "smf"), self.filters,
            {
                "band_system": self.photometry.systems,
                "extinction_law": self.photometry.law,
                "citation": CITATION,
                "n_models_total": total,
            },
        )  # fmt: skip
        grid = StarGrid(data, verbose=False)
        if verbose:
            logger.info("%d of %d models are valid", len(mag), total)
        if output_file is not None:
            grid.write(output_file)
        return grid

    def _one(self, mini, eep, feh, afe, loga_max, params) -> tuple[Any, ...]:
        """The valid models of one composition: labels and parameters, and coefficients."""
        mass, stage = np.meshgrid(mini, eep, indexing="ij")
        star, keep = jax.device_get(
            _stars(self.tracks, mini, eep, np.asarray(feh), np.asarray(afe), params)
        )
        keep = keep & (star.loga <= loga_max)
        star = jax.tree.map(lambda x: x[keep], star)
        tables = [[], [], []]
        count = int(keep.sum())
        seen = np.zeros(count, bool)
        for first in range(0, count, CHUNK):
            size = min(CHUNK, count - first)
            part = (getattr(star, n)[first : first + size] for n in ("logl", "logt", "logg"))
            padded = [np.pad(x, (0, CHUNK - size), mode="edge") for x in part]
            logl, logt, logg = padded
            out = _photometry(self.photometry, logl, logt, logg, np.asarray(feh))
            *coefficients, good = (np.asarray(x)[:size] for x in out)
            seen[first : first + size] = good
            for table, block in zip(tables, coefficients):
                table.append(block[good])
        columns = {"mini": mass[keep], "eep": stage[keep]}
        columns |= {"feh": np.full(count, feh), "afe": np.full(count, afe), "smf": np.zeros(count)}
        columns |= {name: np.asarray(getattr(star, name), np.float64) for name in PARAMETERS}
        blank = np.zeros((0, len(self.filters)), np.float32)
        stacked = [np.concatenate([blank, *table]).astype(np.float32) for table in tables]
        return {name: column[seen] for name, column in columns.items()}, *stacked


@eqx.filter_jit
def _stars(
    tracks: EEPTracks, mini: Any, eep: Any, feh: Any, afe: Any, params: Any
) -> tuple[StarState, Bool[Array, "m e"]]:
    mini, eep, feh, afe = (jnp.asarray(x, dtype=float) for x in (mini, eep, feh, afe))
    star = tracks.lattice(mini, eep, feh, afe)
    if params is not None:
        star = corrected(star, mini[:, None], eep[None, :], feh, params)
    return star, star.valid


class _Coefficients(NamedTuple):
    mag: Float[Array, "*star band"]  # at 1 kpc
    red: Float[Array, "*star band"]
    dred: Float[Array, "*star band"]
    valid: Bool[Array, "*star"]


@eqx.filter_jit
def _photometry(model: Bolometric, logl: Any, logt: Any, logg: Any, feh: Any) -> _Coefficients:
    def one(logl, logt, logg):
        feh_, zero = jnp.asarray(feh, logl.dtype), jnp.zeros_like(logl)
        mag = model.magnitudes(logl, logt, logg, feh_, zero, zero + 3.1) + 10.0
        red, dred = model.reddening(logt, logg, feh_)
        return _Coefficients(mag, red, dred, model.valid(logt, logg, feh_))

    return jax.vmap(one)(*(jnp.asarray(x, dtype=float) for x in (logl, logt, logg)))


def _nodes(name: str, given: Any, span: Any, models: np.ndarray) -> np.ndarray:
    """Nodes of one axis: those given, the default ones, or default spacing over a range."""
    low, high = float(models[0]), float(models[-1])
    if given is not None and span is not None:
        raise ValueError(f"give {name}_grid or {name}_range, not both")
    if given is not None:
        nodes = np.atleast_1d(np.asarray(given, np.float64))
        if nodes.ndim != 1 or not nodes.size or not np.isfinite(nodes).all():
            raise ValueError(f"{name}_grid must be a list of finite numbers")
        if np.any(np.diff(nodes) <= 0):
            nodes_sorted = np.unique(nodes)
            if np.any(np.diff(nodes) < 0):
                raise ValueError(f"{name}_grid must increase; it has {nodes[:5]} ...")
            nodes = nodes_sorted
        if nodes[-1] < low or nodes[0] > high:
            raise ValueError(
                f"{name}_grid {nodes[0]:g} to {nodes[-1]:g} is outside the models, "
                f"{low:g} to {high:g}"
            )
        slack = 1e-6 * abs(high - low)  # for nodes that rounding put a hair outside
        inside = nodes[(nodes >= low - slack) & (nodes <= high + slack)]
        if inside.size < nodes.size:
            logger.warning(
                "%s: %d of %d nodes are outside the models (%g to %g) and left out",
                name,
                nodes.size - inside.size,
                nodes.size,
                low,
                high,
            )
        return np.clip(inside, low, high)
    if span is None:
        return _default(name, models)
    first, last = (float(x) for x in span)
    if not first < last or last < low or first > high:
        raise ValueError(
            f"{name}_range ({first:g}, {last:g}) does not lie in the models, {low:g} to {high:g}"
        )
    if first < low or last > high:
        logger.warning(
            "%s_range is cut to the models: %g to %g", name, max(first, low), min(last, high)
        )
        first, last = max(first, low), min(last, high)
    if name == "mini":
        return np.geomspace(first, last, 200)
    if name == "eep":
        ms, later = np.arange(202.0, 454.0, 6.0), np.arange(454.0, 809.0, 2.0)
        early = np.arange(202.0, first - 1, -6.0)[:0:-1]
        every = np.concatenate([early, ms, later])
        return every[(every >= first) & (every <= last)]
    return np.round(np.arange(first, last + 1e-9, 0.05), 10)


def _default(name: str, models: np.ndarray) -> np.ndarray:
    if name == "mini":
        return np.arange(0.5, 2.0 + 1e-5, 0.025)
    if name == "eep":
        return np.concatenate([np.arange(202.0, 454.0, 6.0), np.arange(454.0, 809.0, 2.0)])
    if name == "feh":
        parts = [np.arange(-3.0, -2.0 - 1e-9, 0.1), np.arange(-2.0, 0.5 + 1e-5, 0.05)]
        return np.round(np.concatenate(parts), 10)
    return np.asarray(models[:1], np.float64)
