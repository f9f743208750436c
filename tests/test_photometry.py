"""Magnitudes, fluxes and the likelihood of photometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.utils import (
    add_mag,
    chisquare_outlier_loglike,
    inv_luptitude,
    inv_magnitude,
    luptitude,
    magnitude,
    phot_loglike,
    uniform_outlier_loglike,
)

FLUX = np.array([[1.0, 2.0, 3.0, 4.0]])
ERR = 0.1 * FLUX
MODELS = np.array([[1.1, 2.0, 3.1, 3.9], [0.9, 2.1, 2.8, 4.4]])


@pytest.mark.parametrize(
    "found, expected",
    [
        (magnitude(1e-8, 1e-10), (20.0, 0.010857362047581)),
        (luptitude(1e-8, 1e-10, skynoise=1e-9), (19.989301971609333, 0.010646519412838)),
        (inv_luptitude(20, 0.01, 1e-9), (9.9e-09, 9.302443775695925e-11)),
        ((add_mag(15, 15), add_mag(15, 16)), (14.247425010840047, 14.636148842226767)),
    ],
)
def test_conversions_match_reference_values(found, expected):
    np.testing.assert_allclose(found, expected, rtol=3e-13)


def test_conversions_invert_each_other(rng):
    flux, err = rng.uniform(1e-9, 1e-7, (20, 3)), rng.uniform(1e-11, 1e-9, (20, 3))
    zeropoints = np.array([1.0, 2.5, 0.4])
    back = inv_magnitude(*magnitude(flux, err, zeropoints), zeropoints)
    np.testing.assert_allclose(back, (flux, err), rtol=1e-12)
    signed = flux - 5e-8  # asinh magnitudes exist for negative fluxes too
    back = inv_luptitude(*luptitude(signed, err, 1e-9, zeropoints), 1e-9, zeropoints)
    np.testing.assert_allclose(back, (signed, err), rtol=1e-9)


def test_fluxes_without_a_magnitude():
    mag, err = magnitude(np.array([-1.0, 0.0]), np.array([0.1, 0.1]))
    assert np.isnan(mag[0]) and err[0] < 0
    assert mag[1] == np.inf and err[1] == np.inf


def test_luptitudes_become_magnitudes_for_bright_sources():
    np.testing.assert_allclose(luptitude(1e-5, 1e-8, 1e-10), magnitude(1e-5, 1e-8), rtol=1e-9)


def test_numpy_in_numpy_out_and_jax_in_jax_out():
    for function in (magnitude, inv_magnitude, luptitude, inv_luptitude):
        for value in function(np.float32(2.0), np.float32(0.1)):
            assert isinstance(value, np.ndarray | np.generic) and value.dtype == np.float64
        for value in function(jnp.array(2.0), jnp.array(0.1)):
            assert isinstance(value, jax.Array)
    assert isinstance(phot_loglike(jnp.asarray(FLUX), ERR, MODELS), jax.Array)
    assert isinstance(phot_loglike(FLUX, ERR, MODELS), np.ndarray)


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, (1.769726853253946, 1.009310186587317)),
        ({"dim_prior": True}, (-1.813014501328342, -1.742324543294842)),
        ({"dim_prior": True, "dof_reduction": 1}, (-1.425701381086698, -1.770564735403263)),
        (
            {
                "dim_prior": True,
                "mask": np.array([[1, 1, 0, 1]]),
                "extra_chi2": np.array([2.0]),
                "extra_dims": np.array([1]),
            },
            (-1.798312785249035, -2.06437537818355),
        ),
    ],
)
def test_phot_loglike_matches_reference_values(options, expected):
    for models in (MODELS, MODELS[None]):
        found = phot_loglike(FLUX, ERR, models, **options)
        np.testing.assert_allclose(found, [expected], rtol=1e-12)
        found = jax.jit(lambda flux, m: phot_loglike(flux, ERR, m, **options))(FLUX, models)  # noqa: B023
        np.testing.assert_allclose(found, [expected], rtol=2e-5)


@pytest.mark.parametrize("snr", [3.0, 300.0, 10000.0])
def test_phot_loglike_in_single_precision(rng, snr):
    """Residuals, not the expanded square: no cancellation at high signal to noise."""
    flux = rng.uniform(1.0, 9.0, (4, 6)) * 1e-9
    err = flux / snr
    models = flux[:, None, :] + err[:, None, :] * rng.normal(size=(4, 5, 6))
    expected = -0.5 * np.sum(((flux[:, None] - models) / err[:, None]) ** 2, axis=-1)
    expected -= np.sum(np.log(np.sqrt(2 * np.pi) * err), axis=-1)[:, None]
    np.testing.assert_allclose(phot_loglike(flux, err, models), expected, rtol=1e-12)
    flux32, err32, models32 = (np.float32(x) for x in (flux, err, models))
    exact = phot_loglike(*(np.float64(x) for x in (flux32, err32, models32)))
    found = phot_loglike(jnp.asarray(flux32), jnp.asarray(err32), jnp.asarray(models32))
    np.testing.assert_allclose(found, exact, rtol=2e-6)


def test_integer_masks_are_masks():
    """Zeros and ones drop bands; read as indices they would have picked bands 0 and 1."""
    mask = np.array([[1, 0, 0, 1]])
    by_hand = phot_loglike(FLUX[:, [0, 3]], ERR[:, [0, 3]], MODELS[:, [0, 3]])
    for same in (mask, mask.astype(bool), mask[0], jnp.asarray(mask)):
        np.testing.assert_allclose(phot_loglike(FLUX, ERR, MODELS, mask=same), by_hand, rtol=1e-12)


@pytest.mark.parametrize("bad", [(np.nan, 1.0), (1.0, np.nan), (1.0, 0.0), (1.0, -1.0)])
def test_bad_data_count_as_unobserved(bad):
    flux, err = FLUX.copy(), ERR.copy()
    flux[0, 1], err[0, 1] = bad
    rest = [0, 2, 3]
    expected = phot_loglike(FLUX[:, rest], ERR[:, rest], MODELS[:, rest])
    np.testing.assert_allclose(phot_loglike(flux, err, MODELS), expected, rtol=1e-12)
    gradient = jax.grad(lambda m: jnp.sum(phot_loglike(flux, err, m)))(jnp.asarray(MODELS))
    assert np.all(np.isfinite(gradient)) and np.all(gradient[:, 1] == 0)


def test_perfect_fit_and_no_degrees_of_freedom():
    two = np.array([[1, 1, 0, 0]])
    exact = phot_loglike(FLUX, ERR, FLUX, mask=two, dim_prior=True)
    np.testing.assert_allclose(exact, -np.log(2.0))  # (2/2 - 1) ln 0 counts as 0
    none = phot_loglike(FLUX, ERR, MODELS, mask=two, dim_prior=True, dof_reduction=2)
    assert np.all(none == -np.inf)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="mfluxes"):
        phot_loglike(FLUX, ERR, MODELS[:, :3])
    with pytest.raises(ValueError, match="both have the shape"):
        phot_loglike(FLUX, ERR[:, :3], MODELS)
    with pytest.raises(ValueError, match="objects"):
        phot_loglike(FLUX, ERR, np.stack([MODELS, MODELS]))
    with pytest.raises(ValueError, match="mask"):
        phot_loglike(FLUX, ERR, MODELS, mask=np.ones(3))


def test_outliers_with_the_chisquare_level():
    four, five = -12.273956832606782, -12.301639727207165
    flux, err = np.ones((3, 4)), np.ones((3, 4))
    flux[1, 2] = np.nan
    plx, perr = np.array([1.0, 1.0, np.nan]), np.array([0.1, 0.1, 0.1])
    np.testing.assert_allclose(
        chisquare_outlier_loglike(flux, err, parallax=plx, parallax_err=perr),
        [five, four, four],
        rtol=1e-12,
    )
    found = chisquare_outlier_loglike(jnp.asarray(flux), jnp.asarray(err))
    np.testing.assert_allclose(found[0], four, rtol=1e-5)
    assert np.all(chisquare_outlier_loglike(flux, err, dof_reduction=4) == -np.inf)


def test_outliers_uniform_over_the_sample():
    flux = np.array([[1.0, 2.0], [2.0, 5.0]])
    err = 0.1 * flux
    np.testing.assert_allclose(uniform_outlier_loglike(flux, err), -2.271094425902675, rtol=1e-12)
    alone = uniform_outlier_loglike(flux[:1], err[:1])
    np.testing.assert_allclose(alone, 0.328504066972036, rtol=1e-12)
    plx = {"parallax": np.array([1.0, 1.5]), "parallax_err": np.array([0.1, 0.1])}
    found = uniform_outlier_loglike(flux, err, **plx)
    np.testing.assert_allclose(found, -2.366404605706999, rtol=1e-12)
    flux = np.vstack([flux, [np.nan, 3.0]])
    found = uniform_outlier_loglike(flux, np.vstack([err, [0.1, 0.1]]))
    np.testing.assert_allclose(found[2], -np.log(5.1), rtol=1e-12)
