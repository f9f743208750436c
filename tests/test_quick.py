"""Scores in magnitudes: as good as the others where they are used, and not used elsewhere."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.fitting import Priors
from brutax.fitting.prepare import device_models, model_log_prior
from brutax.fitting.prior import star_priors
from brutax.models import Stars
from brutax.priors import DustProfileAv, TruncatedNormalAv, UniformAv
from brutax.solver import shortlist as shortlist_module
from brutax.solver.inputs import StarPrior
from brutax.solver.magnitude_scores import magnitude_scores, settled
from brutax.solver.scores import screen
from brutax.solver.shortlist import rank_by_models, shortlist

# distance [kpc], A_V, error of fluxes, parallax S/N: 0 for none
CASES = [(0.3, 0.0, 0.02, 100.0), (1.0, 0.5, 0.02, 20.0), (2.0, 3.0, 0.01, 5.0)]
CASES += [(4.0, 1.0, 0.05, 2.0), (3.0, 0.3, 0.02, 0.0), (0.05, 0.1, 0.01, 1000.0)]

full_score, quick_score = eqx.filter_jit(screen), eqx.filter_jit(magnitude_scores)


@pytest.fixture(scope="module")
def problem(small_grid):
    grid, _ = device_models(small_grid, model_log_prior(small_grid))
    prior, _ = star_priors(Priors(), np.array([[120.0, 30.0]]))
    return grid, prior


def star_at(grid, dist, av, err, snr, *, rng=None):
    """Photometry of a model that many others resemble."""
    models = grid.models
    k = int(np.argmax(models.log_prior))
    mag = models.mag[:, k] + av * (models.red[:, k] + 3.3 * models.dred[:, k])
    flux = 10.0 ** (-0.4 * np.asarray(mag, float)) / dist**2
    noise = 0.0 if rng is None else rng.normal(size=flux.size)
    flux = flux * (1.0 + err * noise)
    plx = (1.0 / dist, 1.0 / dist / snr) if snr else (np.nan, np.nan)
    stars = Stars.from_fluxes(
        flux[None],
        err * np.abs(flux[None]),
        np.array([plx[0]]),
        np.array([plx[1]]),
        np.array([[120.0, 30.0]]),
    )
    return jax.tree.map(lambda x: x[0], stars)


def is_settled(star, grid, prior):
    return bool(settled(star, grid.tiles.red[:, 0], grid.tiles.dred[:, 0], prior))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("av", [UniformAv(), TruncatedNormalAv(0.5, 0.3)])
def test_draws_by_either_score_are_worth_the_same(problem, rng, case, av):
    """Effective size per draw of one distribution of models weighed by the other."""
    grid, prior = problem
    prior = StarPrior(prior.distance, av, prior.rv)
    star = star_at(grid, *case, rng=rng)
    assert is_settled(star, grid, prior)
    full = np.asarray(full_score(star, grid.models, prior).log_z, float)
    quick = np.asarray(quick_score(star, grid.models, prior), float)
    np.testing.assert_array_equal(np.isfinite(full), np.isfinite(quick))
    real = np.isfinite(full)
    p, q = (np.exp(x[real] - x[real].max()) for x in (full, quick))
    total = np.log(p.sum()) + full[real].max(), np.log(q.sum()) + quick[real].max()
    p, q = p / p.sum(), q / q.sum()
    assert 1.0 / np.sum(p**2 / np.maximum(q, 1e-30)) > 0.9
    assert abs(total[0] - total[1]) < 0.3  # normalised alike


def test_mass_in_a_corner_of_parameters_is_that_of_the_full_score(problem):
    """A_V at either end of a short range: what is cut off is cut off in both scores."""
    grid, prior = problem
    star = star_at(grid, 1.0, 0.5, 0.02, 20.0)
    for low, high in ((0.0, 0.2), (0.8, 5.0)):
        here = StarPrior(prior.distance, UniformAv(low, high), prior.rv)
        full = np.asarray(full_score(star, grid.models, here).log_z, float)
        quick = np.asarray(quick_score(star, grid.models, here), float)
        close = full > full.max() - 4.0
        assert np.abs(quick[close] - full[close]).max() < 1.0


def test_used_only_where_photometry_settles_a_model(problem):
    grid, prior = problem
    good = star_at(grid, 1.0, 0.5, 0.02, 20.0)
    assert is_settled(good, grid, prior)
    bands = good.weight.shape[0]
    one = eqx.tree_at(lambda s: s.weight, good, good.weight.at[1:].set(0.0))
    alone = eqx.tree_at(lambda s: s.parallax_weight, one, jnp.zeros_like(one.parallax_weight))
    assert not is_settled(alone, grid, prior)  # distance or dust
    assert is_settled(one, grid, prior)  # a good parallax tells
    faint = eqx.tree_at(lambda s: s.weight, good, good.weight.at[bands - 1].multiply(0.1))
    assert not is_settled(faint, grid, prior)
    negative = eqx.tree_at(lambda s: s.flux, good, good.flux.at[0].multiply(-1.0))
    assert not is_settled(negative, grid, prior)
    missing = eqx.tree_at(lambda s: s.weight, good, good.weight.at[0].set(0.0))
    assert is_settled(missing, grid, prior)
    nothing = eqx.tree_at(lambda s: s.weight, alone, jnp.zeros_like(alone.weight))
    assert not is_settled(nothing, grid, prior)


def test_not_used_where_the_dust_depends_on_distance(problem):
    grid, prior = problem
    star = star_at(grid, 1.0, 0.5, 0.02, 20.0)
    nodes = np.log([0.1, 0.5, 1.0, 4.0])
    rising = DustProfileAv(nodes, [0.0, 0.3, 0.6, 1.0], [0.1] * 4)
    flat = DustProfileAv(nodes, [0.5] * 4, [0.1] * 4)
    for av, answer in ((rising, False), (flat, True)):
        assert is_settled(star, grid, StarPrior(prior.distance, av, prior.rv)) is answer


def test_tiles_ranked_by_their_models_hold_the_mass(problem, rng, monkeypatch):
    """Ranked closely the best tiles are the best, and they are scored as without tiles."""
    grid, prior = problem
    monkeypatch.setattr(shortlist_module, "STRIDE", 1)
    star = star_at(grid, 0.05, 0.1, 0.005, 1000.0, rng=rng)
    full = full_score(star, grid.models, prior).log_z.reshape(-1, grid.size)
    sums = np.asarray(jax.nn.logsumexp(full, axis=1))
    ranked = rank_by_models(star, grid, prior)
    found = shortlist(star, grid, prior, ranked, jnp.float32(0.4), most=10**9, size=256)
    count = int(found.n_inside)
    assert count < sums.size // 2
    best = set(np.asarray(found.tile[:count]).tolist())
    share = np.exp(sums - sums.max())
    assert share[sorted(best)].sum() > 0.999 * share.sum()
    top = np.argsort(-full[found.tile[0]])[:3]
    np.testing.assert_allclose(found.scores[0][top], full[found.tile[0]][top], atol=0.02)
    assert float(found.captured) > 0.999
