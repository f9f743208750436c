"""The fitter: a page of socca's documentation as written, and what its calls promise."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from _posteriors import exact, gaussian_problem

from brutax import infer, plotting
from brutax.compat import socca

pytest.importorskip("dynesty")
pytest.importorskip("nautilus")
pytest.importorskip("emcee")
fits = pytest.importorskip("astropy.io.fits")

MODEL = """
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from brutax import infer
from brutax.compat import socca
from brutax.compat.socca import fitter

y, x = np.mgrid[-5.0:6.0, -5.0:6.0]
psf = jnp.exp(-0.5 * (x[3:8, 3:8] ** 2 + y[3:8, 3:8] ** 2)) / 6.2

def components(p):
    point = jnp.exp(-((x - p["comp_00_xc"]) ** 2 + y**2))
    disk = jnp.exp(-jnp.sqrt((x + 2) ** 2 + y**2 + 0.01) / p["comp_01_re"])
    other = jnp.exp(-((x - 3) ** 2 + (y - 3) ** 2))  # nothing of it is free
    return {"comp_00": p["comp_00_Ic"] * point, "comp_01": p["comp_01_Ie"] * disk,
            "comp_02": p["comp_02_Ic"] * other}

def predict(p, image, component=("comp_00", "comp_01", "comp_02")):
    made = components(p)
    raw = sum(made[name] for name in component)
    smoothed = sum(
        psf[i, j] * jnp.roll(raw, (i - 2, j - 2), (0, 1)) for i in range(5) for j in range(5)
    )
    return {"raw": raw, "smoothed": smoothed, "background": jnp.full(x.shape, 0.1)}

def log_likelihood(p, image):
    out = predict(p, image)
    return -0.5 * jnp.sum(((image - out["smoothed"] - out["background"]) / 0.1) ** 2)

prior = {"comp_00_xc": dist.Uniform(0.0, 4.0), "comp_00_Ic": dist.Uniform(0.0, 10.0),
         "comp_01_re": dist.Uniform(0.5, 4.0), "comp_01_Ie": dist.Uniform(0.0, 3.0),
         "comp_02_Ic": 0.5}
mod = infer.Problem(prior, log_likelihood, predict=predict,
                    components=("comp_00", "comp_01", "comp_02"),
                    null=lambda image: -0.5 * jnp.sum((image / 0.1) ** 2))
