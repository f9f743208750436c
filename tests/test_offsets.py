"""Photometric offsets: brutus' numbers, exact cases, invariances, and what must be refused."""

import logging

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import chi2, norm

import brutax
from brutax import plotting, zeropoints
from brutax.cli import main
from brutax.data import load_offsets
from brutax.fitting import Priors, mock_catalog
from brutax.solver.density import Theta
from brutax.zeropoints import PhotometricOffsetsConfig, evidence, photometric_offsets
from brutax.zeropoints.control_variates import zero_means
from brutax.zeropoints.resampling import band_ratios

STARS, DRAWS, BANDS, MODELS = 24, 10, 6, 30
FACTOR = np.array([1.0, 1.0, 0.96, 1.0, 1.0])  # of observed fluxes


def sample(seed=1):
    """Stars near their models, in the arguments of `photometric_offsets`."""
    rng = np.random.default_rng(seed)
    coeffs = (rng.uniform(2, 8, (MODELS, BANDS)), rng.uniform(0.2, 1, (MODELS, BANDS)))
    models = np.stack([*coeffs, rng.uniform(-0.1, 0.1, (MODELS, BANDS))], axis=-1)
    idxs = np.repeat(rng.integers(0, MODELS, (STARS, 1)), DRAWS, axis=1)
    av = rng.uniform(0, 2, (STARS, 1)) + rng.normal(0, 0.02, (STARS, DRAWS))
    rv = rng.uniform(2.5, 4, (STARS, 1)) + rng.normal(0, 0.1, (STARS, DRAWS))
    dist = rng.uniform(0.3, 3, (STARS, 1)) * rng.lognormal(0, 0.02, (STARS, DRAWS))
    flux = fluxes(models, idxs, av, rv, dist)[:, 0]
    phot = flux * rng.normal(1, 0.03, flux.shape) * np.linspace(0.95, 1.05, BANDS)
    mask = (rng.random(flux.shape) < 0.9).astype(int)
    return {
        "phot": phot,
        "err": 0.03 * flux,
        "mask": mask,
        "models": models,
        "idxs": idxs,
        "reds": av,
        "dreds": rv,
        "dists": dist,
    }


def fluxes(models, idxs, av, rv, dist):
    mag, red, dred = np.moveaxis(models[idxs], -1, 0)
    mag = mag + av[..., None] * (red + rv[..., None] * dred)
    return 10 ** (-0.4 * mag) / dist[..., None] ** 2


def by_hand(args, weights, fitted, old, dim_prior, seed, n_bootstrap=300):
    """The definition, star by star, with the random numbers in brutus' order."""
    rng = np.random.default_rng(seed)
    flux = fluxes(*(args[k] for k in ("models", "idxs", "reds", "dreds", "dists")))
    seen, phot = args["mask"] == 1, args["phot"]
    terms = ((phot * old)[:, None] - flux) ** 2 / ((args["err"] * old)[:, None]) ** 2
    terms = np.where(seen[:, None], terms, 0.0)
    count = seen.sum(axis=1)
    out = []
    for band in range(BANDS):
        least = count - 1 >= 4 if fitted[band] else count >= 3
        stars = np.flatnonzero(seen[:, band] & least & (phot[:, band] > 0))
        total, cdfs = terms.sum(axis=2)[stars], []
        for star, full in zip(stars, total):
            log_w = np.zeros(DRAWS)
            own = terms[star, :, band]
            if fitted[band] and dim_prior:
                rest = chi2.logpdf(full - own, count[star] - 2)
                log_w = rest - chi2.logpdf(full, count[star] - 1)
            elif fitted[band]:
                log_w = 0.5 * own
            w = np.exp(log_w - log_w.max()) * weights[star]
            cdfs.append(np.cumsum(w) / w.sum())
        n = len(stars)
        chosen = rng.choice(n, size=(n_bootstrap, n), p=np.full(n, 1 / n))
        medians = []
        for row in chosen:
            u = rng.random(len(stars))
            draws = [np.searchsorted(cdfs[k], x) for k, x in zip(row, u)]
            ratios = [flux[stars[k], d, band] / phot[stars[k], band] for k, d in zip(row, draws)]
            medians.append(np.median(ratios))
        low, middle, high = np.percentile(medians, (25, 50, 75))
        out.append((middle, (high - low) / 1.349, len(stars)))
    return np.array(out).T


