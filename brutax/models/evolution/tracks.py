"""Evolutionary tracks: what a star of given mass, stage and composition is like, and looks like."""

import logging
import os
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.models.corrections import CorrectionParams, as_params, get_corrections
from brutax.models.evolution.abstract_tracks import AbstractTracks, SmoothTracks
from brutax.models.evolution.track_model import Ages, TrackModel, load_tracks
from brutax.models.evolution.track_table import read_tracks
from brutax.models.state import StarState, corrected
from brutax.utils._namespace import ArrayLike, as_float

logger = logging.getLogger("brutax")

LABELS = ("mini", "eep", "feh", "afe")
PREDICTIONS = ("loga", "logl", "logt", "logg", "feh_surf", "afe_surf")


class EEPTracks(eqx.Module):
    """Evolutionary tracks on equivalent evolutionary points (EEPs; Dotter 2016).

    The models inside brutax: smooth functions fitted to the MIST v1.2 tracks (Choi et al. 2016;
    no rotation, [alpha/Fe] = 0), or with `mistfile` those of a file like brutus'
    `MIST_1.2_EEPtrk.h5` (`brutax.data.fetch_tracks`), linear between its models. `predictions`
    chooses and orders what `get_predictions` returns, and must hold loga, logl, logt and logg;
    `ageweight` adds `agewt` = d(age)/d(EEP) [yr] as the last. `use_cache` is accepted for scripts
    written for brutus: nothing is cached on disk.

    Raises `ValueError` for unknown or missing predictions and files of another layout,
    `FileNotFoundError` for a file that is not there.
    """

    model: AbstractTracks
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
        names, known = tuple(predictions), {*PREDICTIONS, "agewt"}
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"predictions {unknown} are not known; there are {sorted(known)}")
        if missing := [n for n in ("loga", "logl", "logt", "logg") if n not in names]:
            raise ValueError(f"predictions must include {missing}")
        if ageweight and "agewt" not in names:
            names += ("agewt",)
        self.model = SmoothTracks(load_tracks()) if mistfile is None else read_tracks(mistfile)
        self.predictions, self.labels = names, LABELS
        if verbose:
            logger.info("%r", self)

    @property
    def gridpoints(self) -> dict[str, np.ndarray]:
        """The nodes of the models: masses [Msun], EEPs, [Fe/H], [alpha/Fe]."""
        return self.model.gridpoints

    @property
    def smooth(self) -> TrackModel:
        """The smooth function that the tracks inside brutax are.

        Raises `ValueError` for tracks of a file, which are linear between their models.
        """
        if not isinstance(self.model, SmoothTracks):
            raise ValueError("this needs the tracks inside brutax: EEPTracks() without a file")
        return self.model.model

    @property
    def mini_nodes(self) -> Float[Array, " mass"]:
        """Masses between which age falls without a jump [Msun]."""
        return self.model.mini_nodes

    def stages(self, eep_max: float) -> Float[Array, " eep"]:
        """The EEPs of the models, without most of those beyond `eep_max`."""
        return self.model.stages(eep_max)

    @property
    def mini_bound(self) -> float:
        """The smallest mass of the models [Msun]."""
        return float(self.gridpoints["mini"][0])

    def evaluate(
        self,
        mini: ArrayLike,
        eep: ArrayLike,
        feh: ArrayLike,
        afe: ArrayLike = 0.0,
        corr_params: CorrectionParams | None = None,
    ) -> StarState:
        """One star; differentiable, for use inside programs. Map over stars outside.

        `corr_params` are `CorrectionParams` of the empirical corrections, None for none.
        """
        mass, stage, metal, alpha = (as_float(x) for x in (mini, eep, feh, afe))
        state = self.model.evaluate(mass, stage, metal, alpha)
        return corrected(state, mass, stage, metal, corr_params)

    def lattice(self, mini: ArrayLike, eep: ArrayLike, feh: ArrayLike, afe: ArrayLike) -> StarState:
        """Every combination of masses (m,), EEPs (e,) and one composition, (m, e), uncorrected."""
        return self.model.lattice(*(as_float(x) for x in (mini, eep, feh, afe)))

    def ages(self, mini: ArrayLike, eep: ArrayLike, feh: ArrayLike, afe: ArrayLike) -> Ages:
        """log10 ages of every combination of masses (m,) and EEPs (e,), (m, e)."""
        return self.model.ages(*(as_float(x) for x in (mini, eep, feh, afe)))

    def get_predictions(
        self, labels: ArrayLike, apply_corr: bool = True, corr_params: ArrayLike | None = None
    ) -> np.ndarray:
        """Predictions of models with labels (4,) or (model, 4): mini, eep, feh, afe.

        Returns (prediction,) or (model, prediction) in the order of `predictions`, NaN where no
        track goes. Raises `ValueError` for another count of labels.
        """
        given = np.asarray(labels, np.float64)
        if given.ndim not in (1, 2) or given.shape[-1] != len(LABELS):
            raise ValueError(
                f"labels have the shape {given.shape}; give (4,) or (model, 4): {LABELS}"
            )
        params = as_params(corr_params) if apply_corr else None
        table = np.atleast_2d(given)
        out, valid = _predict(self, as_float(np.where(np.isfinite(table), table, 0.0)), params)
        valid = np.asarray(valid) & np.isfinite(table).all(axis=1)
        out = np.where(valid[:, None], np.asarray(out, np.float64), np.nan)
        return out.reshape(*given.shape[:-1], len(self.predictions))

    def get_corrections(
        self, labels: ArrayLike, corr_params: ArrayLike | None = None
    ) -> np.ndarray:
        """The empirical shifts (dlogt, dlogr) of models, (2,) or (model, 2) [dex]."""
        return get_corrections(labels, corr_params)

    def __repr__(self) -> str:
        mini = self.gridpoints["mini"]
        return f"EEPTracks({mini[0]:g}-{mini[-1]:g} Msun, {list(self.predictions)})"


@eqx.filter_jit
def _predict(
    tracks: EEPTracks, labels: Float[Array, "model 4"], params: CorrectionParams | None
) -> tuple[Float[Array, "model prediction"], Bool[Array, " model"]]:
    state = jax.vmap(lambda row: tracks.evaluate(*row, corr_params=params))(labels)
    return jnp.stack([getattr(state, n) for n in tracks.predictions], axis=-1), state.valid
