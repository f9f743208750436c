"""Any posterior: exact answers, refusals, and continuation to the last bit."""

import dataclasses
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from _posteriors import DATA, exact, gaussian, gaussian_problem, same
from scipy.stats import kstest

from brutax import infer, star
from brutax.infer.gaussian import draws_near_maxima, find
from brutax.priors import (
    KroupaIMF,
    Point,
    TruncatedNormalAv,
    TruncatedNormalRv,
    UniformAv,
    logp_imf,
)

SHORT = dict(num_warmup=300, num_samples=1000, num_chains=4)
SMALL = dict(num_live=200)


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    """numpyro's distributions mix types and ranks; `fit` itself works with either setting."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def by_nuts():
    return infer.fit(gaussian_problem(), "nuts", key=1, **SHORT)


@pytest.fixture(scope="module")
def by_nested():
    return infer.fit(gaussian_problem(), "nested", key=1, **SMALL)


@pytest.mark.parametrize("which", ["by_nuts", "by_nested"])
def test_moments_are_exact(which, request):
    post = request.getfixturevalue(which)
    _, mean, std = exact()
    row = post.summary()["a"]
    error = std / np.sqrt(post.ess)
    assert abs(row.mean - mean) < 4 * error
    assert abs(row.std / std - 1) < 4 / np.sqrt(2 * post.ess)
    np.testing.assert_allclose(post.samples["c"], 2 * post.samples["a"], rtol=1e-6)
    assert np.isclose(post.weights.sum(), 1.0)


def test_evidence_is_exact(by_nested):
    assert by_nested.ok
    assert 0.02 < by_nested.logz_err < 0.3
    assert abs(by_nested.logz - exact()[0]) < 4 * by_nested.logz_err


@pytest.mark.parametrize("which", ["by_nuts", "by_nested"])
def test_densities_of_draws(which, request):
    post = request.getfixturevalue(which)
    for i in (0, len(post.weights) // 2):
        a, b = post.samples["a"][i], post.samples["b"][i]
        log_prior = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(0.5, 2.0).log_prob(b)
        np.testing.assert_allclose(post.log_prior[i], log_prior, rtol=1e-4, atol=1e-4)
        log_like = gaussian({"a": a, "b": b}, jnp.asarray(DATA))
        np.testing.assert_allclose(post.log_likelihood[i], log_like, rtol=1e-4, atol=1e-3)


def two_modes(params, data):
    x = params["x"]
    return jnp.logaddexp(
        jnp.log(0.5) - 0.5 * ((x - 5.0) / data) ** 2, jnp.log(0.5) - 0.5 * ((x + 5.0) / data) ** 2
    )


def test_chains_in_different_modes_are_not_ok():
    problem = infer.Problem({"x": dist.Uniform(-10.0, 10.0)}, two_modes, 0.5)
    post = infer.fit(problem, "nuts", key=3, num_warmup=200, num_samples=200, num_chains=8)
    assert not post.ok and any("R-hat of x" in text for text in post.warnings)


@pytest.mark.slow
def test_brutax_priors_have_the_evidence_of_their_density():
    """Uniform in A_V times a truncated normal in R_V; the likelihood asks for R_V only."""

    def rv_measured(params, data):
        return -0.5 * ((params["rv"] - data) / 0.1) ** 2

    prior = star.prior({"av": UniformAv(0.0, 4.0), "rv": TruncatedNormalRv()})
    problem = infer.Problem(prior, rv_measured, 3.5)
    post = infer.fit(problem, "nested", key=2, **SMALL)
    var = 0.1**2 + 0.18**2
    logz = 0.5 * np.log(0.1**2 / var) - 0.5 * (3.5 - 3.32) ** 2 / var
    assert abs(post.logz - logz) < 4 * post.logz_err
    mean = (3.5 / 0.1**2 + 3.32 / 0.18**2) / (1 / 0.1**2 + 1 / 0.18**2)
    assert abs(post.summary()["rv"].mean - mean) < 0.09 * 4 / np.sqrt(post.ess)
    assert problem.check().without_icdf == ()


def test_conditional_prior_and_constants():
    prior = {
        "top": dist.Uniform(1.0, 2.0),
        "x": lambda p: dist.Uniform(0.0, p["top"]),
        "k": 3.0,
        "v": dist.Dirichlet(jnp.ones(3)),
    }
    problem = infer.Problem(prior, lambda p, d: p["k"] * p["x"] + jnp.sum(p["v"]))
    assert problem.prior.size == 4 and problem.check().without_icdf == ()
    params = problem.prior.sample(jax.random.key(0))
    back, log_base, log_jacobian = problem.prior.from_real(problem.prior.to_real(params))
    for name, value in params.items():
        np.testing.assert_allclose(back[name], value, rtol=1e-4)
    np.testing.assert_allclose(log_base, -np.log(params["top"]) + np.log(2.0), rtol=1e-4)
    assert np.isfinite(log_jacobian)


@pytest.mark.slow
def test_unit_cube_gives_draws_of_priors_with_several_components():
    concentration = np.array([1.0, 2.0, 2.0, 0.7])
    cov = np.array([[1.0, 0.6], [0.6, 2.0]])
    prior = {
        "share": dist.Dirichlet(jnp.asarray(concentration)),
        "beta": dist.Beta(2.0, 5.0),
        "v": dist.MultivariateNormal(jnp.asarray([1.0, -1.0]), jnp.asarray(cov)),
        "w": dist.Normal(jnp.zeros(2), 3.0).to_event(1),
        "t": dist.MultivariateStudentT(3.0, jnp.zeros(2), jnp.eye(2)),
    }
    problem = infer.Problem(prior, lambda p, d: 0.0 * p["beta"])
    assert problem.prior.without_icdf == ("t",)
    prior.pop("t")
    compiled = infer.Problem(prior, lambda p, d: 0.0 * p["beta"]).prior
    assert compiled.size == 3 + 1 + 2 + 2
    u = jax.random.uniform(jax.random.key(1), (20_000, compiled.size))
    draws = jax.device_get(jax.vmap(compiled.from_cube)(u))
    np.testing.assert_allclose(draws["share"].sum(axis=1), 1.0, atol=1e-5)
    for k, a in enumerate(concentration):
        assert kstest(draws["share"][:, k], "beta", (a, concentration.sum() - a)).pvalue > 1e-3
    assert kstest(draws["beta"], "beta", (2.0, 5.0)).pvalue > 1e-3
    np.testing.assert_allclose(draws["v"].mean(axis=0), [1.0, -1.0], atol=0.05)
    np.testing.assert_allclose(np.cov(draws["v"].T), cov, atol=0.08)
    assert kstest(draws["w"][:, 1], "norm", (0.0, 3.0)).pvalue > 1e-3


def test_joint_priors_whatever_is_drawn_from():
    """The density is the prior's, beside ties; only the draws differ."""
    joint = KroupaIMF() * TruncatedNormalAv(1.0, 0.5, 0.0, 4.0)
    values = {"mini": 0.7, "av": 1.2}
    for mass in ((0.1, 5.0), dist.LogUniform(0.1, 5.0)):
        problem = infer.Problem(
            {("mini", "av"): star.density(joint), "twice": lambda p: 2.0 * p["mini"]},
            lambda p, d: -0.5 * p["twice"] ** 2,
            bounds={"mini": mass, "av": (0.0, 4.0)},
        )
        found = problem.density(problem.prior.to_real(values), None)
        np.testing.assert_allclose(found.log_prior, joint.log_prob(Point(**values)), rtol=1e-5)
        np.testing.assert_allclose(found.log_likelihood, -0.98, rtol=1e-5)
        z = jax.vmap(problem.sample_real)(jax.random.split(jax.random.key(1), 20_000))
        prior = problem.prior
        factor = jax.vmap(lambda z, prior=prior: prior.log_factor(prior.from_real(z)[0]))(z)
        mass_inside = np.exp(logp_imf(np.linspace(0.1, 5.0, 20_001))).mean() * 4.9
        np.testing.assert_allclose(np.mean(np.exp(factor)), mass_inside, rtol=0.06)
    with pytest.raises(ValueError, match="needs bounds"):
        infer.Problem({("mini", "av"): star.density(joint)}, gaussian, bounds={"mini": (0.1, 5.0)})
    with pytest.raises(TypeError, match="goes a density"):
        infer.Problem({("a", "b"): dist.Normal(0, 1)}, gaussian)


