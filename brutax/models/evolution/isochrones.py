"""Isochrones: stars of one age and composition, as smooth functions of both."""

import abc
import os
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.models.corrections import CorrectionParams, as_params
from brutax.models.evolution.isochrone_table import read_isochrones
from brutax.models.evolution.track_model import LOGT_SUN
from brutax.models.evolution.tracks import EEPTracks
from brutax.models.linear_table import Table
from brutax.models.state import StarState, corrected
from brutax.utils._namespace import ArrayLike, as_float

PREDICTIONS = ("mini", "mass", "logl", "logt", "logr", "logg", "feh_surf", "afe_surf")
NEWTON_STEPS = 5  # to the mass of an age, between two nodes


class IsochronePoints(eqx.Module):
    """An isochrone at some EEPs."""

    mini: Float[Array, " eep"]  # initial mass [Msun]
    mass: Float[Array, " eep"]  # current mass [Msun]
    logr: Float[Array, " eep"]  # log10 radius [Rsun], uncorrected as brutus leaves it
    star: StarState
    valid: Bool[Array, " eep"]  # False where no star of this age is at this EEP


def solve_isochrone(
    tracks: EEPTracks,
    feh: ArrayLike,
    loga: ArrayLike,
    eep: ArrayLike,
    afe: ArrayLike = 0.0,
    corr_params: CorrectionParams | None = None,
) -> IsochronePoints:
    """The stars of an age and composition at EEPs (e,), as MIST constructs them (Dotter 2016).

    At a fixed EEP age falls with mass: the two nodes of mass around the age bracket the root,
    Newton's method finds it, and one more step carries the derivatives (implicit function
    theorem), so that gradients in [Fe/H] and age are those of the smooth tracks.
    """
    metal, now, stages, alpha = (as_float(x) for x in (feh, loga, eep, afe))
    nodes = tracks.mini_nodes
    table = jax.lax.stop_gradient(tracks.ages(nodes, stages, metal, alpha))
    older = table.loga > now
    crossing = older[:-1] & ~older[1:] & table.valid[:-1] & table.valid[1:]
    exists = crossing.any(axis=0)
    # of several crossings the most massive star counts: the branch without a break
    k = crossing.shape[0] - 1 - jnp.argmax(crossing[::-1], axis=0)
    logm = jnp.log10(nodes)

    def root(k: Array, eep: Array, column: Array) -> Array:
        low, high = logm[k], logm[k + 1]
        drop = column[k] - column[k + 1]
        share = (column[k] - jax.lax.stop_gradient(now)) / jnp.where(drop > 0, drop, 1.0)
        x = low + jnp.clip(share, 0.0, 1.0) * (high - low)

        def excess(x: Array, feh: Array, loga: Array) -> Array:
            return tracks.evaluate(10.0**x, eep, feh, alpha).loga - loga

        def step(x: Array, _: None) -> tuple[Array, None]:
            here = (jax.lax.stop_gradient(metal), jax.lax.stop_gradient(now))
            value, slope = jax.jvp(lambda x: excess(x, *here), (x,), (jnp.ones_like(x),))
            return jnp.clip(x - value / jnp.where(slope < 0, slope, -1e3), low, high), None

        x, _ = jax.lax.scan(step, x, None, length=NEWTON_STEPS)
        x = jax.lax.stop_gradient(x)
        _, slope = jax.jvp(lambda x: excess(x, metal, now), (x,), (jnp.ones_like(x),))
        slope = jax.lax.stop_gradient(slope)
        return x - excess(x, metal, now) / jnp.where(slope < 0, slope, -1e3)

    x = jax.vmap(root, in_axes=(0, 0, 1))(k, stages, table.loga)
    mini = 10.0**x
    star = jax.vmap(lambda m, e: tracks.evaluate(m, e, metal, alpha))(mini, stages)
    logr = 0.5 * star.logl - 2.0 * (star.logt - LOGT_SUN)
    star = corrected(star, mini, stages, metal, corr_params)
    return IsochronePoints(mini, mini, logr, star, exists & star.valid)


class AbstractIsochrones(eqx.Module):
    """Isochrones at any age and composition. `Isochrone`, which users hold, has one of these."""

    @property
    @abc.abstractmethod
    def eep_u(self) -> np.ndarray:
        """EEPs of the default isochrone."""

    @abc.abstractmethod
    def stages(self, eep_max: float) -> Float[Array, " star"]:
        """The EEPs of the models, without most of those beyond `eep_max`."""

    @abc.abstractmethod
    def points(
        self,
        feh: ArrayLike,
        loga: ArrayLike,
        eep: ArrayLike,
        afe: ArrayLike,
        corr_params: CorrectionParams | None,
    ) -> IsochronePoints:
        """The isochrone at EEPs (e,), for use inside programs."""


class TrackIsochrones(AbstractIsochrones):
    """Isochrones solved for on tracks."""

    tracks: EEPTracks

    @property
    def eep_u(self) -> np.ndarray:
        return self.tracks.gridpoints["eep"]

    def stages(self, eep_max: float) -> Float[Array, " star"]:
        return self.tracks.stages(eep_max)

    def points(
        self,
        feh: ArrayLike,
        loga: ArrayLike,
        eep: ArrayLike,
        afe: ArrayLike,
        corr_params: CorrectionParams | None,
    ) -> IsochronePoints:
        return solve_isochrone(self.tracks, feh, loga, eep, afe, corr_params)


