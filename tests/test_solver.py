"""The solver against independent arithmetic: densities, optima, masses, draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from brutax.models import Stars
from brutax.priors import (
    ExponentialDiskDistance,
    GalacticStructure,
    TruncatedNormalAv,
    TruncatedNormalRv,
    UniformAv,
)
from brutax.solver import Models, StarPrior, log_target
from brutax.solver.density import Theta, expand
from brutax.solver.gaussian import laplace
from brutax.solver.importance import draw_theta, log_proposal
from brutax.solver.optimum import refine
from brutax.solver.quadrature import quadrature_log_z
from brutax.solver.scores import score_model, start
from brutax.utils.diagnostics import effective_size, pareto_k

# compiled once for all tests of a precision
target = eqx.filter_jit(log_target)
gradient = eqx.filter_jit(lambda theta, *rest: jax.grad(lambda t: -log_target(t, *rest))(theta))
expansion = eqx.filter_jit(expand)
optimum = eqx.filter_jit(lambda *data, steps: refine(start(*data), *data, steps=steps))
gaussian = eqx.filter_jit(lambda *data: laplace(refine(start(*data), *data), data[2]))
quadrature = eqx.filter_jit(quadrature_log_z)
score = eqx.filter_jit(score_model)

COEFFS = np.array(
    [
        [15.0, 1.2, -0.05],
        [14.5, 0.8, 0.02],
        [14.2, 0.5, 0.03],
        [14.0, 0.3, 0.04],
        [13.9, 0.2, 0.02],
    ]
)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def make_model(feh=-0.3, loga=9.5):
    labels = {"feh": jnp.asarray(feh, dtype=float), "loga": jnp.asarray(loga, dtype=float)}
    return Models(*COEFFS.T, 0.7, labels)


def magnitudes(dist, av, rv):
    return COEFFS[:, 0] + av * (COEFFS[:, 1] + rv * COEFFS[:, 2]) + 5 * np.log10(dist)


def make_star(dist=1.3, av=0.7, rv=3.1, err=0.02, parallax=(0.8, 0.1), seed=1):
    flux = 10 ** (-0.4 * magnitudes(dist, av, rv))
    noise = np.random.default_rng(seed).normal(size=flux.size)
    sigma = err * flux
    return Stars.from_fluxes(
        flux + noise * sigma, sigma, *np.asarray(parallax), coords=np.array([120.0, 30.0])
    ), (flux + noise * sigma, sigma)


def make_prior(av=None):
    return StarPrior(GalacticStructure(), av or UniformAv(0.0, 20.0), TruncatedNormalRv())


def by_hand(theta, flux, sigma, parallax, prior, feh, loga):
    """The same density from the formulas, in NumPy."""
    eta, av, rv = theta
    dist = np.exp(eta)
    model = 10 ** (-0.4 * magnitudes(dist, av, rv))
    value = -0.5 * np.sum(((flux - model) / sigma) ** 2)
    value -= 0.5 * ((parallax[0] - 1 / dist) / parallax[1]) ** 2
    value += scipy.stats.truncnorm.logpdf(rv, (1 - 3.32) / 0.18, (8 - 3.32) / 0.18, 3.32, 0.18)
    from brutax.priors import logp_galactic_structure

    value += logp_galactic_structure(
        np.array([dist]), (120.0, 30.0), feh=np.array([feh]), loga=np.array([loga])
    )[0]
    return value + eta - np.log(20.0) + 0.7


def test_target_is_the_density_of_the_formulas(x64):
    star, (flux, sigma) = make_star()
    for theta in [(0.2, 0.5, 3.2), (0.3, 0.0, 3.5), (0.1, 2.0, 2.9)]:
        ours = target(Theta(*map(jnp.asarray, theta)), star, make_model(), make_prior())
        theirs = by_hand(theta, flux, sigma, (0.8, 0.1), make_prior(), -0.3, 9.5)
        np.testing.assert_allclose(ours, theirs, rtol=1e-11)


@pytest.mark.parametrize("av", [UniformAv(0.0, 20.0), TruncatedNormalAv(0.5, 0.2, 0.0, 20.0)])
def test_expansion_has_the_gradient_of_the_target(x64, av):
    star, _ = make_star()
    prior = make_prior(jax.tree.map(lambda x: jnp.asarray(x, dtype=float), av))
    model = make_model()
    theta = Theta(*(jnp.asarray(x) for x in (0.25, 0.6, 3.25)))
    point = expansion(theta, star, model, prior)
    grad = gradient(theta, star, model, prior)
    for ours, theirs in zip(point.grad, grad):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_curvature_is_positive_definite_without_data(x64):
    star = Stars.from_fluxes(np.full(5, np.nan), np.full(5, np.nan), coords=np.array([0.0, 0.0]))
    point = expansion(Theta(*map(jnp.asarray, (0.0, 1.0, 3.3))), star, make_model(), make_prior())
    c = point.curv
    matrix = np.array([[c.ee, c.ea, c.er], [c.ea, c.aa, c.ar], [c.er, c.ar, c.rr]])
    assert np.linalg.eigvalsh(matrix).min() > 0


@pytest.mark.parametrize("av, err", [(0.0, 0.03), (1.0, 0.02), (8.0, 0.005), (15.0, 0.01)])
def test_five_steps_reach_the_optimum(x64, av, err):
    star, _ = make_star(av=av, err=err)
    model, prior = make_model(), make_prior()
    short = optimum(star, model, prior, steps=5)
    long = optimum(star, model, prior, steps=40)
    assert float(short.phi - long.phi) < 1e-4
    grad = gradient(long.theta, star, model, prior)
    at_bound = float(long.theta.av) == 0.0
    assert abs(float(grad.eta)) < 1e-3 and abs(float(grad.rv)) < 1e-3
    assert float(grad.av) > 0 if at_bound else abs(float(grad.av)) < 1e-3


def integral(star, model, prior):
    """ln of the integral of the target over (eta, A_V, R_V) on a dense lattice."""
    point = optimum(star, model, prior, steps=40)
    gauss = gaussian(star, model, prior)
    inverse = np.linalg.inv(
        np.array(
            [
                [point.curv.ee, point.curv.ea, point.curv.er],
                [point.curv.ea, point.curv.aa, point.curv.ar],
                [point.curv.er, point.curv.ar, point.curv.rr],
            ]
        )
    )
    width = np.sqrt(np.diag(inverse))
    n = 121
    av_low = max(0.0, float(gauss.mean.av) - 8 * width[1])
    axes = [
        np.linspace(gauss.mean.eta - 9 * width[0], gauss.mean.eta + 9 * width[0], n),
        np.linspace(av_low, max(float(gauss.mean.av), 0) + 8 * width[1], n),
        np.linspace(gauss.mean.rv - 8 * width[2], gauss.mean.rv + 8 * width[2], 61),
    ]
    grid = np.meshgrid(*axes, indexing="ij")
    density = jax.jit(jax.vmap(lambda *t: log_target(Theta(*t), star, model, prior)))(
        *(jnp.asarray(g.ravel()) for g in grid)
    )
    top = float(jnp.max(density))
    cube = np.exp(np.asarray(density).reshape(grid[0].shape) - top)
    for axis in axes[::-1]:
        cube = scipy.integrate.simpson(cube, x=axis, axis=-1)
    return top + np.log(cube)


@pytest.mark.parametrize(
    "av, err, parallax",
    [
        (0.7, 0.02, (0.8, 0.1)),
        (0.0, 0.03, (np.nan, np.nan)),
        (0.0, 0.1, (0.5, 0.4)),
        (3.0, 0.05, (0.77, 0.005)),
    ],
)
def test_model_mass_is_the_integral(x64, av, err, parallax):
    star, _ = make_star(av=av, err=err, parallax=parallax)
    model, prior = make_model(), make_prior()
    exact = integral(star, model, prior)
    gauss = gaussian(star, model, prior)
    assert abs(float(gauss.log_z) - exact) < 0.03  # Laplace
    assert abs(float(quadrature(gauss, star, model, prior)) - exact) < 2e-3
    assert abs(float(score(star, model, prior).log_z) - exact) < 0.3  # a score


def test_proposal_density_is_normalised_and_is_what_is_drawn(x64):
    star, _ = make_star(av=0.0, err=0.05)
    model, prior = make_model(), make_prior()
    gauss = gaussian(star, model, prior)
    n = 200_000
    keys = jax.random.split(jax.random.key(3), 2)
    uniform = jax.random.uniform(keys[0], (n, 2))
    normal = jax.random.normal(keys[1], (n, 2))
    theta = jax.jit(jax.vmap(lambda u, z: draw_theta(gauss, u, z)))(uniform, normal)
    log_q = jax.jit(jax.vmap(lambda t: log_proposal(t, gauss)))(theta)
    assert float(theta.av.min()) >= 0
    # the mean of p/q over draws from q is the integral of p: here a product of known densities
    mean = Theta(*(float(x.mean()) for x in theta))
    width = Theta(*(float(x.std()) for x in theta))
    log_p = scipy.stats.norm.logpdf(theta.eta, mean.eta, 0.5 * width.eta)
    log_p += scipy.stats.expon.logpdf(theta.av, 0.0, 0.5 * width.av)
    log_p += scipy.stats.norm.logpdf(theta.rv, mean.rv, 0.5 * width.rv)
    ratio = np.exp(log_p - np.asarray(log_q))
    error = ratio.std() / np.sqrt(n)
    assert abs(ratio.mean() - 1) < 5 * error and error < 0.02


def test_mass_of_a_model_without_prior_mass_is_zero():
    star, _ = make_star()
    model = make_model()
    never = eqx.tree_at(lambda m: m.log_prior, model, jnp.asarray(-jnp.inf, dtype=float))
    assert float(score(star, never, make_prior()).log_z) == -np.inf
    old = make_model(loga=10.3)  # older than the Galaxy
    assert float(score(star, old, make_prior()).log_z) == -np.inf


def test_single_precision_agrees_with_double():
    results = []
    for double in (False, True):
        with jax.enable_x64(double):
            star, _ = make_star(err=0.001, parallax=(0.77, 0.002))
            prior, model = make_prior(), make_model()
            results.append(float(gaussian(star, model, prior).log_z))
    assert abs(results[0] - results[1]) < 0.02


def test_effective_size_counts_equal_draws():
    weights = jnp.log(jnp.asarray([1.0, 1.0, 1.0, 0.0, 0.0]))
    np.testing.assert_allclose(effective_size(weights), 3.0, rtol=1e-6)


@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_index_of_known_tails(rng, k):
    values = [
        float(pareto_k(jnp.asarray(np.log1p(rng.pareto(1 / k, 4000)), dtype=float)))
        for _ in range(20)
    ]
    assert abs(np.mean(values) - k) < 0.12


def test_pareto_index_of_bounded_weights_is_small(rng):
    assert float(pareto_k(jnp.zeros(1024))) == 0.0
    bounded = jnp.asarray(0.1 * rng.uniform(size=1024), dtype=float)
    assert float(pareto_k(bounded)) < 0.3


def test_distance_prior_without_direction():
    star, _ = make_star()
    prior = StarPrior(ExponentialDiskDistance(), UniformAv(0.0, 20.0), TruncatedNormalRv())
    assert np.isfinite(float(score(star, make_model(), prior).log_z))
