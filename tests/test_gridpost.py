"""loglike_grid and logpost_grid: golden numbers of brutus 1.2.0, and exact masses."""

import jax
import numpy as np
import pytest

from brutax import BruteForce, StarGrid

COEFFS = np.array([[15, 1.2, -0.05], [14.5, 0.8, 0.02], [14.2, 0.5, 0.03], [14.0, 0.3, 0.04]])
# what brutus 1.2.0 finds for the first two models: chi-square, A_V and R_V at its optimum
BRUTUS = {
    "chi2": np.array([10.959576823897821, 0.751646243615763]),
    "av": np.array([0.614797959526504, 0.069419739778709]),
    "rv": np.array([3.203283962614499, 3.290298123704537]),
    "scale": np.array([0.689293478200954, 0.519170799216003]),
}


@pytest.fixture(scope="module")
def fitter():
    second, third = COEFFS.copy(), COEFFS.copy()
    second[:, 0] += (0.3, 0.1, 0, -0.05)
    second[0, 1] += 0.01
    third[:, 0] += (-0.6, -0.3, -0.1, 0)
    labels = np.array([(0.7, -0.5), (0.8, -0.2), (0.9, 0.0)], [("mini", "f8"), ("feh", "f8")])
    return BruteForce(StarGrid(np.stack([COEFFS, second, third]), labels))


@pytest.fixture
def star():
    flux = 10 ** (-0.4 * np.array([16.1, 15.35, 14.95, 14.7]))
    return flux, 0.03 * flux, np.ones(4, bool)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def objective(chi2, rv):
    return -0.5 * chi2 - 0.5 * ((rv - 3.32) / 0.18) ** 2


def test_optimum_is_at_least_that_of_brutus(x64, fitter, star):
    lnl, n_dim, chi2, scale, av, rv, icov = fitter.loglike_grid(*star, return_vals=True)
    ours, theirs = objective(chi2, rv)[:2], objective(BRUTUS["chi2"], BRUTUS["rv"])
    assert (ours >= theirs - 1e-6).all() and (ours - theirs < 0.05).all()
    np.testing.assert_allclose(av[:2], BRUTUS["av"], atol=0.01)
    np.testing.assert_allclose(rv[:2], BRUTUS["rv"], atol=0.05)
    np.testing.assert_allclose(scale[:2], BRUTUS["scale"], rtol=0.01)
    # the constants: Gaussian normalisation and (N - 3)/2 ln N
    constant = 61.83901589784674 + 0.5 * 10.959576823897821
    assert n_dim == 4
    np.testing.assert_allclose(lnl, -0.5 * chi2 + constant, rtol=1e-12)
    plain = fitter.loglike_grid(*star, dim_prior=False)[0]
    np.testing.assert_allclose(lnl - plain, 0.5 * np.log(4.0), rtol=1e-9)


def test_fisher_matrix_is_that_of_brutus_at_the_same_point(x64, fitter, star):
    import jax.numpy as jnp

    from brutax.compat.brutus.gridpost import FlatDistance
    from brutax.models import Stars
    from brutax.priors import TruncatedNormalRv, UniformAv
    from brutax.solver import Models, StarPrior, Theta, fisher_sar

    theta = Theta(
        jnp.asarray(-0.5 * np.log(BRUTUS["scale"][0])),
        jnp.asarray(BRUTUS["av"][0]),
        jnp.asarray(BRUTUS["rv"][0]),
    )
    prior = StarPrior(FlatDistance(-1.0), UniformAv(), TruncatedNormalRv())
    info = fisher_sar(theta, Stars.from_fluxes(star[0], star[1]), Models(*COEFFS.T, 0.0, {}), prior)
    expected = [
        [9331.186972933423, -4337.804293386882, -30.09264250830218],
        [-4337.804293386882, 2238.946943031661, -4.366031255363787],
        [-30.09264250830218, -4.366031255363787, 32.88905816627559],
    ]
    np.testing.assert_allclose(info, expected, rtol=1e-9)


