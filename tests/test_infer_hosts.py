"""Samplers outside JAX: exact answers, and continuation to the last bit."""

import os
import signal
import sys
import types

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from _posteriors import exact, gaussian_problem, same

from brutax import infer

OPTIONS = {
    "dynesty": dict(nlive=150),
    "nautilus": dict(n_live=300, n_eff=1500, n_networks=1),
    "emcee": dict(nsteps=1200),
    "pocomc": dict(n_effective=500, n_total=2000),
}
PACKAGES = {"dynesty": "dynesty", "nautilus": "nautilus", "emcee": "emcee", "pocomc": "pocomc"}
METHODS = list(OPTIONS)


class StandInSampler:
    """Importance sampling from the prior, behind the calls of pocoMC that the adapter makes.

    pocoMC itself needs PyTorch; this tests the adapter, not pocoMC.
    """

    def __init__(self, prior, likelihood, vectorize=False, random_state=None, n_effective=512):
        assert vectorize and prior.bounds.shape == (prior.dim, 2)
        self.prior, self.likelihood = prior, likelihood
        self.rng, self.n = np.random.default_rng(random_state), n_effective

    def run(self, n_total=4096, n_evidence=4096, progress=True):
        z, logl = [], []
        while sum(map(len, z)) < 10 * n_total:
            z.append(self.prior.rvs(self.n)[self.rng.permutation(self.n)])
            logl.append(self.likelihood(z[-1]))
            assert np.isfinite(self.prior.logpdf(z[-1])).all()
        self.z, self.logl = np.concatenate(z), np.concatenate(logl)

    def posterior(self):
        weights = np.exp(self.logl - self.logl.max())
        return self.z, weights / weights.sum(), self.logl, self.prior.logpdf(self.z)

    def evidence(self):
        like = np.exp(self.logl)
        return np.log(like.mean()), like.std() / like.mean() / np.sqrt(len(like))


@pytest.fixture(autouse=True)
def setting(monkeypatch):
    module = types.ModuleType("pocomc")
    module.Sampler = StandInSampler
    monkeypatch.setitem(sys.modules, "pocomc", module)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def whole():
    """One undisturbed run per method."""
    known = {}

    def get(method):
        pytest.importorskip(PACKAGES[method])
        if method not in known:
            known[method] = infer.fit(gaussian_problem(), method, key=1, **OPTIONS[method])
        return known[method]

    return get


