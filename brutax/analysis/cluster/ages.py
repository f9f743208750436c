"""When stars are where: EEPs of masses and masses at EEPs, for one age and composition."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from brutax.core import EEPTracks, TrackModel
from brutax.core.corrections import EEP_TAMS
from brutax.core.spline import DEGREE, Local, design_matrix, local_basis
from brutax.utils._namespace import as_float

LN10 = float(np.log(10.0))
NEWTON_STEPS = 6
ROOM = 60.0  # EEPs past the main sequence that stars on it may have, where masses jump
LEAST_PACE = 1e-6  # of log10 age, per EEP or log10 mass; contracting cores have some 4e-5
LEAST_SLOPE = 0.5  # of log10 age against log10 mass, for a finite measure


class Cubics(eqx.Module):
    """Splines along an axis as what they are between two knots: cubics of the place there."""

    nodes: Float[Array, " node"]  # the knots, each once
    first: Int[Array, " cell"]  # the first of the four basis functions of a cell
    powers: Float[Array, "cell 4 4"]  # these functions, by powers of the place in the cell

    def __init__(self, knots: np.ndarray):
        knots = np.asarray(knots, np.float64)
        span = np.flatnonzero(np.diff(knots) > 0)
        low, width = knots[span, None], np.diff(knots)[span, None]
        place = (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1)  # where the functions are looked up
        basis = design_matrix(knots, (low + width * place).ravel()).reshape(len(span), 4, -1)
        own = np.take_along_axis(basis, (span - DEGREE)[:, None, None] + np.arange(4), axis=2)
        powers = np.linalg.solve(np.vander(place, increasing=True), own)
        self.nodes = as_float(knots[np.append(span, span[-1] + 1)])
        self.first = jnp.asarray(span - DEGREE, jnp.int32)
        self.powers = as_float(np.swapaxes(powers, 1, 2))

    def at_nodes(
        self, coef: Float[Array, "basis other"], begin: int = 0, end: int | None = None
    ) -> Float[Array, "node other"]:
        """Values at the nodes of the cells from `begin` to `end`."""
        first, powers = self.first[begin:end], self.powers[begin:end]
        weight = jnp.concatenate([powers[:, :, 0], jnp.sum(powers[-1:], axis=2)])
        return _taken(coef, jnp.append(first, first[-1]), weight)

    def inside(
        self, cell: Int[Array, " point"], local: Float[Array, "point basis"]
    ) -> Float[Array, "power point"]:
        """The cubics of some cells from the coefficients of their four functions."""
        return jnp.einsum("xkp,xk->px", self.powers[cell], local, precision="highest")


class Ages(eqx.Module):
    """log10 age [yr] of the tracks, a spline in (log10 mass, EEP, [Fe/H]) on its own."""

    knots: tuple[Float[Array, " _"], ...]
    by_metal: Float[Array, "metal mass stage"]  # coefficients, to be read as they lie
    along: tuple[Cubics, Cubics]  # in log10 mass and in EEP
    main: tuple[int, int] = eqx.field(static=True)  # cells in EEP of stars on the main sequence

    def __init__(self, tracks: EEPTracks, low: float):
        """`low` is the first EEP of isochrones."""
        assert isinstance(tracks.model, TrackModel)
        fine = tracks.model.fine
        self.knots = fine.knots
        self.by_metal = jnp.moveaxis(fine.coef[..., 0], 2, 0)
        self.along = Cubics(np.asarray(fine.knots[0])), Cubics(np.asarray(fine.knots[1]))
        nodes = np.asarray(self.along[1].nodes)
        begin = max(int(np.searchsorted(nodes, low, side="right")) - 1, 0)
        end = min(int(np.searchsorted(nodes, EEP_TAMS + ROOM)), nodes.size - 1)
        self.main = begin, end

    def at(self, feh: Float[Array, ""]) -> Float[Array, "mass stage"]:
        """Coefficients in (log10 mass, EEP) at one [Fe/H]."""
        local = local_basis(self.knots[2], feh)
        some = jax.lax.dynamic_slice_in_dim(self.by_metal, local.first, DEGREE + 1)
        return jnp.tensordot(local.weight, some, 1, precision="highest")


def _taken(
    coef: Float[Array, "basis other"], first: Int[Array, " x"], weight: Float[Array, "x 4"]
) -> Float[Array, "x other"]:
    """Splines with coefficients along the first axis, where four functions have some weights."""
    return jnp.einsum("xk,xko->xo", weight, coef[_four(first)], precision="highest")


def _own(rows: Float[Array, "point basis"], first: Int[Array, " point"]) -> Float[Array, "point 4"]:
    """Four coefficients of every row."""
    return jnp.take_along_axis(rows, _four(first), axis=1)


def _four(first: Int[Array, " x"]) -> Int[Array, "x 4"]:
    return first[:, None] + jnp.arange(DEGREE + 1, dtype=first.dtype)[None, :]


def _slopes(knots: Float[Array, " knot"], x: Float[Array, ""]) -> Float[Array, " 4"]:
    return jax.jvp(lambda x: local_basis(knots, x).weight, (x,), (jnp.ones_like(x),))[1]


def _value(cubic: Float[Array, "4 point"], t: Array) -> Array:
    return cubic[0] + t * (cubic[1] + t * (cubic[2] + t * cubic[3]))


def _slope(cubic: Float[Array, "4 point"], t: Array) -> Array:
    return cubic[1] + t * (2.0 * cubic[2] + t * (3.0 * cubic[3]))


def _root(
    cubic: Float[Array, "4 point"], value: Float[Array, ""], t: Array, width: Array
) -> Float[Array, " point"]:
    """Where monotonic cubics take a value, between 0 and 1 (Newton)."""
    for _ in range(NEWTON_STEPS):
        slope = _slope(cubic, t)
        step = jnp.where(jnp.abs(slope) > LEAST_PACE * width, slope, 1e6)
        t = jnp.clip(t - (_value(cubic, t) - value) / step, 0.0, 1.0)
    return t


def _share(value: Array, first: Array, second: Array) -> Array:
    """Where between two that rise a value lies, by a line."""
    return jnp.clip((value - first) / jnp.maximum(second - first, 1e-6), 0.0, 1.0)


class _Cells(NamedTuple):
    """Where along their tracks stars of some masses have an age."""

    cell: Int[Array, " vertex"]
    share: Float[Array, " vertex"]  # of the cell, by a line
    first: Int[Array, " vertex"]  # of the functions of mass
    weight: Float[Array, "vertex 4"]


def _cells(ages: Ages, coef: Array, log_mass: Array, loga: Array) -> _Cells:
    begin, end = ages.main
    nodes = ages.along[1].at_nodes(coef.T, begin, end).T
    local = jax.vmap(lambda one: local_basis(ages.knots[0], one))(log_mass / LN10)
    table = _taken(nodes, local.first, local.weight)
    k = jnp.clip(jnp.sum(table <= loga, axis=1) - 1, 0, end - begin - 1)
    here = jnp.arange(k.shape[0])
    share = _share(loga, table[here, k], table[here, k + 1])
    return _Cells(k + begin, share, local.first, local.weight)


def rough_stages(
    ages: Ages, coef: Float[Array, "mass stage"], log_mass: Array, loga: Array
) -> Float[Array, " vertex"]:
    """`stages_of_mass` by a line between neighbouring nodes, without derivatives."""
    at = _cells(ages, coef, log_mass, loga)
    nodes = ages.along[1].nodes
    return nodes[at.cell] + at.share * (nodes[at.cell + 1] - nodes[at.cell])


def stages_of_mass(
    ages: Ages, coef: Float[Array, "mass stage"], log_mass: Array, feh: Any, loga: Any, low: float
) -> Float[Array, " vertex"]:
    """EEPs at which stars of given masses have an age: at fixed mass age grows with EEP.

    `coef` are `ages.at(feh)`. Derivatives are those of the age held fixed.
    """
    return jnp.maximum(_stages(ages, coef, log_mass, feh, loga), low)


@jax.custom_jvp
def _stages(ages: Ages, coef: Array, log_mass: Array, feh: Array, loga: Array) -> Array:
    return _staged(ages, coef, log_mass, loga)[0]


@_stages.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    ages, coef, log_mass, feh, loga = primals
    found, at, t, pace = _staged(ages, coef, log_mass, loga)
    slope = jax.vmap(lambda x: _slopes(ages.knots[0], x))(log_mass / LN10) / LN10
    by_mass = _value(_crossed(ages, coef, at, slope), t)
    other = jax.jvp(ages.at, (feh,), (jnp.ones_like(feh),))[1]
    by_metal = _value(_crossed(ages, other, at, at.weight), t)
    *_, d_mass, d_metal, d_age = tangents
    move = d_age - by_mass * d_mass - by_metal * d_metal
    return found, move / jnp.maximum(pace, LEAST_PACE)


def _staged(
    ages: Ages, coef: Array, log_mass: Array, loga: Array
) -> tuple[Array, _Cells, Array, Array]:
    """EEPs of masses, the cells they are in, the places there, and the pace of age."""
    nodes = ages.along[1].nodes
    at = _cells(ages, coef, log_mass, loga)
    start, width = nodes[at.cell], nodes[at.cell + 1] - nodes[at.cell]
    cubic = _crossed(ages, coef, at, at.weight)
    t = _root(cubic, loga, at.share, width)
    return start + width * t, at, t, _slope(cubic, t) / width


def _crossed(
    ages: Ages, coef: Array, at: _Cells, weight: Float[Array, "vertex 4"]
) -> Float[Array, "4 vertex"]:
    """The cubics of cells in EEP, for four weights of mass each."""
    mass, stage = _four(at.first), _four(ages.along[1].first[at.cell])
    some = coef[mass[:, :, None], stage[:, None, :]]
    local = jnp.einsum("xk,xko->xo", weight, some, precision="highest")
    return ages.along[1].inside(at.cell, local)


class Late(NamedTuple):
    """The stars of an age at some EEPs."""

    log_mass: Float[Array, " stage"]  # ln mass [Msun]
    fall: Float[Array, " stage"]  # - d log10 age / d ln mass
    valid: Bool[Array, " stage"]  # False where no star of this age is at this stage


def masses_at_stages(
    tracks: EEPTracks, ages: Ages, coef: Array, stages: Array, feh: Any, loga: Any
) -> Late:
    """Masses of the stars of an age at EEPs: the most massive ones where there are several.

    `coef` are `ages.at(feh)`. Derivatives are those of the age held fixed.
    """
    along = ages.along[0]
    local = jax.vmap(lambda one: local_basis(ages.knots[1], one))(stages)
    target, metal = jax.lax.stop_gradient((loga, feh))
    assert isinstance(tracks.model, TrackModel)
    there = tracks.model.covered(tracks.mini_nodes, stages, metal[None])[..., 0]
    rows = _taken(coef.T, local.first, local.weight)
    table = along.at_nodes(rows.T)
    older = table > target
    crossing = older[:-1] & ~older[1:] & there[:-1] & there[1:]
    k = crossing.shape[0] - 1 - jnp.argmax(crossing[::-1], axis=0)
    here = jnp.arange(k.shape[0])
    share = _share(-target, -table[k, here], -table[k + 1, here])
    log_mass, fall = _masses(ages, _Rows(rows, local, k, share), feh, loga)
    return Late(log_mass, fall, crossing.any(axis=0))


class _Rows(NamedTuple):
    """Where stars at some stages have an age."""

    rows: Float[Array, "stage basis"]  # coefficients of the age in log10 mass
    local: Local  # the functions of EEP
    cell: Int[Array, " stage"]
    share: Float[Array, " stage"]  # of the cell, by a line


@jax.custom_jvp
def _masses(ages: Ages, at: _Rows, feh: Array, loga: Array) -> tuple[Array, Array]:
    log_mass, slope, *_ = _massed(ages, at, loga)
    return log_mass, jnp.maximum(-slope, LEAST_SLOPE / LN10)


@_masses.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    ages, at, feh, loga = primals
    least = LEAST_SLOPE / LN10
    log_mass, slope, t, cubic, width = _massed(ages, at, loga)
    fall = jnp.maximum(-slope, least)
    other = jax.jvp(ages.at, (feh,), (jnp.ones_like(feh),))[1]
    rows = _taken(other.T, at.local.first, at.local.weight)
    by_metal = ages.along[0].inside(at.cell, _own(rows, ages.along[0].first[at.cell]))
    *_, d_metal, d_age = tangents
    move = (_value(by_metal, t) * d_metal - d_age) / fall
    bend = (2.0 * cubic[2] + 6.0 * cubic[3] * t) / width**2
    turn = bend * move + _slope(by_metal, t) / width * d_metal
    return (log_mass, fall), (move, jnp.where(-slope > least, -turn, 0.0))


def _massed(ages: Ages, at: _Rows, loga: Array) -> tuple[Array, Array, Array, Array, Array]:
    """ln masses, slopes of the age there, places in cells, their cubics and widths in ln mass."""
    along = ages.along[0]
    start, width = along.nodes[at.cell], along.nodes[at.cell + 1] - along.nodes[at.cell]
    cubic = along.inside(at.cell, _own(at.rows, along.first[at.cell]))
    t = _root(cubic, loga, at.share, width)
    width = width * LN10
    return LN10 * start + width * t, _slope(cubic, t) / width, t, cubic, width
