"""Photometry of models behind dust: golden numbers, derivatives, NumPy and JAX alike."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from brutax.models import _get_seds, get_seds

COEFFS = np.array([[[15, 1.2, -0.05], [14.5, 0.8, 0.02], [14.2, 0.5, 0.03], [14.0, 0.3, 0.04]]])
AV, RV = 0.7, 3.1


def tolerance(single, double):
    return double if jax.config.read("jax_enable_x64") else single


# brutus 1.2.0
MAG = [15.7315, 15.1034, 14.6151, 14.2968]
RVEC = [1.045, 0.862, 0.593, 0.424]
FLUX = [
    5.098001982256033e-07,
    9.091593301729266e-07,
    1.425476296337002e-06,
    1.911084983484805e-06,
]
DFLUX_DAV = [
    -4.906727847989878e-07,
    -7.218100853361959e-07,
    -7.785569275698529e-07,
    -7.463139107331037e-07,
]
DFLUX_DRV = [
    2.347716673679368e-08,
    -1.674733376650106e-08,
    -3.938736564434332e-08,
    -7.040697271067017e-08,
]


def test_golden_numbers():
    mag, rvec, drvec = get_seds(COEFFS, AV, RV, return_rvec=True, return_drvec=True)
    np.testing.assert_allclose(mag[0], MAG, rtol=1e-14)
    np.testing.assert_allclose(rvec[0], RVEC, rtol=1e-14)
    np.testing.assert_array_equal(drvec[0], COEFFS[0, :, 2])
    flux, dav, drv = _get_seds(COEFFS, np.array([AV]), np.array([RV]), return_flux=True)
    np.testing.assert_allclose(flux[0], FLUX, rtol=1e-13)
    np.testing.assert_allclose(dav[0], DFLUX_DAV, rtol=1e-13)
    np.testing.assert_allclose(drv[0], DFLUX_DRV, rtol=1e-13)


def test_jax_agrees_with_numpy():
    rng = np.random.default_rng(1)
    coeffs = rng.normal([15.0, 0.5, 0.02], [1.0, 0.2, 0.01], (7, 5, 3))
    av, rv = rng.uniform(0, 5, 7), rng.uniform(2, 5, 7)
    expected = _get_seds(coeffs, av, rv, return_flux=True)
    for jit in (lambda f: f, jax.jit):
        got = jit(lambda *x: _get_seds(*x, return_flux=True))(
            jnp.asarray(coeffs), jnp.asarray(av), jnp.asarray(rv)
        )
        for a, b in zip(got, expected):
            assert isinstance(a, jax.Array)
            np.testing.assert_allclose(a, b, rtol=tolerance(2e-5, 1e-12))


def test_flux_vectors_are_derivatives():
    """`rvec = dF/dA_V`, and `A_V drvec = dF/dR_V`."""
    coeffs = jnp.asarray(COEFFS)
    av, rv = jnp.asarray([AV]), jnp.asarray([RV])
    _, rvec, drvec = _get_seds(coeffs, av, rv, return_flux=True)

    def flux(av, rv):
        return _get_seds(coeffs, av, rv, return_flux=True)[0][0]

    dav, drv = jax.jacfwd(flux, argnums=(0, 1))(av, rv)
    np.testing.assert_allclose(rvec[0], dav[:, 0], rtol=tolerance(1e-4, 1e-12))
    np.testing.assert_allclose(AV * drvec[0], drv[:, 0], rtol=tolerance(1e-4, 1e-12))
    with jax.enable_x64(True):
        mags = lambda av, rv: get_seds(jnp.asarray(COEFFS), av, rv)  # noqa: E731
        check_grads(mags, (jnp.asarray([AV]), jnp.asarray([RV])), order=2, modes=("fwd", "rev"))


def test_defaults_and_returned_parts():
    coeffs = np.concatenate([COEFFS, COEFFS + 1.0])
    np.testing.assert_array_equal(get_seds(coeffs), coeffs[..., 0])
    _, rvec = get_seds(coeffs, return_rvec=True)
    np.testing.assert_allclose(rvec, coeffs[..., 1] + 3.3 * coeffs[..., 2], rtol=1e-15)
    _, drvec = get_seds(coeffs, return_drvec=True)
    np.testing.assert_array_equal(drvec, coeffs[..., 2])


def test_float32_coefficients_are_computed_in_float64():
    sed = get_seds(COEFFS.astype(np.float32), AV, RV)
    assert sed.dtype == np.float64
    np.testing.assert_allclose(sed[0], MAG, atol=1e-6)


def test_one_value_per_model():
    coeffs = np.concatenate([COEFFS, COEFFS])
    both = get_seds(coeffs, np.array([0.0, AV]), RV)
    np.testing.assert_array_equal(both[0], COEFFS[0, :, 0])
    np.testing.assert_allclose(both[1], MAG, rtol=1e-14)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"av is \(3,\)"):
        get_seds(COEFFS, av=np.zeros(3))
    with pytest.raises(ValueError, match=r"rv is \(1, 1\)"):
        get_seds(COEFFS, rv=np.zeros((1, 1)))
    with pytest.raises(ValueError, match="not \\(model, band, 3\\)"):
        get_seds(COEFFS[0])