@pytest.mark.parametrize("dim_prior", [True, False])
def test_definition(dim_prior, rng):
    args = sample()
    weights, old = rng.random((STARS, DRAWS)), np.linspace(1.02, 0.98, BANDS)
    fitted = np.arange(BANDS) < BANDS - 1
    args["phot"][3, 2] = -1.0
    expected = by_hand(args, weights, fitted, old, dim_prior, 5, 50)
    with jax.enable_x64(True):
        found = photometric_offsets(
            **args,
            weights=weights,
            mask_fit=fitted,
            old_offsets=old,
            dim_prior=dim_prior,
            config=PhotometricOffsetsConfig(n_bootstrap=50, random_seed=5),
        )
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_a_band_that_was_not_fitted_scales_exactly():
    args = sample()
    fitted = np.arange(BANDS) != 2
    config = PhotometricOffsetsConfig(random_seed=0)
    first = photometric_offsets(**args, mask_fit=fitted, config=config)
    args["phot"][:, 2] *= 1.25
    second = photometric_offsets(**args, mask_fit=fitted, config=config)
    np.testing.assert_allclose(second[0][2], first[0][2] / 1.25, rtol=1e-5)
    np.testing.assert_allclose(second[1][2], first[1][2] / 1.25, rtol=1e-4)


def test_what_is_not_observed_or_not_chosen_does_not_matter():
    args = sample()
    config = PhotometricOffsetsConfig(random_seed=0, uncertainty_method="bootstrap_std")
    sel = np.arange(STARS) % 3 > 0
    some = {k: v if k == "models" else v[sel] for k, v in args.items()}
    expected = photometric_offsets(**some, config=config)
    args["phot"][args["mask"] == 0] = np.nan
    args["err"][args["mask"] == 0] = -1.0
    args["phot"][0] *= 100.0  # not chosen
    found = photometric_offsets(**args, sel=sel, config=config)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_no_star_is_no_confident_zero(caplog):
    args = sample()
    args["mask"][:, 1] = 0
    args["phot"][:, 4] = -args["phot"][:, 4]
    with caplog.at_level(logging.WARNING, "brutax"):
        offsets, errors, used = photometric_offsets(**args)
    assert "band 1" in caplog.text and "band 4" in caplog.text
    assert used[1] == used[4] == 0 and used[0] > 10
    assert offsets[1] == 1.0 and np.isinf(errors[[1, 4]]).all() and np.isfinite(errors[0])
    mean, std = np.full(BANDS, 1.01), np.full(BANDS, 0.02)
    config = PhotometricOffsetsConfig(random_seed=0)
    free = photometric_offsets(**args, config=config)
    held = photometric_offsets(**args, config=config, prior_mean=mean, prior_std=std)
    assert held[0][1] == 1.01 and held[1][1] == 0.02
    precision = 1 / free[1][0] ** 2 + 1 / 0.02**2
    np.testing.assert_allclose(held[1][0], precision**-0.5)
    combined = (free[0][0] / free[1][0] ** 2 + 1.01 / 0.02**2) / precision
    np.testing.assert_allclose(held[0][0], combined)


