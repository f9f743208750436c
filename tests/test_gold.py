"""Twenty-four stars in hard regimes whose posteriors are known by dense quadrature."""

import h5py
import jax
import numpy as np
import pytest

from brutax import StarGrid
from brutax.catalog import read_stars
from brutax.fitting import FitOptions, Output, Priors, fit_catalog
from brutax.fitting.prepare import device_models, model_log_prior
from brutax.fitting.prior import star_priors
from brutax.solver import Settings, model_log_weights

N_SAMPLES = 16384  # Monte Carlo noise of a mean: 0.008 sigma


@pytest.fixture(scope="module")
def gold(shared):
    grid = StarGrid.read(shared / "models" / "mist_small.h5")
    stars = read_stars(shared / "gold" / "open_stars.csv", grid.bands, units="maggies")
    grid = grid.select(bands=stars.bands)
    exact = {}
    with h5py.File(shared / "gold" / "open_exact.h5") as file:
        names = [name.decode() for name in file.attrs["parameters"]]
        total = file.attrs["ln_prior_total"]
        for star in stars.source_id:
            group = file[star.decode()]
            exact[star] = {name: group[name][()] for name in ("mean", "std", "model", "ln_weight")}
            exact[star]["log_evidence"] = group.attrs["ln_evidence"]
    return grid, stars, exact, names, total


def test_prior_mass_of_the_grid(gold):
    grid, _, _, _, total = gold
    log_prior = model_log_prior(grid)
    assert abs(np.logaddexp.reduce(log_prior[np.isfinite(log_prior)]) - total) < 1e-5


@pytest.mark.slow
def test_reference_weights(gold):
    grid, stars, exact, _, _ = gold
    tiled, order = device_models(grid, model_log_prior(grid))
    real = order >= 0
    prior, _ = star_priors(Priors(), stars.coords)
    settings = Settings(survivors=len(grid))
    data = stars.stars()
    variation = []
    for k, name in enumerate(stars.source_id):
        star = jax.tree.map(lambda x, k=k: x[k], data)
        ours = np.zeros(len(grid))
        weights = np.asarray(model_log_weights(star, tiled.models, prior, settings))
        ours[order[real]] = np.exp(weights[real])
        theirs = np.zeros(len(grid))
        theirs[exact[name]["model"]] = np.exp(exact[name]["ln_weight"].astype(float))
        variation.append(0.5 * np.abs(ours - theirs).sum())
    assert np.median(variation) < 0.01 and max(variation) < 0.05


def test_default_path(gold):
    grid, stars, exact, names, _ = gold
    options = FitOptions(weighted_draws=N_SAMPLES)
    result = fit_catalog(stars, grid, options, output=Output(verbose=False))
    columns = {
        n: (result.parameters.index(n), names.index(n)) for n in ("dist", "av", "mini", "loga")
    }
    shift, ratio, evidence = [], [], []
    for k, name in enumerate(stars.source_id):
        truth = exact[name]
        for ours, theirs in columns.values():
            mean, std = truth["mean"][theirs], truth["std"][theirs]
            if std < 1e-6 * abs(mean):  # all the mass is on one node
                assert abs(result["summary_mean"][k, ours] - mean) < 1e-5 * abs(mean)
                continue
            shift.append(abs(result["summary_mean"][k, ours] - mean) / std)
            ratio.append(abs(result["summary_std"][k, ours] / std - 1))
        evidence.append(abs(result["obj_log_evid"][k] - truth["log_evidence"]))
    assert np.median(shift) < 0.03 and max(shift) < 0.1
    assert np.median(ratio) < 0.03 and max(ratio) < 0.1
    assert np.median(evidence) < 0.01 and max(evidence) < 0.05
    assert np.min(result["obj_ess"]) > 0.9 * N_SAMPLES
