"""Tiles and shortlists: what is left out never changes the answer, only the effort."""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax import fit
from brutax.fitting import Priors
from brutax.fitting import rounds as run
from brutax.fitting.prepare import device_models, model_log_prior
from brutax.fitting.prior import repeat, star_priors
from brutax.solver import Settings, fit_stars
from brutax.solver.scores import screen
from brutax.solver.shortlist import draw_from_tiles, shortlist
from brutax.solver.tiles import score_tiles, tile_order


@pytest.fixture(scope="module")
def tiled(small_grid, small_stars):
    grid, order = device_models(small_grid, model_log_prior(small_grid))
    prior, _ = star_priors(Priors(), small_stars.coords)
    return grid, order, prior, small_stars.stars()


def star_of(stars, k):
    return jax.tree.map(lambda x: x[k], stars)


@pytest.mark.parametrize("count", [1, 127, 128, 260, 1000, 5121])
def test_every_model_is_in_one_tile(rng, count):
    order = tile_order(rng.normal(size=(count, 4)))
    rows = order[order >= 0]
    np.testing.assert_array_equal(np.sort(rows), np.arange(count))
    tiles, width = order.shape
    assert order.size - count < tiles and (tiles == 1 or 128 <= width <= 256)


def test_tiles_hold_models_that_look_alike(rng):
    table = rng.normal(size=(8192, 3))
    order = tile_order(table)
    within = table[order].std(axis=1).mean()
    assert within < 0.4 * table.std()  # 64 tiles: about 1 / 4 in each of three directions


def test_models_keep_their_rows(tiled, small_grid):
    grid, order, _, _ = tiled
    real = order >= 0
    np.testing.assert_array_equal(np.sort(order[real]), np.arange(len(small_grid)))
    np.testing.assert_allclose(np.asarray(grid.models.mag)[:, real], small_grid.mag[order[real]].T)
    assert np.isneginf(np.asarray(grid.models.log_prior)[~real]).all()
    first = grid.members(jnp.asarray([2, 0]))
    np.testing.assert_array_equal(
        first.log_prior[: grid.size], grid.models.log_prior[2 * grid.size : 3 * grid.size]
    )


def test_tile_mass_is_that_of_its_models(tiled):
    """Where the mass is, tiles score what their models add up to, but for a constant."""
    grid, _, prior, stars = tiled
    score = eqx.filter_jit(lambda star: score_tiles(star, grid.tiles, prior))
    every = eqx.filter_jit(lambda star: screen(star, grid.models, prior).log_z)
    scatter = []
    for k in (0, 1, 2, 8, 9, 10):
        star = star_of(stars, k)
        models = every(star).reshape(-1, grid.size)
        tiles = np.asarray(score(star), float)
        truth = np.asarray(jax.nn.logsumexp(models, axis=1), float)
        share = np.exp(truth - truth.max())
        gap = np.where(share > 1e-4, tiles - truth, 0.0)
        mean = np.average(gap, weights=share)
        scatter.append(np.sqrt(np.average((gap - mean) ** 2, weights=share)))
    assert np.median(scatter) < 0.7 and max(scatter) < 2.0


@eqx.filter_jit
def ratios(star, grid, prior, keys, most):
    scores = screen(star, grid.models, prior).log_z
    log_mass = score_tiles(star, grid.tiles, prior)

    def one(key):
        u = jax.random.uniform(key)
        found = shortlist(star, grid, prior, log_mass, u, most=most, size=256)
        drawn = draw_from_tiles(found, key, size=256)
        return scores[drawn.model] - drawn.log_q, found.captured

    log_ratio, captured = jax.lax.map(one, keys)
    return log_ratio, jax.nn.logsumexp(scores), jnp.min(captured)


@pytest.mark.parametrize("most", [1, 1000])
def test_draws_stand_for_all_models(tiled, most):
    """The mean of score / density of draws is the sum of all scores, however short the list.

    Stars: an ordinary one, one with a band missing, one without a parallax, one without a position.
    """
    grid, _, prior, stars = tiled
    for k in (0, 4, 7, 8):
        keys = jax.random.split(jax.random.key(3), 60)
        log_ratio, total, captured = ratios(star_of(stars, k), grid, prior, keys, most)
        ratio = np.exp(np.asarray(log_ratio, np.float64) - float(total)).mean(axis=1)
        error = ratio.std() / np.sqrt(ratio.size)
        assert abs(ratio.mean() - 1.0) < 4.0 * error + 2e-3
        if most == 1000:
            assert float(captured) > 0.99 and ratio.std() < 0.05


@pytest.mark.slow
def test_short_lists_cost_effort_not_exactness(small_grid, small_stars, monkeypatch):
    """Fits that may look into one tile only go on until they agree with those that see all."""
    rows = small_stars.select(np.array([0, 1, 3, 9]))
    full = fit(rows, small_grid, progress=False)
    monkeypatch.setattr(run, "Settings", partial(Settings, tiles=1))
    short = fit(rows, small_grid, progress=False)
    seen = full["obj_nsamp"] > 0
    gap = (short["obj_log_evid"] - full["obj_log_evid"])[seen]
    error = np.hypot(short["obj_log_evid_err"], full["obj_log_evid_err"])[seen]
    assert np.all(np.abs(gap) < 5.0 * error + 0.02)


@pytest.mark.slow
def test_side_by_side_is_one_by_one(tiled, small_stars):
    """What an accelerator does with several stars at once gives the same answers."""
    grid, _, prior, stars = tiled
    some = jax.tree.map(lambda x: x[:6], stars)
    keys = jax.random.split(jax.random.key(1), 6)
    av = repeat(prior.av, 6)
    one, four = (
        fit_stars(some, grid, prior, av, keys, Settings(n_draws=20, side_by_side=n)) for n in (1, 4)
    )
    for name in ("mean", "std", "log_evidence", "quantiles"):
        a, b = np.asarray(getattr(one, name)), np.asarray(getattr(four, name))
        np.testing.assert_allclose(a, b, rtol=2e-2, atol=2e-3)
    assert np.mean(np.asarray(one.draws.model) == np.asarray(four.draws.model)) > 0.95
