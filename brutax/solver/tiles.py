"""Tiles: groups of models that look alike, scored as a whole before any of their members.

Models are ordered once into tiles of equal size by repeated halving along the direction in which
their magnitudes differ most (a k-d tree; Friedman, Bentley & Finkel 1977, ACM Trans. Math. Softw.
3, 209). A tile is a Gaussian in magnitudes: a mean, the first principal mode and the variance that
is left, in which models are weighted by the square root of their prior mass. The posterior mass of
a tile for a star is then a linear-Gaussian integral in closed form,

    y_b = mu + A q_b + t A r'_b + sum_j z_j a_bj + noise,    y = star - tile mean, z, t ~ N(0, 1),

over the distance modulus mu, A_V, R_V about its mean (t) and the place in the tile (z); the
parallax is one more term, linear in mu. It costs as much as the score of one model. Scores of tiles
only decide which are opened; importance weights correct for them.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from brutax.models.stars import Stars
from brutax.priors import Point
from brutax.solver.density import ETA_LIMIT, Scalar
from brutax.solver.inputs import Models, StarPrior, make_models
from brutax.solver.scores import Magnitudes, magnitudes, start
from brutax.utils import as_float
from brutax.utils.math import approximate_log_ndtr_diff
from brutax.utils.photometry import LN_PER_MAG

TILE = 128  # least number of models in a tile, unless the grid has fewer; at most twice that
EVEN = 0.5  # power of the prior mass in the weights of the models that shape a tile
# fractions of the mass of a tile at which it is cut into groups of models with similar labels; the
# outer ones keep a minority (old and metal-poor, say) that the Galactic prior may favour
GROUPS = (0.1, 0.5, 0.9)
MODES = 1  # principal modes of a tile's magnitudes that are kept


class Tile(NamedTuple):
    """One tile, or with a last axis many of them."""

    mag: Float[Array, "band *tile"]  # mean magnitude of its models, at 1 kpc
    red: Float[Array, "band *tile"]  # mean of A_band / A_V at R_V = 0
    dred: Float[Array, "band *tile"]  # and of its slope with R_V
    mode: Float[Array, "band mode *tile"]  # principal modes, one standard deviation long [mag]
    rest: Float[Array, "band *tile"]  # variance that the modes leave [mag^2]
    log_prior: Float[Array, "*tile"]  # ln of the prior mass; -inf for a tile without any
    log_share: Float[Array, "group *tile"]  # ln of the fraction of its mass in each group of models
    labels: dict[str, Float[Array, "group *tile"]]  # means over a group of the labels of priors


class TiledModels(eqx.Module):
    """Models in the order of their tiles: tile k has the models k * size to (k + 1) * size - 1."""

    models: Models
    tiles: Tile
    blocks: Float[Array, "tile column member"]  # the same models, each tile contiguous in memory

    @property
    def size(self) -> int:
        """Number of models in a tile."""
        return self.blocks.shape[-1]

    def members(self, which: Int[Array, " chosen"]) -> Models:
        """The models of some tiles, one tile after the other, with the labels that priors use."""
        table = jax.lax.platform_dependent(self.blocks, which, cpu=_copied, default=_gathered)
        bands = self.models.mag.shape[0]
        mag, red, dred = (table[k * bands : (k + 1) * bands] for k in range(3))
        log_prior, *labels = table[3 * bands :]
        return Models(
            mag, red, dred, log_prior, dict(zip(sorted(self.tiles.labels), labels, strict=True))
        )


def _gathered(blocks: Array, which: Array) -> Array:
    return jnp.moveaxis(blocks[which], 1, 0).reshape(blocks.shape[1], -1)


def _copied(blocks: Array, which: Array) -> Array:
    """The same, piece by piece: XLA's gather for CPUs takes several times as long."""
    _, columns, size = blocks.shape

    def copy(k: Array, table: Array) -> Array:
        block = jax.lax.dynamic_index_in_dim(blocks, which[k], 0, keepdims=False)
        return jax.lax.dynamic_update_slice(table, block, (0, k * size))

    table = jnp.zeros((columns, which.shape[0] * size), blocks.dtype)
    return jax.lax.fori_loop(0, which.shape[0], copy, table)


