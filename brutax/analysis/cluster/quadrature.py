"""The integral of a star's likelihood along the segments of isochrones.

Between two neighbouring vertices of an isochrone fluxes are linear, so that chi-square is a
parabola of the position t in a segment,

    chi²(t) = c0 (1 - t) + c1 t - a t (1 - t),    a = |whitened step|²,

and the integral of exp(-chi² / 2) over a segment is a difference of normal integrals: smooth in
the vertices, however precise the photometry. Segments come in tiles, stars in blocks of similar
brightness; only pairs whose boxes in flux touch are computed, in passes of a fixed size, so that
memory depends on neither the number of stars nor the lattice.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

SEGMENTS = 8  # per tile
BLOCK = 16  # stars per block
PAIRS = 256, 1024  # pairs of tile and block per pass, on CPUs (out of their caches) and others
TESTS = 1024, 4096  # pairs per pass that are looked at star by star
CLOSE = 30.0  # chi-square within which segments are summed first
NEGLIGIBLE = 9.0  # nats below what a star has already, of segments that are left out
ROUNDING = 1e-5  # of chi-squares that are compared
MILLS = (
    0.3500000057,
    0.3499983419,
    0.3072044522,
    0.2199010563,
    0.1224217706,
    -0.07577335419,
    0.1859912677,
    -0.5842341578,
    0.607872673,
    -0.2802876767,
    0.0502197588,
)
ROOT_2PI = float(np.sqrt(2.0 * np.pi))
SHORT = 0.02  # whitened length squared below which three points replace the closed form


class Tiles(NamedTuple):
    """Segments of isochrones, `SEGMENTS` in a row; neighbours share a vertex."""

    flux: Float[Array, "tile vertex band"]
    weight: Float[Array, "tile segment"]  # the measure of each; 0 where there are no stars


class Blocks(NamedTuple):
    """Stars of similar brightness, whitened: residual = flux - inverse * model flux.

    Errors common to all bands (differential reddening) take a rank-one term off chi-square:
    the square of common_flux - sum of common * model flux.
    """

    flux: Float[Array, "block band star"]  # over its error; 0 where unobserved
    inverse: Float[Array, "block band star"]  # 1 / error; 0 where unobserved
    common: Float[Array, "block band star"] | None
    common_flux: Float[Array, "block star"] | None


class Reach(NamedTuple):
    """Model fluxes beyond which the stars of a block do not notice a segment."""

    low: Float[Array, "block band"]
    high: Float[Array, "block band"]
    chi2: Float[Array, "block star"]  # at these fluxes; integrals are scaled by exp(chi2 / 4)
    apart: Float[Array, "block star"]  # the same without errors in common; negative for padding


class _Ends(NamedTuple):
    """Vertices and segments as stars see them."""

    chi2: Float[Array, "pair vertex star"]  # less the star's scale
    length2: Float[Array, "pair segment star"]  # whitened length of a segment, squared
    shared: Float[Array, "pair vertex star"] | None  # parts that errors in common take off
    shared_step: Float[Array, "pair segment star"] | None


def mills(x: Array) -> Array:
    """exp(x² / 2) times the integral of exp(-y² / 2) over y > x, for x >= 0, to 2e-8 (relative).

    A polynomial in t = 1 / (1 + 0.35 x), fitted to `scipy.special.erfcx` at Chebyshev nodes of t.
    """
    t = 1.0 / (1.0 + 0.35 * x)
    total = jnp.full_like(t, MILLS[-1])
    for term in MILLS[-2::-1]:
        total = total * t + term
    return total * t


def segment_integral(c0: Array, c1: Array, a: Array, e0: Array, e1: Array) -> Array:
    """The integral of exp(-chi² / 2) over a segment; e0, e1 are the integrands at its ends.

    In deviations x from the point of the line nearest to the star the integrand is normal: a
    difference of its integrals, each from the end inwards. Segments shorter than sqrt(`SHORT`)
    deviations, where that difference cancels, use Simpson's rule.
    """
    short = a < SHORT
    inv = lax.rsqrt(jnp.where(short, 1.0, a))
    start, stop = 0.5 * (c1 - c0 - a) * inv, 0.5 * (c1 - c0 + a) * inv
    inside = (start < 0) & (stop > 0)
    at = jnp.where(short, 0.5 * (c0 + c1) - 0.25 * a, c0 - start * start)
    centre = jnp.exp(-0.5 * jnp.where(inside | short, at, 0.0))
    tail0, tail1 = e0 * mills(jnp.abs(start)), e1 * mills(jnp.abs(stop))
    whole = jnp.where(inside, ROOT_2PI * centre - tail0 - tail1, jnp.abs(tail0 - tail1)) * inv
    return jnp.where(short, (e0 + 4.0 * centre + e1) / 6.0, jnp.maximum(whole, 0.0))


def _moments(ends: _Ends, e: Array, zeroth: Array) -> tuple[Array, Array]:
    """Integrals of t and t² times the integrand: by parts, and of Simpson's rule."""
    n = ends.length2.shape[2]
    chi2, length2 = _wide(ends.chi2), _wide(ends.length2)
    short = length2 < SHORT
    inv = 1.0 / jnp.where(short, 1.0, length2)
    lean = 0.5 * ((chi2[:, n:] - chi2[:, :-n]) * inv - 1.0)
    e0, e1 = e[:, :-n], e[:, n:]
    first = (e0 - e1) * inv - lean * zeroth
    second = (zeroth - e1) * inv - lean * first
    first = jnp.where(short, 0.5 * zeroth + (e1 - e0) / 12.0, first)
    return first, jnp.where(short, 0.25 * zeroth + (3.0 * e1 - e0) / 24.0, second)


