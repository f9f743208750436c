"""When stars are where: EEPs of masses and masses at EEPs, for one age and composition."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from brutax.cluster.splines import Cubics, Place, blocks, four, taken
from brutax.models import TrackModel
from brutax.models.corrections import EEP_TAMS
from brutax.models.spline import DEGREE, Local, design_matrix, local_basis
from brutax.utils._namespace import as_float

LN10 = float(np.log(10.0))
NEWTON_STEPS = 6  # to the root of a monotonic cubic
STRIDE = 9  # nodes in EEP in one
ROOM = 60.0  # EEPs past the main sequence that stars on it may have, where masses jump
LEAST_PACE = 1e-6  # of log10 age, per EEP or log10 mass; contracting cores have some 4e-5
LEAST_SLOPE = 0.5  # of log10 age against log10 mass, for a finite measure


class AgesAt(NamedTuple):
    """log10 ages [yr] of one composition."""

    early: Float[Array, "mass basis"]  # coefficients in (log10 mass, EEP), early stages
    nodes: Float[Array, "mass node"]  # coefficients in log10 mass, at the nodes of these stages
    late: Float[Array, "node stage"]  # ages of the masses of the models at given stages


class Ages(eqx.Module):
    """log10 age [yr] of the tracks, a spline in (log10 mass, EEP, [Fe/H]), laid out for isochrones.

    `stages` are EEPs at which masses are asked for, the first of them where isochrones begin.
    """

    mass: Cubics
    eep: Cubics
    metals: Float[Array, " knot"]
    stages: Float[Array, " stage"]
    by_metal: tuple[Float[Array, "metal _ _"], ...]  # what `AgesAt` holds
    late: Float[Array, "metal stage mass"]  # coefficients in log10 mass, at the stages
    reach: Float[Array, "mass metal"]  # the last EEP of every track
    metal_nodes: Float[Array, " metal"]
    begin: int = eqx.field(static=True)  # the first cell in EEP of early stages

    def __init__(self, tracks: TrackModel, stages: np.ndarray):
        fine = tracks.fine
        knots = [np.asarray(knot, np.float64) for knot in fine.knots]
        self.mass, self.eep = Cubics(knots[0]), Cubics(knots[1])
        nodes = np.asarray(self.eep.cells.nodes, np.float64)
        begin = max(int(np.searchsorted(nodes, stages[0], side="right")) - 1, 0)
        end = min(int(np.searchsorted(nodes, EEP_TAMS + ROOM)), nodes.size - 1)
        first, last = np.asarray(self.eep.first)[[begin, end - 1]]
        coef = np.moveaxis(np.asarray(fine.coef[..., 0], np.float64), 2, 0)
        late = coef @ design_matrix(knots[1], stages).T
        masses = design_matrix(knots[0], np.asarray(self.mass.cells.nodes))
        self.by_metal = (
            as_float(coef[..., first : last + DEGREE + 1]),
            as_float(coef @ design_matrix(knots[1], nodes[begin : end + 1]).T),
            as_float(masses @ late),
        )
        self.late = as_float(np.swapaxes(late, 1, 2))
        self.metals, self.stages = fine.knots[2], as_float(stages)
        self.reach, self.metal_nodes = tracks.last, tracks.feh_nodes
        self.begin = begin

    def at(self, feh: Float[Array, ""]) -> AgesAt:
        """Ages at one [Fe/H]."""
        local = local_basis(self.metals, feh)
        return AgesAt(*(_contracted(x, local) for x in self.by_metal))

    def early_slopes(self, feh: Float[Array, ""]) -> Float[Array, "mass basis"]:
        """The derivatives of `at(feh).early`."""
        return _contracted(self.by_metal[0], self._slopes(feh))

    def own(
        self, cell: Int[Array, " stage"], feh: Float[Array, ""], slopes: bool = False
    ) -> Float[Array, "stage 4"]:
        """The coefficients, or their slopes, of the functions of mass in one cell per stage."""
        local = self._slopes(feh) if slopes else local_basis(self.metals, feh)
        _, stages, masses = self.late.shape
        stage = jnp.arange(stages, dtype=cell.dtype)
        row = four(local.first[None])[0][None, :] * stages + stage[:, None]
        index = row[:, :, None] * masses + four(self.mass.first[cell])[:, None, :]
        some = self.late.ravel().at[index].get(mode="promise_in_bounds")
        return jnp.einsum("xck,c->xk", some, local.weight, precision="highest")

    def _slopes(self, feh: Float[Array, ""]) -> Local:
        one, local = jnp.ones_like(feh), local_basis(self.metals, feh)
        weight = jax.jvp(lambda x: local_basis(self.metals, x).weight, (feh,), (one,))[1]
        return Local(local.first, weight)

    def reached(self, feh: Float[Array, ""]) -> Float[Array, " mass"]:
        """The last EEP of tracks of the masses of the models, at one [Fe/H]."""
        nodes = self.metal_nodes
        left = jnp.clip(jnp.sum(feh >= nodes, dtype=jnp.int32) - 1, 0, nodes.shape[0] - 2)
        # a track on a node needs no neighbour
        over = jnp.stack([feh >= nodes[left + 1], feh > nodes[left]]).astype(jnp.int32)
        one = jnp.arange(nodes.shape[0], dtype=jnp.int32)[None, :] == (left + over)[:, None]
        both = jnp.matmul(one.astype(self.reach.dtype), self.reach.T, precision="highest")
        inside = (feh >= nodes[0]) & (feh <= nodes[-1])
        return jnp.where(inside, jnp.minimum(both[0], both[1]), -jnp.inf)


def _contracted(by_metal: Float[Array, "metal *rest"], local: Local) -> Float[Array, "*rest"]:
    """The sum over four compositions: term by term, or XLA copies them first."""
    terms = [
        local.weight[k] * jax.lax.dynamic_index_in_dim(by_metal, local.first + k, 0, False)
        for k in range(DEGREE + 1)
    ]
    return terms[0] + terms[1] + terms[2] + terms[3]


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


class Young(NamedTuple):
    """About where along their tracks stars of some masses have an age."""

    stage: Place  # the cell in EEP, and the share of it by a line
    mass: Place


def rough_stages(ages: Ages, now: AgesAt, log_mass: Array, loga: Array) -> Young:
    """The cells in which stars of given ln masses [Msun] have an age, without derivatives."""
    log_mass, loga = jax.lax.stop_gradient((log_mass, loga))
    mass = ages.mass.cells.place(log_mass / LN10)
    at, last = ages.mass.basis(mass), now.nodes.shape[1] - 1
    # every so many nodes first, then those between
    coarse = taken(now.nodes[:, ::STRIDE], at)
    begin = STRIDE * jnp.maximum(jnp.sum(coarse <= loga, axis=1, dtype=jnp.int32) - 1, 0)
    begin = jnp.minimum(begin, last - STRIDE)
    some = four(at.first) * (last + 1) + begin[:, None]
    some = some[:, :, None] + jnp.arange(STRIDE + 1, dtype=jnp.int32)[None, None, :]
    fine = now.nodes.ravel().at[some].get(mode="promise_in_bounds")
    fine = jnp.einsum("xk,xko->xo", at.weight, fine, precision="highest")
    k = jnp.clip(jnp.sum(fine <= loga, axis=1, dtype=jnp.int32) - 1, 0, STRIDE - 1)
    here = jnp.arange(k.shape[0], dtype=jnp.int32)
    share = _share(loga, fine[here, k], fine[here, k + 1])
    return Young(Place(begin + k + ages.begin, share), mass)


def stages_of_mass(
    ages: Ages, now: AgesAt, at: Young, log_mass: Array, feh: Array, loga: Array
) -> Float[Array, " vertex"]:
    """EEPs at which stars of given ln masses have an age: at fixed mass age grows with EEP.

    `now` is `ages.at(feh)` and `at` from `rough_stages`. Derivatives are those of the age held
    fixed.
    """
    return jnp.maximum(_stages(ages, now, at, log_mass, feh, loga), ages.stages[0])


@jax.custom_jvp
def _stages(ages: Ages, now: AgesAt, at: Young, log_mass: Array, feh: Array, loga: Array) -> Array:
    return _staged(ages, now, at, loga)[0]


@_stages.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    ages, now, at, log_mass, feh, loga = primals
    found, t, pace = _staged(ages, now, at, loga)
    by_mass = _value(_along(ages, now.early, at, ages.mass.slopes(at.mass) / LN10), t)
    weight = ages.mass.basis(at.mass).weight
    by_metal = _value(_along(ages, ages.early_slopes(feh), at, weight), t)
    *_, d_mass, d_metal, d_age = tangents
    move = d_age - by_mass * d_mass - by_metal * d_metal
    return found, move / jnp.maximum(pace, LEAST_PACE)


def _staged(ages: Ages, now: AgesAt, at: Young, loga: Array) -> tuple[Array, Array, Array]:
    """EEPs of masses, the places in their cells, and the pace of age."""
    nodes, cell = ages.eep.cells.nodes, at.stage.cell
    start, width = nodes[cell], nodes[cell + 1] - nodes[cell]
    cubic = _along(ages, now.early, at, ages.mass.basis(at.mass).weight)
    t = _root(cubic, loga, at.stage.share, width)
    return start + width * t, t, _slope(cubic, t) / width


def _along(
    ages: Ages, coef: Array, at: Young, weight: Float[Array, "vertex 4"]
) -> Float[Array, "4 vertex"]:
    """The cubics of cells in EEP, for four weights of mass each."""
    stage = ages.eep.first[at.stage.cell] - ages.eep.first[ages.begin]
    some = blocks(coef[..., None], ages.mass.first[at.mass.cell], stage)
    local = jnp.einsum("xk,xko->xo", weight, some.reshape(-1, 4, 4), precision="highest")
    return ages.eep.inside(at.stage.cell, local)


class Old(NamedTuple):
    """The stars of an age at the stages."""

    log_mass: Float[Array, " stage"]  # ln mass [Msun]
    fall: Float[Array, " stage"]  # - d log10 age / d ln mass
    cell: Int[Array, " stage"]  # of the masses
    valid: Bool[Array, " stage"]  # False where no star of this age is at this stage


def masses_at_stages(ages: Ages, now: AgesAt, feh: Array, loga: Array) -> Old:
    """Masses of the stars of an age at EEPs: the most massive ones where there are several.

    `now` is `ages.at(feh)`. Derivatives are those of the age held fixed.
    """
    target, metal = jax.lax.stop_gradient((loga, feh))
    reach = ages.reached(metal)
    older = (now.late > target) & (ages.stages[None, :] <= reach[:, None])
    order = jnp.arange(older.shape[0], dtype=jnp.int32)[:, None]
    k = jnp.max(jnp.where(older, order, -1), axis=0)
    cell = jnp.clip(k, 0, older.shape[0] - 2)
    valid = (k == cell) & (ages.stages <= reach[cell + 1])
    here = jnp.arange(k.shape[0], dtype=jnp.int32)
    share = _share(-target, -now.late[cell, here], -now.late[cell + 1, here])
    log_mass, fall = _masses(ages, Place(cell, share), feh, loga)
    return Old(log_mass, fall, cell, valid)


@jax.custom_jvp
def _masses(ages: Ages, at: Place, feh: Array, loga: Array) -> tuple[Array, Array]:
    log_mass, slope, *_ = _massed(ages, at, feh, loga)
    return log_mass, jnp.maximum(-slope, LEAST_SLOPE / LN10)


@_masses.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
    ages, at, feh, loga = primals
    least = LEAST_SLOPE / LN10
    log_mass, slope, t, cubic, width = _massed(ages, at, feh, loga)
    fall = jnp.maximum(-slope, least)
    by_metal = ages.mass.inside(at.cell, ages.own(at.cell, feh, slopes=True))
    *_, d_metal, d_age = tangents
    move = (_value(by_metal, t) * d_metal - d_age) / fall
    bend = (2.0 * cubic[2] + 6.0 * cubic[3] * t) / width**2
    turn = bend * move + _slope(by_metal, t) / width * d_metal
    return (log_mass, fall), (move, jnp.where(-slope > least, -turn, 0.0))


def _massed(
    ages: Ages, at: Place, feh: Array, loga: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """ln masses, slopes of the age there, places in cells, their cubics and widths in ln mass."""
    nodes = ages.mass.cells.nodes
    start, width = nodes[at.cell], nodes[at.cell + 1] - nodes[at.cell]
    cubic = ages.mass.inside(at.cell, ages.own(at.cell, feh))
    t = _root(cubic, loga, at.share, width)
    width = width * LN10
    return LN10 * start + width * t, _slope(cubic, t) / width, t, cubic, width