def tile_order(magnitudes: np.ndarray, size: int = TILE) -> Int[np.ndarray, "tile member"]:
    """Rows of a table (model, band) in tiles of equal size, a power of two of them.

    Tiles hold `size` rows or somewhat more, up to twice as many; -1 fills what is left over.
    """
    count = len(magnitudes)
    levels = max(math.floor(math.log2(max(count / size, 1.0))), 0)
    width = math.ceil(count / 2**levels)
    order = np.full((1, width * 2**levels), -1)
    order[0, :count] = np.arange(count)
    table = np.asarray(magnitudes, np.float64)
    for _ in range(levels):
        real = order >= 0
        value = np.where(real[..., None], table[order], 0.0)
        number = np.maximum(real.sum(axis=1), 1)[:, None]
        value -= (value.sum(axis=1) / number)[:, None]
        value *= real[..., None]
        spread = np.einsum("tkb,tkc->tbc", value, value, optimize=True)
        axis = np.linalg.eigh(spread)[1][:, :, -1]
        place = np.einsum("tkb,tb->tk", value, axis, optimize=True)
        place = np.where(real, place, np.inf)
        half = order.shape[1] // 2
        split = np.argpartition(place, half, axis=1)
        order = np.take_along_axis(order, split, axis=1).reshape(-1, half)
    return order


def tile_models(
    mag: np.ndarray,
    red: np.ndarray,
    dred: np.ndarray,
    log_prior: np.ndarray,
    labels: dict[str, np.ndarray],
    size: int = TILE,
) -> tuple[Tile, Int[np.ndarray, " model"]]:
    """Sorts models into tiles of `size` to 2 `size`: the tiles, and the row of each model.

    `mag`, `red`, `dred` are (model, band) magnitudes at 1 kpc and reddening coefficients;
    `log_prior` and every label are (model,). Rows are -1 for padding. Models without prior mass
    come last, as far as possible in tiles of their own.
    """
    possible = np.isfinite(log_prior)
    rows = np.flatnonzero(possible)
    order = tile_order(mag[rows], size)
    width = order.shape[1]
    order = np.where(order >= 0, rows[order], -1)
    excluded = np.flatnonzero(~possible)
    if excluded.size:  # they are never drawn, but a table of all models shows them
        padded = np.pad(excluded, (0, -excluded.size % width), constant_values=-1)
        order = np.concatenate([order, padded.reshape(-1, width)])
    tiles = _describe(order, mag, red, dred, log_prior, labels)
    return tiles, order.ravel()


def lay_out(
    tiles: Tile,
    rows: Int[np.ndarray, " model"],
    mag: np.ndarray,
    red: np.ndarray,
    dred: np.ndarray,
    log_prior: np.ndarray,
    labels: dict[str, np.ndarray],
) -> TiledModels:
    """Models on the device in the order of their tiles.

    `tiles` and `rows` are those of `tile_models`, the tables those that it was given.
    """
    log_prior = np.where(rows >= 0, log_prior[rows], -np.inf)
    table = {name: column[rows] for name, column in labels.items()}
    models = make_models(mag[rows], red[rows], dred[rows], log_prior, table)
    used = [models.labels[name][None] for name in sorted(tiles.labels)]
    parts = [models.mag, models.red, models.dred, models.log_prior[None], *used]
    columns = np.concatenate([np.asarray(part) for part in parts])
    blocks = columns.reshape(columns.shape[0], tiles.log_prior.shape[0], -1).swapaxes(0, 1)
    return TiledModels(models, tiles, as_float(np.ascontiguousarray(blocks)))