def _per_pass(sizes: tuple[int, int]) -> int:
    return sizes[0] if jax.default_backend() == "cpu" else sizes[1]


class _Pairs(NamedTuple):
    """The pairs of tiles and blocks that matter, padded."""

    tile: Int[Array, " pair"]
    block: Int[Array, " pair"]
    number: Int[Array, ""]


class _Chords(NamedTuple):
    """Tiles as straight lines, and how far their vertices are from these."""

    start: Float[Array, "tile band"]
    step: Float[Array, "tile band"]
    off: Float[Array, "tile band"]


def _chords(tiles: Tiles) -> _Chords:
    flux = tiles.flux
    start, step = flux[:, 0], flux[:, -1] - flux[:, 0]
    scale = 1.0 / jnp.maximum(start, float(jnp.finfo(flux.dtype).tiny)) ** 2
    along = jnp.sum((flux - start[:, None]) * (step * scale)[:, None], axis=2)
    length2 = jnp.sum(step**2 * scale, axis=1)[:, None]
    t = jnp.clip(along / jnp.where(length2 > 0, length2, 1.0), 0.0, 1.0)
    off = flux - start[:, None] - t[..., None] * step[:, None]
    return _Chords(start, step, jnp.max(jnp.abs(off), axis=1))


def _candidates(tiles: Tiles, reach: Reach) -> _Pairs:
    """Pairs whose boxes in flux touch, in order of blocks."""
    low, high = jnp.min(tiles.flux, axis=1), jnp.max(tiles.flux, axis=1)
    touch = jnp.broadcast_to(
        jnp.any(tiles.weight > 0, axis=1)[None, :], (reach.low.shape[0], low.shape[0])
    )
    for band in range(low.shape[1]):
        touch &= low[None, :, band] <= reach.high[:, band, None]
        touch &= high[None, :, band] >= reach.low[:, band, None]
    tests = _per_pass(TESTS)
    size = -(-touch.size // tests) * tests
    touch = jnp.pad(touch.ravel(), (0, size - touch.size))
    rank = _running_count(touch)
    every = jnp.arange(size, dtype=jnp.int32)
    at = jnp.zeros(size, jnp.int32).at[jnp.where(touch, rank - 1, size)].set(every, mode="drop")
    count = low.shape[0]
    return _Pairs(at % count, at // count, rank[-1])


def _near(
    pairs: _Pairs, chords: _Chords, stars: Blocks, limit: Array, kept: _Pairs, but: Array | None
) -> _Pairs:
    """Appends to `kept` those pairs of which a star is near the tile.

    No point of a tile is further from its chord than one of its vertices: a lower bound for the
    chi-square of every star, which `limit` (block, star) must exceed. Those that are near by the
    limits `but` are left out: they are in `kept`.
    """
    room = kept.tile.shape[0]
    least = jnp.full_like(limit, -1.0) if but is None else but
    tests = _per_pass(TESTS)

    def test(tile: Array, block: Array) -> Array:
        start, step, off = (_rows(x, tile) for x in chords)
        flux, inverse = _rows(stars.flux, block), _rows(stars.inverse, block)
        a2 = ab = b2 = s2 = jnp.zeros((tile.shape[0], inverse.shape[2]), inverse.dtype)
        for band in range(start.shape[1]):
            unit = inverse[:, band]
            a = flux[:, band] - unit * start[:, band, None]
            b, s = unit * step[:, band, None], unit * off[:, band, None]
            a2, ab, b2, s2 = a2 + a * a, ab + a * b, b2 + b * b, s2 + s * s
        t = jnp.clip(ab / jnp.where(b2 > 0, b2, 1.0), 0.0, 1.0)
        away = a2 - t * (2.0 * ab - t * b2)

        def within(limit: Array) -> Array:
            most = (jnp.sqrt(jnp.maximum(limit, 0.0)) + jnp.sqrt(s2)) ** 2
            return jnp.any((away <= most + ROUNDING * (1.0 + a2)) & (limit >= 0), axis=1)

        near = within(limit[block])
        return near if but is None else near & ~within(but[block])

    def one(state: tuple[Array, _Pairs]) -> tuple[Array, _Pairs]:
        k, kept = state
        first = k * tests
        tile, block = (lax.dynamic_slice(x, (first,), (tests,)) for x in pairs[:2])
        keep = _apart(jnp.any(limit[block] > least[block]), test, tile, block)
        keep = keep & (first + jnp.arange(tests, dtype=jnp.int32) < pairs.number)
        rank = _running_count(keep)
        place = jnp.where(keep, kept.number + rank - 1, room)
        return k + 1, _Pairs(
            kept.tile.at[place].set(tile, mode="drop"),
            kept.block.at[place].set(block, mode="drop"),
            kept.number + rank[-1],
        )

    zero = jnp.zeros((), jnp.int32)
    return lax.while_loop(lambda s: s[0] * tests < pairs.number, one, (zero, kept))[1]


def _running_count(x: Bool[Array, " x"]) -> Int[Array, " x"]:
    """The cumulative sum, by products with triangles: much faster than `cumsum` on a CPU."""
    rows = x.astype(jnp.float32).reshape(-1, 64)
    rows = jnp.matmul(rows, jnp.triu(jnp.ones((64, 64), jnp.float32)), precision="highest")
    before = jnp.cumsum(rows[:, -1].astype(jnp.int32)) - rows[:, -1].astype(jnp.int32)
    return (rows.astype(jnp.int32) + before[:, None]).ravel()


class _Pass(NamedTuple):
    """What one pass computes with."""

    tile: Int[Array, " pair"]
    block: Int[Array, " pair"]
    used: Bool[Array, " pair"]
    flux: Float[Array, "pair vertex band"]
    weight: Float[Array, "pair segment"]
    stars: Blocks  # one block per pair
    scale: Float[Array, "pair star"]


def _apart(live: Array, function: Callable, *args: Any) -> Any:
    """Runs a stage behind a condition: XLA for CPUs would else repeat it where it is used."""
    shape = jax.eval_shape(function, *args)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
    return lax.cond(live, function, lambda *_: nothing, *args)


def _rows(x: Array, at: Array) -> Array:
    """x[at], its rows copied as they lie."""
    flat = x.reshape(x.shape[0], -1).at[at].get(mode="promise_in_bounds")
    return flat.reshape(at.shape[0], *x.shape[1:])


def _load(first: Array, tiles: Tiles, stars: Blocks, reach: Reach, pairs: _Pairs) -> _Pass:
    count = _per_pass(PAIRS)
    tile, block = (lax.dynamic_slice(x, (first,), (count,)) for x in (pairs.tile, pairs.block))
    used = first + jnp.arange(count, dtype=jnp.int32) < pairs.number
    weight = jnp.where(used[:, None], _rows(tiles.weight, tile), 0.0)
    mine = jax.tree.map(lambda x: _rows(x, block), stars)
    scale = 0.5 * reach.chi2[block]
    return _Pass(tile, block, used, _rows(tiles.flux, tile), weight, mine, scale)


def _chi_square(x: _Pass) -> _Ends:
    flux, stars = x.flux, x.stars
    step = flux[:, 1:] - flux[:, :-1]
    shape = (*flux.shape[:2], stars.flux.shape[2])
    chi2 = jnp.broadcast_to(-x.scale[:, None, :], shape)
    length2 = jnp.zeros((*step.shape[:2], stars.flux.shape[2]), flux.dtype)
    for band in range(flux.shape[2]):
        inverse = stars.inverse[:, band][:, None, :]
        off = stars.flux[:, band][:, None, :] - inverse * flux[:, :, band][..., None]
        walk = inverse * step[:, :, band][..., None]
        chi2, length2 = chi2 + off * off, length2 + walk * walk
    if stars.common is None or stars.common_flux is None:
        return _Ends(chi2, length2, None, None)
    shared = jnp.broadcast_to(stars.common_flux[:, None, :], chi2.shape)
    shared_step = jnp.zeros_like(length2)
    for band in range(flux.shape[2]):
        common = stars.common[:, band][:, None, :]
        shared = shared - common * flux[:, :, band][..., None]
        shared_step = shared_step - common * step[:, :, band][..., None]
    chi2 = chi2 - shared * shared
    length2 = jnp.maximum(length2 - shared_step * shared_step, 0.0)
    return _Ends(chi2, length2, shared, shared_step)


def _integrals(live: Array, x: _Pass) -> tuple[_Ends, Array, Array]:
    """Ends, integrands at vertices (pair, vertex x star), integrals (pair, segment x star)."""
    ends = _apart(live, _chi_square, x)
    e = _apart(live, lambda chi2: jnp.exp(-0.5 * _wide(chi2)), ends.chi2)

    def integrate(chi2: Array, length2: Array, e: Array) -> Array:
        n = length2.shape[2]
        chi2, length2 = _wide(chi2), _wide(length2)
        return segment_integral(chi2[:, :-n], chi2[:, n:], length2, e[:, :-n], e[:, n:])

    return ends, e, _apart(live, integrate, ends.chi2, ends.length2, e)


def _wide(x: Array) -> Array:
    """Vertices and stars in one axis: XLA's loops over short last axes are slow."""
    return x.reshape(x.shape[0], -1)


def _sums(
    tiles: Tiles, stars: Blocks, reach: Reach, pairs: _Pairs, first: Array
) -> Float[Array, "block star"]:
    """Measure times integral, summed over pairs from `first` on, scaled by exp(reach.chi2 / 4)."""

    def one(state: tuple[Array, Array]) -> tuple[Array, Array]:
        first, total = state
        live = first < pairs.number
        x = _apart(live, _load, first, tiles, stars, reach, pairs)
        _, _, found = _integrals(live, x)
        found = found.reshape(*x.weight.shape, -1)
        mine = jnp.einsum("pvs,pv->ps", found, x.weight, precision="highest")
        return first + _per_pass(PAIRS), total.at[x.block].add(mine)

    start = (first, jnp.zeros(reach.chi2.shape, tiles.flux.dtype))
    return lax.while_loop(lambda s: s[0] < pairs.number, one, start)[1]


def _pairs_and_sums(tiles: Tiles, stars: Blocks, reach: Reach) -> tuple[_Pairs, Array]:
    """The pairs that matter and the sums over them.

    First those within `CLOSE` of a star; what they sum to says how far others may be to matter.
    """
    every, chords = _candidates(tiles, reach), _chords(tiles)
    room = every.tile.shape[0] + _per_pass(PAIRS)
    zero, blank = jnp.zeros((), jnp.int32), jnp.zeros(room, jnp.int32)
    close = jnp.minimum(reach.apart, CLOSE)
    pairs = _near(every, chords, stars, close, _Pairs(blank, blank, zero), None)
    sums = _sums(tiles, stars, reach, pairs, zero)
    enough = 2.0 * (NEGLIGIBLE - _log(sums, reach))  # chi-square
    share = reach.apart / jnp.where(reach.chi2 > 0, reach.chi2, 1.0)
    limit = jnp.minimum(reach.apart, jnp.maximum(enough * share, close))
    more = _near(every, chords, stars, limit, pairs, close)
    return more, sums + _sums(tiles, stars, reach, more, pairs.number)


def expectations(
    tiles: Tiles, stars: Blocks, reach: Reach, values: Float[Array, "tile segment value"]
) -> Float[Array, "block star value"]:
    """Values times measure times integral, summed over segments, for every star.

    In an arbitrary unit for each star: its ratios are averages over the segments.
    """
    pairs, _ = _pairs_and_sums(tiles, stars, reach)

    def one(state: tuple[Array, Array]) -> tuple[Array, Array]:
        first, total = state
        live = first < pairs.number
        x = _apart(live, _load, first, tiles, stars, reach, pairs)
        _, _, found = _integrals(live, x)
        found = found.reshape(*x.weight.shape, -1)
        of = x.weight[..., None] * _rows(values, x.tile)
        mine = jnp.einsum("pvs,pvk->psk", found, of, precision="highest")
        return first + _per_pass(PAIRS), total.at[x.block].add(mine)

    blank = jnp.zeros((*reach.chi2.shape, values.shape[-1]), tiles.flux.dtype)
    start = (jnp.zeros((), jnp.int32), blank)
    return lax.while_loop(lambda s: s[0] < pairs.number, one, start)[1]


def _log(sums: Array, reach: Reach) -> Array:
    least = float(jnp.finfo(sums.dtype).tiny)
    return jnp.log(jnp.maximum(sums, least)) - 0.25 * reach.chi2


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def log_density(
    tiles: Tiles, stars: Blocks, reach: Reach, stars_vary: bool = False
) -> Float[Array, "block star"]:
    """ln of the sum over segments of weight x integral of exp(-chi² / 2) dt, for every star.

    Differentiable (once, in reverse) in tiles, and with `stars_vary` in stars; `reach` only says
    which pairs are left out. Stars that no segment reaches have a finite density that is less
    than exp(-chi2 / 2).
    """
    return _log(_pairs_and_sums(tiles, stars, reach)[1], reach)


def _forward(tiles: Tiles, stars: Blocks, reach: Reach, stars_vary: bool) -> tuple[Array, tuple]:
    pairs, sums = _pairs_and_sums(tiles, stars, reach)
    return _log(sums, reach), (tiles, stars, reach, pairs, sums)


def _backward(stars_vary: bool, saved: tuple, cotangent: Array) -> tuple:
    tiles, stars, reach, pairs, sums = saved
    least = float(jnp.finfo(sums.dtype).tiny)
    share = jnp.where(sums > least, cotangent / jnp.maximum(sums, least), 0.0)

    def one(state: tuple[Array, Tiles, Blocks]) -> tuple[Array, Tiles, Blocks]:
        first, d_tiles, d_stars = state
        live = first < pairs.number
        x = _apart(live, _load, first, tiles, stars, reach, pairs)
        slopes = _slopes(live, x, jnp.where(x.used[:, None], share[x.block], 0.0))
        d_tiles = Tiles(
            d_tiles.flux.at[x.tile].add(_tile_slopes(live, x, slopes)),
            d_tiles.weight.at[x.tile].add(slopes.weight),
        )
        if stars_vary:
            mine = _apart(live, _star_slopes, x, slopes)
            d_stars = jax.tree.map(lambda d, s: d.at[x.block].add(s), d_stars, mine)
        return first + _per_pass(PAIRS), d_tiles, d_stars

    blank = jax.tree.map(jnp.zeros_like, (tiles, stars))
    start = (jnp.zeros((), jnp.int32), *blank)
    _, d_tiles, d_stars = lax.while_loop(lambda s: s[0] < pairs.number, one, start)
    return d_tiles, d_stars, jax.tree.map(jnp.zeros_like, reach)


log_density.defvjp(_forward, _backward)


class _Slopes(NamedTuple):
    """Derivatives of the sum of share x weight x integral.

    With J_k the integrals of t^k exp(-chi² / 2): d/dc0 = (J_1 - J_0) / 2, d/dc1 = -J_1 / 2 and
    d/da = (J_1 - J_2) / 2. What follows are products of matrices: XLA's own derivative would
    repeat the integrals for every band.
    """

    chi2: Float[Array, "pair vertex star"]
    length2: Float[Array, "pair segment star"]
    weight: Float[Array, "pair segment"]
    ends: _Ends


def _slopes(live: Array, x: _Pass, share: Float[Array, "pair star"]) -> _Slopes:
    ends, e, zeroth = _integrals(live, x)
    first, second = _apart(live, _moments, ends, e, zeroth)

    each = _apart(live, lambda w, s: _wide(0.5 * w[..., None] * s[:, None, :]), x.weight, share)

    def combine(zeroth: Array, first: Array, second: Array, each: Array) -> tuple[Array, Array]:
        n = share.shape[1]
        start = jnp.pad(each * (first - zeroth), ((0, 0), (0, n)))
        return start - jnp.pad(each * first, ((0, 0), (n, 0))), each * (first - second)

    chi2, length2 = _apart(live, combine, zeroth, first, second, each)
    zeroth = zeroth.reshape(ends.length2.shape)
    weight = jnp.einsum("pvs,ps->pv", zeroth, share, precision="highest")
    shapes = ends.chi2.shape, ends.length2.shape
    return _Slopes(chi2.reshape(shapes[0]), length2.reshape(shapes[1]), weight, ends)


def _over_stars(weight: Array, of: Array) -> Array:
    return jnp.einsum("pvs,pbs->pvb", weight, of, precision="highest")


def _tile_slopes(live: Array, x: _Pass, slopes: _Slopes) -> Float[Array, "pair vertex band"]:
    flux, stars, ends = x.flux, x.stars, slopes.ends
    step, bands = flux[:, 1:] - flux[:, :-1], flux.shape[2]
    pulls = _apart(
        live, lambda s: jnp.concatenate([s.inverse**2, s.flux * s.inverse], axis=1), stars
    )
    first = _over_stars(slopes.chi2, pulls)
    second = _over_stars(slopes.length2, pulls[:, :bands])
    d_flux = 2.0 * (flux * first[..., :bands] - first[..., bands:])
    d_step = 2.0 * step * second
    if stars.common is not None and ends.shared is not None and ends.shared_step is not None:
        d_flux = d_flux + 2.0 * _over_stars(slopes.chi2 * ends.shared, stars.common)
        d_step = d_step + 2.0 * _over_stars(slopes.length2 * ends.shared_step, stars.common)
    none = jnp.zeros_like(d_step[:, :1])
    return d_flux + jnp.concatenate([none, d_step], 1) - jnp.concatenate([d_step, none], 1)


def _star_slopes(x: _Pass, slopes: _Slopes) -> Blocks:
    flux, stars, ends = x.flux, x.stars, slopes.ends
    step = flux[:, 1:] - flux[:, :-1]

    def over(weight: Array, of: Array) -> Array:
        return sum(weight[:, v][:, None, :] * of[:, v][:, :, None] for v in range(weight.shape[1]))  # pyright: ignore

    whole = jnp.sum(slopes.chi2, axis=1)[:, None, :]
    linear = over(slopes.chi2, flux)
    curved = over(slopes.chi2, flux**2) + over(slopes.length2, step**2)
    d_flux = 2.0 * (stars.flux * whole - stars.inverse * linear)
    d_inverse = 2.0 * (stars.inverse * curved - stars.flux * linear)
    if ends.shared is None or ends.shared_step is None:
        return Blocks(d_flux, d_inverse, None, None)
    off, walk = slopes.chi2 * ends.shared, slopes.length2 * ends.shared_step
    d_common = 2.0 * (over(off, flux) + over(walk, step))
    return Blocks(d_flux, d_inverse, d_common, -2.0 * jnp.sum(off, axis=1))
