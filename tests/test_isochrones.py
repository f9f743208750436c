"""Isochrones: the right ages, smooth gradients, and a genuine one of MIST."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.models.evolution.isochrones import Isochrone, solve_isochrone
from brutax.models.evolution.tracks import EEPTracks


@pytest.fixture(scope="module")
def tracks():
    return EEPTracks(verbose=False)


@pytest.mark.parametrize("feh, loga", [(0.0, 9.6), (-1.35, 10.08), (0.2, 8.0)])
def test_every_star_has_the_age(tracks, feh, loga):
    eep = jnp.arange(202.0, 808.0, 6.0)
    out = eqx.filter_jit(solve_isochrone)(tracks, jnp.asarray(feh), jnp.asarray(loga), eep)
    assert np.asarray(out.valid).sum() > 60
    np.testing.assert_allclose(np.asarray(out.star.loga)[np.asarray(out.valid)], loga, atol=2e-4)
    assert all(np.isfinite(np.asarray(x)).all() for x in out.star)


@pytest.mark.slow
def test_gradients_are_those_of_finite_differences():
    with jax.enable_x64(True):
        tracks = EEPTracks(verbose=False)
        eep = jnp.asarray([260.0, 350.0, 440.0, 500.0])

        @jax.jit
        def f(x):
            out = solve_isochrone(tracks, x[0], x[1], eep)
            return jnp.concatenate([out.mini, out.star.logl, out.star.logt])

        x = jnp.asarray([-0.37, 9.53])
        jacobian = jax.jit(jax.jacrev(f))(x)
        assert np.isfinite(np.asarray(jacobian)).all()
        for k in range(2):
            h = jnp.zeros(2).at[k].set(1e-5)
            slope = (f(x + h) - f(x - h)) / 2e-5
            np.testing.assert_allclose(jacobian[:, k], slope, rtol=2e-3, atol=1e-4)


def test_a_genuine_isochrone(shared):
    """12 Gyr, [Fe/H] = -1.35; rotation matters little at these masses."""
    path = shared / "models/MIST_iso_5fd2532653c27_PanSTARRS_feh-1.35_12Gyr.iso.cmd"
    table = np.loadtxt(path)
    eep, mass, logt, logl = table[:, 0], table[:, 2], table[:, 4], table[:, 6]
    keep = (eep >= 300) & (eep <= 600)
    got = Isochrone(verbose=False).get_predictions(
        feh=-1.35, loga=np.log10(12e9), eep=eep[keep], apply_corr=False
    )
    ok = np.isfinite(got[:, 0])
    assert ok.mean() > 0.9
    gap = np.abs(got[ok][:, [0, 2, 3]] - np.stack([mass, logl, logt], axis=1)[keep][ok])
    print(np.median(gap, axis=0), np.quantile(gap, 0.95, axis=0))
    assert np.all(np.median(gap, axis=0) < [0.01, 0.03, 0.005])


def test_bad_input():
    with pytest.raises(ValueError, match="not known"):
        Isochrone(predictions=["colour"], verbose=False)
    with pytest.raises(FileNotFoundError, match="iso.h5"):
        Isochrone("iso.h5", verbose=False)
    with pytest.raises(ValueError, match="finite"):
        Isochrone(verbose=False).get_predictions(loga=np.nan)
    out = Isochrone(verbose=False).get_predictions(feh=3.0, loga=9.0, eep=[300, 400])
    assert np.isnan(out).all()