def _describe(
    order: np.ndarray,
    mag: np.ndarray,
    red: np.ndarray,
    dred: np.ndarray,
    log_prior: np.ndarray,
    labels: dict[str, np.ndarray],
) -> Tile:
    """Mean, principal modes and prior mass of every tile."""
    log_weight = np.where(order >= 0, log_prior[order], -np.inf)
    top = np.maximum(log_weight.max(axis=1), -1e300)
    weight = np.exp(log_weight - top[:, None])
    total = weight.sum(axis=1)
    share = weight / np.where(total > 0, total, 1.0)[:, None]

    # weights for the shape of a tile, to which models of little prior mass contribute too
    even = weight**EVEN
    even = even / np.maximum(even.sum(axis=1), 1e-300)[:, None]

    def mean(table: np.ndarray) -> np.ndarray:
        return np.einsum("tk,tkb->tb", even, np.asarray(table, np.float64)[order], optimize=True)

    centre = mean(mag)
    value = (mag[order] - centre[:, None]) * np.sqrt(even)[..., None]
    cov = np.einsum("tkb,tkc->tbc", value, value, optimize=True)
    variance, axes = np.linalg.eigh(cov)
    modes = min(MODES, variance.shape[1])
    long = np.sqrt(np.maximum(variance[:, -modes:], 0.0))
    mode = axes[:, :, -modes:] * long[:, None, :]
    rest = np.maximum(np.einsum("tbb->tb", cov) - np.sum(mode**2, axis=2), 0.0)
    with np.errstate(divide="ignore"):
        log_mass = np.where(total > 0, top + np.log(total), -np.inf)
    known = {name: labels[name] for name in Point._fields if name in labels}
    log_share, known = _grouped(share, {name: known[name][order] for name in sorted(known)})
    return Tile(
        mag=as_float(centre.T),
        red=as_float(mean(red).T),
        dred=as_float(mean(dred).T),
        mode=as_float(np.moveaxis(mode, 0, -1)),
        rest=as_float(rest.T),
        log_prior=as_float(log_mass),
        log_share=as_float(log_share),
        labels={name: as_float(column) for name, column in known.items()},
    )