def test_bands_needed():
    args = sample()
    args["mask"][:] = 1
    args["mask"][:12, 4:] = 0  # four bands
    found = photometric_offsets(**args, mask_fit=np.arange(BANDS) > 0)[2]
    assert found[0] == STARS and (found[1:4] == 12).all() and (found[4:] == 12).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"err": np.ones((STARS, 2))}, "err is"),
        ({"phot": np.full((STARS, BANDS), np.nan)}, "not finite"),
        ({"err": np.zeros((STARS, BANDS))}, "no positive error"),
        ({"mask": np.full((STARS, BANDS), 2)}, "0 and 1"),
        ({"idxs": np.full((STARS, DRAWS), MODELS)}, "idxs"),
        ({"dists": np.zeros((STARS, DRAWS))}, "dists"),
        ({"old_offsets": np.zeros(BANDS)}, "old_offsets"),
        ({"weights": np.full((STARS, DRAWS), -1.0)}, "weights"),
        ({"prior_mean": np.ones(BANDS)}, "both"),
        ({"prior_mean": np.ones(BANDS), "prior_std": np.zeros(BANDS)}, "positive"),
        ({"sel": np.ones(3, bool)}, "sel is"),
    ],
)
def test_bad_input(change, words):
    with pytest.raises(ValueError, match=words):
        photometric_offsets(**(sample() | change))


def test_bad_settings():
    for name in ("min_bands_used", "min_bands_unused", "n_bootstrap"):
        with pytest.raises(ValueError, match=name):
            PhotometricOffsetsConfig(**{name: 0})
    with pytest.raises(ValueError, match="uncertainty_method"):
        PhotometricOffsetsConfig(uncertainty_method="bootstrap")
    with pytest.raises(ValueError, match="progress_interval"):
        PhotometricOffsetsConfig(progress_interval=-1)


def test_ratios_for_figures_are_those_of_the_offsets():
    args = sample()
    flux = fluxes(*(args[k] for k in ("models", "idxs", "reds", "dreds", "dists")))
    for band, (ratios, weight) in enumerate(band_ratios(**args, offset=np.full(BANDS, 2.0))):
        expected = flux[:, :, band] / args["phot"][:, band, None]
        seen = args["mask"][:, band] == 1
        np.testing.assert_allclose(2 * ratios[seen], expected[seen], rtol=1e-5)
        good = weight.sum(axis=1) > 0
        np.testing.assert_allclose(weight[good].sum(axis=1), 1.0, rtol=1e-5)
        assert not (good & (args["mask"][:, band] == 0)).any() and good.any()


def test_gradient_of_the_evidence_is_exact():
    """Fluxes normal about a model's, itself normal about 1: the evidence is known."""
    rng, sigma, width, flux = np.random.default_rng(3), 0.05, 0.08, 1.1

    def exact(log_offset, floor2):
        o, var = np.exp(log_offset), sigma**2 + floor2 * (0.4 * np.log(10) * flux) ** 2
        return norm.logpdf(flux, 1 / o, np.sqrt(var + (width / o) ** 2))

    precision = width**-2 + sigma**-2
    mean = (width**-2 + flux * sigma**-2) / precision
    draws = rng.normal(mean, precision**-0.5, 40_000)
    with jax.enable_x64(True):
        one = jnp.ones((1, 1))
        before = jnp.zeros((1, 40_000))
        data = evidence.Fluxes(
            flux * one, sigma * one, one, jnp.asarray(draws)[None, :, None], before, jnp.ones(1)
        )
        start = evidence.log_likelihood(jax.tree.map(lambda x: x[0], data), jnp.zeros(2))
        data = data._replace(before=start[None])
        for at in ([0.0, 0.0], [0.02, 0.0], [-0.02, 3e-4]):
            found = evidence.slope(jnp.asarray(at), data)
            assert abs(found.gain[0] - (exact(*at) - exact(0.0, 0.0))) < 0.01
            star = jax.tree.map(lambda x: x[0], data)
            slope = jax.grad(evidence.log_gain, argnums=1)(star, jnp.asarray(at))
            np.testing.assert_allclose(found.score[0], slope, rtol=1e-9)
            noise = np.sqrt(np.diag(found.noise))
            step = 1e-4
            slope = (exact(at[0] + step, at[1]) - exact(at[0] - step, at[1])) / (2 * step)
            assert abs(found.score[0, 0] - slope) < 4 * noise[0] < 0.6  # of single draws: some 20
            step = 1e-6
            slope = (exact(at[0], at[1] + step) - exact(at[0], at[1] - step)) / (2 * step)
            assert abs(found.score[0, 1] - slope) < 4 * noise[1] < 8.0  # of single draws: some 200
            assert 0.5 < found.ess_per_draw[0] <= 1 + 1e-12


