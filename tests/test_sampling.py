"""Quantiles, draws and resampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from brutax.utils import (
    draw_sar,
    quantile,
    sample_multivariate_normal,
    systematic_indices,
    truncnorm_ppf,
)
from brutax.utils._namespace import as_float
from brutax.utils.sampling import quantile_by_integers

COV = np.array([[0.5, 0.2, 0.1], [0.2, 0.4, -0.1], [0.1, -0.1, 0.3]])


@pytest.mark.parametrize("like", [np.asarray, jnp.asarray])
def test_quantiles_match_reference_values(like):
    x = like(np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
    q = np.array([0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
    np.testing.assert_allclose(quantile(x, q), [1, 1, 1.75, 3, 5, 5], rtol=1e-6)
    found = quantile(
        like(np.array([3.0, 1.0, 2.0])), [0.25, 0.5], weights=np.array([1.0, 2.0, 3.0])
    )
    np.testing.assert_allclose(found, [1.2, 1.8], rtol=1e-6)
    assert isinstance(found, jax.Array) == (like is jnp.asarray)


def test_weights_are_repetitions_in_the_limit(rng):
    x, counts = rng.normal(size=2000), rng.integers(1, 5, 2000)
    repeated = quantile(np.repeat(x, counts), [0.16, 0.5, 0.84])
    np.testing.assert_allclose(quantile(x, [0.16, 0.5, 0.84], counts), repeated, atol=2e-3)
    jitted = jax.jit(quantile)(jnp.asarray(x), jnp.array(0.5), jnp.asarray(counts, dtype=float))
    np.testing.assert_allclose(jitted, repeated[1], atol=2e-3)


def test_bad_quantiles_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        quantile(np.arange(3.0), 1.5)
    with pytest.raises(ValueError, match="length"):
        quantile(np.arange(3.0), 0.5, np.ones(2))


PPF_INTERVALS = [
    (-1.0, 2.0),
    (0.0, 20.0),
    (-0.5, 0.25),
    (3.5, 50.0),
    (-50.0, -4.5),
    (5.0, 6.0),
    (38.0, 40.0),
    (40.0, np.inf),
    (-np.inf, -40.0),
    (-np.inf, np.inf),
    (-np.inf, 1.0),
    (-40.0, -39.875),
]


@pytest.mark.parametrize("a, b", PPF_INTERVALS)
def test_truncated_normal_quantiles(a, b):
    u = np.float32([0.0, 1e-6, 1e-3, 0.1, 0.5, 0.75, 0.999, 1.0])
    found = np.float64(truncnorm_ppf(jnp.asarray(u), a, b))
    assert np.all(found >= a) and np.all(found <= b) and np.all(np.isfinite(found))
    assert np.all(np.diff(found) >= 0)
    exact = scipy.stats.truncnorm(a, b)
    spacing = np.spacing(np.float32(np.abs(found[1:-1])))  # of float32 at x
    error = np.abs(found[1:-1] - exact.ppf(np.float64(u[1:-1])))
    assert np.all(error < 1e-5 * exact.std() + 2 * spacing)


@pytest.mark.parametrize("a, b", PPF_INTERVALS)
def test_truncated_normal_quantiles_in_double_precision(a, b):
    u = np.array([1e-9, 1e-3, 0.1, 0.5, 0.75, 0.999])
    with jax.enable_x64(True):
        found = np.asarray(truncnorm_ppf(jnp.asarray(u), a, b))
    exact = scipy.stats.truncnorm(a, b)
    np.testing.assert_allclose(exact.cdf(found), u, rtol=1e-7, atol=1e-13)


def test_truncated_normal_quantiles_have_gradients():
    for a, b in [(-1.0, 2.0), (30.0, 40.0), (-np.inf, -6.0)]:
        with jax.enable_x64(True):
            slope = jax.grad(truncnorm_ppf)(jnp.array(0.3), a, b)
        h = 1e-5
        exact = scipy.stats.truncnorm(a, b)
        np.testing.assert_allclose(
            slope, (exact.ppf(0.3 + h) - exact.ppf(0.3 - h)) / (2 * h), rtol=1e-4
        )


def weights_over_many_orders(rng, n):
    return rng.normal(size=n) * 6.0 - 1000.0


@pytest.mark.parametrize("n, size", [(1, 4), (7, 1), (100, 1000), (5000, 64), (100003, 1024)])
def test_systematic_resampling(rng, n, size):
    log_weights = weights_over_many_orders(rng, n)
    log_weights[rng.uniform(size=n) < 0.3] = -np.inf
    log_weights[n // 2] = -995.0
    index = np.asarray(
        systematic_indices(jnp.asarray(log_weights, dtype=float), jnp.array(0.37), size)
    )
    assert index.shape == (size,) and index.dtype == np.int32
    assert np.all(np.diff(index) >= 0) and np.all(np.isfinite(log_weights[index]))
    weights = np.exp(log_weights - np.max(log_weights))
    share = size * weights / np.sum(weights)
    counts = np.bincount(index, minlength=n)
    assert np.all(np.abs(counts - share) < 1.01)
    ends = np.cumsum(share)
    expected = np.searchsorted(ends, np.arange(size) + 0.37, side="right")
    assert np.mean(np.minimum(expected, n - 1) != index) < 0.01


def test_systematic_resampling_is_unbiased(rng):
    log_weights = jnp.asarray(rng.normal(size=300) * 2.0, dtype=float)
    many = jax.jit(jax.vmap(lambda u: systematic_indices(log_weights, u, 16)))
    index = np.asarray(many((jnp.arange(4096, dtype=float) + 0.5) / 4096))
    share = 16 * np.exp(log_weights) / np.sum(np.exp(log_weights))
    counts = np.bincount(index.ravel(), minlength=300) / 4096
    np.testing.assert_allclose(counts, share, atol=2.5 / 4096 + 1e-5)


def test_systematic_resampling_keeps_to_weights_that_count():
    only = jnp.full(1000, -jnp.inf).at[jnp.array([3, 998])].set(jnp.array([5.0, 5.0]))
    for u in (0.0, 0.5, 0.999):
        index = np.asarray(systematic_indices(only.at[10].set(jnp.nan), jnp.array(u), 10))
        np.testing.assert_array_equal(index, [3] * 5 + [998] * 5)
    assert np.all(systematic_indices(jnp.full(50, -jnp.inf), jnp.array(0.3), 4) == 0)


def test_many_small_weights_count_together():
    """A million weights of 1e-6 equal one weight of 1: no loss in long float32 sums."""
    n = 2**20
    log_weights = jnp.full(n, -jnp.log(float(n))).at[0].set(0.0)
    index = np.asarray(systematic_indices(log_weights, jnp.array(0.5), 1000))
    assert abs(np.sum(index == 0) - 500) <= 1
    np.testing.assert_allclose(np.diff(index[501:]), n / 500, atol=3)


def moments(draws, mean, cov, sigma=5.0):
    """Draws (dim, size) have the mean and covariance within `sigma` standard errors."""
    size = draws.shape[1]
    error = np.sqrt(np.diagonal(cov) / size)
    assert np.all(np.abs(np.mean(draws, axis=1) - mean) < sigma * error)
    spread = np.sqrt((cov**2 + np.outer(np.diagonal(cov), np.diagonal(cov))) / size)
    assert np.all(np.abs(np.cov(draws) - cov) < sigma * spread)


@pytest.mark.parametrize(
    "seed", [np.random.default_rng(1), np.random.RandomState(1), jax.random.key(1)]
)
def test_normal_draws(seed):
    mean = np.array([[1.0, 2.0, 3.0], [-1.0, 0.0, 1.0]])
    draws = sample_multivariate_normal(mean, np.stack([COV, 2.0 * COV]), size=4000, rstate=seed)
    assert draws.shape == (3, 4000, 2)
    assert isinstance(draws, jax.Array) == isinstance(seed, jax.Array)
    moments(np.float64(draws[..., 0]), mean[0], COV)
    moments(np.float64(draws[..., 1]), mean[1], 2.0 * COV)
    one = sample_multivariate_normal(mean[0], COV, size=4000, rstate=seed)
    moments(np.float64(one), mean[0], COV)
    assert sample_multivariate_normal(np.zeros(2), np.eye(2)).shape == (2, 1)


def test_semi_definite_and_antithetic_draws(rng):
    mean, cov = np.zeros((1, 3)), np.diag([1.0, 0.0, 4.0])[None]
    draws = sample_multivariate_normal(mean, cov, 5, eps=0.0, rstate=rng, antithetic=True)[..., 0]
    assert np.all(draws[1] == 0)
    np.testing.assert_allclose(draws[:, 3:], -draws[:, :2])
    assert np.all(draws[0] != 0)


@pytest.mark.parametrize("seed", [None, np.random.RandomState(2), jax.random.key(3)])
def test_truncated_draws_stay_inside(seed):
    mean = np.array([[1.0, 0.1, 3.3], [0.2, 5.9, 7.9]])
    draws = draw_sar(*mean.T, np.stack([0.1 * COV, COV]), ndraws=300, rstate=seed)
    scale, av, rv = draws
    assert scale.shape == av.shape == rv.shape == (2, 300)
    assert np.all(scale >= 0) and np.all((av >= 0) & (av <= 6)) and np.all((rv >= 1) & (rv <= 8))
    assert np.all(np.std(av, axis=1) > 0.05)


def test_hopeless_truncated_draws_are_the_mean():
    with pytest.warns(RuntimeWarning, match="1 of 1"):
        _, av, _ = draw_sar(
            np.ones(1), np.array([-90.0]), np.ones(1) * 3, COV[None], ndraws=4, max_attempts=3
        )
    assert np.all(av == -90.0)


@pytest.mark.parametrize("n", [1, 2, 500])
def test_quantiles_by_integers_are_quantiles(rng, n):
    x, weights = np.asarray(rng.normal(size=n), np.float32), np.asarray(rng.random(n), np.float32)
    levels = jnp.asarray([0.025, 0.16, 0.5, 0.84, 0.975], dtype=float)
    got = quantile_by_integers(as_float(x), levels, as_float(weights))
    np.testing.assert_allclose(got, quantile(x, levels, weights), rtol=1e-4, atol=1e-4)
    ties = quantile_by_integers(as_float(np.full(n, -0.5)), levels, as_float(weights))
    np.testing.assert_array_equal(ties, -0.5)
