"""The integral of a star's likelihood along the segments of isochrones.

Between two neighbouring vertices of an isochrone fluxes are linear, so that chi-square is a
parabola of the position t in a segment,

    chi²(t) = c0 (1 - t) + c1 t - a t (1 - t),    a = |whitened step|²,

and the integral of exp(-chi² / 2) over a segment is a difference of normal integrals: smooth in
the vertices, however precise the photometry. The measure along a segment is linear in t as well:
were it constant, the likelihood of a precise star would be a staircase. Segments come in tiles,
stars in blocks of similar brightness; only pairs whose boxes in flux touch are computed, in
passes of a fixed size, so that memory depends on neither the number of stars nor the lattice.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from brutax.utils.fence import fenced

SEGMENTS = 8  # per tile
BLOCK = 16  # stars per block
PAIRS = 192, 1024  # pairs of tile and block per pass, on CPUs (out of their caches) and others
TESTS = 1024, 4096  # pairs per pass that are looked at star by star
FEW = 64, 1024  # pairs per pass, of those that are left for later
FEW_TESTS = 256, 4096  # the same of `TESTS`
CLOSE = 30.0  # chi-square within which segments are summed first
NEGLIGIBLE = 9.0  # nats below what a star has already, of segments that are left out
ROUNDING = 1e-5  # of chi-squares that are compared
# coefficients of `mills`
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
    lean: Float[Array, "tile segment"]  # its density goes from 1 - lean to 1 + lean, over its mean


class Blocks(NamedTuple):
    """Stars of similar brightness, whitened: residual = flux - inverse * model flux.

    Errors common to all bands (differential reddening) take a rank-one term off chi-square:
    the square of common_flux - sum of common * model flux.
    """

    flux: Float[Array, "block band star"]  # divided by its error; 0 where unobserved
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

    In standard deviations x from the point of the line nearest to the star the integrand is
    normal: a difference of its integrals, each from the end inwards. Segments shorter than
    sqrt(`SHORT`) standard deviations, where that difference cancels, use Simpson's rule.
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


class _Moments(NamedTuple):
    """Integrals of 1, t, t² and t³ times the integrand over segments, as far as asked for."""

    zeroth: Array
    first: Array
    second: Array | None = None
    third: Array | None = None


def _moments(chi2: Array, length2: Array, e: Array, slopes: bool) -> _Moments:
    """By parts from the integral, and of Simpson's rule for short segments.

    Arguments are (pair, vertex x star) and (pair, segment x star); `slopes` asks for all four.
    """
    n = chi2.shape[1] - length2.shape[1]
    c0, c1, e0, e1 = chi2[:, :-n], chi2[:, n:], e[:, :-n], e[:, n:]
    zeroth = segment_integral(c0, c1, length2, e0, e1)
    short = length2 < SHORT
    inv = 1.0 / jnp.where(short, 1.0, length2)
    off = 0.5 * ((c1 - c0) * inv - 1.0)  # of the point nearest to the star, before the start
    first = jnp.where(
        short, 0.5 * zeroth + (e1 - e0) / 12.0, jnp.clip((e0 - e1) * inv - off * zeroth, 0, zeroth)
    )
    if not slopes:
        return _Moments(zeroth, first)
    second = jnp.where(
        short, 0.25 * zeroth + (3.0 * e1 - e0) / 24.0, (zeroth - e1) * inv - off * first
    )
    third = jnp.where(
        short, 0.125 * zeroth + (7.0 * e1 - e0) / 48.0, (2.0 * first - e1) * inv - off * second
    )
    return _Moments(zeroth, first, second, third)


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
    along = step / jnp.maximum(start, float(jnp.finfo(flux.dtype).tiny)) ** 2
    length2 = jnp.sum(step * along, axis=1)
    along = along / jnp.where(length2 > 0, length2, 1.0)[:, None]
    t = jnp.einsum("tvb,tb->tv", flux, along, precision="highest")
    t = jnp.clip(t - t[:, :1], 0.0, 1.0)
    # vertex by vertex: XLA's reductions over an axis in the middle are slow on CPUs
    off = jnp.zeros_like(start)
    for v in range(1, flux.shape[1]):
        off = jnp.maximum(off, jnp.abs(flux[:, v] - start - t[:, v, None] * step))
    return _Chords(start, step, off)


def _candidates(tiles: Tiles, chords: _Chords, reach: Reach) -> _Pairs:
    """Pairs whose boxes in flux touch, in order of blocks."""

    def touching(chords: _Chords, weight: Array, reach: Reach) -> Array:
        ends = chords.start, chords.start + chords.step
        low, high = jnp.minimum(*ends) - chords.off, jnp.maximum(*ends) + chords.off
        touch = jnp.any(weight > 0, axis=1)[None, :]
        for band in range(low.shape[1]):
            touch &= low[None, :, band] <= reach.high[:, band, None]
            touch &= high[None, :, band] >= reach.low[:, band, None]
        return touch

    touch = fenced(tiles.flux[0, 0, 0] < jnp.inf, touching, chords, tiles.weight, reach)
    tests = _per_pass(TESTS)
    size = -(-touch.size // tests) * tests
    touch = jnp.pad(touch.ravel(), (0, size - touch.size))
    rank = _running_count(touch)
    every = jnp.arange(size, dtype=jnp.int32)
    at = jnp.zeros(size, jnp.int32).at[jnp.where(touch, rank - 1, size)].set(every, mode="drop")
    count = tiles.weight.shape[0]
    return _Pairs(at % count, at // count, rank[-1])


def _near(
    pairs: _Pairs,
    chords: _Chords,
    stars: Blocks,
    limits: tuple[Array, ...],
    kept: _Pairs,
    tests: int,
) -> list[_Pairs]:
    """Appends to `kept` those pairs of which a star is near the tile.

    No point of a tile is further from its chord than one of its vertices: a lower bound for the
    chi-square of every star, which the first of `limits` (block, star) must exceed. Pairs that
    only exceed the others are listed next, by limit. `tests` pairs are looked at in one pass.
    """
    room = kept.tile.shape[0]

    def test(tile: Array, block: Array) -> tuple[Array, ...]:
        start, step, off = (_rows(x, tile) for x in chords)
        flux, inverse = _rows(stars.flux, block), _rows(stars.inverse, block)
        a2 = ab = b2 = s2 = jnp.zeros((tile.shape[0], inverse.shape[2]), inverse.dtype)
        for band in range(start.shape[1]):
            unit = inverse[:, band]
            a = flux[:, band] - unit * start[:, band, None]
            b, s = unit * step[:, band, None], unit * off[:, band, None]
            a2, ab, b2, s2 = a2 + a * a, ab + a * b, b2 + b * b, s2 + s * s
        t = jnp.clip(ab / jnp.where(b2 > 0, b2, 1.0), 0.0, 1.0)
        away = a2 - t * (2.0 * ab - t * b2) - ROUNDING * (1.0 + a2)
        least = jnp.maximum(jnp.sqrt(jnp.maximum(away, 0.0)) - jnp.sqrt(s2), 0.0) ** 2
        return tuple(jnp.any(least <= _rows(limit, block), axis=1) for limit in limits)

    def appended(kept: _Pairs, new: Array, tile: Array, block: Array) -> _Pairs:
        rank = _running_count(new)
        place = jnp.where(new, kept.number + rank - 1, room)
        return _Pairs(
            kept.tile.at[place].set(tile, mode="drop"),
            kept.block.at[place].set(block, mode="drop"),
            kept.number + rank[-1],
        )

    def one(state: tuple[Array, list[_Pairs]]) -> tuple[Array, list[_Pairs]]:
        k, lists = state
        first = k * tests
        tile, block = (lax.dynamic_slice(x, (first,), (tests,)) for x in pairs[:2])
        near = fenced(first < pairs.number, test, tile, block)
        left = first + jnp.arange(tests, dtype=jnp.int32) < pairs.number
        out = []
        for which, of in zip(near, lists):
            out.append(appended(of, which & left, tile, block))
            left &= ~which
        return k + 1, out

    zero = jnp.zeros((), jnp.int32)
    blank = _Pairs(jnp.zeros(room, jnp.int32), jnp.zeros(room, jnp.int32), zero)
    start = (zero, [kept, *[blank] * (len(limits) - 1)])
    return lax.while_loop(lambda s: s[0] * tests < pairs.number, one, start)[1]


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
    level: Float[Array, "pair segment"]  # the density where segments begin
    rise: Float[Array, "pair segment"]  # and what is added to it until their ends
    stars: Blocks  # one block per pair
    scale: Float[Array, "pair star"]


def _rows(x: Array, at: Array) -> Array:
    """x[at], its rows copied as they lie."""
    flat = x.reshape(x.shape[0], -1).at[at].get(mode="promise_in_bounds")
    return flat.reshape(at.shape[0], *x.shape[1:])


def _load(
    count: int, first: Array, tiles: Tiles, stars: Blocks, reach: Reach, pairs: _Pairs
) -> _Pass:
    tile, block = (lax.dynamic_slice(x, (first,), (count,)) for x in (pairs.tile, pairs.block))
    used = first + jnp.arange(count, dtype=jnp.int32) < pairs.number
    weight = jnp.where(used[:, None], _rows(tiles.weight, tile), 0.0)
    tilt = weight * _rows(tiles.lean, tile)
    mine = jax.tree.map(lambda x: _rows(x, block), stars)
    scale = 0.5 * reach.chi2[block]
    flux = _rows(tiles.flux, tile)
    return _Pass(tile, block, used, flux, weight - tilt, 2.0 * tilt, mine, scale)


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


def _integrals(live: Array, x: _Pass, slopes: bool) -> tuple[_Ends, _Moments]:
    """Ends, and integrals (pair, segment x star)."""
    ends = fenced(live, _chi_square, x)
    e = fenced(live, lambda chi2: jnp.exp(-0.5 * _wide(chi2)), ends.chi2)

    def integrate(chi2: Array, length2: Array, e: Array) -> _Moments:
        return _moments(_wide(chi2), _wide(length2), e, slopes)

    return ends, fenced(live, integrate, ends.chi2, ends.length2, e)


def _measured(x: _Pass, moments: _Moments) -> Float[Array, "pair segment star"]:
    """The integrals over the measure of segments."""
    shape = (*x.level.shape, -1)
    zeroth, first = moments.zeroth.reshape(shape), moments.first.reshape(shape)
    return x.level[..., None] * zeroth + x.rise[..., None] * first


def _wide(x: Array) -> Array:
    """Vertices and stars in one axis: XLA's loops over short last axes are slow."""
    return x.reshape(x.shape[0], -1)


