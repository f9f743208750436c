"""The models that matter for a star: those of the tiles that hold its posterior mass.

Tiles are scored first. Then they are opened (their models are scored) from the best on, until the
tiles left hold a fraction OUTSIDE of the mass: by their own scores, corrected by how the models of
the tiles opened so far (weighted by mass) compare with theirs. Where the two disagree (no model
fits but a mixture of them would, or the models that fit are rare in their tile) all tiles must be
opened; where they disagree by far more nothing fits, and no more are opened. A fraction d of the
draws then goes to tiles drawn at random from the whole grid, mostly from those not opened, and
these are opened as well. Models are drawn from

    q(k) = (1 - d) s_k / S [inside] + d r_tile h_k / H_tile,

s_k the scores and S their sum inside; h_k = sqrt(s_k), H_tile their sum; and r, a third each, from
the scores of the tiles outside, from the square roots and from the fourth roots of the scores of
all tiles. Every model of the grid can be drawn, whatever the score of its tile.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from brutax.models.stars import Stars
from brutax.solver.density import Scalar
from brutax.solver.importance import FLAT_POWER, ModelDraws
from brutax.solver.inputs import StarPrior
from brutax.solver.magnitude_scores import magnitude_scores
from brutax.solver.scores import any_star, screen
from brutax.solver.tiles import TiledModels
from brutax.utils.sampling import systematic_indices

# fraction of the mass in tiles that are not opened; the draws from the whole grid cover it
OUTSIDE = 5e-4
# difference between the masses of tiles and of their models [nats] beyond which scores of tiles are
# not used for a star (docs/design.md, "Tiles that say nothing")
TRUSTED = 4.0
# difference [nats] beyond which nothing fits, once ENOUGH_TILES were opened: the models in those
# that promise most are off by a chi-square of a hundred and more, and others are hardly better
HOPELESS = 50.0
ENOUGH_TILES = 128
NOTHING = 1e-6  # the fraction of the mass that is known to be inside then
STRIDE = 16  # tiles opened at once
FAR_SHARE = 1 / 32  # fraction of the models that are drawn from the whole grid


class Shortlist(NamedTuple):
    """The scored models of a star: those of the best tiles, then of some drawn at random."""

    tile: Int[Array, " place"]  # tiles by score, then those drawn
    n_inside: Int[Array, ""]  # how many of the former were opened
    far: Int[Array, " far"]  # the places of the tiles that were drawn
    scores: Float[Array, "place member"]  # -inf where not opened
    sums: Float[Array, " place"]  # ln of the sum of the scores of a tile
    flat: Float[Array, " place"]  # the same of flattened scores
    log_flat_tile: Float[Array, " tile"]  # ln r
    captured: Scalar  # fraction of the mass inside, by the scores of the tiles

    @property
    def inside(self) -> Float[Array, " place"]:
        """ln of the sums of the tiles inside; -inf for the others."""
        place = jnp.arange(self.sums.shape[0], dtype=self.n_inside.dtype)
        return jnp.where(place < self.n_inside, self.sums, -jnp.inf)

    @property
    def log_total(self) -> Scalar:
        """ln of the mass of all models."""
        return jax.nn.logsumexp(self.inside) - jnp.log(self.captured)

    def row(self, index: Array) -> Array:
        """The models that scores belong to, by their index in the flattened list."""
        size = self.scores.shape[1]
        return self.tile[index // size] * size + index % size


def rank_by_models(star: Stars, grid: TiledModels, prior: StarPrior) -> Float[Array, " tile"]:
    """Scores of tiles as the sums of their models' `magnitude_scores`."""
    return _sums(_by_tile(magnitude_scores(star, grid.models, prior), grid))[0]


