"""What a library of evolutionary tracks must offer, and the smooth one inside brutax."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.models.evolution.track_model import Ages, TrackModel, TrackPoint
from brutax.models.state import StarState
from brutax.utils._namespace import as_float

AFE_SLACK = 1e-5  # models of a single [alpha/Fe] answer within this of it [dex]


class AbstractTracks(eqx.Module):
    """Evolutionary tracks: the state of a star of given mass, EEP and composition.

    Masses [Msun], EEPs, initial [Fe/H] and [alpha/Fe] [dex]; states as `StarState`, without
    empirical corrections, `valid` False where no track goes. All methods but `gridpoints` run
    inside programs. `EEPTracks` is what users hold; it has one of these.
    """

    @property
    @abc.abstractmethod
    def gridpoints(self) -> dict[str, np.ndarray]:
        """The nodes of the models: `mini`, `eep`, `feh`, `afe`, increasing, float64."""

    @property
    @abc.abstractmethod
    def mini_nodes(self) -> Float[Array, " mass"]:
        """Masses between which age falls without a jump [Msun]."""

    @abc.abstractmethod
    def stages(self, eep_max: float) -> Float[Array, " eep"]:
        """The EEPs of the models, without most of those beyond `eep_max`."""

    @abc.abstractmethod
    def evaluate(
        self,
        mini: Float[Array, ""],
        eep: Float[Array, ""],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> StarState:
        """One star; differentiable."""

    @abc.abstractmethod
    def lattice(
        self,
        mini: Float[Array, " m"],
        eep: Float[Array, " e"],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> StarState:
        """Every combination of masses and EEPs of one composition, (m, e)."""

    @abc.abstractmethod
    def ages(
        self,
        mini: Float[Array, " m"],
        eep: Float[Array, " e"],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> Ages:
        """log10 ages [yr] of every combination of masses and EEPs, (m, e)."""


class SmoothTracks(AbstractTracks):
    """The tracks inside brutax, whose only [alpha/Fe] is zero."""

    model: TrackModel

    @property
    def gridpoints(self) -> dict[str, np.ndarray]:
        first, last = self.model.eep_range
        return {
            "mini": np.asarray(self.model.mini_nodes, np.float64),
            "eep": np.arange(first, last + 1.0),
            "feh": np.asarray(self.model.feh_nodes, np.float64),
            "afe": np.zeros(1),
        }

    @property
    def mini_nodes(self) -> Float[Array, " mass"]:
        return self.model.mini_nodes

    def stages(self, eep_max: float) -> Float[Array, " eep"]:
        first, last = self.model.eep_range
        return as_float(np.arange(first, max(min(last, eep_max), first + 1.0) + 1.0))

    def evaluate(
        self,
        mini: Float[Array, ""],
        eep: Float[Array, ""],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> StarState:
        return _state(self.model(mini, eep, feh), afe)

    def lattice(
        self,
        mini: Float[Array, " m"],
        eep: Float[Array, " e"],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> StarState:
        at = self.model.lattice(mini, eep, feh[None])
        return _state(jax.tree.map(lambda x: x[..., 0], at), afe)

    def ages(
        self,
        mini: Float[Array, " m"],
        eep: Float[Array, " e"],
        feh: Float[Array, ""],
        afe: Float[Array, ""],
    ) -> Ages:
        ages = self.model.ages(mini, eep, feh)
        return Ages(ages.loga, ages.valid & (jnp.abs(afe) <= AFE_SLACK))


def _state(at: TrackPoint, afe: Float[Array, ""]) -> StarState:
    """A point of the tracks, whose only [alpha/Fe] is zero."""
    zero = jnp.zeros_like(at.loga)
    valid = at.valid & (jnp.abs(afe) <= AFE_SLACK)
    return StarState(*at[:5], zero, at.agewt, valid)
