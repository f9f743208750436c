"""The evolutionary tracks inside brutax: a smooth function fitted to the MIST v1.2 tracks.

`training/fit_tracks.py` makes the file; `brutax/data/builtin/TRACKS.md` states its sources,
ranges and errors.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.data._builtin import builtin, unpack
from brutax.models.spline import DEGREE, TensorSpline, local_basis
from brutax.utils._namespace import as_float

LOGT_SUN = float(np.log10(5772.0))  # nominal effective temperature [K], IAU 2015 B3
LOGG_SUN = 4.438  # log10 of the solar surface gravity [cgs], IAU 2015 B3


class TrackPoint(NamedTuple):
    """A point of a track, or an array of them."""

    loga: Float[Array, "*point"]  # log10 age [yr]
    logl: Float[Array, "*point"]  # log10 L [Lsun]
    logt: Float[Array, "*point"]  # log10 Teff [K]
    logg: Float[Array, "*point"]  # log10 g [cgs]
    feh_surf: Float[Array, "*point"]  # surface [Fe/H]
    agewt: Float[Array, "*point"]  # d(age)/d(EEP) [yr]
    valid: Bool[Array, "*point"]  # False where no track goes


class Ages(NamedTuple):
    """log10 ages [yr] on a lattice; where not `valid` they are finite and mean nothing."""

    loga: Float[Array, "mass eep"]
    valid: Bool[Array, "mass eep"]


class TrackModel(eqx.Module):
    """Stars as a smooth function of (initial mass, EEP, initial [Fe/H]).

    Outside the range of the tracks, and where one of the tracks around a point ended or failed,
    `valid` is False; the numbers beside it are finite (those of the nearest point of the range)
    and mean nothing.
    """

    fine: TensorSpline  # (log10 mass, EEP, [Fe/H]) -> loga, logl, logt, log10 agewt
    slow: TensorSpline  # -> feh_surf - feh
    mini_nodes: Float[Array, " mass"]  # masses of the fitted tracks [Msun]
    feh_nodes: Float[Array, " feh"]
    last: Float[Array, "mass feh"]  # last usable EEP of each of them; 0 for none
    eep_range: tuple[float, float] = eqx.field(static=True)

    def __call__(
        self, mini: Float[Array, ""], eep: Float[Array, ""], feh: Float[Array, ""]
    ) -> TrackPoint:
        """One star of initial mass [Msun], EEP and initial [Fe/H]."""
        low, high = self.eep_range
        mass = jnp.clip(mini, self.mini_nodes[0], self.mini_nodes[-1])
        metal = jnp.clip(feh, self.feh_nodes[0], self.feh_nodes[-1])
        stage = jnp.clip(eep, low, high)
        at = (jnp.log10(mass), stage, metal)
        value = jnp.concatenate([self.fine(*at), self.slow(*at)])
        valid = (mass == mini) & (metal == feh) & (stage == eep)
        valid &= eep <= _reach(self, mini, feh)
        return _point(value, jnp.log10(mass), metal, valid)

    def ages(
        self, mini: Float[Array, " m"], eep: Float[Array, " e"], feh: Float[Array, ""]
    ) -> Ages:
        """log10 ages of every combination of masses and EEPs: a part of `lattice`."""
        low, high = self.eep_range
        mass = jnp.clip(mini, self.mini_nodes[0], self.mini_nodes[-1])
        metal = jnp.clip(feh, self.feh_nodes[0], self.feh_nodes[-1])
        age = TensorSpline(self.fine.knots, self.fine.coef[..., :1])
        at = (jnp.log10(mass), jnp.clip(eep, low, high), metal[None])
        return Ages(_on_lattice(age, at)[:, :, 0, 0], self.covered(mini, eep, feh[None])[..., 0])

    def covered(
        self, mini: Float[Array, " m"], eep: Float[Array, " e"], feh: Float[Array, " f"]
    ) -> Bool[Array, "m e f"]:
        """Where there are tracks, for every combination."""
        (low, high), masses, metals = self.eep_range, self.mini_nodes, self.feh_nodes
        reach = jax.vmap(jax.vmap(_reach, (None, None, 0)), (None, 0, None))(self, mini, feh)
        valid = ((mini >= masses[0]) & (mini <= masses[-1]))[:, None, None]
        valid = valid & ((feh >= metals[0]) & (feh <= metals[-1]))[None, None, :]
        valid = valid & ((eep >= low) & (eep <= high))[None, :, None]
        return valid & (eep[None, :, None] <= reach[:, None, :])

    def lattice(
        self, mini: Float[Array, " m"], eep: Float[Array, " e"], feh: Float[Array, " f"]
    ) -> TrackPoint:
        """Every combination of masses, EEPs and [Fe/H], with fields of shape (m, e, f).

        The same numbers as one by one, contracted axis by axis: the way to fill grids.
        """
        low, high = self.eep_range
        mass = jnp.clip(mini, self.mini_nodes[0], self.mini_nodes[-1])
        metal = jnp.clip(feh, self.feh_nodes[0], self.feh_nodes[-1])
        stage = jnp.clip(eep, low, high)
        at = (jnp.log10(mass), stage, metal)
        value = jnp.concatenate([_on_lattice(s, at) for s in (self.fine, self.slow)], axis=-1)
        valid = self.covered(mini, eep, feh)
        return _point(value, at[0][:, None, None], metal[None, None, :], valid)


def _on_lattice(
    spline: TensorSpline, at: tuple[Float[Array, " _"], ...]
) -> Float[Array, "m e f output"]:
    """The outputs at every combination of coordinates."""
    first, second, third = (_design(k, x) for k, x in zip(spline.knots, at))
    with jax.default_matmul_precision("highest"):
        value = jnp.einsum("fc,abco->abfo", third, spline.coef)
        value = jnp.einsum("ma,abfo->mbfo", first, value)
        return jnp.einsum("eb,mbfo->mefo", second, value)


def _design(knots: Float[Array, " knot"], x: Float[Array, " x"]) -> Float[Array, "x basis"]:
    """The basis functions at every point, as a matrix."""
    local = jax.vmap(lambda one: local_basis(knots, one))(x)
    columns = local.first[:, None] + jnp.arange(DEGREE + 1, dtype=local.first.dtype)[None, :]
    rows = jnp.arange(x.shape[0])[:, None]
    blank = jnp.zeros((x.shape[0], knots.shape[0] - DEGREE - 1), local.weight.dtype)
    return blank.at[rows, columns].set(local.weight)


def _reach(model: TrackModel, mini: Float[Array, ""], feh: Float[Array, ""]) -> Float[Array, ""]:
    """The last EEP that all four tracks around a mass and [Fe/H] reach."""
    i = jnp.searchsorted(model.mini_nodes, mini, side="right") - 1
    j = jnp.searchsorted(model.feh_nodes, feh, side="right") - 1
    i = jnp.clip(i, 0, model.mini_nodes.shape[0] - 2)
    j = jnp.clip(j, 0, model.feh_nodes.shape[0] - 2)
    # a track on a node needs no neighbour
    up = i + jnp.where(mini > model.mini_nodes[i], 1, 0)
    down = jnp.where(mini >= model.mini_nodes[i + 1], i + 1, i)
    right = j + jnp.where(feh > model.feh_nodes[j], 1, 0)
    left = jnp.where(feh >= model.feh_nodes[j + 1], j + 1, j)
    corners = [model.last[a, b] for a in (down, up) for b in (left, right)]
    return jnp.min(jnp.stack(corners))


def _point(value: Array, logm: Array, feh: Array, valid: Array) -> TrackPoint:
    loga, logl, logt, log_agewt, shift = jnp.moveaxis(value, -1, 0)
    return TrackPoint(
        loga, logl, logt, gravity(logm, logl, logt), feh + shift, 10.0**log_agewt, valid
    )


def gravity(logm: Array, logl: Array, logt: Array) -> Array:
    """log10 g [cgs] from log10 of mass [Msun], L [Lsun] and Teff [K].

    g ~ M / R² and L = R² (Teff / 5772 K)⁴.
    """
    return LOGG_SUN + logm - logl + 4.0 * (logt - LOGT_SUN)


def load_tracks() -> TrackModel:
    """The tracks that come with brutax: 0.1-20 Msun, EEP 1-808, [Fe/H] -4 to 0.5, [alpha/Fe] 0."""
    data = builtin("tracks")
    knots = tuple(data[f"knots_{k}"] for k in range(3))
    slow = tuple(data[f"slow_knots_{k}"] for k in range(3))
    outputs = [unpack(data[f"coef_{k}"], q) for k, q in enumerate(data["quantum"])]
    return TrackModel(
        TensorSpline(knots, np.stack(outputs[:-1], axis=-1)),
        TensorSpline(slow, outputs[-1][..., None]),
        as_float(data["mini"]),
        as_float(data["feh"]),
        as_float(data["last"]),
        (float(knots[1][0]), float(knots[1][-1])),
    )
