"""Grids of stellar models in any bands, built from the models inside brutax."""

import itertools
import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array

from brutax.data import GridData
from brutax.models.corrections import CorrectionParams, as_params
from brutax.models.evolution.single import (
    Stage,
    binary_magnitudes,
    may_have_companion,
    stage_at_age,
)
from brutax.models.evolution.tracks import LABELS, EEPTracks
from brutax.models.grid.star_grid import StarGrid
from brutax.models.photometry.photometry import (
    AbstractPhotometry,
    Coefficients,
    DustLines,
    coefficients,
    dust_lines,
    open_photometry,
)
from brutax.models.state import StarState, corrected
from brutax.utils._namespace import ArrayLike, as_float

logger = logging.getLogger("brutax")

PARAMETERS = ("loga", "logl", "logt", "logg", "feh_surf", "afe_surf", "agewt")
LOGA_MAX = 10.14  # log10 age of the oldest models kept [yr], as in brutus
REFERENCE_PC = 1000.0  # distance of the magnitudes of grids [pc], as in brutus
REFERENCE_MODULUS = 10.0  # of 1 kpc [mag]
SMF_LIMITS = np.array([0.0, 1.0])  # of masses of companions divided by those of their stars
CHUNK = 16384  # models at once: bounds the memory of the photometry
CITATION = (
    "MIST: Dotter 2016, ApJS 222, 8; Choi et al. 2016, ApJ 823, 102; Paxton et al. 2011, 2013, 2015"
)