def test_rounds_of_few_draws_find_the_maximum_of_the_evidence():
    """Stars whose evidence is normal: the maximum is known, and the rounds' own draws scatter.

    Two unknowns of each star imitate offsets common to all bands, and hide all but 1 part in 100
    of what its draws say of them.
    """
    rng, n_stars, n_bands, n_draws = np.random.default_rng(5), 300, 4, 600
    true = np.array([0.04, 0.0, 0.0, -0.02])
    hidden = np.array([[0.2, 0.2, 0.2, 0.2], [0.2, 0.13, 0.08, 0.05]]).T
    model = np.exp(rng.normal(0, 0.2, (n_stars, n_bands)))
    err = 0.02 * model * np.exp(0.3 * rng.standard_normal(model.shape))

    def moments(offset):
        """Mean, response to what is hidden, and covariance of the fluxes."""
        at = np.exp(-offset) * model
        response = at[..., None] * hidden
        return at, response, response @ response.mT + np.eye(n_bands) * err[:, None] ** 2

    def minus_log_evidence(offset):
        at, _, cov = moments(offset)
        chi2 = np.linalg.solve(cov, (flux - at)[..., None])[..., 0] * (flux - at)
        prior = np.sum(offset**2) / 0.1**2
        return 0.5 * (chi2.sum() + np.linalg.slogdet(cov)[1].sum() + prior)

    at, _, cov = moments(true)
    flux = at + np.einsum("nij,nj->ni", np.linalg.cholesky(cov), rng.standard_normal(at.shape))
    best = minimize(minus_log_evidence, true, method="BFGS", options={"gtol": 1e-3}).x
    half = 1e-3 * np.eye(n_bands)
    bend = [
        [
            minus_log_evidence(best + x + y) - minus_log_evidence(best + x - y)
            - minus_log_evidence(best - x + y) + minus_log_evidence(best - x - y)
            for x in half
        ]
        for y in half
    ]  # fmt: skip
    errors = np.sqrt(np.diag(np.linalg.inv(np.array(bend) / 4e-6)))

    def fitted_at(offset):
        """Posterior draws of the model's fluxes, independent every time."""
        at, response, _ = moments(offset)
        weighted = (response / err[..., None] ** 2).mT
        cov = np.linalg.inv(weighted @ response + np.eye(2))
        mean = cov @ (weighted @ (flux - at)[..., None])
        normal = rng.standard_normal((n_stars, 2, n_draws))
        return model[:, None] * (1 + (mean + np.linalg.cholesky(cov) @ normal).mT @ hidden.T)

    precision, slope = np.repeat([0.1**-2, 0.0], n_bands), np.repeat([0.0, 200.0], n_bands)
    free, seen = np.repeat([True, False], n_bands), np.full(n_bands, n_stars)
    search = evidence.Search(tuple("abcd"), seen, precision, slope, free, floors=False)
    offsets, near = np.ones(n_bands), []
    with jax.enable_x64(True):
        for _ in range(14):
            point = np.concatenate([np.log(offsets), np.zeros(n_bands)])
            one, none = np.ones_like(flux), np.zeros((n_stars, n_draws))
            given = (flux, err, one, fitted_at(point[:n_bands]), none, np.ones(n_stars))
            data = evidence.Fluxes(*map(jnp.asarray, given))
            before = jax.vmap(evidence.log_likelihood, in_axes=(0, None))(data, jnp.asarray(point))
            data = data._replace(before=before)
            found = evidence.next_round(evidence.sums_at(point, data), data, search, near)
            offsets = found.offsets
    assert len(near) > 8
    off = (np.log(offsets) - best) / errors
    scatter = found.scatter_errors / errors
    assert (scatter < 0.6).all() and (np.abs(off) < 3 * scatter).all()
    np.testing.assert_allclose(
        found.errors / offsets, np.hypot(errors, found.scatter_errors), rtol=0.25
    )


