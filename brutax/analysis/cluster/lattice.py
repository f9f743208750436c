"""Stars of an isochrone alone and in pairs, as tiles of segments."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.analysis.cluster.isochrone import Curve, Layout, cubic
from brutax.analysis.cluster.quadrature import SEGMENTS, Tiles


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
    beyond = layout.last + 4  # cells past the end that primaries with companions may reach
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

    Products of matrices: their transposes are products too, where those of look-ups are slow.
    """
    return jnp.einsum(
        "rvj,rjb->rvb", _taps(place, first, table, _kernel), table, precision="highest"
    )


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
    return found, move + d_place[..., None] * slope


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
    alone = jnp.exp(own)
    flux = alone[None, : pairs + 1] + jnp.exp(other)
    share = ratios.weight if fraction is None else fraction * ratios.weight
    weight = share[:, None] * curve.measure[None, :pairs]
    q = jnp.broadcast_to(ratios.q[:, None], (layout.ratios, pairs // SEGMENTS)).ravel()
    parts = [_cut(flux, weight), _cut(alone[None, pairs:], curve.measure[None, pairs:])]
    if fraction is not None:
        single = (1.0 - fraction) * curve.measure[None, :pairs]
        parts.append(_cut(alone[None, : pairs + 1], single))
    tiles = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    q = jnp.pad(q, (0, tiles.flux.shape[0] - q.shape[0]))
    return Lattice(tiles, q, curve)


def _cut(flux: Float[Array, "row vertex band"], weight: Float[Array, "row segment"]) -> Tiles:
    rows, segments = weight.shape
    count, bands = segments // SEGMENTS, flux.shape[2]
    body = flux[:, :-1].reshape(rows * count, SEGMENTS, bands)
    last = flux[:, SEGMENTS::SEGMENTS].reshape(rows * count, 1, bands)
    return Tiles(jnp.concatenate([body, last], axis=1), weight.reshape(-1, SEGMENTS))


def segments_of_tiles(layout: Layout, fraction: Any) -> np.ndarray:
    """The segment of the curve that every segment of the tiles lies on, (tile, segment)."""
    pair = np.arange(layout.pairs).reshape(-1, SEGMENTS)
    late = np.arange(layout.pairs, layout.segments).reshape(-1, SEGMENTS)
    parts = [np.tile(pair, (layout.ratios, 1)), late]
    return np.concatenate(parts if fraction is None else [*parts, pair])
