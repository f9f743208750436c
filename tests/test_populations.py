"""Isochrones with companions: masses, ages, fluxes, limits, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.models import EEPTracks, Isochrone, StarEvolTrack, StellarPop
from brutax.utils import add_mag

BANDS = ["PS_g", "PS_i", "2MASS_Ks"]
AGE = {"feh": -0.2, "loga": 9.4}
EEPS = np.linspace(210.0, 600.0, 60)


@pytest.fixture(scope="module")
def pop():
    return StellarPop(Isochrone(verbose=False), BANDS, verbose=False)


@pytest.fixture(scope="module")
def binary():
    return StarEvolTrack(EEPTracks(verbose=False), BANDS, verbose=False)


def test_companions_have_the_mass_and_the_age(pop, binary):
    """A companion read off the isochrone is the star that its own track has at that age."""
    _, first, second = pop.get_seds(**AGE, eep=EEPS, binary_fraction=0.6, mini_bound=0.1)
    there = np.isfinite(second["mini"])
    assert there.sum() > 25
    np.testing.assert_allclose(second["mini"][there], 0.6 * first["mini"][there], rtol=2e-6)
    for k in np.flatnonzero(there)[::9]:
        _, _, params2, eep2 = binary.get_seds(
            mini=first["mini"][k], eep=EEPS[k], feh=-0.2, smf=0.6, return_eep2=True
        )
        assert params2["loga"] == pytest.approx(9.4, abs=1e-3)
        assert 202 < eep2 < EEPS[k]
        for name in ("logl", "logt", "logg"):
            assert second[name][k] == pytest.approx(params2[name], abs=2e-3)


def test_fluxes_add(pop):
    alone, first, none = pop.get_seds(**AGE, eep=EEPS, mini_bound=0.1)
    assert np.isnan(none["mini"]).all()
    pair, _, second = pop.get_seds(**AGE, eep=EEPS, binary_fraction=0.6, mini_bound=0.1)
    there = np.isfinite(second["mini"])
    # the companion alone, where its mass is that of a primary
    order = np.isfinite(first["mini"])
    faint = np.stack(
        [np.interp(second["mini"][there], first["mini"][order], m[order]) for m in alone.T], axis=1
    )
    np.testing.assert_allclose(pair[there], add_mag(alone[there], faint), atol=0.04)
    assert np.median(np.abs(pair[there] - add_mag(alone[there], faint))) < 2e-3
    np.testing.assert_array_equal(pair[~there], alone[~there])
    assert (pair[there] < alone[there]).all()


def test_a_twin_is_twice_as_bright(pop):
    alone, _, _ = pop.get_seds(**AGE, eep=EEPS, mini_bound=0.1)
    twins, first, second = pop.get_seds(**AGE, eep=EEPS, binary_fraction=1.0, mini_bound=0.1)
    seen, ms = np.isfinite(alone[:, 0]), EEPS <= 480.0
    np.testing.assert_allclose((alone - twins)[seen & ms], 2.5 * np.log10(2.0), atol=1e-5)
    np.testing.assert_array_equal(twins[seen & ~ms], alone[seen & ~ms])
    np.testing.assert_array_equal(second["mini"][seen & ms], first["mini"][seen & ms])
    assert np.isnan(second["mini"][~ms]).all()


def test_all_ratios_in_one_call_are_those_one_by_one(pop):
    ratios = [0.0, 0.3, 1.0, 1.4, -0.5]
    table = pop.get_seds_smf_grid(ratios, **AGE, eep=EEPS, av=0.7, dist=850.0)
    for ratio, (sed, params, params2) in zip(ratios, table, strict=True):
        one = pop.get_seds(**AGE, eep=EEPS, av=0.7, dist=850.0, binary_fraction=ratio)
        np.testing.assert_array_equal(sed, one[0])
        np.testing.assert_array_equal(params["logl"], one[1]["logl"])
        np.testing.assert_array_equal(params2["mini"], one[2]["mini"])
    for k in (3, 4):  # ratios outside (0, 1] mean no companion
        np.testing.assert_array_equal(table[k][0], table[0][0])


def test_limits_by_mass_and_stage(pop):
    sed, first, second = pop.get_seds(**AGE, eep=EEPS, binary_fraction=0.5, mini_bound=0.5)
    light = first["mini"] < 0.5
    assert light.any() and np.isnan(sed[light]).all()
    assert np.nanmin(second["mini"]) >= 0.5
    _, _, early = pop.get_seds(**AGE, eep=EEPS, binary_fraction=0.5, eep_binary_max=400.0)
    assert np.isnan(early["mini"][EEPS > 400.0]).all() and np.isfinite(early["mini"]).any()


def test_distance_and_dust(pop):
    near, _, _ = pop.get_seds(**AGE, eep=EEPS, dist=10.0)
    far, _, _ = pop.get_seds(**AGE, eep=EEPS, dist=100.0)
    seen = np.isfinite(near[:, 0])
    np.testing.assert_allclose((far - near)[seen], 5.0, atol=1e-5)
    red, _, _ = pop.get_seds(**AGE, eep=EEPS, dist=10.0, av=1.0)
    dimmed = (red - near)[seen]
    assert (np.diff(dimmed, axis=1) < 0).all() and (dimmed > 0).all()


@pytest.mark.slow
def test_gradients_are_finite_and_right():
    """In [Fe/H], age, A_V, R_V and distance, through companions and their limits."""
    with jax.enable_x64(True):
        pop = StellarPop(Isochrone(verbose=False), BANDS, verbose=False)
        eep, smf = jnp.linspace(230.0, 520.0, 7), jnp.asarray([0.0, 0.45, 0.8, 1.0])

        @jax.jit
        def total(x):
            out = pop.population(x[0], x[1], eep, smf, x[2], x[3], x[4], mini_bound=0.1)
            return jnp.sum(jnp.where(out.valid[None, :, None], out.mag, 0.0), axis=(0, 1))

        x = jnp.asarray([-0.23, 9.43, 0.6, 3.2, 900.0])
        jacobian = jax.jit(jax.jacrev(total))(x)
        assert np.isfinite(np.asarray(jacobian)).all()
        for k, step in enumerate([1e-5, 1e-5, 1e-4, 1e-4, 1e-1]):
            h = jnp.zeros(5).at[k].set(step)
            slope = (total(x + h) - total(x - h)) / (2.0 * step)
            np.testing.assert_allclose(jacobian[:, k], slope, rtol=5e-3, atol=1e-4)


@pytest.mark.slow
def test_smooth_in_age():
    """No kinks that would stop a Hamiltonian sampler: slopes change less over shorter steps."""
    with jax.enable_x64(True):
        pop = StellarPop(Isochrone(verbose=False), BANDS, verbose=False)
        eep, smf = jnp.asarray([260.0, 330.0, 430.0, 500.0]), jnp.asarray([0.55])
        slope = jax.jit(
            jax.vmap(jax.jacfwd(lambda t: pop.population(-0.2, t, eep, smf, mini_bound=0.1).mag[0]))
        )

        def change(step):
            return np.abs(np.diff(slope(jnp.arange(9.37, 9.43, step)), axis=0)).max()

        assert change(2.5e-4) < 0.3 * change(1e-3)


def test_stars_without_companions(binary):
    with pytest.warns(RuntimeWarning, match="no companion"):
        # a pre-main-sequence star's companion: younger than any of its mass on its track
        sed, params, params2, eep2 = binary.get_seds(
            mini=5.0, eep=2.0, smf=0.9, return_eep2=True, tol=1e-9
        )
    assert np.isnan(eep2) and np.isnan(params2["logl"])
    alone = binary.get_seds(mini=5.0, eep=2.0)
    np.testing.assert_array_equal(sed, alone[0])
    giant = binary.get_seds(mini=1.0, eep=550.0, smf=0.5)
    np.testing.assert_array_equal(giant[0], binary.get_seds(mini=1.0, eep=550.0)[0])
    light = binary.get_seds(mini=0.3, eep=300.0, smf=0.3, loga_max=99.0)
    assert np.isnan(light[2]["logl"])


def test_old_stars_and_stars_off_the_tracks_are_dark(binary):
    for star in ({"mini": 0.7, "eep": 420.0}, {"mini": 99.0}, {"feh": 2.0}, {"eep": 1000.0}):
        sed, params, _ = binary.get_seds(**star)
        assert np.isnan(sed).all()
    assert np.isfinite(binary.get_seds(mini=0.7, eep=420.0)[1]["logl"])  # only too old


def test_a_pair_in_parts(binary):
    sed, _, _ = binary.get_seds(mini=1.1, eep=360.0, smf=0.7, av=0.4, dist=321.0)
    parts, *_ = binary.get_seds(
        mini=1.1, eep=360.0, smf=0.7, av=0.4, dist=321.0, combine_seds=False
    )
    np.testing.assert_allclose(sed, add_mag(*parts), atol=1e-5)
    stated = binary.get_seds(mini=1.1, eep=360.0, smf=0.7, eep2=300.0, return_eep2=True)
    assert stated[3] == 300.0
    raw = binary.get_seds(mini=1.1, eep=360.0, smf=0.7, return_dict=False)
    assert raw[1].shape == raw[2].shape == (len(binary.tracks.predictions),)


def test_bad_input(pop, binary):
    with pytest.raises(TypeError, match="Isochrone"):
        StellarPop("isochrone", BANDS)  # type: ignore
    with pytest.raises(TypeError, match="EEPTracks"):
        StarEvolTrack("tracks", BANDS)  # type: ignore
    with pytest.raises(ValueError, match="finite"):
        pop.get_seds(loga=np.nan)
    with pytest.raises(ValueError, match="positive"):
        pop.get_seds(dist=-1.0)
    with pytest.raises(ValueError, match="smf"):
        binary.get_seds(smf=1.5)
    with pytest.raises(TypeError, match="colour"):
        binary.get_seds(colour="blue")
    with pytest.raises(ValueError, match="did you mean"):
        StellarPop(pop.isochrone, ["PS_q"])