@pytest.fixture(scope="module")
def fitted(small_grid, tmp_path_factory):
    """Stars with a band 4 % too faint, which was fitted with the others; and their files."""
    folder = tmp_path_factory.mktemp("offsets")
    mock = mock_catalog(small_grid, 120, seed=2, coords=(90.0, 20.0), parallax_error=0.01)
    mock["PS_i"] += -2.5 * np.log10(FACTOR[2])
    mock.write(folder / "stars.ecsv")
    stars = brutax.read_stars(mock, small_grid.bands)
    result = brutax.fit(stars, small_grid, progress=False, priors=Priors(av=(0.0, 3.0)))
    result.save(folder / "posterior.h5")
    small_grid.write(folder / "grid.h5")
    return stars, result, folder


@pytest.mark.slow
def test_functions_of_draws_have_zero_mean(fitted, small_grid):
    """At their posteriors, stars at bounds of A_V included, as far as their draws tell."""
    stars, result, _ = fitted
    names = ("samps_dist", "samps_red", "samps_dred")
    dist, av, rv = (jnp.asarray(result[name]) for name in names)
    theta, priors = Theta(jnp.log(dist), av, rv), Priors(av=(0.0, 3.0))
    values = np.asarray(zero_means(stars, small_grid, priors, result["model_idx"], theta))
    assert values.shape == (len(stars), 250, 3) and (av.min(axis=1) < 0.05).any()
    score = values.mean(axis=1) / (values.std(axis=1) / np.sqrt(250))
    good = (result["status"] & int(brutax.Status.LOW_ESS)) == 0
    assert (np.abs(score[good].mean(axis=0)) < 5 / np.sqrt(good.sum())).all()
    assert (score[good].std(axis=0) < 1.6).all()  # draws with weights have a little more than 1


@pytest.mark.parametrize("method", ["resampling", "evidence"])
def test_an_injected_offset_is_seen(fitted, small_grid, method):
    stars, result, _ = fitted
    found = zeropoints.measure(result, small_grid, stars, method=method, poor_fits=True)
    assert found.bands == small_grid.bands and (found.n_stars > 100).all()
    contrast = np.eye(len(found.bands))[2] - 1.0 / len(found.bands)  # the rest is poorly known
    covariance = np.diag(found.errors / found.offsets) ** 2
    if method == "evidence":
        covariance = found.covariance[: len(contrast), : len(contrast)]
    error = np.sqrt(contrast @ covariance @ contrast)
    assert contrast @ np.log(found.offsets) > 4 * error
    truth = 1 / FACTOR
    off = (found.offsets - found.offsets.mean() - truth + truth.mean())[2]
    assert abs(off) < (0.02 if method == "resampling" else 0.03)
    if method == "evidence":
        np.testing.assert_allclose(found.covariance, found.covariance.T)
        assert 0 < found.ess_per_draw <= 1 and (found.floors >= 0).all()


def test_results_and_tables_must_belong_together(fitted, small_grid, tmp_path):
    stars, result, _ = fitted
    with pytest.raises(ValueError, match="not in the table"):
        zeropoints.measure(result, small_grid, stars.select(slice(0, 100)))
    with pytest.raises(ValueError, match="another grid"):
        zeropoints.measure(result, small_grid.select(rows=slice(0, 1000)), stars)
    with pytest.raises(ValueError, match="method"):
        zeropoints.measure(result, small_grid, stars, method="gradient")
    with pytest.raises(ValueError, match="applied"):
        zeropoints.measure(result, small_grid, stars, applied=[1.0])
    order = np.random.default_rng(0).permutation(len(stars))
    config = PhotometricOffsetsConfig(random_seed=1)
    one = zeropoints.measure(result, small_grid, stars, config=config)
    two = zeropoints.measure(result, small_grid, stars.select(order), config=config)
    np.testing.assert_array_equal(one.offsets, two.offsets)
    np.testing.assert_array_equal(
        load_offsets(one.save(tmp_path / "offsets.txt"), one.bands), one.offsets
    )


