"""Evolutionary tracks: what a star of given mass, stage and composition is like, and looks like."""

import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.core.corrections import as_params, empirical_correction, get_corrections
from brutax.core.trackmodel import TrackModel, TrackPoint, load_tracks
from brutax.utils._namespace import as_float

logger = logging.getLogger("brutax")

LABELS = ("mini", "eep", "feh", "afe")
PREDICTIONS = ("loga", "logl", "logt", "logg", "feh_surf", "afe_surf")
AFE_SLACK = 1e-5  # models of a single [alpha/Fe] answer within this of it


class StarState(NamedTuple):
    """A star of the models; every field has the shape of the labels asked for."""

    loga: Any  # log10 age [yr]
    logl: Any  # log10 L [Lsun]
    logt: Any  # log10 Teff [K]
    logg: Any  # log10 g [cgs]
    feh_surf: Any  # surface [Fe/H]
    afe_surf: Any  # surface [alpha/Fe]
    agewt: Any  # d(age)/d(EEP) [yr]
    valid: Any  # False where no track goes; the numbers beside it are finite and mean nothing


def corrected(state: StarState, mini: Any, eep: Any, feh: Any, params: Any) -> StarState:
    """A star with the empirical corrections of `brutax.core.corrections`."""
    shift = empirical_correction(mini, eep, feh, params)
    return state._replace(
        logt=state.logt + shift.dlogt,
        logl=state.logl + 2.0 * shift.dlogr,
        logg=state.logg - 2.0 * shift.dlogr,
    )


class EEPTracks(eqx.Module):
    """Evolutionary tracks on equivalent evolutionary points (EEPs; Dotter 2016).

    The models inside brutax: smooth functions fitted to the MIST v1.2 tracks (Choi et al. 2016;
    no rotation, [alpha/Fe] = 0). `predictions` chooses and orders what `get_predictions` returns,
    and must hold loga, logl, logt and logg; `ageweight` adds `agewt` = d(age)/d(EEP) [yr] as the
    last. `use_cache` is accepted for scripts written for brutus: nothing is cached on disk.

    Raises `ValueError` for unknown or missing predictions, and `NotImplementedError` for a
    `mistfile`: this version reads no track files.
    """

    model: TrackModel
    predictions: tuple[str, ...] = eqx.field(static=True)
    labels: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self,
        mistfile: str | os.PathLike | None = None,
        predictions: Sequence[str] = PREDICTIONS,
        ageweight: bool = True,
        verbose: bool = True,
        use_cache: bool = True,
    ):
        del use_cache
        if mistfile is not None:
            raise NotImplementedError(
                f"{mistfile}: track files are not read by this version; leave out `mistfile` for "
                "the tracks inside brutax"
            )
        names, known = tuple(predictions), {*PREDICTIONS, "agewt"}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"predictions {unknown} are not known; there are {sorted(known)}")
        if missing := [n for n in ("loga", "logl", "logt", "logg") if n not in names]:
            raise ValueError(f"predictions must include {missing}")
        if ageweight and "agewt" not in names:
            names += ("agewt",)
        self.model, self.predictions, self.labels = load_tracks(), names, LABELS
        if verbose:
            logger.info("%r", self)

    @property
    def gridpoints(self) -> dict[str, np.ndarray]:
        """The nodes of the models: masses [Msun], EEPs, [Fe/H], [alpha/Fe]."""
        first, last = self.model.eep_range
        return {
            "mini": np.asarray(self.model.mini_nodes, np.float64),
            "eep": np.arange(first, last + 1.0),
            "feh": np.asarray(self.model.feh_nodes, np.float64),
            "afe": np.zeros(1),
        }

    @property
    def mini_bound(self) -> float:
        """The smallest mass of the models [Msun]."""
        return float(self.gridpoints["mini"][0])

    def evaluate(
        self, mini: Any, eep: Any, feh: Any, afe: Any = 0.0, corr_params: Any = None
    ) -> StarState:
        """One star; differentiable, for use inside programs. Map over stars outside.

        `corr_params` are `CorrectionParams` of the empirical corrections, None for none.
        """
        mini, eep, feh, afe = (as_float(x) for x in (mini, eep, feh, afe))
        at = self.model(mini, eep, feh)
        state = _state(at, afe)
        return state if corr_params is None else corrected(state, mini, eep, feh, corr_params)

    def lattice(self, mini: Any, eep: Any, feh: Any, afe: Any) -> StarState:
        """Every combination of masses (m,), EEPs (e,) and one composition, (m, e), uncorrected."""
        at = self.model.lattice(as_float(mini), as_float(eep), as_float(feh)[None])
        return _state(jax.tree.map(lambda x: x[..., 0], at), as_float(afe))

    def get_predictions(
        self, labels: Any, apply_corr: bool = True, corr_params: Any = None
    ) -> np.ndarray:
        """Predictions of models with labels (4,) or (model, 4): mini, eep, feh, afe.

        Returns (prediction,) or (model, prediction) in the order of `predictions`, NaN where no
        track goes. Raises `ValueError` for another count of labels.
        """
        labels = np.asarray(labels, np.float64)
        if labels.ndim not in (1, 2) or labels.shape[-1] != len(LABELS):
            raise ValueError(
                f"labels have the shape {labels.shape}; give (4,) or (model, 4): {LABELS}"
            )
        params = as_params(corr_params) if apply_corr else None
        table = np.atleast_2d(labels)
        out, valid = _predict(self, as_float(np.where(np.isfinite(table), table, 0.0)), params)
        valid = np.asarray(valid) & np.isfinite(table).all(axis=1)
        out = np.where(valid[:, None], np.asarray(out, np.float64), np.nan)
        return out.reshape(*labels.shape[:-1], len(self.predictions))

    def get_corrections(self, labels: Any, corr_params: Any = None) -> np.ndarray:
        """The empirical shifts (dlogt, dlogr) of models, (2,) or (model, 2) [dex]."""
        return get_corrections(labels, corr_params)

    def __repr__(self) -> str:
        mini = self.gridpoints["mini"]
        return f"EEPTracks({mini[0]:g}-{mini[-1]:g} Msun, {list(self.predictions)})"


def _state(at: TrackPoint, afe: Any) -> StarState:
    """A point of the tracks, whose only [alpha/Fe] is zero."""
    zero = jnp.zeros_like(at.loga)
    valid = at.valid & (jnp.abs(afe) <= AFE_SLACK)
    return StarState(*at[:5], zero, at.agewt, valid)


@eqx.filter_jit
def _predict(
    tracks: EEPTracks, labels: Float[Array, "model 4"], params: Any
) -> tuple[Float[Array, "model prediction"], Bool[Array, " model"]]:
    state = jax.vmap(lambda row: tracks.evaluate(*row, corr_params=params))(labels)
    return jnp.stack([getattr(state, n) for n in tracks.predictions], axis=-1), state.valid
