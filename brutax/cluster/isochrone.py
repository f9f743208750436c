"""An isochrone as a chain of vertices, with the measure of what lies between them.

The main sequence is laid out evenly in the logarithm of mass: at fixed mass age grows with EEP
without a break, while at fixed EEP the mass of an age jumps where cores become convective. Later
stages, where masses hardly differ, are laid out in EEP.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.cluster.ages import (
    LN10,
    Ages,
    AgesAt,
    masses_at_stages,
    rough_stages,
    stages_of_mass,
)
from brutax.cluster.states import Colours, States, covered
from brutax.models import StarState, StellarPop, TrackModel
from brutax.models.corrections import EEP_TAMS, CorrectionParams
from brutax.models.evolution.track_model import gravity
from brutax.models.state import corrected
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
    ratios: int = 96  # mass ratios of companions
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

    @property
    def stages(self) -> np.ndarray:
        """EEPs at which masses are looked for: the first, and those past the main sequence."""
        turn = np.linspace(EEP_TAMS, self.eep_pair, self.turn + 1)
        late = np.linspace(self.eep_pair, self.eep_max, self.late + 1)[1:]
        return np.concatenate([[self.eep_min], turn, late])

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


class Tables(eqx.Module):
    """A population, laid out for isochrones of one layout."""

    ages: Ages
    states: States
    colours: Colours
    tracks: TrackModel

    def __init__(self, pop: StellarPop, layout: Layout):
        self.tracks = pop.isochrone.tracks.smooth
        self.ages = Ages(self.tracks, layout.stages)
        self.states, self.colours = States(self.tracks, self.ages), Colours(pop)


def isochrone_curve(
    tables: Tables,
    layout: Layout,
    imf: KroupaIMF | None,
    feh: Array,
    loga: Array,
    av: Array,
    rv: Array,
    corr: CorrectionParams | None,
) -> Curve:
    """The isochrone of [Fe/H] and log10 age [yr] behind dust; differentiable in all of them.

    The measure is `imf`, or flat in initial mass without one, over the masses that are there.
    """
    ages, axis = tables.ages, tables.ages.mass.cells
    dtype, n = feh.dtype, layout.main
    now = ages.at(jax.lax.stop_gradient(feh))
    old = masses_at_stages(ages, now, feh, loga)
    lightest = LN10 * axis.nodes[0]
    low = jnp.where(old.valid[0], old.log_mass[0], lightest)
    step = (old.log_mass[1] - low) / n
    hook = _hook(ages, now, layout, loga, low + (n - layout.last) * step, layout.last * step)
    chain = jnp.concatenate([jnp.arange(n - layout.last, dtype=dtype), n - layout.last * hook])
    width = step * jnp.diff(jnp.append(chain, jnp.asarray(n, dtype)))
    # after the chain come the nodes of the table of companions that it passes by
    place = jnp.append(chain, jnp.arange(n - layout.last, n, dtype=dtype))
    young = jnp.maximum(low + step * place, lightest)  # rounding would leave the models
    at = rough_stages(ages, now, young, loga)
    early = stages_of_mass(ages, now, at, young, feh, loga)
    evolved = axis.place(old.log_mass / LN10, old.cell)
    unevolved = axis.place(young / LN10, at.mass.cell)
    stage = ages.eep.cells.place(early, at.stage.cell)
    main = tables.states.of_masses(ages, unevolved, stage, feh)
    late = tables.states.of_stages(ages, evolved, feh)
    logl = jnp.concatenate([main.logl, late.logl[1:]])
    logt = jnp.concatenate([main.logt, late.logt[1:]])
    log_mass = jnp.concatenate([young, old.log_mass[1:]])
    eep = jnp.concatenate([early, ages.stages[1:]])
    there = old.valid & covered(ages, feh, evolved, ages.stages)
    there = jnp.append(covered(ages, feh, unevolved, early), there[1:])
    seen = tables.colours(_stars(tables, log_mass, eep, logl, logt, feh, loga, corr), feh, av, rv)
    log_flux = -LN_PER_MAG * seen.mag
    end = place.size
    table = jnp.concatenate([log_flux[: n - layout.last], log_flux[chain.size : end + 1]])

    def chained(x: Array) -> Array:
        return jnp.concatenate([x[: chain.size], x[end:]])

    n, first = chain.size, layout.pairs
    log_flux, log_mass, eep, good = (
        chained(x) for x in (log_flux, log_mass, eep, there & seen.valid)
    )
    good = good[:-1] & good[1:]
    # the age that a stage takes over the change of age with mass: dm / dEEP of the isochrone
    share = 10.0 ** (late.log_agewt[1:] - loga)
    pace = jnp.exp(old.log_mass[1:]) * share / (LN10 * old.fall[1:])
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


def _stars(
    tables: Tables,
    log_mass: Array,
    eep: Array,
    logl: Array,
    logt: Array,
    feh: Array,
    loga: Array,
    corr: CorrectionParams | None,
) -> StarState:
    """The stars of an isochrone with empirical corrections; all `valid`, and without `agewt`."""
    slow = tables.tracks.slow
    metal = jnp.clip(feh, slow.knots[2][0], slow.knots[2][-1])
    shift = jax.vmap(lambda m, e: slow(m, e, metal)[0])(log_mass / LN10, eep)
    none = jnp.zeros_like(logl)
    star = StarState(
        loga=jnp.broadcast_to(loga, logl.shape),
        logl=logl,
        logt=logt,
        logg=gravity(log_mass / LN10, logl, logt),
        feh_surf=feh + shift,
        afe_surf=none,
        agewt=none,
        valid=jnp.ones(logl.shape, bool),
    )
    return corrected(star, jnp.exp(log_mass), eep, feh, corr)


def _hook(
    ages: Ages, now: AgesAt, layout: Layout, loga: Array, start: Array, room: Array
) -> Float[Array, " segment"]:
    """Where segments of the last cells begin, as shares of `room` in ln mass before the end.

    Half of the segments shrink towards the end, half are even in EEP: where cores contract, a
    hair's breadth of mass is a long way through the diagram.
    """
    start, room, loga = jax.lax.stop_gradient((start, room, loga))
    level = jnp.arange(layout.hook + 1, dtype=start.dtype) / layout.hook
    place = level
    for _ in range(PLACINGS):
        log_mass = start + room * (1.0 - (1.0 - place) ** 2)
        stage = rough_stages(ages, now, log_mass, loga).stage
        nodes = ages.eep.cells.nodes
        eep = nodes[stage.cell] + stage.share * (nodes[stage.cell + 1] - nodes[stage.cell])
        walk = jnp.cumsum(jnp.abs(jnp.diff(eep)))
        walk = jnp.append(0.0, walk / jnp.maximum(walk[-1], 1.0))
        place = _interpolated(level, 0.5 * (place + walk), place)
    return (1.0 - place[:-1]) ** 2


def _interpolated(x: Array, nodes: Array, values: Array) -> Array:
    """`jnp.interp` for few nodes, inside their range: all compared at once is faster."""
    k = jnp.clip(
        jnp.sum(nodes[None, :] <= x[:, None], axis=1, dtype=jnp.int32) - 1, 0, nodes.shape[0] - 2
    )
    width = nodes[k + 1] - nodes[k]
    share = jnp.where(width > 0, (x - nodes[k]) / jnp.where(width > 0, width, 1.0), 0.0)
    return values[k] + share * (values[k + 1] - values[k])


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