def test_options_of_the_optimum(x64, fitter, star):
    whole = fitter.loglike_grid(*star, return_vals=True)
    part = fitter.loglike_grid(*star, return_vals=True, indices=[2, 0])
    for a, b in zip(whole[3:], part[3:]):
        np.testing.assert_allclose(a[[2, 0]], b, rtol=1e-10)
    warm = fitter.loglike_grid(*star, return_vals=True, av_init=np.ones(3), rv_init=np.full(3, 3.0))
    np.testing.assert_allclose(whole[2], warm[2], rtol=1e-6)
    fixed = fitter.loglike_grid(*star, return_vals=True, av_gauss=(1.0, 1e-4), rv_gauss=(3.0, 1e-4))
    np.testing.assert_allclose(fixed[4], 1.0, atol=1e-3)
    np.testing.assert_allclose(fixed[5], 3.0, atol=1e-3)
    bounded = fitter.loglike_grid(*star, return_vals=True, avlim=(0.1, 0.2))
    assert ((bounded[4] >= 0.1) & (bounded[4] <= 0.2)).all()
    with pytest.raises(ValueError, match="av_init"):
        fitter.loglike_grid(*star, av_init=np.ones(2))
    with pytest.raises(ValueError, match="usable band"):
        fitter.loglike_grid(np.full(4, np.nan), star[1], star[2])


def test_unknown_keywords_are_named_in_one_warning(x64, fitter, star, caplog):
    results = fitter.loglike_grid(*star, return_vals=True)
    other = fitter.loglike_grid(*star, return_vals=True, typo=1, avlims=(0, 3))
    assert [x.getMessage() for x in caplog.records if "unknown" in x.getMessage()] == [
        "loglike_grid: unknown keywords have no effect: avlims, typo"
    ]
    np.testing.assert_array_equal(results[2], other[2])
    caplog.clear()
    with pytest.raises(ValueError):  # after the warning, before anything is computed
        fitter.logpost_grid(results, avlim=(3.0, 0.0), typo=1)
    assert "logpost_grid: unknown keywords have no effect: typo" in caplog.text


def test_integer_masks_are_masks(x64, fitter, star):
    ours = fitter.loglike_grid(star[0], star[1], np.array([1, 1, 0, 1]))
    other = fitter.loglike_grid(star[0], star[1], np.array([True, True, False, True]))
    assert ours[1] == 3
    np.testing.assert_array_equal(ours[2], other[2])


@pytest.mark.slow
def test_masses_do_not_depend_on_the_number_of_draws(x64, fitter, star):
    results = fitter.loglike_grid(*star, return_vals=True, dim_prior=False)
    kw = {
        "parallax": 0.75,
        "parallax_err": 0.05,
        "coord": (90.0, 20.0),
        "wt_thresh": None,
        "cdf_thresh": None,
    }
    few = fitter.logpost_grid(results, Nmc_prior=400, rstate=1, **kw)
    many = fitter.logpost_grid(results, Nmc_prior=8000, rstate=2, **kw)
    np.testing.assert_allclose(few.lnp, many.lnp, atol=0.05)
    assert (few.mc_ess > 0.8 * 400).all() and few.dist_mc.shape == (3, 400)
    assert few.cov_sar.shape == (3, 3, 3) and (few.av_mc >= 0).all()
    # the evidence of the whole fit is the sum of the masses
    fit = fitter.fit(
        star[0],
        star[1],
        units="maggies",
        parallax=0.75,
        parallax_err=0.05,
        data_coords=(90.0, 20.0),
        lnprior=np.zeros(3),
        apply_grad=False,
        n_samples=1000,
    )
    sigma = 0.5 * np.log(2 * np.pi * 0.05**2)
    total = np.logaddexp.reduce(many.lnp) - sigma
    assert abs(total - fit["obj_log_evid"]) < 4 * fit["obj_log_evid_err"] + 0.01


@pytest.mark.slow
def test_models_are_kept_by_mass(x64, fitter, star):
    results = fitter.loglike_grid(*star, return_vals=True)
    assert fitter.logpost_grid(results, wt_thresh=0.1).sel.tolist() == [1]
    assert fitter.logpost_grid(results, wt_thresh=None, cdf_thresh=2e-3).sel.tolist() in (
        [1],
        [0, 1],
    )
    assert fitter.logpost_grid(results, wt_thresh=None, cdf_thresh=None).sel.size == 3
    part = fitter.loglike_grid(*star, return_vals=True, indices=[1, 2])
    assert fitter.logpost_grid(part, wt_thresh=0.1).sel.tolist() == [1]
    with pytest.raises(TypeError):
        fitter.logpost_grid(tuple(results))


def test_sed_grid(fitter):
    mags, red, dred = fitter.get_sed_grid(av=0.7, rv=3.1)
    np.testing.assert_allclose(mags[0], [15.7315, 15.1034, 14.6151, 14.2968], rtol=1e-6)
    np.testing.assert_allclose(red[0], [1.045, 0.862, 0.593, 0.424], rtol=1e-5)
    flux, _, _ = fitter.get_sed_grid(indices=[0], av=0.7, rv=3.1, return_flux=True)
    np.testing.assert_allclose(flux[0, 0], 5.098001982256033e-07, rtol=1e-5)
