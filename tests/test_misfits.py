"""Rows that no model fits: flagged, finite, and soon done with."""

import numpy as np
import pytest

from brutax.catalog import make_catalog
from brutax.fitting import FitOptions, Output, fit_catalog
from brutax.models import Status

QUIET = Output(verbose=False)
OPTIONS = FitOptions(weighted_draws=512)


def nonsense(bands, n=40, seed=3):
    """Random colours, errors from 0.01 % to 3 mag, parallaxes of other stars."""
    rng = np.random.default_rng(seed)
    mag = rng.uniform(8.0, 22.0, (n, len(bands)))
    err = np.exp(rng.uniform(np.log(1e-4), np.log(3.0), mag.shape))
    return make_catalog(
        mag,
        err,
        bands,
        units="mag",
        parallax=rng.normal(0.5, 1.0, n),
        parallax_err=np.full(n, 0.05),
        coords=np.tile([90.0, 30.0], (n, 1)),
    )


def assert_finite(result):
    for name in result.keys():
        if name != "source_id":
            assert np.isfinite(result[name]).all(), name


def test_nonsense_is_a_poor_fit_after_little_work(small_grid):
    result = fit_catalog(nonsense(small_grid.bands), small_grid, OPTIONS, output=QUIET)
    status = result["status"]
    assert ((status & Status.POOR_FIT) != 0).all()
    assert not (status & (Status.NO_MODELS | Status.EXTENDED)).any()
    assert (result["obj_nsamp"] == OPTIONS.first_draws).all()
    assert (result["obj_pvalue"] < 1e-3).all() and (result["obj_chi2min"] > 20.0).all()
    assert_finite(result)
    assert (np.diff(result["summary_quantiles"], axis=-1) >= 0).all()


def test_effort_decides_how_much(small_grid):
    """With high effort they climb like others."""
    stars = nonsense(small_grid.bands).select(np.arange(3))
    high = FitOptions(effort="high", weighted_draws=512)
    assert OPTIONS.after_poor_fit() != OPTIONS.rounds()[1:]
    assert high.after_poor_fit() == high.rounds()[1:]
    assert FitOptions(effort="low").after_poor_fit() == []
    assert FitOptions(method="reference").after_poor_fit() == []
    low = fit_catalog(stars, small_grid, FitOptions(effort="low"), output=QUIET)
    assert ((low["status"] & Status.POOR_FIT) != 0).all()


def test_stars_that_fit_do_not_notice(small_grid, small_stars):
    """Beside nonsense they have the same draws as alone."""
    alone = fit_catalog(small_stars, small_grid, OPTIONS, output=QUIET)
    other = nonsense(small_grid.bands, len(small_stars))

    def both(name):
        return np.concatenate([getattr(small_stars, name), getattr(other, name)])

    names = ("flux", "flux_err", "parallax", "parallax_err", "coords")
    ids = np.concatenate([small_stars.source_id, np.arange(len(other)) + 5])
    mixed = make_catalog(bands=small_grid.bands, source_id=ids, **{n: both(n) for n in names})
    beside = fit_catalog(mixed, small_grid, OPTIONS, output=QUIET)
    for name in alone.keys():
        if not name.startswith("models/") and name != "status":  # which tells of the table, too
            np.testing.assert_array_equal(alone[name], beside[name][: len(small_stars)], name)


def test_one_discrepant_band_keeps_its_posterior(small_grid, small_stars):
    """A star off by 20 standard deviations in one band: the small round agrees with quadrature."""
    few = small_stars.select(np.array([0, 1, 2]))
    flux = few.flux.copy()
    flux[:, 1] += 20.0 * few.flux_err[:, 1]
    stars = make_catalog(
        flux,
        few.flux_err,
        few.bands,
        parallax=few.parallax,
        parallax_err=few.parallax_err,
        coords=few.coords,
        source_id=few.source_id,
    )
    quick = fit_catalog(stars, small_grid, OPTIONS, output=QUIET)
    exact = fit_catalog(
        stars, small_grid, FitOptions(method="reference", weighted_draws=512), output=QUIET
    )
    assert ((quick["status"] & Status.POOR_FIT) != 0).all()
    good = (quick["status"] & Status.LOW_ESS) == 0
    assert good.any()
    shift = (quick["summary_mean"] - exact["summary_mean"])[good]
    noise = exact["summary_std"][good] + 1e-6 * np.abs(exact["summary_mean"][good])
    assert np.abs(shift / noise).max() < 0.25  # of some 450 draws each
    off = quick["obj_log_evid"] - exact["obj_log_evid"]
    assert np.abs(off[good]).max() < 0.1


@pytest.mark.parametrize("power", [-30, -12, 12, 30])
def test_arithmetic_stays_finite(small_grid, small_stars, power):
    """Whatever the numbers of a row are, its posterior is finite, and its neighbours' the same."""
    few = small_stars.select(np.array([0, 1, 2, 6]))
    flux, err = few.flux.copy(), few.flux_err.copy()
    plx, plx_err = few.parallax.copy(), few.parallax_err.copy()
    flux[0] *= 10.0**power
    err[1] *= 10.0**power
    flux[2, 0], err[2, 1] = flux[2, 0] * 10.0**power, err[2, 1] * 10.0**power
    plx[1], plx_err[2] = plx[1] * 10.0**power, plx_err[2] * 10.0**power
    stars = make_catalog(
        flux,
        err,
        few.bands,
        parallax=plx,
        parallax_err=plx_err,
        coords=few.coords,
        source_id=few.source_id,
    )
    result = fit_catalog(stars, small_grid, OPTIONS, output=QUIET)
    assert_finite(result)
    assert not (result["status"] & Status.NO_MODELS).any()
    alone = fit_catalog(stars.select(np.array([3])), small_grid, OPTIONS, output=QUIET)
    np.testing.assert_array_equal(result["samps_dist"][3], alone["samps_dist"][0])
