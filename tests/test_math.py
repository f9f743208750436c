"""Distributions, coordinates, and small matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.test_util import check_grads

from brutax.utils import (
    chisquare_logpdf,
    galactic_to_galactocentric_cyl,
    inverse3,
    isPSD,
    log_ndtr_diff,
    safe_divide,
    sym3_cholesky,
    sym3_inverse,
    sym3_logdet,
    truncnorm_logpdf,
    truncnorm_pdf,
)
from brutax.utils.math import approximate_log_ndtr_diff

INTERVALS = [
    (-1.0, 2.0),
    (0.0, 1e-6),
    (0.0, 20.0),
    (-5.0, 5.0),
    (-0.5, 0.5),
    (-0.5, 0.50001),
    (3.0, 4.5),
    (-7.5, -7.25),
    (-40.0, -39.0),
    (39.0, 40.0),
    (30.0, 30.001),
    (300.0, 301.0),
    (-np.inf, 0.3),
    (5.0, np.inf),
    (-np.inf, -30.0),
    (-np.inf, np.inf),
]


def covariances(rng, n, size=1.0):
    """Random precision matrices of parameters of very different size."""
    root = rng.normal(size=(n, 3, 3)) * np.array([size, 1.0, 1.0 / size])[:, None]
    return root @ np.swapaxes(root, -1, -2) + np.eye(3) * 1e-3


def reference_log_mass(a, b):
    """Integral of the normal density by quadrature of its ratio to the value at its peak."""
    peak = min(max(0.0, a), b)
    a, b = max(a, peak - 40.0), min(b, peak + 40.0)
    edges = np.unique(np.clip(peak + np.append(-np.logspace(-9, 1.7, 400)[::-1], 0.0), a, b))
    edges = np.union1d(edges, np.clip(peak + np.logspace(-9, 1.7, 400), a, b))
    edges = np.union1d(edges, [a, b])
    nodes, weights = np.polynomial.legendre.leggauss(12)
    middle, half = 0.5 * (edges[1:] + edges[:-1]), 0.5 * np.diff(edges)
    step = middle[:, None] - peak + half[:, None] * nodes
    total = np.sum(np.exp(-step * peak - 0.5 * step**2) * weights * half[:, None])
    return np.log(total) - 0.5 * peak**2 - 0.5 * np.log(2 * np.pi)


@pytest.mark.parametrize("a, b", INTERVALS)
def test_log_mass_of_an_interval(a, b):
    a, b = float(np.float32(a)), float(np.float32(b))  # the same interval in both precisions
    exact = log_ndtr_diff(a, b)
    np.testing.assert_allclose(exact, reference_log_mass(a, b), rtol=1e-11, atol=1e-14)
    single = log_ndtr_diff(jnp.float32(a), jnp.float32(b))
    np.testing.assert_allclose(single, exact, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("a, b", INTERVALS)
def test_gradient_of_the_log_mass(a, b):
    """d ln(Phi(b) - Phi(a)) is the truncated density at the bounds, in both precisions."""
    a, b = float(np.float32(a)), float(np.float32(b))
    expected = [0.0 if np.isinf(x) else np.exp(scipy.stats.norm.logpdf(x) - log_ndtr_diff(a, b))
                for x in (a, b)]  # fmt: skip
    found = jax.grad(log_ndtr_diff, argnums=(0, 1))(jnp.float32(a), jnp.float32(b))
    np.testing.assert_allclose(found, (-expected[0], expected[1]), rtol=3e-5, atol=1e-10)


@pytest.mark.parametrize("a, b", [(-1.0, 2.0), (-3.0, -2.7), (8.0, 9.5), (-20.0, -12.0)])
def test_second_derivatives_of_the_log_mass(a, b):
    with jax.enable_x64(True):
        check_grads(log_ndtr_diff, (a, b), order=2, modes=("fwd", "rev"), rtol=1e-4)


def test_empty_interval_has_no_mass_and_no_gradient():
    assert log_ndtr_diff(2.0, 1.0) == -np.inf
    gradient = jax.grad(log_ndtr_diff, argnums=(0, 1))(jnp.array(1.0), jnp.array(1.0))
    assert gradient == (0.0, 0.0)


def test_truncated_normal():
    found = truncnorm_logpdf(0.5, -1, 2, loc=0.2, scale=0.3)
    np.testing.assert_allclose(found, -0.014799434554274, atol=1e-14)
    x = np.linspace(-1.0, 2.0, 61)
    expected = scipy.stats.truncnorm(-1.5, 0.7, loc=0.2, scale=1.3).logpdf(x)
    found = truncnorm_logpdf(x, -1.5, 0.7, 0.2, 1.3)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(truncnorm_pdf(x, -1.5, 0.7, 0.2, 1.3), np.exp(expected), rtol=1e-12)
    assert found[-1] == -np.inf and isinstance(found, np.ndarray)


@pytest.mark.parametrize("a", [-38.0, -5.0, 5.0, 38.0])
def test_truncated_normal_is_normalised_in_the_tails(a):
    z = np.linspace(a, a + 1.0, 20001)
    np.testing.assert_allclose(np.trapezoid(truncnorm_pdf(z, a, a + 1.0), z), 1.0, rtol=1e-5)


def test_truncated_normal_outside_has_finite_gradients():
    gradient = jax.grad(lambda x: truncnorm_logpdf(x, -1.0, 1.0))(jnp.array(3.0))
    assert gradient == 0.0


def test_chisquare_density():
    np.testing.assert_allclose(chisquare_logpdf(3, 5), -1.869632388870619, rtol=1e-12)
    x = np.array([0.1, 2.0, 300.0])
    expected = scipy.stats.chi2(7.5, loc=-1.0, scale=2.0).logpdf(x)
    np.testing.assert_allclose(chisquare_logpdf(x, 7.5, -1.0, 2.0), expected, rtol=1e-12)
    assert np.all(chisquare_logpdf(np.array([-1.0, 0.0]), 2) == -np.inf)


def test_galactocentric_coordinates():
    R, Z = galactic_to_galactocentric_cyl(np.array([1.0, 5.0]), 90, 10)
    np.testing.assert_allclose(R, [8.258925251532002, 9.564839662002905], rtol=1e-13)
    np.testing.assert_allclose(Z, [0.198648177666930, 0.893240888334652], rtol=1e-13)
    center = jax.jacobian(galactic_to_galactocentric_cyl)(jnp.array(8.2), 0.0, 0.0)
    assert np.all(np.isfinite(center))


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_symmetric_algebra(rng, size):
    H = covariances(rng, 50, size)
    H32 = jnp.asarray(H, dtype=jnp.float32)
    exact = np.float64(H32)
    with jax.enable_x64(True):
        L = sym3_cholesky(jnp.asarray(exact))
        np.testing.assert_allclose(L, np.linalg.cholesky(exact), rtol=1e-6, atol=1e-12)
        inverse = sym3_inverse(jnp.asarray(exact))
        np.testing.assert_allclose(
            inverse @ exact, np.broadcast_to(np.eye(3), exact.shape), atol=1e-5 * size
        )
        np.testing.assert_allclose(
            sym3_logdet(jnp.asarray(exact)), np.linalg.slogdet(exact)[1], rtol=1e-8
        )
    np.testing.assert_allclose(sym3_logdet(H32), np.linalg.slogdet(exact)[1], atol=3e-3)
    L = np.float64(sym3_cholesky(H32))
    scale = np.sqrt(np.diagonal(exact, axis1=1, axis2=2))
    residual = (L @ np.swapaxes(L, -1, -2) - exact) / scale[:, :, None] / scale[:, None, :]
    assert np.max(np.abs(residual)) < 1e-6
    inverse = np.asarray(sym3_inverse(H32))
    np.testing.assert_array_equal(inverse, np.swapaxes(inverse, -1, -2))


def test_symmetric_algebra_has_gradients(rng):
    with jax.enable_x64(True):
        H = jnp.asarray(covariances(rng, 1)[0] + np.eye(3))
        symmetric = lambda f: lambda x: f(0.5 * jnp.asarray(x + x.T))  # noqa: E731
        check_grads(symmetric(sym3_logdet), (H,), order=2, modes=("rev",), rtol=1e-4)
        for function in (sym3_inverse, sym3_cholesky):
            check_grads(symmetric(function), (H,), order=1, modes=("rev",), rtol=1e-4)


def test_singular_symmetric_matrices_stay_finite():
    for H in (jnp.ones((3, 3)), jnp.zeros((3, 3)), jnp.diag(jnp.array([1.0, 0.0, 2.0]))):
        for function in (sym3_logdet, sym3_inverse, sym3_cholesky):
            assert np.all(np.isfinite(function(H)))
            assert np.all(np.isfinite(jax.grad(lambda x: jnp.sum(function(x)))(H)))  # noqa: B023


def test_inverse3():
    A = np.array([[4.0, 1.0, 0.5], [1.0, 3.0, 0.2], [0.5, 0.2, 2.0]])
    row = [0.279943635509629, -0.089243776420855, -0.061061531235322]
    np.testing.assert_allclose(inverse3(A)[0], row, rtol=1e-12)
    np.testing.assert_allclose(inverse3(A, regularize=True)[0], row, rtol=1e-12)
    np.testing.assert_allclose(inverse3(np.zeros((3, 3)), regularize=True), 1e33 * np.eye(3))
    assert np.all(inverse3(np.ones((3, 3))) == np.inf)
    general = np.array([[0.0, 2.0, 1.0], [1.0, 0.0, 3.0], [4.0, 1.0, 1.0]])
    stack = np.stack([general, np.zeros((3, 3)), 1e8 * A])
    found = inverse3(stack)
    np.testing.assert_allclose(found[0], np.linalg.inv(general), rtol=1e-12)
    np.testing.assert_allclose(found[2], np.linalg.inv(A) / 1e8, rtol=1e-12)
    assert np.all(found[1] == np.inf)
    single = inverse3(jnp.asarray(np.stack([general, 1e-15 * A]), dtype=jnp.float32))
    np.testing.assert_allclose(single[1], np.linalg.inv(A) * 1e15, rtol=1e-5)
    with pytest.raises(ValueError, match="3, 3"):
        inverse3(np.eye(2))


def test_regularised_inverse_is_positive(rng):
    A = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    found = inverse3(A, regularize=True)
    np.testing.assert_allclose(found[0], [500.24987506, -499.75012494, 0.0], rtol=1e-8)
    indefinite = rng.normal(size=(20, 3, 3))
    found = inverse3(indefinite + np.swapaxes(indefinite, -1, -2), regularize=True)
    scale = np.sqrt(np.diagonal(found, axis1=1, axis2=2))
    assert np.min(np.linalg.eigvalsh(found / scale[:, :, None] / scale[:, None, :])) > -1e-12


def test_positive_semi_definite():
    assert isPSD(np.eye(3)) and isPSD(np.diag([1.0, 0.0]))
    assert not isPSD(np.diag([1.0, -1.0])) and not isPSD(np.array([[1.0, 0.5], [0.0, 1.0]]))


def test_safe_divide():
    value, slope = jax.value_and_grad(safe_divide, argnums=1)(jnp.array(2.0), jnp.array(0.0))
    assert value == 0.0 and slope == 0.0
    assert safe_divide(jnp.array(1.0), jnp.array(4.0)) == 0.25


def test_quick_normal_probabilities():
    a = np.array([-np.inf, -30.0, -3.0, -0.1, 0.0, 0.5, 6.0, 40.0, -np.inf, -2.0, 1.0])
    b = np.array([np.inf, 2.0, 3.0, 0.1, 9.0, 0.6, 7.0, 50.0, -8.0, -1.9, np.inf])
    quick, exact = approximate_log_ndtr_diff(jnp.asarray(a), jnp.asarray(b)), log_ndtr_diff(a, b)
    np.testing.assert_allclose(quick, exact, atol=0.06)
    wide = b - a > 0.3
    np.testing.assert_allclose(np.asarray(quick)[wide], exact[wide], atol=0.012)
    assert np.isneginf(approximate_log_ndtr_diff(jnp.asarray(1.0), jnp.asarray(0.5)))
