"""Clouds along a line of sight: brutus' numbers, exact cases, gradients, what must be refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import quad
from scipy.stats import cauchy, norm

from brutax.analysis import (
    kernel_gauss,
    kernel_lorentz,
    kernel_tophat,
    los_clouds_loglike_samples,
    los_clouds_priortransform,
)
from brutax.dust import log_likelihood

ONE = [0.1, 0.05, 0.08, 0.25, 8.0, 1.2]
TWO = [0.05, 0.05, 0.03, 0.3, 8.0, 1.1, 10.0, 2.0]
ADDED = [0.05, 0.05, 0.03, 0.3, 8.0, 0.8, 10.0, 1.7]
FALLING = [0.05, 0.05, 0.03, 0.3, 8.0, 2.0, 10.0, 1.1]
# values of brutus 1.2.0 for `stars()`
RECORDED = {
    "gauss": ({}, TWO, -0.36468401909318116),
    "lorentz": ({"kernel": "lorentz"}, TWO, -2.516546327716925),
    "tophat": ({"kernel": "tophat"}, TWO, 1.3216191856550323),
    "one cloud": ({}, ONE, -7.741254326678903),
    "few draws": ({"Ndraws": 7}, TWO, -0.5234240730795721),
    "rlims": ({"rlims": (0.1, 3.0)}, TWO, 4.387842558470094),
    "additive": ({"additive_foreground": True}, ADDED, -0.36468401909318116),
    "template": ({"template_reds": True}, TWO, -7.9044616463007555),
    "both": ({"template_reds": True, "additive_foreground": True}, TWO, -16.476342028749148),
    "falling": ({"monotonic": False}, FALLING, -32.466596107845746),
}


def stars():
    """Twelve stars of twenty draws in front of and behind clouds, some of them spoilt."""
    rng = np.random.default_rng(11)
    dist = rng.uniform(6, 12, (12, 1)) + rng.normal(0, 0.2, (12, 20))
    red = 0.3 + 0.8 * (dist > 8) + 0.9 * (dist > 10) + rng.normal(0, 0.15, (12, 20))
    red[2, 3], red[4], dist[5, 1], red[6, 2] = np.nan, 20.0, -1.0, np.inf
    return dist, red, rng.uniform(0.5, 1.5, 12)


@pytest.mark.parametrize("name", RECORDED)
def test_values_of_brutus(name):
    options, theta, expected = RECORDED[name]
    dist, red, template = stars()
    options = options | ({"template_reds": template} if "template_reds" in options else {})
    with jax.enable_x64(True):
        found = los_clouds_loglike_samples(theta, dist, red, **options)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_transform_of_brutus():
    """Recorded from brutus 1.2.0."""
    u = (0.3, 0.6, 0.2, 0.5, 0.7, 0.4, 0.2, 0.9)
    shared = [0.034489999733487, 0.053718605353852, 0.038677920554315, 3.0, 7.0]
    expected = [*shared, 5.4, 14.5, 2.4]
    np.testing.assert_allclose(los_clouds_priortransform(u), expected, rtol=1e-12)
    expected = [*shared, 1.82, 14.5, 0.92]
    found = los_clouds_priortransform(u, dust_template=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    corner = los_clouds_priortransform(np.ones(6))
    np.testing.assert_allclose(corner, [1.0, 1.0, 1.0, 6.0, 19.0, 6.0])


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [
        (kernel_gauss, norm(0.5, 0.2).logpdf),
        (kernel_lorentz, cauchy(0.5, 0.2).logpdf),
        (kernel_tophat, lambda x: np.where((x >= 0.3) & (x < 0.7), np.log(1 / 0.4), -np.inf)),
    ],
)
def test_kernels_are_densities(kernel, expected):
    x = np.array([0.1, 0.35, 0.5, 0.9])
    np.testing.assert_allclose(kernel(x, (0.5, 0.2)), expected(x), rtol=1e-12)
    for mean in (0.1, 3.0, 5.9):
        width, limits = 0.2, (0.0, 6.0)
        edges = (max(mean - 0.2, 0), min(mean + 0.2, 6))

        def density(x, mean=mean, width=width, limits=limits):
            return float(np.exp(kernel(np.array([x]), (mean, width), rlims=limits))[0])

        inside = quad(density, *edges)[0] + sum(
            quad(density, *part)[0] for part in ((0.0, edges[0]), (edges[1], 6.0))
        )
        assert abs(inside - 1) < 1e-6
    with pytest.raises(ValueError, match="width"):
        kernel(x, (0.5, 0.0))


def test_far_kernels_keep_their_mass():
    """A level far outside the range: no 0/0."""
    for kernel in (kernel_gauss, kernel_lorentz):
        value = kernel(np.array([0.0, 3.0]), (40.0, 0.5), rlims=(0.0, 6.0))
        assert np.isfinite(value).all() and value[1] > value[0]


@pytest.mark.parametrize("name", ["gauss", "lorentz", "rlims", "additive", "template", "both"])
def test_pure_form_is_the_same(name):
    dist, red, template = (jnp.asarray(x, jnp.float32) for x in stars())
    options, theta, expected = RECORDED[name]
    options = options | ({"template_reds": template} if "template_reds" in options else {})
    found = jax.jit(lambda t: log_likelihood(t, dist, red, **options))(jnp.asarray(theta))
    assert abs(found - expected) < 1e-3


def test_gradients():
    with jax.enable_x64(True):
        dist, red, _ = (jnp.asarray(x) for x in stars())

        def value(theta):
            return log_likelihood(jnp.asarray(theta), dist, red)

        check_grads(value, (jnp.asarray(TWO),), 1, ["rev"], eps=1e-6)


@pytest.mark.parametrize(
    "change",
    [{0: -0.1}, {0: 1.1}, {1: -0.1}, {4: 11.0}, {5: 0.1}, {3: np.nan}, {7: 0.5}],
    ids=str,
)
def test_impossible_parameters_have_no_likelihood_and_no_slope(change):
    dist, red, _ = (jnp.asarray(x, jnp.float32) for x in stars())
    theta = np.array(TWO, np.float32)
    for at, value in change.items():
        theta[at] = value
    value, slope = jax.value_and_grad(log_likelihood)(jnp.asarray(theta), dist, red)
    assert value == -np.inf and np.all(slope == 0)


def test_padding_counts_for_nothing_and_sight_lines_map():
    dist, red, _ = (jnp.asarray(x, jnp.float32) for x in stars())
    theta = jnp.asarray(TWO, jnp.float32)
    alone = log_likelihood(theta, dist, red)
    weight = jnp.concatenate([jnp.ones(12), jnp.zeros(4)])
    more = [jnp.concatenate([x, jnp.full((4, 20), jnp.nan)]) for x in (dist, red)]
    np.testing.assert_allclose(log_likelihood(theta, *more, weight=weight), alone, rtol=1e-6)
    lines = jax.vmap(lambda t, d, r: log_likelihood(t, d, r))(
        jnp.stack([theta, theta]), jnp.stack([dist, dist]), jnp.stack([red, red[::-1]])
    )
    np.testing.assert_allclose(lines[0], alone, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"theta": [0.1] * 5}, "4 \\+ 2 n"),
        ({"theta": [2.0, *TWO[1:]]}, "fraction"),
        ({"theta": [0.1, -0.1, *TWO[2:]]}, "scatters"),
        ({"theta": [*TWO[:4], 10.0, 1.1, 8.0, 2.0]}, "increase"),
        ({"theta": [np.nan, *TWO[1:]]}, "finite"),
        ({"rsamps": np.zeros((3, 20))}, "rsamps"),
        ({"template_reds": np.ones(3)}, "template_reds"),
        ({"kernel": "gaus"}, "kernel"),
        ({"Ndraws": 0}, "Ndraws"),
        ({"rlims": (6.0, 0.0)}, "rlims"),
    ],
)
def test_bad_input(change, words):
    dist, red, _ = stars()
    with pytest.raises(ValueError, match=words):
        los_clouds_loglike_samples(**({"theta": TWO, "dsamps": dist, "rsamps": red} | change))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([0.5] * 5,), "4 \\+ 2 n"),
        (([1.5] * 6,), "cube"),
        (([0.5] * 6, (6.0, 0.0)), "rlims"),
        (([0.5] * 6, (0.0, 6.0), (19.0, 4.0)), "dlims"),
        (([0.5] * 6, (0.0, 6.0), (4.0, 19.0), (-3.0, 0.0, -9.0, 0.0)), "pb_params"),
    ],
)
def test_bad_cubes(arguments, words):
    with pytest.raises(ValueError, match=words):
        los_clouds_priortransform(*arguments)


def test_levels_that_fall_are_impossible_only_if_asked():
    dist, red, _ = stars()
    assert los_clouds_loglike_samples(FALLING, dist, red) == -np.inf
    own = los_clouds_loglike_samples(
        TWO, dist, red, kernel=lambda x, kp: -0.5 * ((x - kp[0]) / kp[1]) ** 2
    )
    assert np.isfinite(own)
