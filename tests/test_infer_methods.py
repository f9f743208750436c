"""Methods of `infer` beside nuts and nested: exact answers, goals, progress, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from _posteriors import DATA, exact, gaussian_problem, same

from brutax import infer


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    """numpyro's distributions mix types and ranks; `fit` itself works with either setting."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def test_ensemble_has_exact_moments_and_knows_its_worth():
    post = infer.fit(gaussian_problem(), "ensemble", key=1, num_warmup=300, num_samples=1500)
    _, mean, std = exact()
    row = post.summary()["a"]
    assert post.ok, post.warnings
    assert abs(row.mean - mean) < 4 * std / np.sqrt(post.ess)
    assert abs(row.std / std - 1) < 5 / np.sqrt(2 * post.ess)
    assert post.stats["tau/a"] > 2 and post.n_chains == 32
    assert post.ess < len(post.weights) / 2


def test_ensemble_slices_and_refusals():
    short = dict(num_warmup=100, num_samples=400, num_walkers=16)
    post = infer.fit(gaussian_problem(), "ensemble", key=1, moves="slice", thin=3, **short)
    _, mean, std = exact()
    assert len(post.weights) == 134 * 16
    assert abs(post.summary()["a"].mean - mean) < 5 * std / np.sqrt(post.ess)
    with pytest.raises(ValueError, match="do you mean 'stretch'"):
        infer.fit(gaussian_problem(), "ensemble", moves="stretched")
    with pytest.raises(ValueError, match="even and at least 4"):
        infer.fit(gaussian_problem(), "ensemble", num_walkers=3)


def test_autocorrelation_time_of_a_first_order_process(rng):
    """x' = phi x + noise has tau = (1 + phi) / (1 - phi)."""
    from brutax.infer.chains import autocorrelation_time

    phi, n = 0.8, 20_000
    x = np.zeros((n, 8, 1))
    noise = rng.normal(size=x.shape)
    for i in range(1, n):
        x[i] = phi * x[i - 1] + noise[i]
    np.testing.assert_allclose(autocorrelation_time(x), (1 + phi) / (1 - phi), rtol=0.1)
    assert np.isnan(autocorrelation_time(np.ones((50, 3, 1)))).all()


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param(
            "nuts", dict(num_warmup=200, num_samples=100, num_chains=4), marks=pytest.mark.slow
        ),
        ("ensemble", dict(num_warmup=200, num_samples=300, num_walkers=16)),
    ],
)
def test_chains_go_on_until_they_are_good(method, options, tmp_path):
    """In blocks, with the same draws as a run of that length; a resumed one ends at the same."""
    goal, path = dict(rhat=1.05, ess=800), tmp_path / "until.h5"
    post = infer.fit(
        gaussian_problem(), method, key=1, until=goal, checkpoint=path, save_every=0.0, **options
    )
    steps = len(post.weights) // post.n_chains
    assert steps > options["num_samples"] and steps % options["num_samples"] == 0
    assert post.ess >= 800
    whole = infer.fit(
        gaussian_problem(), method, key=1, **(options | dict(num_samples=steps, chunk=70))
    )
    same(post, whole)
    again = infer.fit(gaussian_problem(), method, key=1, until=goal, checkpoint=path, **options)
    same(post, again)
    capped = infer.fit(
        gaussian_problem(), method, key=1, until=dict(ess=1e9), max_samples=150, checkpoint=path,
        **options,
    )  # fmt: skip
    assert len(capped.weights) // capped.n_chains == max(150, options["num_samples"])
    with pytest.raises(TypeError, match="do you mean 'rhat'"):
        infer.fit(gaussian_problem(), method, until=dict(rhats=1.0), **options)


@pytest.mark.parametrize(
    ("method", "options", "keys"),
    [
        ("nuts", dict(num_warmup=50, num_samples=50), {"evaluations", "rhat", "ess"}),
        ("ensemble", dict(num_warmup=50, num_samples=50), {"evaluations", "rhat", "ess"}),
        pytest.param(
            "nested", dict(num_live=100, dlogz=0.5), {"evaluations", "logz"}, marks=pytest.mark.slow
        ),
        ("map", dict(num_starts=4, num_steps=20, chunk=10), {"evaluations", "height"}),
    ],
)
def test_progress_of_every_method(method, options, keys, capsys):
    seen = []
    infer.fit(gaussian_problem(), method, progress=seen.append, **options)
    assert seen and seen[-1]["method"] == method and keys <= seen[-1].keys()
    assert all(0 <= one["done"] <= one["total"] for one in seen)
    done = [one["done"] for one in seen]
    assert done == sorted(done)
    assert capsys.readouterr().err == ""  # no bar beside a function
    infer.fit(gaussian_problem(), method, progress=True, **options)
    assert f"{method}: " in capsys.readouterr().err


def test_mle_is_the_maximum_of_the_likelihood():
    """Whatever the prior, and wherever the search begins."""

    def measured(params, data):
        return -0.5 * ((params["x"] - data) / 0.113) ** 2

    prior = {"x": dist.Normal(1.2, 0.1)}
    for start in ("prior", "median", {"x": 1.5}, [0.3]):
        problem = infer.Problem(prior, measured, 0.978)
        post = infer.fit(problem, "mle", num_starts=4, start=start)
        np.testing.assert_allclose(post.best["x"], 0.978, rtol=1e-4)
        assert post.ok and post.method == "mle"
    with pytest.raises(ValueError, match="2 values to start from, for 1 free"):
        infer.fit(problem, "mle", start=[0.3, 1.0])
    with pytest.raises(ValueError, match="curvature is hessian or differences, found 'none'"):
        infer.fit(problem, "map", num_draws=10, curvature="none")
    with pytest.raises(ValueError, match="found 'middle'"):
        infer.fit(problem, "mle", start="middle")
    prior = {"x": dist.Uniform(0.0, 1.0)}
    with pytest.raises(ValueError, match="outside the prior"):
        infer.fit(infer.Problem(prior, measured, 0.978), "mle", start=[1.5])