def test_rounds_repeat_until_offsets_stand(fitted, small_grid, caplog):
    stars, *_ = fitted
    with caplog.at_level(logging.INFO, "brutax"):
        priors = Priors(av=(0.0, 3.0))
        done = zeropoints.fit(small_grid, stars, 8, tolerance=1.0, poor_fits=True, priors=priors)
    assert "round 1" in caplog.text
    assert done.converged == ("still move" not in caplog.text)
    assert np.median(done.result["obj_chi2min"]) < np.median(fitted[1]["obj_chi2min"])
    truth = 1 / FACTOR
    assert abs((done.last.offsets / done.last.offsets.mean() - truth / truth.mean())[2]) < 0.015


def test_command(fitted, small_grid, capsys, caplog):
    stars, result, folder = fitted
    out, figure = folder / "offsets.txt", folder / "offsets.png"
    command = ["offsets", folder / "posterior.h5", "--catalog", folder / "stars.ecsv"]
    command = [str(x) for x in (*command, "-g", folder / "grid.h5", "-o", out, "--poor-fits")]
    assert main([*command, "--figure", str(figure), "--seed", "4"]) == 0
    config = PhotometricOffsetsConfig(random_seed=4)
    found = zeropoints.measure(result, small_grid, stars, poor_fits=True, config=config)
    np.testing.assert_allclose(load_offsets(out, small_grid.bands), found.offsets, rtol=1e-6)
    said = capsys.readouterr().out
    assert all(band in said for band in small_grid.bands) and figure.stat().st_size > 1000
    assert "differs" not in caplog.text
    assert main(command) == 2  # the file exists
    other = [*command, "--overwrite", "--error-floor", "0.01"]
    assert main(other) == 0
    assert "differs" in caplog.text or "differs" in capsys.readouterr().err


def test_figures(fitted, small_grid):
    stars, result, _ = fitted
    models = np.stack([small_grid.mag, small_grid.red, small_grid.dred], axis=-1)
    draws = [result[x] for x in ("model_idx", "samps_red", "samps_dred", "samps_dist")]
    seen = np.isfinite(stars.flux).astype(int)
    fig, axes = plotting.photometric_offsets(
        stars.flux, stars.flux_err, seen, models, *draws, titles=small_grid.bands, bins=20
    )
    assert [ax.get_title() for ax in axes.flat[:5]] == list(small_grid.bands)
    middle = [np.median(ax.lines[-1].get_ydata()) for ax in axes.flat[:5]]
    assert np.argmin(middle) == 2 and middle[2] < -0.02  # the model is brighter than observed
    plane = (result["logt_samples"], result["logg_samples"])
    fig2, axes = plotting.photometric_offsets_2d(
        stars.flux, stars.flux_err, seen, models, *draws, *plane, bins=5, plot_thresh=2.0
    )
    image = axes.flat[2].collections[0].get_array()
    assert np.nanmedian(np.ma.filled(image.astype(float), np.nan)) < -0.01
    magnitudes = -2.5 * np.log10(stars.flux), 2.5 / np.log(10) * stars.flux_err / stars.flux
    again, axes = plotting.photometric_offsets(
        *magnitudes, seen, models, *draws, flux=False, bins=20
    )
    np.testing.assert_allclose(np.median(axes.flat[2].lines[-1].get_ydata()), middle[2], atol=1e-4)
    for figure in (fig, fig2, again):
        plt.close(figure)