class GridGenerator:
    """Builds grids of stars in some bands: `GridGenerator(tracks, filters).make_grid(...)`.

    `filters` names bands of the models inside brutax (None: all), or of brutus' networks in
    `nnfile`; `law` is the extinction curve of the former (CCM89, F99, F19, G23). Raises
    `TypeError` unless `tracks` are `EEPTracks`, `ValueError` for unknown bands, with the ones
    that come close.
    """

    def __init__(
        self,
        tracks: EEPTracks | None = None,
        filters: Sequence[Any] | None = None,
        nnfile: str | os.PathLike | None = None,
        verbose: bool = True,
        *,
        law: str = "F99",
    ):
        tracks = EEPTracks(verbose=verbose) if tracks is None else tracks
        if not isinstance(tracks, EEPTracks):
            raise TypeError(f"tracks must be EEPTracks, not {type(tracks).__name__}")
        self.tracks, self.photometry = tracks, open_photometry(filters, nnfile, law=law)

    @property
    def filters(self) -> tuple[str, ...]:
        """The bands."""
        return self.photometry.bands

    def make_grid(
        self,
        mini_grid: ArrayLike | None = None,
        eep_grid: ArrayLike | None = None,
        feh_grid: ArrayLike | None = None,
        afe_grid: ArrayLike | None = None,
        smf_grid: ArrayLike | None = None,
        av_grid: ArrayLike | None = None,
        av_wt: ArrayLike | None = None,
        rv_grid: ArrayLike | None = None,
        rv_wt: ArrayLike | None = None,
        dist: float = 1000.0,
        *,
        mini_range: Any = None,
        eep_range: Any = None,
        feh_range: Any = None,
        loga_max: float = LOGA_MAX,
        eep_binary_max: float = 480.0,
        mini_bound: float = 0.0,
        apply_corr: bool = True,
        corr_params: ArrayLike | None = None,
        output_file: str | os.PathLike | None = None,
        verbose: bool = True,
        progress: Any = None,
    ) -> StarGrid:
        """Every valid combination of masses [Msun], EEPs and [Fe/H], at 1 kpc.

        The nodes default to those of brutus' generator (masses 0.5-2 in steps of 0.025, EEP
        202-808, [Fe/H] -3 to 0.5); a `*_range` asks for nodes of the same spacing (masses: 200
        logarithmic steps) over another range, cut to that of the models with a warning. Models
        that no track or atmosphere covers, older than 10**`loga_max` yr or lighter than
        `mini_bound` [Msun] are left out.

        `smf_grid` are masses of unresolved companions divided by those of their stars (0: none), of
        the same age and composition. Stars beyond EEP `eep_binary_max`, and those whose
        companion would be lighter than `mini_bound` and the models, look like single ones.
        Lines of magnitude against A_V and R_V are fitted over `av_grid`, `rv_grid` with weights
        `av_wt`, `rv_wt` (`brutax.models.photometry.photometry.dust_lines`). `dist` is 1000 pc in
        every grid.

        `output_file` saves the grid in brutus' layout. Returns the grid. `progress` wraps the
        loop over compositions, as `tqdm.tqdm` does. Raises `ValueError` for nodes that are not
        finite and increasing or outside the models, and where no model is valid.
        """
        if dist != REFERENCE_PC:
            raise ValueError(f"dist is {dist}: grids hold magnitudes at {REFERENCE_PC:g} pc")
        limits = self.tracks.gridpoints
        nodes = {
            "mini": _nodes("mini", mini_grid, mini_range, limits["mini"]),
            "eep": _nodes("eep", eep_grid, eep_range, limits["eep"]),
            "feh": _nodes("feh", feh_grid, feh_range, limits["feh"]),
            "afe": _nodes("afe", afe_grid, None, limits["afe"]),
            "smf": _nodes("smf", [0.0] if smf_grid is None else smf_grid, None, SMF_LIMITS),
        }
        nodes["mini"] = nodes["mini"][nodes["mini"] >= mini_bound]
        build = _Build(
            nodes["mini"],
            nodes["eep"],
            as_params(corr_params) if apply_corr else None,
            dust_lines(av_grid, av_wt, rv_grid, rv_wt),
            float(loga_max),
            float(eep_binary_max),
            max(float(mini_bound), float(limits["mini"][0])),
        )
        compositions = list(itertools.product(nodes["feh"], nodes["afe"], nodes["smf"]))
        parts = []
        if nodes["mini"].size:
            for one in compositions if progress is None else progress(compositions):
                parts.append(self._one(build, *one))
        if not sum(len(part.mag) for part in parts):
            raise ValueError("no model of these masses, EEPs and [Fe/H] is valid; widen the ranges")
        columns = {n: np.concatenate([part.columns[n] for part in parts]) for n in parts[0].columns}
        total = int(np.prod([len(x) for x in nodes.values()]))
        # as in brutus' files: masses vary slowest
        order = np.lexsort([columns[name] for name in reversed((*LABELS, "smf"))])
        mag, red, dred = (np.concatenate(tables)[order] for tables in zip(*(p[1:] for p in parts)))
        data = GridData(
            mag, red, dred,
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
            logger.info("%d of %d models are valid", len(order), total)
        if output_file is not None:
            grid.write(output_file)
        return grid

    def _one(self, build: "_Build", feh: float, afe: float, smf: float) -> "_Part":
        """The valid models of one composition and mass ratio."""
        mass, stage = np.meshgrid(build.mini, build.eep, indexing="ij")
        metals, alpha, ratio = as_float(feh), as_float(afe), as_float(smf)
        star: Any = jax.device_get(
            _stars(self.tracks, build.mini, build.eep, metals, alpha, build.params)
        )
        keep = star.valid & (star.loga <= build.loga_max)
        second = None
        if smf > 0.0:
            limits = (as_float(build.companion_bound), as_float(build.eep_binary_max))
            found = _companions(
                self.tracks, build.mini, build.eep, star.loga, ratio, metals, alpha, limits
            )
            second = jax.tree.map(lambda x: np.asarray(x)[keep], found)
        mini, eep = mass[keep], stage[keep]
        labels = (mini, eep, np.full(mini.size, feh), np.full(mini.size, afe))
        star = jax.tree.map(lambda x: x[keep], star)
        out: Any = self._coefficients(star, labels, ratio, second, build)
        names = dict(zip((*LABELS, "smf"), (*labels, np.full(mini.size, smf))))
        names |= {name: np.asarray(getattr(star, name), np.float64) for name in PARAMETERS}
        seen = out.valid
        return _Part(
            {name: column[seen] for name, column in names.items()},
            out.mag[seen].astype(np.float32),
            out.red[seen].astype(np.float32),
            out.dred[seen].astype(np.float32),
        )

    def _coefficients(
        self, star: Any, labels: Any, smf: Array | float, second: Any, build: "_Build"
    ) -> Any:
        """The `Coefficients` of models, some at a time."""
        count = labels[0].size
        parts = []
        for first in range(0, count, CHUNK):
            size = min(CHUNK, count - first)

            def some(x: np.ndarray, first: int = first, size: int = size) -> np.ndarray:
                return np.pad(x[first : first + size], (0, CHUNK - size), mode="edge")

            block: Any = jax.tree.map(some, (star, tuple(labels), second))
            look = (self.photometry, self.tracks)
            out = _photometry(*look, block[0], block[1], block[2], smf, build.dust, build.params)
            parts.append(jax.tree.map(lambda x, size=size: np.asarray(x)[:size], out))
        blank: Any = np.zeros((0, len(self.filters)), np.float32)
        parts.append(Coefficients(blank, blank, blank, blank[:, 0] > 0))
        return jax.tree.map(lambda *column: np.concatenate(column), *parts)


class _Build(NamedTuple):
    """What every composition of a grid shares."""

    mini: np.ndarray
    eep: np.ndarray
    params: Any
    dust: DustLines
    loga_max: float
    eep_binary_max: float
    companion_bound: float


class _Part(NamedTuple):
    columns: dict[str, np.ndarray]
    mag: np.ndarray
    red: np.ndarray
    dred: np.ndarray


@eqx.filter_jit
def _stars(
    tracks: EEPTracks,
    mini: Array | np.ndarray,
    eep: Array | np.ndarray,
    feh: Array,
    afe: Array,
    params: CorrectionParams | None,
) -> StarState:
    mass, stage = as_float(mini), as_float(eep)
    star = tracks.lattice(mass, stage, feh, afe)
    return corrected(star, mass[:, None], stage[None, :], feh, params)


@eqx.filter_jit
def _companions(
    tracks: EEPTracks,
    mini: Array | np.ndarray,
    eep: Array | np.ndarray,
    loga: Array | np.ndarray,
    smf: Array | float,
    feh: Array,
    afe: Array,
    limits: Any,
) -> Stage:
    """Stages (mass, eep) of the companions of stars with ages `loga`."""
    mass, stage, age = as_float(mini), as_float(eep), as_float(loga)
    second = jax.lax.map(
        lambda row: stage_at_age(tracks, smf * row[0], row[1], feh, afe), (mass, age)
    )
    allowed = may_have_companion(mass[:, None], stage[None, :], smf, *limits)
    return Stage(second.eep, second.found & allowed)


@eqx.filter_jit
def _photometry(
    photometry: AbstractPhotometry,
    tracks: EEPTracks,
    star: StarState,
    labels: Any,
    second: Stage | None,
    smf: Array | float,
    dust: DustLines,
    params: CorrectionParams | None,
) -> Coefficients:
    """Coefficients of models at 1 kpc, (star, band)."""

    def single(star: Any, labels: Any) -> Coefficients:
        return coefficients(lambda av, rv: photometry(star, labels[2], av, rv), dust)

    def double(star: Any, labels: Any, second: Any) -> Coefficients:
        def look(av: Array, rv: Array) -> Any:
            return binary_magnitudes(
                tracks, photometry, labels, smf, second, av, rv, params
            ).together

        return coefficients(look, dust)

    floats: Any = jax.tree.map(lambda x: as_float(x) if x.dtype != bool else x, (star, labels))
    star, labels = floats
    if second is None:
        out = jax.vmap(single)(star, labels)
    else:
        out = jax.vmap(double)(star, labels, Stage(as_float(second.eep), second.found))
    return out._replace(mag=out.mag + REFERENCE_MODULUS)


def _nodes(
    name: str,
    given: ArrayLike | None,
    span: Sequence | np.ndarray | None,
    models: np.ndarray,
) -> np.ndarray:
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
