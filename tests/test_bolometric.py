"""The shipped bolometric corrections: solar colours, laws, gradients, errors at the door."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.models.photometry.bolometric import available_bands, load_bolometric
from brutax.models.photometry.photometry import BandMagnitudes, coefficients, dust_lines

SUN = tuple(jnp.asarray(x) for x in (0.0, np.log10(5772.0), 4.438, 0.0))


def mags(model, av=0.0, rv=3.1):
    return dict(
        zip(model.bands, np.asarray(model.magnitudes(*SUN, jnp.asarray(av), jnp.asarray(rv))))
    )


def reddening(model):
    """The coefficients of a grid for the Sun: at R_V = 0 and per unit R_V."""

    def look(av, rv):
        return BandMagnitudes(model.magnitudes(*SUN, av, rv), jnp.asarray(True))

    fit = coefficients(look, dust_lines())
    return fit.red, fit.dred


def test_solar_colours():
    """Willmer (2018, ApJS 236 47) within the differences between atmospheres."""
    sun = mags(load_bolometric())
    assert sun["Bessell_V"] == pytest.approx(4.81, abs=0.05)
    assert sun["Bessell_B"] - sun["Bessell_V"] == pytest.approx(0.65, abs=0.05)
    assert sun["SDSS_r"] == pytest.approx(4.65, abs=0.05)
    assert sun["2MASS_J"] - sun["2MASS_Ks"] == pytest.approx(0.37, abs=0.06)


@pytest.mark.parametrize("law", ["CCM89", "F99", "F19", "G23"])
def test_extinction_in_v_is_av(law):
    model = load_bolometric(["Bessell_B", "Bessell_V"], law=law)
    red, dred = reddening(model)
    at = red + 3.1 * dred
    assert float(at[1]) == pytest.approx(1.0, abs=0.06)
    assert float(at[0]) == pytest.approx(1.32, abs=0.08)  # E(B - V) = A_V / 3.1


def test_reddening_is_the_extinction_for_little_dust():
    model = load_bolometric(["PS_g", "PS_r", "2MASS_Ks", "Gaia_BP_EDR3"])
    red, dred = reddening(model)
    for rv in (2.8, 3.3, 3.9):
        bare, dusty = (np.array(list(mags(model, av, rv).values())) for av in (0.0, 0.9))
        np.testing.assert_allclose(np.asarray(red + rv * dred), (dusty - bare) / 0.9, atol=0.02)


def test_schlafly_finkbeiner_for_ps1():
    """Table 6 at R_V = 3.1, as ratios to PS1 r: 3.172, 2.271, 1.682, 1.322, 1.087."""
    model = load_bolometric(["PS_g", "PS_r", "PS_i", "PS_z", "PS_y"])
    red, dred = reddening(model)
    at = np.asarray(red + 3.1 * dred)
    np.testing.assert_allclose(
        at / at[1], np.array([3.172, 2.271, 1.682, 1.322, 1.087]) / 2.271, atol=0.05
    )


def test_gradients():
    with jax.enable_x64(True):
        model = load_bolometric(["PS_g", "2MASS_J"])
        x = jnp.asarray([3.76, 4.4, -0.3, 0.5, 3.2])

        def f(x):
            return model(x[0], x[1], x[2], x[3], x[4])

        jacobian = jax.jacrev(f)(x)
        for k in range(5):
            h = jnp.zeros(5).at[k].set(1e-5)
            np.testing.assert_allclose(
                jacobian[:, k], (f(x + h) - f(x - h)) / 2e-5, rtol=1e-5, atol=1e-6
            )


def test_bad_bands_are_refused():
    with pytest.raises(ValueError, match="did you mean"):
        load_bolometric(["PS_q"])
    with pytest.raises(ValueError, match="different bands"):
        load_bolometric(["PS_g", "PS_g"])
    with pytest.raises(ValueError, match="law"):
        load_bolometric(["PS_g"], law="grey")
    assert "PS_g" in available_bands()


def test_validity():
    model = load_bolometric(["PS_g"])
    assert bool(model.valid(*SUN[1:]))
    assert not bool(model.valid(jnp.asarray(3.0), SUN[2], SUN[3]))
    assert not bool(model.valid(SUN[1], SUN[2], jnp.asarray(2.0)))