@pytest.mark.parametrize("method", METHODS)
def test_moments_evidence_and_densities_are_exact(method, whole):
    post = whole(method)
    logz, mean, std = exact()
    assert post.ok or method == "emcee", post.warnings
    row = post.summary()["a"]
    assert abs(row.mean - mean) < 4 * std / np.sqrt(post.ess)
    assert abs(row.std / std - 1) < 4.5 / np.sqrt(2 * post.ess)
    np.testing.assert_allclose(post.samples["c"], 2 * post.samples["a"], rtol=1e-6)
    if method == "emcee":
        assert np.isnan(post.logz)
    else:
        assert abs(post.logz - logz) < 4 * post.logz_err and post.logz_err < 0.3
    a, b = post.samples["a"][0], post.samples["b"][0]
    log_prior = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(0.5, 2.0).log_prob(b)
    np.testing.assert_allclose(post.log_prior[0], log_prior, rtol=1e-4)
    assert post.stats["evaluations"] > 500 and post.sampler is not None


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(m, marks=pytest.mark.slow if m in ("nautilus", "dynesty") else ())
        for m in METHODS
    ],
)
def test_an_interrupted_run_goes_on_bit_for_bit(method, whole, tmp_path, monkeypatch):
    """SIGTERM in the middle; other data, key, options; a flipped bit; a file cut short."""
    undisturbed, path, options = whole(method), tmp_path / "run.h5", OPTIONS[method]
    monkeypatch.setattr("brutax.infer.methods.nautilus.SLICE", 0.05)
    tick, count = infer.checkpoint.Session.tick, iter(range(10**6))
    after = {"dynesty": 400, "nautilus": 3, "emcee": 20, "pocomc": 12}[method]

    def tick_with_signal(self, *args, **kwargs):
        k = next(count)
        self.save_every = 0.0 if k in (after - 1, after // 2) else 1e9
        if k == after:
            os.kill(os.getpid(), signal.SIGTERM)
        tick(self, *args, **kwargs)

    monkeypatch.setattr(infer.checkpoint.Session, "tick", tick_with_signal)
    with pytest.raises(infer.Interrupted, match="run the same call again"):
        infer.fit(gaussian_problem(), method, key=1, checkpoint=path, **options)
    monkeypatch.setattr(infer.checkpoint.Session, "tick", tick)

    def again(problem=None, key=1, **more):
        problem = gaussian_problem() if problem is None else problem
        return infer.fit(problem, method, key=key, checkpoint=path, **(options | more))

    with pytest.raises(infer.CheckpointError, match="data was"):
        again(gaussian_problem(1.001))
    with pytest.raises(infer.CheckpointError, match="key was"):
        again(key=2)
    changed = {
        "dynesty": dict(nlive=151),
        "nautilus": dict(n_live=301),
        "emcee": dict(moves="de"),
        "pocomc": dict(n_effective=501),
    }[method]
    with pytest.raises(infer.CheckpointError, match="options was"):
        again(**changed)
    content = path.read_bytes()
    with h5py.File(path, "r+") as file:
        group = file["draws"] if method != "nautilus" else file["state"]
        array = next(iter(group.values()))
        array.write_direct(np.ascontiguousarray(array[()][::-1]))
    with pytest.warns(RuntimeWarning, match="checksum does not fit; going on from"):
        same(undisturbed, again())
    path.write_bytes(content)
    same(undisturbed, again())
    same(undisturbed, again())  # a finished one
    path.write_bytes(content[: len(content) // 2])
    path.with_name("run.h5.prev").write_bytes(b"something else")
    with pytest.raises(infer.CheckpointError, match="delete it or choose another"):
        again()
    with h5py.File(path, "w") as file:  # an HDF5 file of somebody else's
        file["samples"] = np.zeros(3)
    with pytest.raises(infer.CheckpointError, match="not a checkpoint of brutax"):
        again()


@pytest.mark.parametrize("method", METHODS)
def test_unknown_options_and_missing_packages(method, monkeypatch):
    known = next(iter(OPTIONS[method]))
    with pytest.raises(TypeError, match=f"do you mean '{known}'"):
        infer.fit(gaussian_problem(), method, **{known + "s": 3})
    monkeypatch.setitem(sys.modules, PACKAGES[method], None)
    extra = "pocomc" if method == "pocomc" else "samplers"
    with pytest.raises(ImportError, match=rf"pip install 'brutax\[{extra}\]'"):
        infer.fit(gaussian_problem(), method)


def test_extras_are_imported_when_asked_for():
    import subprocess

    code = (
        "import sys, brutax.infer; "
        "print(sorted({'pocomc', 'torch', 'dynesty', 'nautilus', 'emcee'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_parameters_keep_the_order_of_the_prior():
    """And every one its own autocorrelation time: that of a frozen walk is another."""
    pytest.importorskip("emcee")
    prior = {"z": dist.Normal(0.0, 1.0), "a": dist.Normal(jnp.zeros(2), 1.0).to_event(1)}
    problem = infer.Problem(prior, lambda p, d: -0.5 * jnp.sum(p["a"] ** 2) * 0.0)
    post = infer.fit(problem, "emcee", nsteps=200, discard=0)
    assert list(post.samples) == ["z", "a"]
    assert post.stats["tau/z"].shape == () and post.stats["tau/a"].shape == (2,)
    chain = post.sampler.get_chain()
    expected = infer.chains.autocorrelation_time(chain)
    np.testing.assert_allclose(post.stats["tau/z"], expected[0], rtol=1e-3)
    np.testing.assert_allclose(post.stats["tau/a"], expected[1:], rtol=1e-3)


@pytest.mark.parametrize("method", ["dynesty", "nautilus"])
def test_priors_without_inverse_cdf_are_named(method):
    prior = {"x": dist.StudentT(3.0), "y": dist.Normal(0.0, 1.0)}
    problem = infer.Problem(prior, lambda p, d: p["x"] + p["y"])
    with pytest.raises(ValueError, match="prior of x has no inverse CDF"):
        infer.fit(problem, method)


def test_a_sampler_of_another_version_is_noticed(whole, tmp_path):
    """The log of answers is only good for the same questions."""
    pytest.importorskip("dynesty")
    path = tmp_path / "run.h5"
    infer.fit(gaussian_problem(), "dynesty", key=1, checkpoint=path, maxiter=20, nlive=50)
    arrays, identity = infer.checkpoint._read(path)
    arrays["draws/points"][60] += 1e-9
    infer.checkpoint._write(path, path.with_name("p"), arrays, identity)
    with pytest.raises(infer.CheckpointError, match="asks for other points"):
        infer.fit(gaussian_problem(), "dynesty", key=1, checkpoint=path, nlive=50)


def test_runs_that_end_early_say_so():
    pytest.importorskip("dynesty")
    post = infer.fit(gaussian_problem(), "dynesty", key=1, nlive=50, maxiter=30)
    assert not post.ok and "maxiter" in post.warnings[0]
    post = infer.fit(gaussian_problem(), "nautilus", key=1, n_live=100, n_like_max=300)
    assert not post.ok and "n_like_max" in post.warnings[0]
    post = infer.fit(gaussian_problem(), "emcee", key=1, nsteps=60)
    assert not post.ok and any("fewer than 50 autocorrelation times" in x for x in post.warnings)


def test_emcee_ends_when_its_autocorrelation_time_stands_still():
    pytest.importorskip("emcee")
    post = infer.fit(
        gaussian_problem(), "emcee", key=3, nwalkers=32, nsteps=20_000, converge=True,
        check_every=500, tau_rtol=0.05,
    )  # fmt: skip
    steps, taus = post.stats["tau_history/steps"], post.stats["tau_history/tau"]
    n = post.stats["steps"]
    assert n == steps[-1] < 20_000 and taus.shape == (len(steps), 2)
    assert np.all(n > 50 * taus[-1]) and np.all(np.abs(taus[-1] / taus[-2] - 1) < 0.05)
    assert post.stats["discard"] == int(2 * taus[-1].max())
    assert post.stats["thin"] == int(0.5 * taus[-1].min())
    kept = len(range(post.stats["discard"], n, post.stats["thin"]))
    assert len(post.weights) == 32 * kept and post.ok, post.warnings
    chain = post.sampler.get_chain()
    assert chain.shape == (n, 32, 2)
    assert 0.2 < post.sampler.acceptance_fraction.mean() < 0.9
    _, mean, std = exact()
    assert abs(post.summary()["a"].mean - mean) < 4 * std / np.sqrt(post.ess)


@pytest.mark.parametrize("method", METHODS)
def test_progress(method):
    seen = []
    few = {
        "dynesty": dict(nlive=50, maxiter=60),
        "nautilus": dict(n_live=100, n_like_max=600),
        "emcee": dict(nsteps=60),
        "pocomc": dict(n_total=300),
    }[method]
    infer.fit(gaussian_problem(), method, progress=seen.append, **few)
    keys = {"dynesty": {"logz"}, "nautilus": {"logz", "ess"}, "emcee": {"tau"}, "pocomc": set()}
    assert seen and keys[method] | {"evaluations", "done", "total"} <= seen[-1].keys()
    assert all(one["done"] <= one["total"] for one in seen)