def _sums(
    tiles: Tiles, stars: Blocks, reach: Reach, pairs: _Pairs, first: Array, count: int
) -> Float[Array, "block star"]:
    """Measure times integral, summed over pairs from `first` on, scaled by exp(reach.chi2 / 4).

    `count` pairs are computed in one pass.
    """

    def one(state: tuple[Array, Array]) -> tuple[Array, Array]:
        first, total = state
        live = first < pairs.number
        x = fenced(live, partial(_load, count), first, tiles, stars, reach, pairs)
        _, moments = _integrals(live, x, False)
        found = _measured(x, moments)
        mine = sum(found[:, v] for v in range(found.shape[1]))  # XLA's reduction is slower
        return first + count, total.at[x.block].add(mine)

    start = (first, jnp.zeros(reach.chi2.shape, tiles.flux.dtype))
    return lax.while_loop(lambda s: s[0] < pairs.number, one, start)[1]


def _pairs_and_sums(tiles: Tiles, stars: Blocks, reach: Reach) -> tuple[_Pairs, Array]:
    """The pairs that matter and the sums over them.

    First those within `CLOSE` of a star; what they sum to says how far others may be to matter.
    """
    chords = _chords(tiles)
    every = _candidates(tiles, chords, reach)
    # a pass may begin at any pair
    room = every.tile.shape[0] + _per_pass(PAIRS)
    zero, blank = jnp.zeros((), jnp.int32), jnp.zeros(room, jnp.int32)
    close = jnp.minimum(reach.apart, CLOSE)
    pairs, others = _near(
        every,
        chords,
        stars,
        (close, reach.apart),
        _Pairs(blank, blank, zero),
        _per_pass(TESTS),
    )
    sums = _sums(tiles, stars, reach, pairs, zero, _per_pass(PAIRS))
    enough = 2.0 * (NEGLIGIBLE - _log(sums, reach))  # chi-square
    share = reach.apart / jnp.where(reach.chi2 > 0, reach.chi2, 1.0)
    limit = jnp.minimum(reach.apart, jnp.maximum(enough * share, close))
    (more,) = _near(others, chords, stars, (limit,), pairs, _per_pass(FEW_TESTS))
    return more, sums + _sums(tiles, stars, reach, more, pairs.number, _per_pass(FEW))