class TableIsochrones(AbstractIsochrones):
    """Isochrones of a file, linear between its models."""

    table: Table

    @property
    def eep_u(self) -> np.ndarray:
        return np.asarray(self.table.nodes[3], np.float64)

    def stages(self, eep_max: float) -> Float[Array, " star"]:
        return self.table.nodes[3]

    def points(
        self,
        feh: ArrayLike,
        loga: ArrayLike,
        eep: ArrayLike,
        afe: ArrayLike,
        corr_params: CorrectionParams | None,
    ) -> IsochronePoints:
        metal, age, stage, alpha = (as_float(x) for x in (feh, loga, eep, afe))
        at = jax.vmap(lambda one: self.table(metal, alpha, age, one))(stage)
        mini, mass, logl, logt, logr, logg, feh_surf, afe_surf = at.value.T
        ages, none = jnp.full_like(mini, age), jnp.zeros_like(mini)
        star = StarState(ages, logl, logt, logg, feh_surf, afe_surf, none, at.valid)
        star = corrected(star, mini, stage, metal, corr_params)
        return IsochronePoints(mini, mass, logr, star, at.valid)


class Isochrone(eqx.Module):
    """Isochrones of the tracks inside brutax, at any age and [Fe/H], or those of a file.

    `mistfile` is a file like brutus' `MIST_1.2_iso_vvcrit0.0.h5` (`brutax.data.fetch_isos`),
    linear between its models. `predictions` chooses what `get_predictions` returns (default
    mini, mass, logl, logt, logr, logg, feh_surf, afe_surf; the tracks inside brutax do not model
    mass loss, so that `mass` is `mini`). Raises `ValueError` for others and for files of another
    layout, `FileNotFoundError` for one that is not there.
    """

    model: AbstractIsochrones
    predictions: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        mistfile: str | os.PathLike | None = None,
        predictions: Sequence[str] | None = None,
        verbose: bool = True,
    ):
        names = PREDICTIONS if predictions is None else tuple(predictions)
        if unknown := [name for name in names if name not in PREDICTIONS]:
            raise ValueError(f"predictions {unknown} are not known; there are {PREDICTIONS}")
        if mistfile is None:
            self.model = TrackIsochrones(EEPTracks(verbose=verbose))
        else:
            self.model = TableIsochrones(read_isochrones(mistfile, PREDICTIONS))
        self.predictions = names

    @property
    def tracks(self) -> EEPTracks:
        """The tracks on which the isochrones are solved for.

        Raises `ValueError` for isochrones of a file, which have none.
        """
        if not isinstance(self.model, TrackIsochrones):
            raise ValueError("this needs the isochrones inside brutax: Isochrone() without a file")
        return self.model.tracks

    def stages(self, eep_max: float) -> Float[Array, " star"]:
        """The EEPs of the models, without most of those beyond `eep_max`."""
        return self.model.stages(eep_max)

    @property
    def eep_u(self) -> np.ndarray:
        """EEPs of the default isochrone."""
        return self.model.eep_u

    def points(
        self,
        feh: ArrayLike,
        loga: ArrayLike,
        eep: ArrayLike,
        afe: ArrayLike = 0.0,
        corr_params: CorrectionParams | None = None,
    ) -> IsochronePoints:
        """The isochrone at EEPs (e,), for use inside programs: differentiable in [Fe/H] and age.

        `corr_params` are `CorrectionParams` of the empirical corrections, None for none.
        """
        return self.model.points(feh, loga, eep, afe, corr_params)

    def columns(self, points: IsochronePoints) -> Float[Array, "eep prediction"]:
        """The predictions of points, in the order of `predictions`."""
        known = {"mini": points.mini, "mass": points.mass, "logr": points.logr}
        known |= points.star._asdict()
        return jnp.stack([known[name] for name in self.predictions], axis=-1)

    def get_predictions(
        self,
        feh: float = 0.0,
        afe: float = 0.0,
        loga: float = 8.5,
        eep: ArrayLike | None = None,
        apply_corr: bool = True,
        corr_params: ArrayLike | None = None,
    ) -> np.ndarray:
        """Predictions (eep, prediction) of an isochrone; NaN where it has no star.

        `loga` is log10 age [yr]; `eep` are the points asked for, by default all integers of the
        tracks, or those of the file. Raises `ValueError` unless age and composition are finite.
        """
        if not np.isfinite([feh, afe, loga]).all():
            raise ValueError(f"feh {feh}, afe {afe} and loga {loga} must be finite numbers")
        points = np.atleast_1d(np.asarray(self.eep_u if eep is None else eep, np.float64))
        params = as_params(corr_params) if apply_corr else None
        metals, age, alpha = as_float(feh), as_float(loga), as_float(afe)
        out, valid = _predict(self, metals, age, as_float(points), alpha, params)
        return np.where(np.asarray(valid)[:, None], np.asarray(out, np.float64), np.nan)


@eqx.filter_jit
def _predict(
    isochrone: Isochrone,
    feh: Float[Array, ""],
    loga: Float[Array, ""],
    eep: Float[Array, " eep"],
    afe: Float[Array, ""],
    params: CorrectionParams | None,
) -> tuple[Float[Array, "eep prediction"], Bool[Array, " eep"]]:
    at = isochrone.points(feh, loga, eep, afe, params)
    return isochrone.columns(at), at.valid
