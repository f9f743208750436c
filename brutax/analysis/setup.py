"""From a grid and a user's options to what the solver needs: models with prior mass, priors."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from brutax.analysis.custom import TYPICAL, CustomDistance, check_distance, dust_priors
from brutax.analysis.options import Priors
from brutax.catalog import digest
from brutax.core import StarGrid
from brutax.priors import (
    AbstractPrior,
    AgeWeight,
    ExponentialDiskDistance,
    GalacticStructure,
    KroupaIMF,
    Point,
    PS1LuminosityFunction,
    TruncatedNormalAv,
    TruncatedNormalRv,
    UniformAv,
    UniformRv,
    grid_cell_log_weight,
)
from brutax.solver import StarPrior, TiledModels, tile_models
from brutax.utils import as_float

log = logging.getLogger("brutax")


class WithoutLabels(AbstractPrior):
    """A distance prior that is not told the metallicity and age of the model."""

    prior: AbstractPrior

    def log_prob(self, point: Point) -> Any:
        return self.prior.log_prob(point._replace(feh=None, loga=None))


class WhereSeen(AbstractPrior):
    """One distance prior where the direction is known, another where it is not."""

    with_direction: AbstractPrior
    without: AbstractPrior

    def log_prob(self, point: Point) -> Any:
        seen = jnp.isfinite(point.ell) & jnp.isfinite(point.b)
        sky = point._replace(ell=jnp.where(seen, point.ell, 0.0), b=jnp.where(seen, point.b, 0.0))
        return jnp.where(seen, self.with_direction.log_prob(sky), self.without.log_prob(point))


def model_log_prior(
    grid: StarGrid,
    *,
    lnprior: np.ndarray | None = None,
    apply_agewt: bool = True,
    apply_grad: bool = True,
) -> np.ndarray:
    """Log prior mass of each model (float64): mass function, age weight, size of the grid cell.

    The mass function is Kroupa's where the grid has initial masses, else the PS1 luminosity
    function where it has M_r, else flat; `lnprior` (model,) replaces it. Raises `ValueError` if
    `lnprior` has another length, holds NaN, or leaves no model possible.
    """
    labels = grid.label_table
    point = Point(**{name: labels[name] for name in Point._fields if name in labels})
    if lnprior is not None:
        total = np.array(lnprior, np.float64)
        if total.shape != (len(grid),):
            raise ValueError(
                f"lnprior has shape {total.shape}; one value for each of {len(grid)} models needed"
            )
        bad = np.isnan(total) | (total == np.inf)
        if bad.any():
            raise ValueError(f"lnprior holds {bad.sum()} NaN or +inf; use -inf to exclude a model")
    elif point.mini is not None:
        total = np.asarray(KroupaIMF().log_prob(point), np.float64)
    elif point.Mr is not None:
        total = np.asarray(PS1LuminosityFunction().log_prob(point), np.float64)
    else:
        total = np.zeros(len(grid))
    if apply_agewt and point.agewt is not None:
        total = total + np.asarray(AgeWeight().log_prob(point), np.float64)
    elif apply_agewt and point.mini is not None:
        log.warning("the grid has no 'agewt': every evolutionary point gets the same weight")
    if apply_grad:
        total = total + grid_cell_log_weight(labels, grid.axes)
    for name in ("feh", "loga"):  # what the Galactic prior looks at
        unknown = ~np.isfinite(labels.get(name, 0.0)) & np.isfinite(total)
        if unknown.any():
            log.warning("%d models without a finite '%s' are left out", unknown.sum(), name)
            total = np.where(unknown, -np.inf, total)
    if not np.isfinite(total).any():
        raise ValueError("no model of the grid has a finite prior mass")
    return total


class ReadyModels(NamedTuple):
    """A grid prepared for fits under some priors."""

    log_prior: np.ndarray  # of the rows of the grid
    models: TiledModels
    rows: np.ndarray  # of the grid, in the order of `models`; -1 for padding


def ready_models(grid: StarGrid, priors: Priors) -> ReadyModels:
    """The prior masses of a grid's models, and its `device_models`.

    Those used last are kept for the next fit.
    """
    given = None if priors.lnprior is None else digest(np.asarray(priors.lnprior))
    key = (grid.hash, grid.bands, given, priors.apply_agewt, priors.apply_grad)
    key = (*key, jax.config.read("jax_enable_x64"))
    if key not in _ready:
        log_prior = model_log_prior(
            grid,
            lnprior=priors.lnprior,
            apply_agewt=priors.apply_agewt,
            apply_grad=priors.apply_grad,
        )
        _ready.clear()
        _ready[key] = ReadyModels(log_prior, *device_models(grid, log_prior))
    return _ready[key]


_ready: dict[tuple, ReadyModels] = {}


def device_models(grid: StarGrid, log_prior: np.ndarray) -> tuple[TiledModels, np.ndarray]:
    """The grid on the device in an order of its own, and the row that each model has in the grid.

    Models are tiled by colour and brightness (`brutax.solver.tiles`), -1 standing for padding. The
    order follows the content (magnitudes, then labels), so that draws do not depend on the order
    in which a file lists its models.
    """
    labels = grid.label_table
    keys = [*(labels[name] for name in sorted(labels)), *grid.mag.T]
    order = np.lexsort(keys)
    models, rows = tile_models(
        np.asarray(grid.mag)[order],
        np.asarray(grid.red)[order],
        np.asarray(grid.dred)[order],
        log_prior[order],
        {name: np.nan_to_num(labels[name][order]) for name in _informative(labels)},
    )
    return models, np.where(rows >= 0, order[rows], -1)


def _informative(labels: Mapping[str, np.ndarray]) -> list[str]:
    """Labels worth a summary: those that vary, and those that priors look at."""
    needed = {*Point._fields} - {"agewt"}  # the age weight is part of the prior mass
    chosen = []
    for name, values in labels.items():
        varies = name != "agewt" and np.unique(values).size > 1
        if varies and name not in ("feh", "loga") and not np.isfinite(values).all():
            log.warning("label '%s' is not finite for all models: it is not summarised", name)
        elif varies or name in needed:
            chosen.append(name)
    return chosen


def _bounds(name: str, limits: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = (float(x) for x in limits)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (low, high), got {limits!r}") from None
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"{name} must be finite and increasing, got ({low}, {high})")
    return low, high


def _gauss(name: str, gauss: Sequence[float]) -> tuple[float, float]:
    try:
        mean, std = (float(x) for x in gauss)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (mean, deviation), got {gauss!r}") from None
    if not (np.isfinite(mean) and std > 0):
        raise ValueError(f"{name} needs a finite mean and a positive deviation, got {gauss!r}")
    return mean, std


def av_prior(
    avlim: Sequence[float], av_gauss: Sequence[float] | None
) -> UniformAv | TruncatedNormalAv:
    """Uniform on `avlim` [mag], or a Gaussian (mean, std) truncated there."""
    low, high = _bounds("avlim", avlim)
    if low < 0:
        raise ValueError(f"avlim starts at {low}: negative extinction is not a model here")
    if av_gauss is None or _gauss("av_gauss", av_gauss)[1] >= 1e5:
        return UniformAv(low, high)
    return TruncatedNormalAv(*_gauss("av_gauss", av_gauss), low, high)


def rv_prior(
    rvlim: Sequence[float], rv_gauss: Sequence[float] | None
) -> UniformRv | TruncatedNormalRv:
    """Gaussian (mean, std) truncated to `rvlim`, or uniform there."""
    low, high = _bounds("rvlim", rvlim)
    if rv_gauss is None or _gauss("rv_gauss", rv_gauss)[1] >= 1e5:
        return UniformRv(low, high)
    return TruncatedNormalRv(*_gauss("rv_gauss", rv_gauss), low, high)


def star_priors(
    priors: Priors, coords: np.ndarray, names: Collection[str] = ()
) -> tuple[StarPrior, AbstractPrior | None]:
    """The priors of the stars, and the A_V prior of each where a dust map makes them differ.

    `coords`: (star, 2) Galactic l, b [deg], NaN where there are none; `names`: the labels that the
    grid has. Stars without coordinates get an exponential disk seen from within.
    """
    distance = _distance_prior(priors, names)
    if not priors.apply_dlabels:
        distance = WithoutLabels(distance)
    av = av_prior(priors.avlim, priors.av_gauss)
    rv = rv_prior(priors.rvlim, priors.rv_gauss)
    per_star = None
    if priors.dustfile is not None:
        av, per_star = dust_priors(priors, coords, float(av.low), float(av.high))
    elif priors.lndustprior is not None:
        raise ValueError("lndustprior needs dustfile: the map that it is given")
    return StarPrior(WhereSeen(distance, ExponentialDiskDistance()), av, rv), per_star


def _distance_prior(priors: Priors, names: Collection[str]) -> AbstractPrior:
    given = priors.lngalprior
    if given is None:
        return GalacticStructure(R_solar=as_float(priors.R_solar), Z_solar=as_float(priors.Z_solar))
    if isinstance(given, AbstractPrior):
        return given
    hidden = () if priors.apply_dlabels else ("feh", "loga")
    check_distance(given, tuple(n for n in TYPICAL if n in names and n not in hidden))
    return CustomDistance(given)


def repeat(prior: AbstractPrior, size: int) -> AbstractPrior:
    """The same prior for each of many stars, as one pytree with a leading axis."""
    return jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf, (size, *jnp.shape(leaf))),
        prior,
        is_leaf=eqx.is_array,
    )