def expectations(
    tiles: Tiles, stars: Blocks, reach: Reach, values: Float[Array, "tile segment value"]
) -> Float[Array, "block star value"]:
    """Values times measure times integral, summed over segments, for every star.

    In an arbitrary unit for each star: its ratios are averages over the segments.
    """
    pairs, _ = _pairs_and_sums(tiles, stars, reach)
    count = _per_pass(PAIRS)

    def one(state: tuple[Array, Array]) -> tuple[Array, Array]:
        first, total = state
        live = first < pairs.number
        x = fenced(live, partial(_load, count), first, tiles, stars, reach, pairs)
        _, moments = _integrals(live, x, False)
        found, of = _measured(x, moments), _rows(values, x.tile)
        mine = jnp.einsum("pvs,pvk->psk", found, of, precision="highest")
        return first + count, total.at[x.block].add(mine)

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
    count = _per_pass(PAIRS)

    def one(state: tuple[Array, Tiles, Blocks]) -> tuple[Array, Tiles, Blocks]:
        first, d_tiles, d_stars = state
        live = first < pairs.number
        x = fenced(live, partial(_load, count), first, tiles, stars, reach, pairs)
        slopes = _slopes(live, x, jnp.where(x.used[:, None], share[x.block], 0.0))
        d_tiles = Tiles(
            d_tiles.flux.at[x.tile].add(_tile_slopes(live, x, slopes)),
            d_tiles.weight.at[x.tile].add(slopes.level),
            d_tiles.lean.at[x.tile].add(slopes.rise),
        )
        if stars_vary:
            mine = fenced(live, _star_slopes, x, slopes)
            d_stars = jax.tree.map(lambda d, s: d.at[x.block].add(s), d_stars, mine)
        return first + count, d_tiles, d_stars

    blank = jax.tree.map(jnp.zeros_like, (tiles, stars))
    start = (jnp.zeros((), jnp.int32), *blank)
    _, d_tiles, d_stars = lax.while_loop(lambda s: s[0] < pairs.number, one, start)
    level, rise = d_tiles.weight, d_tiles.lean
    d_tiles = d_tiles._replace(
        weight=level + tiles.lean * (2.0 * rise - level), lean=tiles.weight * (2.0 * rise - level)
    )
    return d_tiles, d_stars, jax.tree.map(jnp.zeros_like, reach)