def test_bad_problems_are_refused_by_name():
    with pytest.raises(ValueError, match="gradient with respect to a is not finite"):
        prior = {"a": dist.Uniform(-1.0, 1.0), "b": dist.Normal(0.0, 1.0)}
        like = lambda p, d: jnp.where(p["a"] > 2.0, jnp.sqrt(p["a"] - 2.0), 0.0) + p["b"]  # noqa: E731
        infer.Problem(prior, like).check()
    infer.Problem(prior, like).check(gradient=False)  # as for nested sampling
    with pytest.raises(ValueError, match="no parameter is free"):
        infer.Problem({"a": 1.0}, gaussian)
    with pytest.raises(ValueError, match="discrete"):
        infer.Problem({"a": dist.Poisson(3.0)}, gaussian)
    with pytest.raises(ValueError, match="bounds"):
        infer.Problem(star.prior(UniformAv()), gaussian)
    with pytest.raises(ValueError, match="NaN"):
        infer.Problem({"a": dist.Normal(0.0, 1.0)}, lambda p, d: jnp.log(p["a"] - 1e9)).check()


def test_unknown_names_say_the_nearest():
    with pytest.raises(TypeError, match="do you mean 'num_samples'"):
        infer.fit(gaussian_problem(), "nuts", num_sample=3)
    with pytest.raises(ValueError, match="do you mean 'nested'"):
        infer.fit(gaussian_problem(), "nestd")