truth = {"comp_00_xc": 2.0, "comp_00_Ic": 5.0, "comp_01_re": 2.0, "comp_01_Ie": 1.0}
clean = predict(truth | {"comp_02_Ic": 0.5}, None)
img = np.asarray(clean["smoothed"] + clean["background"])
img = (img + 0.1 * np.random.default_rng(1).normal(size=img.shape)).astype(np.float32)
"""

PAGE = """
fit = fitter(mod=mod, img=img)
fit.run()
said("default")
fit.run(method='dynesty', nlive=500)
said("dynesty")
fit.run(method='emcee', nwalkers=32, nsteps=5000, discard=1000, thin=10)
said("emcee")
fit.run(method='emcee', nwalkers=32, nsteps=10000, converge=True)
said("converge")
fit.run(method='optimizer')
said("optimizer")
model_raw, model_smoothed, model_background = fit.getmodel()
model_smoothed = fit.getmodel(what='smoothed')
model_raw, model_background = fit.getmodel(what=['raw', 'background'])
model_raw, model_smoothed, model_background = fit.getmodel(component=0)
model_raw, model_smoothed, model_background = fit.getmodel(component=[0, 2])
fit.savemodel('raw_model.fits', what='raw')
fit.savemodel('component_0.fits', component=0)
fit.run(checkpoint='my_fit_checkpoint')
fit.run(checkpoint='my_fit_checkpoint', resume=False)
fit.run(getzprior=True)  # Enable prior evidence estimation
ln_BayesFac_raw, sigma_eff_raw, \\
ln_BayesFac_deboost, sigma_eff_deboost = fit.bmc()
fit.dump('my_fit_results.pickle')
fit = socca.load('my_fit_results.pickle')
fit.parameters()
"""


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def run_page(page, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(MODEL, "model", "exec"), names)
    seen = {}

    def keep(tag):
        fit = names["fit"]
        seen[tag] = dict(
            samples=fit.samples, weights=fit.weights, logz=fit.logz, tau=fit.tau,
            history=fit.tau_history, sampler=fit.sampler, labels=fit.labels,
            results=fit.results if fit.method == "optimizer" else None,
        )  # fmt: skip

    names["said"] = keep
    exec(compile(page, "page", "exec"), names)
    truth = np.array(list(names["truth"].values()))
    for tag, one in seen.items():
        assert one["labels"] == list(names["truth"])
        assert one["samples"].shape == (len(one["weights"]), 4)
        np.testing.assert_allclose(one["weights"].sum(), 1.0)
        mean = one["weights"] @ one["samples"]
        if tag != "optimizer":
            std = np.sqrt(one["weights"] @ (one["samples"] - mean) ** 2)
            assert np.all(np.abs(mean - truth) < 4.5 * std) and np.all(std < 0.5)
        else:
            np.testing.assert_allclose(one["results"].x, mean)
            assert one["results"].success and one["results"].fun > 0
    import dynesty
    import emcee
    import nautilus

    assert isinstance(seen["default"]["sampler"], nautilus.Sampler)
    assert isinstance(seen["dynesty"]["sampler"], dynesty.sampler.Sampler)
    assert isinstance(seen["emcee"]["sampler"], emcee.EnsembleSampler)
    assert seen["emcee"]["logz"] is None and seen["emcee"]["tau"].shape == (4,)
    assert abs(seen["default"]["logz"] - seen["dynesty"]["logz"]) < 0.7
    steps = [step for step, _ in seen["converge"]["history"]]
    assert steps == sorted(steps)
    # models: one component, all, and files
    best = dict(zip(names["truth"], seen["optimizer"]["results"].x, strict=True))
    made = names["components"](best | {"comp_02_Ic": 0.5})
    np.testing.assert_allclose(
        names["model_raw"], made["comp_00"] + made["comp_02"], rtol=1e-4, atol=1e-5
    )
    assert fits.getheader("raw_model.fits")["MODEL"] == "raw"
    assert fits.getdata("component_0.fits").shape == (11, 11)
    assert fits.getheader("component_0.fits")["MODEL"] == "smoothed"
    assert os.path.exists("my_fit_checkpoint.hdf5")
    # comparison: the model is there, and the price of the prior is ln V
    volume = 4.0 * 10.0 * 3.5 * 3.0
    assert names["sigma_eff_raw"] > 10
    assert abs(names["ln_BayesFac_deboost"] - names["ln_BayesFac_raw"] - np.log(volume)) < 1e-3
    text = capsys.readouterr().out
    for line in (
        "null-model comparison",
        "prior deboosted",
        "Saved to raw_model.fits",
        "Best-fit parameters",
        "comp_00\n-------\nxc :",
        "comp_01\n-------\nre :",
    ):
        assert line in text
    with open("my_fit_results.pickle", "rb") as file:
        assert file.read(4) == b"\x89HDF"
    return names


@pytest.mark.slow
def test_the_page_with_few_draws(tmp_path, monkeypatch, capsys):
    few = dict(n_live=200, n_eff=1000, n_networks=1)
    options = ", ".join(f"{k}={v}" for k, v in few.items())
    page = PAGE.replace("fit.run()", f"fit.run({options})").replace("nlive=500", "nlive=100")
    page = page.replace("my_fit_checkpoint'", f"my_fit_checkpoint', {options}")
    page = page.replace("getzprior=True", f"getzprior=True, {options}")
    page = page.replace("nsteps=5000, discard=1000", "nsteps=1500, discard=500")
    page = page.replace("nsteps=10000", "nsteps=2000")
    names = run_page(page, tmp_path, monkeypatch, capsys)
    fit, mod, img = names["fit"], names["mod"], names["img"]
    with pytest.raises(ValueError, match="loaded without a model"):
        fit.getmodel()
    full = socca.load("my_fit_results.pickle", mod=mod, img=img)
    np.testing.assert_array_equal(full.samples, fit.samples)
    best, median = (full.getmodel("smoothed", usebest=usebest) for usebest in (True, False))
    assert np.max(np.abs(best - median)) < 0.05
    np.testing.assert_array_equal(full.getmodel("conv"), best)
    parts = [full.getmodel("raw", component=one) for one in (0, "comp_01", ["comp_00", 1])]
    np.testing.assert_allclose(parts[0] + parts[1], parts[2], rtol=1e-5)
    full.savemodel("both", what=["raw", "bkg"], header=fits.Header({"CRVAL1": 3.0}))
    header = fits.getheader("both.fits")
    assert (header["NSLICES"], header["SLICE1"], header["SLICE2"]) == (2, "raw", "background")
    assert header["CRVAL1"] == 3.0 and header["METHOD"] == "nautilus"
    with pytest.raises(ValueError, match="do you mean 'smoothed'"):
        full.getmodel("smooth")
    with pytest.raises(ValueError, match="no component 3"):
        full.getmodel(component=3)
    with pytest.raises(ValueError, match="no component 'comp_03'"):
        full.getmodel(component="comp_03")
    with pytest.raises(TypeError, match="takes no 'doresp'"):
        full.getmodel(doresp=True)
    with pytest.raises(ValueError, match="other data"):
        socca.load("my_fit_results.pickle", mod=mod, img=img + 1)
    fig, axes = full.corner(truth=names["truth"])
    assert axes.shape == (4, 4) and axes[3, 0].get_xlabel() == "comp_00_xc"


def test_the_fitter_of_the_docs(tmp_path, monkeypatch):
    """The second piece of code of docs/inference.md goes on from the first."""
    page = (Path(__file__).parents[1] / "docs" / "inference.md").read_text()
    first, second = (part.split("```")[0] for part in page.split("```python\n")[1:3])
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    first = first[: first.index("post = infer.fit(")]
    exec(compile(first + second.replace("nlive=500", "nlive=80"), "inference.md", "exec"), names)
    assert names["sigma"] > 50 and names["ln_b_deboosted"] > names["ln_b"]
    assert abs(names["fit"].posterior.summary()["radius"].mean - 4.0) < 0.3
    assert np.max(np.abs(names["model"] - names["truth"])) < 0.2
    assert (tmp_path / "my_fit.hdf5").exists() and (tmp_path / "model.fits").exists()


@pytest.mark.slow
def test_the_page_as_it_is(tmp_path, monkeypatch, capsys):
    run_page(PAGE, tmp_path, monkeypatch, capsys)


def test_runs_forget_the_one_before_and_name_what_is_unknown():
    fit = socca.fitter(gaussian_problem())
    with pytest.raises(ValueError, match="nothing has been fitted"):
        _ = fit.samples
    fit.run("nested", nlive=100)
    assert fit.logz is not None and fit.logz_err > 0 and fit.tau is None
    fit.run("numpyro", num_warmup=100, num_samples=100)
    assert fit.logz is None and fit.method == "numpyro" and fit.sampler is None
    with pytest.raises(ValueError, match="no evidence"):
        fit.bmc()
    with pytest.raises(TypeError, match="do you mean 'nlive'"):
        fit.run("dynesty", nliv=100)
    with pytest.raises(ValueError, match="nothing has been fitted"):
        _ = fit.samples
    with pytest.raises(ValueError, match="do you mean 'optimizer'"):
        fit.run("optimiser")
    with pytest.raises(TypeError, match="pinits is for"):
        fit.run("nested", pinits="random")
    with pytest.raises(TypeError, match="only maxiter"):
        fit.run("optimizer", options={"ftol": 1})
    with pytest.raises(TypeError, match="is a brutax.infer.Problem"):
        socca.fitter("model")


@pytest.mark.parametrize("pinits", ["median", "random", [1.0, -1.0]])
def test_the_optimizer_finds_the_maximum_of_the_posterior_density(pinits):
    fit = socca.fitter(gaussian_problem())
    fit.run("optimizer", pinits=pinits, options={"maxiter": 100})
    np.testing.assert_allclose(fit.results.x[0], exact()[1], atol=1e-3)
    at = dict(zip(fit.labels, fit.results.x, strict=True))
    log_prior = dist.Normal(0.0, 1.0).log_prob(at["a"]) + dist.Normal(0.5, 2.0).log_prob(at["b"])
    np.testing.assert_allclose(-fit.results.fun, fit.results.log_likelihood + log_prior, rtol=1e-4)
    assert fit.results.success


def test_a_null_may_be_another_fit():
    """One parameter more that the data do not know: ln B of its prior alone is 0."""
    fit, other = socca.fitter(gaussian_problem()), socca.fitter(gaussian_problem(2.0))
    fit.run("nested", nlive=100)
    log_b, sigma, *rest = fit.bmc(null=fit)
    assert log_b == 0 and sigma == 0 and rest == [None, None]
    assert fit.bmc(null=fit.logz - 8.0)[1] == pytest.approx(4.0)
    with pytest.raises(ValueError, match="no null model"):
        fit.bmc()
    other.run("nested", nlive=100)
    with pytest.raises(ValueError, match="different data"):
        fit.bmc(null=other)


@pytest.mark.slow
def test_predictions_of_a_posterior():
    """a + b is measured: 0.66 +- 0.5 / sqrt(5), with a little of the prior."""
    problem = infer.Problem(
        {"a": dist.Normal(0.0, 1.0), "v": dist.Normal(jnp.zeros(2), 1.0).to_event(1)},
        lambda p, data: -0.5 * jnp.sum(((data - p["a"]) / 0.1) ** 2),
        jnp.array([0.3, 0.5]),
    )
    post = infer.fit(problem, "nested", key=1, num_live=200)
    out = post.predict(lambda p: {"twice": 2 * p["a"], "line": p["a"] + jnp.arange(3.0)}, n=2000)
    assert out["line"].shape == (3, 3)
    row = post.summary()["a"]
    np.testing.assert_allclose(out["twice"][1], 2 * row.median, atol=0.02)
    np.testing.assert_allclose(
        out["twice"][2] - out["twice"][0], 2 * (row.high - row.low), rtol=0.15
    )
    np.testing.assert_allclose(post.predict(lambda p: p["a"], at="median"), row.median, rtol=1e-5)
    np.testing.assert_allclose(post.predict(lambda p: p["a"], at="best"), post.best["a"], rtol=1e-5)
    assert list(post.columns()) == ["a", "v[0]", "v[1]"]
    fig, axes = plotting.corner(post, quantities=["a", "v[1]"])
    assert axes.shape == (2, 2)
    with pytest.raises(ValueError, match="found 'mean'"):
        post.predict(lambda p: p["a"], at="mean")