def shortlist(
    star: Stars,
    grid: TiledModels,
    prior: StarPrior,
    log_mass: Float[Array, " tile"],
    u: Scalar,
    *,
    most: int,
    size: int,
    in_magnitudes: bool = False,
) -> Shortlist:
    """Scores the models of the best tiles (at most `most`), and of some drawn ones.

    `log_mass` is that of `score_tiles` or `rank_by_models`; `size` the number of draws to come;
    `u`, uniform in [0, 1), chooses the drawn tiles. With `in_magnitudes`, for stars that are
    `magnitude_scores.settled`, models are scored in magnitudes.
    """
    n_tiles, far = log_mass.shape[0], far_draws(size)
    stride = min(STRIDE, n_tiles)
    most = min(most, n_tiles)
    rounds, far_rounds = -(-most // stride), -(-far // stride)
    places = stride * rounds
    best, ranked = jax.lax.top_k(log_mass, most)
    best = jnp.pad(best, (0, places - most), constant_values=-jnp.inf)
    ranked = jnp.pad(ranked, (0, places - most + stride * far_rounds))
    # ln of the mass of the tiles behind each place
    total = jax.nn.logsumexp(log_mass)
    mass = jnp.exp(best - total)
    outside = jnp.sum(jnp.exp(log_mass - total)) - jnp.sum(mass)
    behind = jnp.flip(jnp.cumsum(jnp.flip(mass))) - mass + jnp.maximum(outside, 0.0)
    log_behind = jnp.log(behind) + total

    def compare(sums: Array) -> tuple[Array, Array]:
        """ln of the sum of all scores so far, and of their ratio to those of the tiles."""
        opened = sums[:places]
        log_sum = jax.nn.logsumexp(opened)
        ratio = jnp.where(opened > -jnp.inf, 2.0 * opened - best, -jnp.inf)
        return log_sum, jax.nn.logsumexp(ratio) - log_sum

    def enough(taken: Array, sums: Array) -> Array:
        """Whether the tiles opened, in at least one round, are enough."""
        log_sum, ratio = compare(sums)
        rest = log_behind[stride * taken - 1]
        settled = (rest + ratio <= jnp.log(OUTSIDE) + log_sum) & (jnp.abs(ratio) <= TRUSTED)
        hopeless = (ratio < -HOPELESS) & (taken * stride >= ENOUGH_TILES)
        return settled | hopeless | (taken == rounds)

    def score(which: Array) -> Array:
        """Scores of the models of some tiles, (tile, member)."""
        models = grid.members(which)
        if in_magnitudes:
            return _by_tile(magnitude_scores(star, models, prior), grid)
        return _by_tile(screen(star, models, prior).log_z, grid)

    def best_first() -> _Round:
        real = jnp.pad(best > -jnp.inf, (0, stride * far_rounds))
        none = jnp.zeros(far, ranked.dtype)
        return _Round(ranked, real, jnp.int32(0), none, jnp.zeros_like(log_mass), jnp.zeros(()))

    def at_random(taken: Array, sums: Array) -> _Round:
        """Tiles drawn: those inside are open already, and none is opened twice."""
        count = jnp.minimum(taken * stride, most).astype(jnp.int32)
        _, ratio = compare(sums)
        known = (jnp.abs(ratio) <= TRUSTED) | (count == n_tiles)
        captured = jnp.where(known, jnp.clip(1.0 - behind[count - 1], NOTHING, 1.0), NOTHING)
        rank = jnp.full((n_tiles,), places, ranked.dtype)
        rank = rank.at[ranked[:most]].set(jnp.arange(most, dtype=ranked.dtype))
        left = jnp.where(rank < count, -jnp.inf, log_mass)
        left = jnp.where(jnp.any(left > -jnp.inf), left, log_mass)
        shares = (left, FLAT_POWER * log_mass, 0.5 * FLAT_POWER * log_mass)
        log_r = jax.nn.logsumexp(jnp.stack([jax.nn.log_softmax(x) for x in shares]), axis=0)
        log_r = log_r - jax.nn.logsumexp(log_r)
        drawn = systematic_indices(log_r, u, far)
        new = rank[drawn] >= count
        new = new & jnp.concatenate([jnp.array([True]), drawn[1:] != drawn[:-1]])
        place = places - 1 + jnp.cumsum(new.astype(ranked.dtype))
        tile = ranked.at[jnp.where(new, place, ranked.shape[0])].set(drawn, mode="drop")
        far_place = jnp.where(rank[drawn] < count, rank[drawn], place)
        real = jnp.arange(tile.shape[0]) < places + jnp.sum(new)
        return _Round(tile, real, count, far_place, log_r, captured)

    nothing = jnp.full((ranked.shape[0], grid.size), -jnp.inf, log_mass.dtype)

    def go(phase: Array, state: tuple) -> tuple:
        """First the best tiles, then those drawn: one loop, since its body is large.

        Stars that are computed side by side go through their lists together; one that has enough
        waits for the others. `taken` counts its own rounds.
        """
        taken, _, found = state
        best_ones = phase == 0
        which = jax.lax.cond(
            best_ones, lambda *_: best_first(), lambda *x: at_random(*x), taken, found[1]
        )
        last = jnp.where(best_ones, rounds, far_rounds)

        def open_next(state: tuple) -> tuple:
            """Scores the models of the next tiles."""
            k, place, taken, active, found = state
            tile, real = (
                jax.lax.dynamic_slice_in_dim(x, place, stride) for x in (which.tile, which.real)
            )
            real = real & active
            # a fence (`utils.fence`): without the condition scores are computed once for each use
            needed = any_star(jnp.any(real))
            rows = jax.lax.cond(needed, score, lambda _: nothing[:stride], tile)
            rows = jnp.where(real[:, None], rows, -jnp.inf)
            new = (rows, *_sums(rows))
            found = tuple(
                jax.lax.dynamic_update_slice_in_dim(x, y, place, 0)
                for x, y in zip(found, new, strict=True)
            )
            taken = taken + active.astype(taken.dtype)
            following = which.real[jnp.minimum(place + stride, ranked.shape[0] - 1)]
            more = jnp.where(best_ones, ~enough(taken, found[1]), following)
            return k + 1, place + stride, taken, active & more, found

        def more(state: tuple) -> Array:
            k, _, _, active, _ = state
            return (k < last) & any_star(active)

        place = jnp.where(best_ones, 0, places).astype(jnp.int32)
        active = which.real[place] | best_ones
        state = (jnp.int32(0), place, jnp.int32(0), active, found)
        _, _, taken, _, found = jax.lax.while_loop(more, open_next, state)
        return taken, which, found

    state = (jnp.int32(0), best_first(), (nothing, nothing[:, 0], nothing[:, 0]))
    _, which, (scores, sums, flat) = jax.lax.fori_loop(0, 2, go, state)
    return Shortlist(
        which.tile, which.n_inside, which.far, scores, sums, flat, which.log_r, which.captured
    )


class _Round(NamedTuple):
    """Tiles to open, and how they were chosen."""

    tile: Int[Array, " place"]
    real: Bool[Array, " place"]  # False for padding
    n_inside: Int[Array, ""]  # of the best tiles, opened before
    far: Int[Array, " far"]  # places of the tiles drawn from the whole grid
    log_r: Float[Array, " tile"]
    captured: Scalar


def _by_tile(scores: Float[Array, " model"], grid: TiledModels) -> Float[Array, "tile member"]:
    return scores.reshape(-1, grid.size)


def _sums(scores: Float[Array, "tile member"]) -> tuple[Array, Array]:
    """ln of the sum of the scores of each tile, and of the flattened scores."""
    total, flat = (jax.nn.logsumexp(power * scores, axis=1) for power in (1.0, FLAT_POWER))
    return total, flat


def with_scores(found: Shortlist, scores: Float[Array, "place member"]) -> Shortlist:
    """The list with better scores of the same models."""
    sums, flat = _sums(scores)
    return found._replace(scores=scores, sums=sums, flat=flat)


def far_draws(size: int) -> int:
    """How many of `size` models are drawn from the whole grid."""
    return max(1, round(FAR_SHARE * size))


def draw_from_tiles(found: Shortlist, key: PRNGKeyArray, *, size: int) -> ModelDraws:
    """Draws models from a shortlist, one from each of the tiles that were drawn."""
    key_u, key_member = jax.random.split(key)
    n_far = far_draws(size)
    share = n_far / size
    u = jax.random.uniform(key_u, (), dtype=found.flat.dtype)
    place, member = _systematic(found, u, size - n_far)
    far_member = jax.random.categorical(key_member, FLAT_POWER * found.scores[found.far], axis=1)
    place = jnp.concatenate([place, found.far])
    member = jnp.concatenate([member, far_member.astype(member.dtype)])

    tile, score = found.tile[place], found.scores[place, member]
    log_sum = jax.nn.logsumexp(found.inside)
    sharp = jnp.where(place < found.n_inside, score - log_sum, -jnp.inf) + jnp.log1p(-share)
    wide = found.log_flat_tile[tile] + FLAT_POWER * score - found.flat[place] + jnp.log(share)
    row = tile * found.scores.shape[1] + member
    return ModelDraws(row.astype(jnp.int32), jnp.logaddexp(sharp, wide))


def _systematic(found: Shortlist, u: Scalar, size: int) -> tuple[Array, Array]:
    """Places and members of `size` models by systematic resampling of the scores inside.

    What remains of a pointer inside its tile is relative to the tile's own sum, so that partial
    sums are short and precise in float32 (as in `systematic_indices`).
    """
    weight = jnp.exp(found.inside - jnp.max(found.inside))
    weight = jnp.where(weight > 0, weight, 0.0)  # also for NaN
    total = jnp.cumsum(weight)
    pointer = (jnp.arange(size, dtype=weight.dtype) + u) / size * total[-1]
    last = jnp.max(jnp.where(weight > 0, jnp.arange(weight.shape[0]), 0))
    rank = jnp.searchsorted(total, pointer, side="right").astype(last.dtype)
    rank = jnp.minimum(rank, last)
    used = (pointer - (total[rank] - weight[rank])) / weight[rank]
    share = jnp.exp(found.scores[rank] - found.sums[rank, None]).T

    # sums member by member, for all pointers at once
    def add(state: tuple, column: tuple) -> tuple[tuple, None]:
        reached, member, last = state
        index, share = column
        reached = reached + share
        member = member + (reached <= used).astype(member.dtype)
        return (reached, member, jnp.where(share > 0, index, last)), None

    start = jnp.zeros(size, jnp.int32)
    index = jnp.arange(share.shape[0], dtype=jnp.int32)
    state = (jnp.zeros_like(used), start, start)
    (_, member, last), _ = jax.lax.scan(add, state, (index, share))
    return rank.astype(jnp.int32), jnp.minimum(member, last)