@pytest.mark.parametrize(
    ("method", "options", "which", "chunk"),
    [
        ("nuts", SHORT, "by_nuts", 100),
        pytest.param("nested", SMALL, "by_nested", 4, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_bit_for_bit(
    method, options, which, chunk, tmp_path, request, monkeypatch
):
    """SIGTERM in the middle, other chunks afterwards, then a damaged file, then other data."""
    whole, path = request.getfixturevalue(which), tmp_path / "run.h5"
    tick, count = infer.checkpoint.Session.tick, iter(range(1000))

    def tick_with_signal(self, *args, **kwargs):
        if next(count) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        tick(self, *args, **kwargs)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(infer.checkpoint.Session, "tick", tick_with_signal)
    with pytest.raises(infer.Interrupted, match="run the same call again"):
        infer.fit(
            gaussian_problem(),
            method,
            key=1,
            checkpoint=path,
            save_every=0.0,
            chunk=chunk,
            **options,
        )
    assert signal.getsignal(signal.SIGTERM) == before
    monkeypatch.undo()
    with pytest.raises(infer.CheckpointError, match="data was"):
        infer.fit(gaussian_problem(1.001), method, key=1, checkpoint=path, **options)
    with pytest.raises(infer.CheckpointError, match="key was"):
        infer.fit(gaussian_problem(), method, key=2, checkpoint=path, **options)
    with h5py.File(path, "r+") as file:  # one number of the state is another one
        state = next(x for x in file["state"].values() if x.size > 3 and x.dtype.kind == "f")
        state[...] = np.asarray(state) + np.float32(1e-3)
    with pytest.warns(RuntimeWarning, match="checksum does not fit; going on from"):
        again = infer.fit(gaussian_problem(), method, key=1, checkpoint=path, chunk=35, **options)
    same(whole, again)
    once_more = infer.fit(gaussian_problem(), method, key=1, checkpoint=path, **options)
    same(whole, once_more)
    path.write_bytes(path.read_bytes()[:1000])
    path.with_name("run.h5.prev").write_bytes(b"something else")
    with pytest.raises(infer.CheckpointError, match="delete it or choose another"):
        infer.fit(gaussian_problem(), method, key=1, checkpoint=path, **options)


def test_outside_the_main_thread(by_nested, tmp_path):
    """Signals belong to the main thread; checkpoints work in any."""
    options = dict(SMALL, checkpoint=tmp_path / "x.h5", save_every=3600.0)  # once, at the end
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(infer.fit, gaussian_problem(), "nested", key=1, **options)
        same(by_nested, call.result())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.h5"]


def test_nothing_is_written_without_a_checkpoint(by_nested, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    same(by_nested, infer.fit(gaussian_problem(), "nested", key=1, **SMALL))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_evidence_is_calibrated():
    """Ten seeds: the mean error within 3 standard errors of 0, the scatter that which is quoted."""
    problem = gaussian_problem()
    posts = [infer.fit(problem, "nested", key=seed) for seed in range(10)]
    errors = np.array([post.logz - exact()[0] for post in posts])
    quoted = np.mean([post.logz_err for post in posts])
    assert abs(errors.mean()) < 3 * quoted / np.sqrt(10)
    assert 0.4 < errors.std() / quoted < 1.7


def test_saved_and_loaded(by_nuts, by_nested, tmp_path):
    for post in (by_nuts, by_nested):
        post.save(tmp_path / "post.h5")
        back = infer.Posterior.load(tmp_path / "post.h5")
        same(post, back)
        assert (back.warnings, back.meta, back.n_chains) == (
            post.warnings,
            post.meta,
            post.n_chains,
        )
        assert back.stats.keys() == post.stats.keys()
    with h5py.File(tmp_path / "other.h5", "w"):
        pass
    with pytest.raises(ValueError, match="not a posterior"):
        infer.Posterior.load(tmp_path / "other.h5")


def test_views_of_a_posterior(by_nuts, by_nested):
    assert by_nuts.quantile([0.1, 0.9])["a"].shape == (2,)
    draws = by_nested.resample(np.random.default_rng(0), 50)
    assert draws["a"].shape == (50,) and np.all(np.isin(draws["a"], by_nested.samples["a"]))
    density = by_nested.log_likelihood + by_nested.log_prior
    at = np.flatnonzero(by_nested.samples["a"] == by_nested.best["a"])
    assert density[at].max() == density.max()


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_to_arviz(by_nuts):
    pytest.importorskip("arviz")
    assert by_nuts.to_arviz().posterior["a"].shape == (4, 1000)


def test_the_example_of_the_docs(tmp_path, monkeypatch):
    """A user's own model runs as written, and finds what the image was made with."""
    page = (Path(__file__).parents[1] / "docs" / "inference.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) < 20
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    code = code.replace('"nested", key=0', '"nested", key=0, num_live=100')
    exec(compile(code, "inference.md", "exec"), names)
    assert names["post"].ok
    for name, value in {"peak": 3.0, "radius": 4.0, "n": 1.0}.items():
        row = names["post"].summary()[name]
        assert abs(row.mean - value) < 4 * row.std and row.std < 0.2


def test_map_is_the_maximum_of_the_density_in_the_parameters(tmp_path):
    """A measured amplitude, 0.978 +- 0.113: with a normal prior the weighted mean; with a
    log-uniform one the root of (x - m) / s^2 = -1/x."""

    def measured(params, data):
        return -0.5 * ((params["x"] - data) / 0.113) ** 2

    prior = {"x": dist.Normal(1.2, 0.1)}
    path = tmp_path / "map.h5"
    post = infer.fit(infer.Problem(prior, measured, 0.978), "map", checkpoint=path, num_starts=8)
    weight = np.array([0.113, 0.1]) ** -2.0
    expected = weight @ [0.978, 1.2] / weight.sum()
    np.testing.assert_allclose(post.best["x"], expected, rtol=1e-4)
    assert post.ok and post.stats["starts_agree"] == 8
    prior = {"x": dist.LogUniform(0.01, 10.0)}
    post = infer.fit(infer.Problem(prior, measured, 0.978), "map", num_starts=8)
    expected = 0.5 * (0.978 + np.sqrt(0.978**2 - 4 * 0.113**2))
    np.testing.assert_allclose(post.best["x"], expected, rtol=1e-4)


def wide_problem(width):
    """One parameter, five measurements of it, a prior of some width."""
    prior = {"a": dist.Uniform(-width, width), "b": 0.0}
    return infer.Problem(prior, gaussian, DATA)


def test_search_finds_the_broad_hill_among_peaks():
    """A narrow maximum in six dimensions, far from most prior draws, on a hill with ripples."""
    centre = jnp.asarray([1.5, -2.0, 0.5, 1.0, -1.0, 2.5])

    def height(z):
        away = (z - centre) / 0.02
        return -0.5 * jnp.sum(away**2) + 300.0 * jnp.cos(9.0 * (z[0] - centre[0]))

    draws = 2.0 * jax.random.normal(jax.random.key(0), (256, 6))
    found, heights = jax.jit(lambda z, key: draws_near_maxima(height, z, key))(
        draws, jax.random.key(1)
    )
    np.testing.assert_array_equal(heights, np.sort(heights)[::-1])
    np.testing.assert_allclose(heights, jax.vmap(height)(found), rtol=1e-4)
    frame, _ = find(height, draws, jax.random.key(1), starts=2, steps=100)
    np.testing.assert_allclose(frame.mean, centre, atol=1e-3)
    few, _ = draws_near_maxima(height, draws[:8], jax.random.key(1))  # too few to gather
    assert {tuple(x) for x in np.asarray(few)} == {tuple(x) for x in np.asarray(draws[:8])}


def test_chains_that_start_about_the_maximum(tmp_path, monkeypatch):
    """They have the same posterior, of a problem whose scales would cost a long warm-up."""

    def narrow(params, data):
        a, b = params["a"], params["b"]
        return -0.5 * ((a - 1.0) / 1e-3) ** 2 - 0.5 * ((b - a - 2.0) / 1e-4) ** 2

    prior = {"a": dist.Uniform(0.0, 5.0), "b": dist.Normal(0.0, 10.0)}
    problem = infer.Problem(prior, narrow)
    how = dict(num_warmup=100, num_samples=500, start="map")
    post = infer.fit(problem, "nuts", key=3, **how)
    assert post.ok, post.warnings
    row = post.summary()
    assert abs(row["a"].mean - 1.0) < 4e-3 / np.sqrt(post.ess)
    assert abs(row["a"].std / 1e-3 - 1) < 4 / np.sqrt(2 * post.ess)
    gap = post.samples["b"] - post.samples["a"]
    assert abs(gap.std() / 1e-4 - 1) < 0.15  # of numbers of order 3, in single precision
    assert post.stats["evaluations"] / len(post.weights) < 10
    with pytest.raises(ValueError, match="start is"):
        infer.fit(problem, "nuts", start="middle")


@pytest.mark.slow
def test_chains_in_turn_are_those_side_by_side(tmp_path):
    """The same posterior; and they go on from a checkpoint, bit for bit."""
    how = dict(num_warmup=100, num_samples=150, num_chains=3, chunk=60)
    problem = gaussian_problem()
    aside = infer.fit(problem, "nuts", key=5, **how)
    apart = infer.fit(problem, "nuts", key=5, in_turn=True, **how)
    assert apart.n_chains == 3 and apart.samples["a"].shape == aside.samples["a"].shape
    error = np.hypot(*(x.samples["a"].std() / np.sqrt(x.ess) for x in (aside, apart)))
    assert abs(apart.samples["a"].mean() - aside.samples["a"].mean()) < 4 * error
    short = how | dict(num_samples=60)
    infer.fit(problem, "nuts", key=5, in_turn=True, checkpoint=tmp_path / "c.h5", **short)
    longer = infer.fit(problem, "nuts", key=5, in_turn=True, checkpoint=tmp_path / "c.h5", **how)
    np.testing.assert_array_equal(longer.samples["a"], apart.samples["a"])


@pytest.mark.slow
def test_bayes_factors_and_suspiciousness():
    """Wider priors cost evidence, and no suspiciousness (Handley & Lemos 2019)."""
    posts = {}
    for width in (2.0, 20.0):
        posts[f"{width}"] = infer.fit(wide_problem(width), "nested", key=3, num_live=400)
    narrow, wide = posts["2.0"], posts["20.0"]
    found = infer.bayes_factor(narrow, wide)
    assert abs(found.log_bayes_factor - np.log(10)) < 4 * found.error and found.error < 0.3
    assert abs(found.log_suspiciousness) < 0.15
    np.testing.assert_allclose(found.sigma, np.sqrt(2 * found.log_bayes_factor))
    np.testing.assert_allclose(found.probability, 1 / (1 + np.exp(-found.log_bayes_factor)))
    back = infer.bayes_factor(wide, narrow)
    assert back.log_bayes_factor == -found.log_bayes_factor and back.sigma == -found.sigma
    rows = infer.compare(posts)
    assert [row.name for row in rows] == ["2.0", "20.0"] and rows[0].log_bayes_factor == 0
    np.testing.assert_allclose(sum(row.probability for row in rows), 1.0)
    assert abs(rows[0].dimension - 1) < 0.3  # one parameter is measured
    for width, row in ((2.0, rows[0]), (20.0, rows[1])):
        sigma = 0.5 / np.sqrt(5)
        information = np.log(2 * width) - 0.5 * np.log(2 * np.pi * np.e * sigma**2)
        assert abs(row.information - information) < 4 * row.logz_err + 0.1
        power, error = infer.log_prior_power(wide_problem(width))
        np.testing.assert_allclose(power, -np.log(2 * width), rtol=1e-5)
        assert error < 1e-6


def test_evidence_from_chains(by_nuts):
    problem = gaussian_problem()
    logz, error = infer.bridge_evidence(problem, by_nuts, key=1)
    assert abs(logz - exact()[0]) < 4 * error and error < 0.05
    with pytest.raises(ValueError, match="no evidence"):
        infer.bayes_factor(by_nuts, by_nuts)
    with pytest.raises(ValueError, match="other data"):
        infer.bridge_evidence(gaussian_problem(2.0), by_nuts)


def test_what_cannot_be_compared(by_nested, by_nuts):
    other = replace(by_nested, meta=by_nested.meta | {"data": "another digest"})
    with pytest.raises(ValueError, match="different data"):
        infer.compare([by_nested, other])
    with pytest.raises(ValueError, match="no model"):
        infer.compare({})
    with pytest.raises(ValueError, match="equal weight"):
        infer.bridge_evidence(gaussian_problem(), by_nested)


def test_own_density_and_method_are_a_class_each():
    """A joint density without a sampler, and importance sampling from the prior: known evidence."""

    class Ring(infer.AbstractDensity):
        radius: jax.Array

        def log_prob(self, params):
            away = jnp.hypot(params["x"], params["y"]) - self.radius
            return -0.5 * (away / 0.1) ** 2

    limits = {"x": (-2.0, 2.0), "y": (-2.0, 2.0)}
    prior = {("x", "y"): Ring(jnp.asarray(1.0))}
    problem = infer.Problem(prior, lambda p, d: jnp.zeros(()), bounds=limits)

    @dataclasses.dataclass(frozen=True)
    class Importance(infer.AbstractMethod):
        name: ClassVar[str] = "importance"
        draws: int = 1000

        def run(self, problem, key, session):
            z = jax.vmap(problem.sample_real)(jax.random.split(key, self.draws))
            table = problem.evaluate(z)
            factor = jax.vmap(lambda z: problem.prior.log_factor(problem.prior.from_real(z)[0]))(z)
            weights = np.exp(table.log_likelihood + np.asarray(factor))
            return infer.Posterior(
                self.name,
                table.params,
                weights / weights.sum(),
                table.log_likelihood,
                table.log_prior,
                logz=float(np.log(weights.mean())),
            )

    post = infer.fit(problem, Importance(draws=20_000), key=1)
    assert post.meta["method"] == "importance" and post.meta["options"] == {"draws": 20_000}
    exact = np.log(2.0 * np.pi * 0.1 * np.sqrt(2.0 * np.pi))  # of the ring, radius times width
    assert abs(post.logz - exact) < 0.05
    with pytest.raises(TypeError, match="to the method itself"):
        infer.fit(problem, Importance(), draws=3)
    with pytest.raises(ValueError, match="side by side"):
        infer.fit_many(problem, Importance(), data=jnp.zeros(3))


def test_strings_are_names_of_methods():
    problem = gaussian_problem()
    by_name = infer.fit(problem, "mle", key=4, num_starts=4, num_steps=20)
    by_class = infer.fit(problem, infer.MLE(num_starts=4, num_steps=20), key=4)
    assert by_name.meta == by_class.meta
    for name, values in by_name.columns().items():
        np.testing.assert_array_equal(values, by_class.columns()[name])