log_density.defvjp(_forward, _backward)


class _Slopes(NamedTuple):
    """Derivatives of the sum of share x integral.

    With P_k the integrals of t^k exp(-chi² / 2) over the measure: d/dc0 = (P_1 - P_0) / 2,
    d/dc1 = -P_1 / 2 and d/da = (P_1 - P_2) / 2. What follows are products of matrices: XLA's own
    derivative would repeat the integrals for every band.
    """

    chi2: Float[Array, "pair vertex star"]
    length2: Float[Array, "pair segment star"]
    level: Float[Array, "pair segment"]
    rise: Float[Array, "pair segment"]
    ends: _Ends


def _slopes(live: Array, x: _Pass, share: Float[Array, "pair star"]) -> _Slopes:
    ends, moments = _integrals(live, x, True)

    def each(weight: Array, share: Array) -> Array:
        return _wide(0.5 * weight[..., None] * share[:, None, :])

    level, rise = (fenced(live, each, w, share) for w in (x.level, x.rise))

    def combine(moments: _Moments, level: Array, rise: Array) -> tuple[Array, Array]:
        n = share.shape[1]
        powers: Any = zip(moments[:-1], moments[1:])
        p0, p1, p2 = (level * a + rise * b for a, b in powers)
        start = jnp.pad(p1 - p0, ((0, 0), (0, n)))
        return start - jnp.pad(p1, ((0, 0), (n, 0))), p1 - p2

    chi2, length2 = fenced(live, combine, moments, level, rise)
    level, rise = (
        jnp.einsum("pvs,ps->pv", m.reshape(ends.length2.shape), share, precision="highest")
        for m in moments[:2]
    )
    shapes = ends.chi2.shape, ends.length2.shape
    return _Slopes(chi2.reshape(shapes[0]), length2.reshape(shapes[1]), level, rise, ends)


def _over_stars(weight: Array, of: Array) -> Array:
    return jnp.einsum("pvs,pbs->pvb", weight, of, precision="highest")


def _tile_slopes(live: Array, x: _Pass, slopes: _Slopes) -> Float[Array, "pair vertex band"]:
    flux, stars, ends = x.flux, x.stars, slopes.ends
    step, bands = flux[:, 1:] - flux[:, :-1], flux.shape[2]
    pulls = fenced(
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