@pytest.mark.parametrize("curvature", ["hessian", "differences"])
def test_laplace_draws_are_exact_for_a_gaussian_and_weighted_otherwise(curvature):
    logz, mean, std = exact()
    how = {"num_starts": 8, "curvature": curvature}
    post = infer.fit(gaussian_problem(), "map", key=2, num_draws=2000, **how)
    assert abs(post.logz - logz) < 1e-3 and post.logz_err < 1e-3
    assert abs(post.stats["laplace_logz"] - logz) < 1e-3
    assert post.ok and post.ess > 1990
    assert abs(post.summary()["a"].mean - mean) < 4 * std / np.sqrt(2000)
    assert post.weights[0] == 0 and post.log_likelihood[0] + post.log_prior[0] == np.max(
        post.log_likelihood + post.log_prior
    )

    def rate(params, data):  # the posterior of ln x is skewed, its integral a gamma function
        return data * jnp.log(params["x"]) - params["x"]

    problem = infer.Problem({"x": dist.LogNormal(0.0, 30.0)}, rate, 3.0)
    post = infer.fit(problem, "map", num_draws=20_000, **how)
    expected = np.log(2.0) - np.log(30.0 * np.sqrt(2 * np.pi))  # Gamma(3) = 2; prior ~ 1 / x
    assert abs(post.logz - expected) < 4 * post.logz_err + 0.01
    assert abs(post.logz - expected) < 0.5 * abs(post.stats["laplace_logz"] - expected)


def test_a_problem_says_what_it_costs():
    check = gaussian_problem().check(timed=True)
    assert all(0 < seconds < 1 for seconds in check.seconds)
    big = infer.Problem({"a": dist.Normal(0.0, 1.0)}, lambda p, d: -(p["a"] ** 2) - 3e6)
    post = infer.fit(big, "mle", num_starts=4, num_steps=10)
    assert any("float32" in text for text in post.warnings) or jax.config.read("jax_enable_x64")
    with pytest.raises(ValueError, match="-inf at all"):
        infer.Problem({"a": dist.Normal(0.0, 1.0)}, lambda p, d: p["a"] * 0 - jnp.inf).check(
            gradient=False
        )


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param(
            "nuts", dict(num_warmup=200, num_samples=500, num_chains=2), marks=pytest.mark.slow
        ),
        pytest.param("nested", dict(num_live=150), marks=pytest.mark.slow),
        ("map", dict(num_starts=4, num_steps=60)),
        ("mle", dict(num_starts=4, num_steps=60)),
    ],
)
def test_many_fits_are_those_one_by_one(method, options, tmp_path):
    """Same keys, same posteriors; and a checkpoint of all of them."""
    data = np.stack([DATA, DATA + 1.0, DATA - 2.0])
    problem, path = gaussian_problem(), tmp_path / "many.h5"
    many = infer.fit_many(problem, method, data=data, key=4, checkpoint=path, **options)
    assert len(many) == 3 and path.exists()
    for k in (0, 2):
        key = jax.random.fold_in(jax.random.key(4), k)
        one = infer.fit(problem.with_data(data[k]), method, key=key, **options)
        together = many[k].summary()["c"]
        alone = one.summary()["c"]
        if method == "map":
            np.testing.assert_allclose(together.mean, alone.mean, atol=2e-3)
        elif method != "mle":  # a and b alone are not determined by the likelihood
            width = alone.std / np.sqrt(min(one.ess, many[k].ess))
            assert abs(together.mean - alone.mean) < 6 * width
            assert abs(together.std / alone.std - 1) < 0.3
        else:
            sums = [x.best["a"] + x.best["b"] for x in (many[k], one)]
            np.testing.assert_allclose(sums, data[k].mean(), atol=1e-3)
        assert many[k].meta["data"] == one.meta["data"] and many[k].meta["key"] == one.meta["key"]
        if method == "nested":
            assert abs(many[k].logz - one.logz) < 5 * one.logz_err
    again = infer.fit_many(problem, method, data=data, key=4, checkpoint=path, **options)
    for before, after in zip(many, again, strict=True):
        same(before, after)
    with pytest.raises(infer.CheckpointError, match="data was"):
        infer.fit_many(problem, method, data=data + 1, key=4, checkpoint=path, **options)


def test_many_fits_need_items_of_one_kind():
    with pytest.raises(ValueError, match="does not run side by side"):
        infer.fit_many(gaussian_problem(), "ensemble", data=np.stack([DATA]))
    with pytest.raises(ValueError, match="one leading axis"):
        infer.fit_many(gaussian_problem(), "map", data={"a": np.ones(3), "b": np.ones(2)})
    with pytest.raises(ValueError, match="slowest"):
        infer.fit_many(gaussian_problem(), "nuts", data=np.stack([DATA]), until=dict(ess=10))


@pytest.mark.parametrize("degrees", [2.0, 6.0, pytest.param(200.0, marks=pytest.mark.slow)])
def test_heavy_tails_are_told_from_the_weights_of_a_normal_distribution(degrees):
    def log_likelihood(p, data):
        return sum(dist.StudentT(degrees).log_prob(p[k]) for k in "xy")

    prior = {k: dist.Normal(0.0, 50.0) for k in "xy"}
    post = infer.fit(infer.Problem(prior, log_likelihood), "map", key=1, num_draws=2000)
    assert post.ok if degrees > 2.0 else "long tail" in post.warnings[0]
