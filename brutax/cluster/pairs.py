"""Stars of an isochrone alone and in pairs, as tiles of segments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.cluster.isochrone import Curve, Layout, cubic
from brutax.cluster.segments import SEGMENTS, Tiles
from brutax.utils.fence import fenced

SHORTEST = 1e-4  # of ln flux: shorter segments have no density of their own
PAST = 60  # past the end, primaries with companions take less than one cell in so many
STEEPEST = 0.6  # the most that densities lean, where isochrones turn


class Ratios(NamedTuple):
    """Mass ratios of companions and the measure of each."""

    q: Float[Array, " ratio"]
    weight: Float[Array, " ratio"]


def mass_ratios(layout: Layout, slope: Any, dtype: Any) -> Ratios:
    """Middles of cells, even in q² but narrower towards twins; p(q) ~ q^slope, of sum one."""
    place = (np.arange(layout.ratios) + 0.5) / layout.ratios
    width = 1.0 / (1.0 + 4.0 * np.exp((place - 1.0) / 0.05))
    edge = np.concatenate([[0.0], np.cumsum(width) / np.sum(width)])
    middle = jnp.asarray(np.sqrt(0.5 * (edge[1:] + edge[:-1])), dtype)
    edge = jnp.asarray(np.sqrt(edge), dtype)
    power = jnp.asarray(slope, dtype) + 1.0
    inner = edge[1:-1] ** power
    cumulative = jnp.concatenate([jnp.zeros_like(inner[:1]), inner, jnp.ones_like(inner[:1])])
    return Ratios(middle, jnp.diff(cumulative))


def companion_log_flux(
    curve: Curve, layout: Layout, q: Float[Array, " ratio"]
) -> Float[Array, "ratio vertex band"]:
    """ln flux of companions of mass q m, for primaries m up to `eep_pair`.

    Cubic in ln mass along the main sequence; below its lightest star fluxes go on as a power of
    mass, above the end of the main sequence they are those at its end.
    """
    n, even, table = layout.main, layout.main - layout.last, curve.table
    done = layout.pairs - layout.turn
    step = (curve.log_mass[done] - curve.log_mass[0]) / n
    room = 3 * n
    down = jnp.arange(-room, 0, dtype=table.dtype)
    below = table[:1] + down[:, None] * (table[1] - table[0])[None, :]
    end = 2.0 * table[-1:] - table[-2:-1]
    beyond = n // PAST + 4  # cells, with what cubics need
    padded = jnp.concatenate([below, table, jnp.repeat(end, beyond, axis=0)])
    shift = jnp.maximum(jnp.log(q) / step, -float(room - 2))  # in cells, whole and broken
    # primaries on the even part: one shift for all
    whole = jnp.floor(shift)
    start = whole.astype(jnp.int32) + (room - 1)
    windows = jax.vmap(lambda k: jax.lax.dynamic_slice_in_dim(padded, k, even + 3))(start)
    weights = cubic((shift - whole)[:, None, None])
    on_even = sum(c * windows[:, k : k + even] for k, c in enumerate(weights))
    # the others: positions of their own, all of them in a short window of the table
    lowest = jnp.maximum(float(even) + shift, -float(room - 2))
    base = jnp.floor(lowest) - 1.0
    wide = layout.last + beyond
    log_mass = curve.log_mass[even : layout.pairs + 1]
    place = (log_mass[None, :] - curve.log_mass[0]) / step + shift[:, None]
    place = jnp.clip(place, lowest[:, None], jnp.minimum(float(n), base + (wide - 3))[:, None])
    start = base.astype(jnp.int32) + room
    windows = jax.vmap(lambda k: jax.lax.dynamic_slice_in_dim(padded, k, wide))(start)
    on_rest = _between(place, base, windows)
    return jnp.concatenate([on_even, on_rest], axis=1)  # pyright: ignore


@jax.custom_jvp
def _between(
    place: Float[Array, "ratio vertex"],
    first: Float[Array, " ratio"],
    table: Float[Array, "ratio node band"],
) -> Float[Array, "ratio vertex band"]:
    """Tables whose nodes lie at first, first + 1, ... at places between them, by cubics.

    Derivatives take products of matrices: their transposes are products too, where those of
    look-ups are slow.
    """
    off = place - first[:, None]
    whole = jnp.clip(jnp.floor(off), 1, table.shape[1] - 3)
    ratio = jnp.arange(table.shape[0], dtype=jnp.int32)[:, None] * table.shape[1]
    node = whole.astype(jnp.int32) + ratio - 1
    flat = table.reshape(-1, table.shape[2])
    taps = [flat.at[(node + k).ravel()].get(mode="promise_in_bounds") for k in range(4)]
    weights = cubic((off - whole)[..., None])
    return sum(w * x.reshape(*off.shape, -1) for w, x in zip(weights, taps))  # pyright: ignore


@_between.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    place, first, table = primals
    d_place, _, d_table = tangents
    matrix = _taps(place, first, table, _kernel)
    along = _taps(place, first, table, _kernel_slope)
    found, move, slope = (
        jnp.einsum("rvj,rjb->rvb", m, x, precision="highest")
        for m, x in ((matrix, table), (matrix, d_table), (along, table))
    )
    # band by band, so that the transpose is a sum of products: XLA's reductions are slow on CPUs
    shift = jnp.stack([d_place * slope[..., b] for b in range(slope.shape[-1])], axis=-1)
    return found, move + shift


def _taps(place: Array, first: Array, table: Array, kernel: Callable) -> Array:
    """The share of every node in every place, (ratio, vertex, node)."""
    node = first[:, None] + jnp.arange(table.shape[1], dtype=place.dtype)[None, :]
    return kernel(place[..., None] - node[:, None, :])


def _kernel(x: Array) -> Array:
    """The weight of a node x cells away in `cubic`."""
    far = jnp.abs(x)
    near = 1.0 + far * far * (1.5 * far - 2.5)
    return jnp.where(
        far < 1, near, jnp.where(far < 2, 2.0 + far * (far * (2.5 - 0.5 * far) - 4.0), 0)
    )


def _kernel_slope(x: Array) -> Array:
    far = jnp.abs(x)
    near = far * (4.5 * far - 5.0)
    return jnp.sign(x) * jnp.where(
        far < 1, near, jnp.where(far < 2, far * (5.0 - 1.5 * far) - 4.0, 0)
    )


class Lattice(NamedTuple):
    """Segments of an isochrone with and without companions."""

    tiles: Tiles
    q: Float[Array, " tile"]  # mass ratio; 0 without a companion
    curve: Curve


def lattice(
    curve: Curve, layout: Layout, scale: Float[Array, " band"], fraction: Any, slope: Any
) -> Lattice:
    """Tiles of all stars and pairs; `scale` is the ln of what multiplies fluxes, per band.

    `fraction` of the stars have companions, of mass ratios p(q) ~ q^slope; None for all, which
    for a flat distribution is the measure of brutus.
    """
    pairs = layout.pairs
    own = curve.log_flux + scale[None, :]
    ratios = mass_ratios(layout, slope, own.dtype)
    other = companion_log_flux(curve, layout, ratios.q) + scale[None, None, :]
    alone = fenced(scale[0] < jnp.inf, jnp.exp, own)
    flux = _together(alone[: pairs + 1], other)
    share = ratios.weight if fraction is None else fraction * ratios.weight
    weight = share[:, None] * curve.measure[None, :pairs]
    q = jnp.broadcast_to(ratios.q[:, None], (layout.ratios, pairs // SEGMENTS)).ravel()
    lean = _leans(alone, curve.measure)[None]  # companions hardly change it
    late = _cut(alone[None, pairs:], curve.measure[None, pairs:], lean[:, pairs:])
    parts = [_cut(flux, weight, jnp.broadcast_to(lean[:, :pairs], weight.shape)), late]
    if fraction is not None:
        single = (1.0 - fraction) * curve.measure[None, :pairs]
        parts.append(_cut(alone[None, : pairs + 1], single, lean[:, :pairs]))
    tiles = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    q = jnp.pad(q, (0, tiles.flux.shape[0] - q.shape[0]))
    return Lattice(tiles, q, curve)


@jax.custom_jvp
def _together(
    alone: Float[Array, "vertex band"], other: Float[Array, "ratio vertex band"]
) -> Float[Array, "ratio vertex band"]:
    """Fluxes of pairs, from those of primaries and their ln of companions."""
    return fenced(other[0, 0, 0] < jnp.inf, lambda x, y: x[None] + jnp.exp(y), alone, other)


@_together.defjvp
def _(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    alone, other = primals
    flux = jnp.exp(other)
    # a product with ones, whose transpose is one as well: XLA's sums over rows are slow on CPUs
    ones = jnp.ones_like(other[:, 0, 0])
    move = jnp.einsum("r,vb->rvb", ones, tangents[0], precision="highest")
    return alone[None] + flux, move + flux * tangents[1]


def _leans(
    flux: Float[Array, "vertex band"], measure: Float[Array, " segment"]
) -> Float[Array, " segment"]:
    """How the density of stars along segments leans (`Tiles.lean`).

    At a vertex the density in ln flux is the measure of the two segments that meet there over
    their length. The density in flux, which is linear along a segment, falls as flux rises.
    """
    step = (flux[1:] - flux[:-1]) / (0.5 * (flux[1:] + flux[:-1]))
    total = jnp.einsum("vb,vb->v", step, step, precision="highest") + SHORTEST**2
    rise = jnp.einsum("vb,vb->v", step**2, step, precision="highest") / total

    def both(x: Array) -> Array:
        return jnp.append(x, x[-1]) + jnp.append(x[0], x)

    density = both(measure) / both(jnp.sqrt(total))
    first, last = density[:-1], density[1:] * jnp.exp(-rise)
    whole = first + last
    return jnp.clip((last - first) / jnp.where(whole > 0, whole, 1.0), -STEEPEST, STEEPEST)


def _cut(
    flux: Float[Array, "row vertex band"],
    weight: Float[Array, "row segment"],
    lean: Float[Array, "row segment"],
) -> Tiles:
    rows, segments = weight.shape
    count, bands = segments // SEGMENTS, flux.shape[2]
    body = flux[:, :-1].reshape(rows * count, SEGMENTS, bands)
    last = flux[:, SEGMENTS::SEGMENTS].reshape(rows * count, 1, bands)
    flux = jnp.concatenate([body, last], axis=1)
    return Tiles(flux, weight.reshape(-1, SEGMENTS), lean.reshape(-1, SEGMENTS))


def segments_of_tiles(layout: Layout, fraction: Any) -> np.ndarray:
    """The segment of the curve that every segment of the tiles lies on, (tile, segment)."""
    pair = np.arange(layout.pairs).reshape(-1, SEGMENTS)
    late = np.arange(layout.pairs, layout.segments).reshape(-1, SEGMENTS)
    parts = [np.tile(pair, (layout.ratios, 1)), late]
    return np.concatenate(parts if fraction is None else [*parts, pair])
