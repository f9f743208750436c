"""Mock stars are draws from the prior of the fit, and the fit gives their truth back."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chisquare, kstest, truncnorm

import brutax
from brutax.catalog import read_stars
from brutax.fitting import Priors, mock_catalog
from brutax.fitting.prepare import model_log_prior
from brutax.fitting.prior import star_priors
from brutax.fitting.prior_draws import line_of_sight, populations
from brutax.models import StarGrid, demo_grid
from brutax.plotting import truth_ranks
from brutax.priors import Point

BANDS = ("PS_g", "PS_r", "PS_i", "2MASS_J", "2MASS_Ks")


@pytest.fixture(scope="module")
def grid() -> StarGrid:
    return demo_grid(BANDS, n_mass=16, n_eep=20, n_feh=6)


@pytest.mark.parametrize("sky", [(30.0, 5.0), (200.0, -70.0), (np.nan, np.nan)])
def test_populations_add_up_to_the_prior_of_the_fit(grid, rng, sky):
    """sum_c pi_k p_c(k) n_c(d) equals model prior times distance prior, for any model and d."""
    model = rng.integers(0, len(grid), 50)
    dist = np.exp(rng.uniform(-3.0, 4.0, 50))
    with np.errstate(divide="ignore"):  # rounded to nothing in one population, not in all
        shares = [np.log(np.diff(p.cdf, prepend=0.0)) for p in populations(grid)]
    masses = np.stack([s + p.log_mass for s, p in zip(shares, populations(grid))])
    log_p = line_of_sight(np.array([sky]), np.log(dist))[0]
    mine = np.logaddexp.reduce(masses[:, model] + log_p, axis=0) - np.log(dist)

    prior, _ = star_priors(Priors(), np.array([sky]))
    labels = {name: jnp.asarray(grid.label_table[name][model]) for name in ("feh", "loga")}
    where = {"ell": jnp.full(50, sky[0]), "b": jnp.full(50, sky[1])}
    point = Point(dist=jnp.asarray(dist), **labels, **where)
    theirs = model_log_prior(grid)[model] + np.asarray(prior.distance.log_prob(point), float)
    # the cumulative sums hold rare models to fewer digits
    assert np.allclose(mine, theirs, rtol=0, atol=2e-4)


def test_draws_follow_the_prior(grid):
    """Distances, extinctions and models against their exact marginal distributions."""
    n, sky = 4000, (120.0, 15.0)
    table = mock_catalog(grid, n, coords=sky, av=(0.5, 2.0), seed=4)
    eta = np.linspace(-9.2, 9.2, 4001)
    log_mass = np.array([p.log_mass for p in populations(grid)])
    log_p = line_of_sight(np.array([sky]), eta)[0] + log_mass[:, None]
    density = np.exp(np.logaddexp.reduce(log_p, axis=0) - log_p.max())
    cdf = np.cumsum(density) / density.sum()
    assert kstest(np.log(table["true_dist"]), lambda x: np.interp(x, eta, cdf)).pvalue > 1e-3
    assert kstest(table["true_av"], lambda x: np.clip((x - 0.5) / 1.5, 0, 1)).pvalue > 1e-3
    normal = truncnorm(-2.32 / 0.18, 4.68 / 0.18, loc=3.32, scale=0.18)
    assert kstest(table["true_rv"], normal.cdf).pvalue > 1e-3

    share = np.exp(log_p.max() + np.log(density.sum()))
    weight = np.exp(np.logaddexp.reduce(log_p, axis=1)) / share  # of each population
    expected = sum(w * np.diff(p.cdf, prepend=0.0) for w, p in zip(weight, populations(grid)))
    by_feh = [expected[grid.label_table["feh"] == x].sum() for x in grid.grid_axes["feh"]]
    count = [np.sum(table["true_feh"] == x) for x in grid.grid_axes["feh"]]
    assert chisquare(count, np.array(by_feh) * n / np.sum(by_feh)).pvalue > 1e-3


def test_noise_has_the_stated_size(grid):
    errors = [0.01, 0.02, 0.03, 0.04, 0.05]
    table = mock_catalog(grid, 3000, coords=(70.0, 8.0), error=errors, parallax_error=0.1)
    model = np.asarray(table["true_model"])
    for i, band in enumerate(BANDS):
        reddening = grid.red[model, i] + np.asarray(table["true_rv"]) * grid.dred[model, i]
        true = grid.mag[model, i] + np.asarray(table["true_av"]) * reddening
        true = true + 5 * np.log10(np.asarray(table["true_dist"]))
        ratio = 10 ** (-0.4 * (np.asarray(table[band]) - true))
        assert np.std(ratio) == pytest.approx(0.01 * (i + 1), rel=0.06)
        assert np.mean(ratio) == pytest.approx(1.0, abs=4 * 0.01 * (i + 1) / np.sqrt(3000))
        # flux errors as the reader recovers them are those of the truth, not of the noisy flux
        error = np.asarray(table[f"{band}_err"]) * 0.4 * np.log(10) * ratio
        assert np.allclose(error, 0.01 * (i + 1), rtol=1e-5)
    pull = (np.asarray(table["parallax"]) - 1 / np.asarray(table["true_dist"])) / 0.1
    assert np.std(pull) == pytest.approx(1.0, rel=0.06)


def test_missing_magnitudes_leave_four(grid):
    table = mock_catalog(grid, 400, coords=(70.0, 8.0), missing=0.5)
    gone = np.stack([np.ma.getmaskarray(table[band]) for band in BANDS], axis=1)
    assert gone.sum(axis=1).max() == 1 and 0.3 < gone.any(axis=1).mean()
    assert np.array_equal(np.isnan(read_stars(table, BANDS).flux), gone)


def test_limit_conditions_on_detection(grid):
    """Every star is bright; those of a plain draw that are bright have the same distances."""
    limited = mock_catalog(grid, 1500, coords=(50.0, 30.0), mag_limit=("PS_r", 22.0), error=1e-6)
    assert np.max(limited["PS_r"]) < 22.001
    plain = mock_catalog(grid, 6000, coords=(50.0, 30.0), error=1e-6, seed=9)
    bright = plain[np.asarray(plain["PS_r"]) < 22.0]
    assert 200 < len(bright) < 5000
    assert kstest(limited["true_dist"], bright["true_dist"]).pvalue > 1e-3
    assert kstest(limited["true_dist"], plain["true_dist"]).pvalue < 1e-6


def test_same_seed_same_stars(grid):
    first, again, other = (mock_catalog(grid, 20, seed=seed) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first.colnames)
    assert not np.any(first["true_dist"] == other["true_dist"])


def test_positions_may_be_unknown(grid):
    sky = np.array([(10.0, 20.0), (np.nan, np.nan)] * 5)
    stars = read_stars(mock_catalog(grid, 10, coords=sky), BANDS)
    assert np.array_equal(np.isfinite(stars.coords[:, 0]), np.isfinite(sky[:, 0]))
    table = mock_catalog(grid, 3, coords=(np.nan, np.nan), parallax_error=None)
    assert not {"l", "b", "parallax"} & set(table.colnames)


@pytest.mark.parametrize(
    "options, found",
    [
        ({"n_stars": 0}, "number of stars"),
        ({"error": 0.5}, "no flux turns negative"),
        ({"error": [0.1, 0.1]}, "for 5 bands"),
        ({"parallax_error": -1.0}, "parallax_error"),
        ({"missing": 1.0}, "missing"),
        ({"av": (2.0, 1.0)}, "av must be"),
        ({"av": -1.0}, "mean of an exponential"),
        ({"coords": (10.0, 100.0)}, "latitude"),
        ({"coords": np.zeros((3, 2))}, "one pair for each"),
        ({"mag_limit": ("PS_r", 1.0)}, "fainter magnitude limit"),
        ({"mag_limit": ("PS_q", 1.0)}, "no band 'PS_q'"),
        ({"rvlim": (4.0, 3.0)}, "no distribution"),
    ],
)
def test_refuses(grid, options, found):
    with pytest.raises(ValueError, match=found):
        mock_catalog(grid, **({"n_stars": 5} | options))


@pytest.mark.slow
def test_fit_is_calibrated():
    """Simulation-based calibration (Talts et al. 2018): the truth is one more draw.

    So its ranks among the draws are uniform.
    """
    grid, n_stars, av = demo_grid(BANDS), 300, (0.0, 3.0)
    table = mock_catalog(grid, n_stars, seed=20, av=av)
    result = brutax.fit(table, grid, priors=Priors(av=av), seed=20, progress=False)
    assert result.fitted.all()
    for name in ("dist", "av", "mini", "loga"):
        place = truth_ranks(result, table, name)
        count, _ = np.histogram(place, 10, (0.0, 1.0))
        assert chisquare(count).pvalue > 1e-3, f"{name}: {count}"
        assert np.mean(np.abs(place - 0.5) < 0.34) == pytest.approx(0.68, abs=0.08), name