def _grouped(
    share: np.ndarray, labels: dict[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Cuts tiles (tile, member) along the main direction of their labels, at GROUPS of their mass.

    A prior averaged over the groups includes a minority (old and metal-poor, say) that it favours.
    """
    if not labels:
        return np.zeros((1, len(share))), {}
    table = np.stack([np.asarray(column, np.float64) for column in labels.values()], axis=-1)
    table = (table - table.mean(axis=(0, 1))) / np.maximum(table.std(axis=(0, 1)), 1e-12)
    off = table - np.einsum("tk,tkl->tl", share, table)[:, None]
    axis = np.linalg.eigh(np.einsum("tk,tkl,tkm->tlm", share, off, off, optimize=True))[1]
    place = np.argsort(np.einsum("tkl,tl->tk", off, axis[:, :, -1]), axis=1, kind="stable")
    ordered = np.take_along_axis(share, place, axis=1)
    group = np.searchsorted(GROUPS, np.cumsum(ordered, axis=1) - 0.5 * ordered)
    part = np.stack([ordered * (group == g) for g in range(len(GROUPS) + 1)])
    mass = part.sum(axis=2)
    part = np.where(mass[..., None] > 0, part / np.where(mass > 0, mass, 1.0)[..., None], ordered)
    means = {
        name: np.einsum("gtk,tk->gt", part, np.take_along_axis(column, place, axis=1))
        for name, column in labels.items()
    }
    with np.errstate(divide="ignore"):
        return np.log(mass), means


def score_tiles(star: Stars, tiles: Tile, prior: StarPrior) -> Float[Array, " tile"]:
    """Log of the posterior mass of each tile for a star, up to a constant of the star."""
    axes = jax.tree.map(lambda leaf: leaf.ndim - 1, tiles)
    data = magnitudes(star)
    return jax.vmap(lambda tile: _score_tile(star, data, tile, prior), in_axes=(axes,))(tiles)


def _score_tile(star: Stars, data: Magnitudes, tile: Tile, prior: StarPrior) -> Scalar:
    """The integral of the Gaussian of one tile, and the other priors at its peak."""
    model = Models(tile.mag, tile.red, tile.dred, tile.log_prior, {})
    first = start(star, model, prior, data)
    mean_rv, inv_rv = prior.rv.moments()
    mean_av, inv_av = prior.av.moments(jnp.exp(first.eta))
    low, high = prior.av.low, prior.av.high
    spread_rv = 1.0 / jnp.maximum(inv_rv, 1.0 / (high - low))

    # centred on the first solution: unknowns are small, and chi-square does not cancel
    columns, rest, weights = [], [], []
    for band in range(star.weight.shape[-1]):
        q = tile.red[band] + first.rv * tile.dred[band]
        apparent = tile.mag[band] + first.av * q + 2.0 * first.eta / LN_PER_MAG
        columns.append(
            [*tile.mode[band], first.av * tile.dred[band] * spread_rv, jnp.ones_like(q), q]
        )
        rest.append(jnp.where(data.weight[band] > 0, data.mag[band] - apparent, 0.0))
        weights.append(data.weight[band] / (1.0 + data.weight[band] * tile.rest[band]))
    count = len(columns[0])
    # beside the bands: modes and R_V are standard normal; the parallax, linear in the modulus; A_V
    weak = 12.0 / (high - low) ** 2
    plx = jnp.exp(-first.eta)
    plx_slope = -0.5 * LN_PER_MAG * plx * star.parallax_weight
    plx_off = star.parallax_weight * (star.parallax - plx)
    off_av = mean_av - first.av
    precision = [1.0] * (count - 2) + [plx_slope**2 + 1e-6, inv_av**2 + weak]
    pull = [0.0] * (count - 2) + [plx_slope * plx_off, inv_av**2 * off_av]
    matrix = [[jnp.zeros_like(first.eta)] * count for _ in range(count)]
    vector = [jnp.zeros_like(first.eta)] * count
    chi2 = plx_off**2 + (inv_av * off_av) ** 2
    for w, row, y in zip(weights, columns, rest):
        chi2 = chi2 + w * y**2
        for i in range(count):
            vector[i] = vector[i] + w * row[i] * y
            for j in range(i, count):
                matrix[i][j] = matrix[i][j] + w * row[i] * row[j]
    for i in range(count):
        matrix[i][i] = matrix[i][i] + precision[i]
        vector[i] = vector[i] + pull[i]
    log_det = jnp.zeros_like(first.eta)
    for k in range(count - 1):  # eliminate all but A_V
        pivot = matrix[k][k]
        log_det = log_det + jnp.log(pivot)
        chi2 = chi2 - vector[k] ** 2 / pivot
        for i in range(k + 1, count):
            ratio = matrix[k][i] / pivot
            vector[i] = vector[i] - ratio * vector[k]
            for j in range(i, count):
                matrix[i][j] = matrix[i][j] - ratio * matrix[k][j]
    last = jnp.maximum(matrix[-1][-1], weak)
    d_av = vector[-1] / last
    chi2 = chi2 - d_av * vector[-1]
    noise = sum(jnp.log1p(s * w) for s, w in zip(tile.rest, data.weight))
    log_det = log_det + jnp.log(last) + noise
    scale, peak = jnp.sqrt(last), first.av + d_av
    inside = approximate_log_ndtr_diff((low - peak) * scale, (high - peak) * scale)

    # the Galaxy at the peak within the range of A_V
    here = jnp.clip(peak, low, high) - first.av
    shift = (vector[-2] - matrix[-2][-1] * here) / matrix[-2][-2]
    eta = jnp.clip(first.eta + 0.5 * LN_PER_MAG * shift, -ETA_LIMIT, ETA_LIMIT)
    place = {"dist": jnp.exp(eta), "ell": star.ell, "b": star.b}
    galaxy = jax.vmap(lambda labels: prior.distance.log_prob(Point(**labels)._replace(**place)))
    density = galaxy(tile.labels) if tile.labels else prior.distance.log_prob(Point(**place))
    density = jax.nn.logsumexp(density + tile.log_share)
    score = tile.log_prior - 0.5 * (chi2 + log_det) + inside + density + eta
    return jnp.where(jnp.isfinite(score), score, -jnp.inf)
