"""An isochrone as a chain of vertices, with the measure of what lies between them.

The main sequence is laid out evenly in the logarithm of mass: at fixed mass age grows with EEP
without a break, while at fixed EEP the mass of an age jumps where cores become convective. Later
stages, where masses hardly differ, are laid out in EEP.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.analysis.cluster.ages import (
    LN10,
    Ages,
    masses_at_stages,
    rough_stages,
    stages_of_mass,
)
from brutax.core import Bolometric, EEPTracks, StarState, StellarPop
from brutax.core.bolometric import M_BOL_SUN
from brutax.core.corrections import EEP_TAMS, CorrectionParams
from brutax.core.photometry import Seen
from brutax.core.spline import DEGREE, TensorSpline, local_basis
from brutax.core.state import corrected
from brutax.priors import KroupaIMF
from brutax.utils.photometry import LN_PER_MAG

PLACINGS = 3  # rounds in which segments find where EEP changes
TWINS = 2.5 * np.log10(2.0)  # [mag] that two equal stars are brighter than one


class Layout(NamedTuple):
    """How finely isochrones are divided: numbers of cells and segments."""

    main: int = 240  # cells even in ln mass, up to the end of the main sequence
    last: int = 24  # of them, those before its end, whose segments follow mass and EEP
    hook: int = 128  # segments in these
    turn: int = 32  # segments in EEP, up to the last stage with companions
    late: int = 352  # cells in EEP, from there on
    late_split: int = 2  # segments in each
    ratios: int = 64  # mass ratios of companions
    eep_min: float = 202.0
    eep_pair: float = 480.0  # the last stage with companions
    eep_max: float = 808.0

    @property
    def pairs(self) -> int:
        """Segments whose stars may have companions."""
        return self.main - self.last + self.hook + self.turn

    @property
    def segments(self) -> int:
        """All segments of an isochrone."""
        return self.pairs + self.late * self.late_split

    def scaled(self, factor: int) -> "Layout":
        """The same layout with `factor` times as many segments and mass ratios."""
        more = {
            name: factor * getattr(self, name) for name in ("main", "last", "hook", "turn", "late")
        }
        return self._replace(**more, ratios=factor * self.ratios)


class Curve(NamedTuple):
    """The vertices of an isochrone, from the lightest star on."""

    log_flux: Float[Array, "vertex band"]  # ln of absolute fluxes behind dust [maggies at 10 pc]
    log_mass: Float[Array, " vertex"]  # ln initial mass [Msun]
    eep: Float[Array, " vertex"]
    measure: Float[Array, " segment"]  # of initial mass, normalised
    table: Float[Array, "node band"]  # log_flux at the cells of the main sequence
    exists: Bool[Array, ""]  # False where no star of this age and composition is on the models


def isochrone_curve(
    pop: StellarPop,
    ages: Ages,
    layout: Layout,
    imf: KroupaIMF | None,
    feh: Any,
    loga: Any,
    av: Any,
    rv: Any,
    corr: CorrectionParams | None,
) -> Curve:
    """The isochrone of [Fe/H] and log10 age [yr] behind dust; differentiable in all of them.

    The measure is `imf`, or flat in initial mass without one, over the masses that are there.
    """
    tracks = pop.isochrone.model
    assert isinstance(tracks, EEPTracks)
    dtype, n = tracks.mini_nodes.dtype, layout.main
    turn = np.linspace(EEP_TAMS, layout.eep_pair, layout.turn + 1)
    late = np.linspace(layout.eep_pair, layout.eep_max, layout.late + 1)[1:]
    stages = jnp.asarray(np.concatenate([[layout.eep_min], turn, late]), dtype)
    coef = ages.at(jax.lax.stop_gradient(feh))
    old = masses_at_stages(tracks, ages, coef, stages, feh, loga)
    low = jnp.where(old.valid[0], old.log_mass[0], jnp.log(tracks.mini_nodes[0]))
    step = (old.log_mass[1] - low) / n
    hook = _hook(ages, coef, layout, loga, low + (n - layout.last) * step, layout.last * step)
    chain = jnp.concatenate([jnp.arange(n - layout.last, dtype=dtype), n - layout.last * hook])
    width = step * jnp.diff(jnp.append(chain, jnp.asarray(n, dtype)))
    # after the chain come the nodes of the table of companions that it passes by
    place = jnp.append(chain, jnp.arange(n - layout.last, n, dtype=dtype))
    log_mass = low + step * place
    young = stages_of_mass(ages, coef, log_mass, feh, loga, layout.eep_min)
    log_mass = jnp.concatenate([log_mass, old.log_mass[1:]])
    mass = jnp.maximum(jnp.exp(log_mass), tracks.mini_nodes[0])  # rounding would leave the models
    eep = jnp.concatenate([young, stages[1:]])
    star = jax.vmap(lambda m, e: tracks.evaluate(m, e, feh))(mass, eep)
    star = star._replace(
        valid=star.valid.at[place.size :].set(star.valid[place.size :] & old.valid[1:])
    )
    star = corrected(star, mass, eep, feh, corr)
    seen = _seen(pop, star, feh, av, rv)
    log_flux = -LN_PER_MAG * seen.mag
    end = place.size
    table = jnp.concatenate([log_flux[: n - layout.last], log_flux[chain.size : end + 1]])

    def chained(x: Array) -> Array:
        return jnp.concatenate([x[: chain.size], x[end:]])

    n, first = chain.size, layout.pairs
    log_flux, log_mass, eep, good = (
        chained(x) for x in (log_flux, log_mass, eep, star.valid & seen.valid)
    )
    good = good[:-1] & good[1:]
    # the age that a stage takes over the change of age with mass: dm / dEEP of the isochrone
    pace = mass[end:] * star.agewt[end:] / (LN10 * 10.0 ** star.loga[end:]) / old.fall[1:]
    density = _late_density(imf, log_mass[n:], pace)

    def finer(x: Array, first: int) -> Array:
        return jnp.concatenate([x[:first], _subdivided(x[first:], layout.late_split)])

    density = finer(density, layout.turn)
    log_flux, log_mass, eep = (finer(x, first) for x in (log_flux, log_mass, eep))
    measure = jnp.concatenate(
        [
            _mass_integral(imf, log_mass[:n], width),
            0.5 * (density[1:] + density[:-1]) * jnp.diff(eep[n:]),
        ]
    )
    good = jnp.concatenate([good[:first], jnp.repeat(good[first:], layout.late_split)])
    measure = jnp.where(good, jnp.maximum(measure, 0.0), 0.0)
    total = jnp.sum(measure)
    exists = old.valid[1] & (total > 0)
    measure = measure / jnp.where(total > 0, total, 1.0)
    return Curve(log_flux, log_mass, eep, measure, table, exists)


def _hook(
    ages: Ages, coef: Array, layout: Layout, loga: Array, start: Array, room: Array
) -> Float[Array, " segment"]:
    """Where segments of the last cells begin, as shares of `room` in ln mass before the end.

    Half of the segments shrink towards the end, half are even in EEP: where cores contract, a
    hair's breadth of mass is a long way through the diagram.
    """
    start, room, loga = jax.lax.stop_gradient((start, room, loga))
    level = jnp.arange(layout.hook + 1, dtype=coef.dtype) / layout.hook
    place = level
    for _ in range(PLACINGS):
        log_mass = start + room * (1.0 - (1.0 - place) ** 2)
        eep = rough_stages(ages, coef, log_mass, loga)
        walk = jnp.cumsum(jnp.abs(jnp.diff(eep)))
        walk = jnp.append(0.0, walk / jnp.maximum(walk[-1], 1.0))
        place = jnp.interp(level, 0.5 * (place + walk), place)
    return (1.0 - place[:-1]) ** 2


def _seen(pop: StellarPop, star: StarState, feh: Any, av: Any, rv: Any) -> Seen:
    """`pop.photometry` of many stars of one [Fe/H] behind the same dust.

    The splines of the models inside brutax are first contracted along what stars share.
    """
    source = pop.photometry.source
    if not isinstance(source, Bolometric):
        return jax.vmap(lambda one: pop.photometry(one, feh, av, rv))(star)
    metal = jnp.clip(feh, source.bare.knots[2][0], source.bare.knots[2][-1])
    x = 3.1 / rv
    law = source.law_ratio @ x ** jnp.arange(source.law_ratio.shape[1], dtype=x.dtype)
    at = tuple(jnp.clip(x, k[0], k[-1]) for x, k in zip((star.logt, star.logg), source.bare.knots))
    shift = _looked_up(_bare, source, (metal,), at)
    red = _looked_up(_dust, source, (metal, av), at)
    valid = jax.vmap(lambda logt, logg: source.valid(logt, logg, feh))(star.logt, star.logg)
    return Seen(M_BOL_SUN - 2.5 * star.logl[:, None] - shift + law[None, :] * red, valid)


def _bare(source: Bolometric, metal: Array) -> TensorSpline:
    """Bolometric corrections at one [Fe/H], of stars without dust."""
    return TensorSpline(source.bare.knots[:2], _at_metal(source.bare, metal))


def _dust(source: Bolometric, metal: Array, av: Array) -> TensorSpline:
    """What dust adds to them."""
    some = _at_metal(source.dust, metal)
    some = some.reshape(*some.shape[:2], len(source.bands), 3)
    powers = jnp.stack([av, av**2, av**3])
    return TensorSpline(source.dust.knots[:2], jnp.matmul(some, powers, precision="highest"))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _looked_up(
    of: Callable[..., TensorSpline],
    source: Bolometric,
    params: tuple[Array, ...],
    at: tuple[Float[Array, " point"], ...],
) -> Float[Array, "point output"]:
    """The spline `of(source, *params)` at points; differentiable in `params` and points.

    The derivatives of its coefficients are tables of their own, looked up with them where they
    are asked for: the transpose of a look-up in a table that varies would be slow.
    """
    return jax.vmap(of(source, *params))(*at)


@_looked_up.defjvp
def _(of: Callable[..., TensorSpline], primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    source, params, at = primals
    spline = of(source, *params)
    tables = [spline.coef]
    for k in range(len(params)):
        unit = tuple(jnp.full_like(x, float(j == k)) for j, x in enumerate(params))
        tables.append(jax.jvp(lambda *p: of(source, *p).coef, params, unit)[1])
    count = tables[0].shape[-1]
    spline = TensorSpline(spline.knots, jnp.concatenate(tables, axis=-1))
    found, slopes = jax.vmap(spline.with_slopes)(*at)
    move: Any = sum(d[:, None] * s[:, :count] for d, s in zip(tangents[2], slopes))
    for k, d in enumerate(tangents[1], 1):
        move = move + d * found[:, k * count : (k + 1) * count]
    return found[:, :count], move


def _at_metal(spline: TensorSpline, feh: Array) -> Float[Array, "teff logg output"]:
    local = local_basis(spline.knots[2], feh)
    some = jax.lax.dynamic_slice_in_dim(spline.coef, local.first, DEGREE + 1, 2)
    return jnp.einsum("tgko,k->tgo", some, local.weight, precision="highest")


def _subdivided(x: Float[Array, "node *rest"], split: int) -> Float[Array, "vertex *rest"]:
    """Every cell in `split` parts, cubic (Catmull-Rom) through the nodes."""
    if split == 1:
        return x
    padded = jnp.concatenate([2.0 * x[:1] - x[1:2], x, 2.0 * x[-1:] - x[-2:-1]])
    count = x.shape[0] - 1
    t = np.arange(split) / split
    taps = [padded[k : k + count] for k in range(4)]
    parts = [
        sum(float(c) * tap for c, tap in zip(weights, taps)) for weights in np.stack(cubic(t), 1)
    ]
    return jnp.concatenate([jnp.stack(parts, axis=1).reshape(-1, *x.shape[1:]), x[-1:]])


def cubic(t: Any) -> list[Any]:
    """Weights of four nodes in a row, between the middle ones (Catmull & Rom 1974)."""
    return [
        0.5 * t * (-1.0 + t * (2.0 - t)),
        1.0 + 0.5 * t * t * (3.0 * t - 5.0),
        0.5 * t * (1.0 + t * (4.0 - 3.0 * t)),
        0.5 * t * t * (t - 1.0),
    ]


def _mass_integral(
    imf: KroupaIMF | None, log_mass: Float[Array, " segment"], step: Float[Array, " segment"]
) -> Float[Array, " segment"]:
    """The measure of segments from `log_mass` on, `step` long in ln mass."""
    if imf is None:
        return jnp.exp(log_mass) * jnp.expm1(step)
    knee = jnp.log(imf.mass_break)
    split = jnp.clip(log_mass + step, log_mass, jnp.maximum(knee, log_mass))

    def power(low: Array, width: Array, alpha: Array) -> Array:
        k = (1.0 - alpha) * width  # integral of m^-alpha dm = m^(1 - alpha) expm1(k) / (1 - alpha)
        small = jnp.abs(k) < 1e-6
        ratio = jnp.where(small, 1.0 + 0.5 * k, jnp.expm1(k) / jnp.where(small, 1.0, k))
        return jnp.exp((1.0 - alpha) * low) * width * ratio

    below = power(log_mass, jnp.minimum(split - log_mass, step), imf.alpha_low)
    rest = jnp.maximum(log_mass + step - split, 0.0)
    jump = jnp.exp((imf.alpha_high - imf.alpha_low) * knee)
    return below + jump * power(split, rest, imf.alpha_high)


def _late_density(imf: KroupaIMF | None, log_mass: Array, pace: Array) -> Float[Array, " vertex"]:
    """The measure per EEP."""
    if imf is None:
        return pace
    knee = jnp.log(imf.mass_break)
    above = (imf.alpha_high - imf.alpha_low) * knee - imf.alpha_high * log_mass
    return pace * jnp.exp(jnp.where(log_mass < knee, -imf.alpha_low * log_mass, above))
