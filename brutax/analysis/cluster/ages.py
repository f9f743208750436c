"""When stars are where: EEPs of masses and masses at EEPs, for one age and composition."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.core import EEPTracks, TrackModel
from brutax.core.corrections import EEP_TAMS
from brutax.core.spline import DEGREE, TensorSpline, local_basis

LN10 = float(np.log(10.0))
NEWTON_STEPS = 6
BRACKET = 6.0  # EEPs between the nodes that bracket a root
ROOM = 60.0  # EEPs past the main sequence that stars on it may have, where masses jump
LEAST_PACE = 1e-6  # of log10 age, per EEP or log10 mass; contracting cores have some 4e-5
LEAST_SLOPE = 0.5  # of log10 age against log10 mass, for a finite measure


class Ages(eqx.Module):
    """log10 age of the tracks as a function of (log10 mass, EEP, [Fe/H]): one output, dense."""

    spline: TensorSpline
    by_metal: Float[Array, "metal mass stage"]  # its coefficients, to be read as they lie

    def __init__(self, tracks: EEPTracks):
        fine = tracks.model.fine  # pyright: ignore
        self.spline = TensorSpline(fine.knots, np.ascontiguousarray(fine.coef[..., :1]))
        self.by_metal = jnp.moveaxis(self.spline.coef[..., 0], 2, 0)

    def __call__(self, log_mass: Any, eep: Any, feh: Any) -> Float[Array, ""]:
        """log10 age [yr] of one star of ln mass `log_mass`."""
        return self.spline(log_mass / LN10, eep, feh)[0]

    def at(self, feh: Float[Array, ""]) -> Float[Array, "mass stage"]:
        """Coefficients in (log10 mass, EEP) at one [Fe/H], without derivatives."""
        local = local_basis(self.spline.knots[2], jax.lax.stop_gradient(feh))
        some = jax.lax.dynamic_slice_in_dim(self.by_metal, local.first, DEGREE + 1)
        return jax.lax.stop_gradient(jnp.tensordot(local.weight, some, 1, precision="highest"))


def _contract(
    knots: Float[Array, " knot"], x: Float[Array, " x"], coef: Float[Array, "basis other"]
) -> Float[Array, "x other"]:
    """Splines with coefficients along the first axis, at points."""
    local = jax.vmap(lambda one: local_basis(knots, one))(x)
    rows = coef[local.first[:, None] + jnp.arange(DEGREE + 1, dtype=jnp.int32)[None, :]]
    return jnp.einsum("xk,xko->xo", local.weight, rows, precision="highest")


def _root(
    knots: Float[Array, " knot"],
    coef: Float[Array, "row basis"],
    value: Float[Array, ""],
    low: Float[Array, " row"],
    high: Float[Array, " row"],
    start: Float[Array, " row"],
) -> Float[Array, " row"]:
    """Where monotonic splines, one per row, take a value between `low` and `high` (Newton)."""

    def of(row: Array, x: Array) -> Array:
        local = local_basis(knots, x)
        return jax.lax.dynamic_slice_in_dim(row, local.first, DEGREE + 1) @ local.weight

    def step(x: Array, _: None) -> tuple[Array, None]:
        here, slope = jax.vmap(
            lambda row, x: jax.jvp(lambda x: of(row, x), (x,), (jnp.ones_like(x),))
        )(coef, x)
        x = x - (here - value) / jnp.where(jnp.abs(slope) > LEAST_PACE, slope, 1e6)
        return jnp.clip(x, low, high), None

    return jax.lax.scan(step, start, None, length=NEWTON_STEPS)[0]


def stages_of_mass(
    ages: Ages, coef: Float[Array, "mass stage"], log_mass: Array, feh: Any, loga: Any, low: float
) -> Float[Array, " vertex"]:
    """EEPs at which stars of given masses have an age: at fixed mass age grows with EEP."""
    fixed, target = jax.lax.stop_gradient(log_mass), jax.lax.stop_gradient(loga)
    rows, start, share = _bracketed(ages, coef, fixed, target, low)
    guess = start + BRACKET * share
    x = _root(ages.spline.knots[1], rows, target, start, start + BRACKET, guess)

    def differentiable(x: Array, log_mass: Array) -> Array:
        fixed = jax.lax.stop_gradient((log_mass, feh))
        _, slope = jax.jvp(lambda x: ages(fixed[0], x, fixed[1]), (x,), (jnp.ones_like(x),))
        off = ages(log_mass, x, feh) - loga
        return x - (off - jax.lax.stop_gradient(off)) / jnp.maximum(slope, LEAST_PACE)

    return jax.vmap(differentiable)(jax.lax.stop_gradient(x), log_mass)


def rough_stages(
    ages: Ages, coef: Float[Array, "mass stage"], log_mass: Array, loga: Array, low: float
) -> Float[Array, " vertex"]:
    """`stages_of_mass` by a line between neighbouring nodes, without derivatives."""
    _, start, share = _bracketed(ages, coef, log_mass, loga, low)
    return start + BRACKET * share


def _bracketed(
    ages: Ages, coef: Array, log_mass: Array, loga: Array, low: float
) -> tuple[Float[Array, "vertex basis"], Float[Array, " vertex"], Float[Array, " vertex"]]:
    """Splines of age in EEP of some masses, the node before `loga`, and where it is after that."""
    knots = ages.spline.knots
    count = int(np.ceil((EEP_TAMS + ROOM - low) / BRACKET)) + 1
    nodes = low + BRACKET * jnp.arange(count, dtype=coef.dtype)
    rows = _contract(knots[0], log_mass / LN10, coef)
    table = _contract(knots[1], nodes, rows.T).T
    k = jnp.clip(jnp.sum(table <= loga, axis=1) - 1, 0, count - 2)
    here = jnp.arange(k.shape[0])
    below, above = table[here, k], table[here, k + 1]
    share = jnp.clip((loga - below) / jnp.maximum(above - below, 1e-6), 0.0, 1.0)
    return rows, nodes[k], share


class Late(NamedTuple):
    """The stars of an age at some EEPs."""

    log_mass: Float[Array, " stage"]  # ln mass [Msun]
    fall: Float[Array, " stage"]  # - d log10 age / d ln mass
    valid: Bool[Array, " stage"]  # False where no star of this age is at this stage


def masses_at_stages(
    tracks: EEPTracks, ages: Ages, coef: Array, stages: Array, feh: Any, loga: Any
) -> Late:
    """Masses of the stars of an age at EEPs: the most massive ones where there are several."""
    knots = ages.spline.knots
    target, logm = jax.lax.stop_gradient(loga), jnp.log10(tracks.mini_nodes)
    rows = _contract(knots[1], stages, coef.T)
    table = _contract(knots[0], logm, rows.T)
    model = tracks.model
    assert isinstance(model, TrackModel)
    there = model.covered(tracks.mini_nodes, stages, jax.lax.stop_gradient(feh)[None])[..., 0]
    older = table > target
    crossing = older[:-1] & ~older[1:] & there[:-1] & there[1:]
    k = crossing.shape[0] - 1 - jnp.argmax(crossing[::-1], axis=0)
    here = jnp.arange(k.shape[0])
    above, below = table[k, here], table[k + 1, here]
    share = jnp.clip((above - target) / jnp.maximum(above - below, 1e-6), 0.0, 1.0)
    start = logm[k] + share * (logm[k + 1] - logm[k])
    x = _root(knots[0], rows, target, logm[k], logm[k + 1], start)

    def differentiable(x: Array, eep: Array) -> tuple[Array, Array]:
        metal = jax.lax.stop_gradient(feh)
        _, slope = jax.jvp(lambda x: ages(x, eep, metal), (x,), (jnp.ones_like(x),))
        off = ages(x, eep, feh) - loga
        fall = jnp.maximum(-slope, LEAST_SLOPE / LN10)
        return x + (off - jax.lax.stop_gradient(off)) / fall, fall

    log_mass, _ = jax.vmap(differentiable)(jax.lax.stop_gradient(LN10 * x), stages)

    def slope(x: Array, eep: Array) -> Array:
        return jax.jvp(lambda x: ages(x, eep, feh), (x,), (jnp.ones_like(x),))[1]

    fall = jnp.maximum(-jax.vmap(slope)(log_mass, stages), LEAST_SLOPE / LN10)
    return Late(log_mass, fall, crossing.any(axis=0))
