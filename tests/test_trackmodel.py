"""The shipped tracks: the Sun, gradients, validity, and the tables they were fitted to."""

import equinox as eqx
import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from brutax.models.evolution.track_model import TrackModel, load_tracks
from brutax.models.spline import TensorSpline, clamped_knots, design_matrix


@pytest.fixture(scope="module")
def model() -> TrackModel:
    return load_tracks()


@eqx.filter_jit
def _track(model, mini, eep, feh):
    return jax.vmap(model, in_axes=(None, 0, None))(mini, eep, feh)


def track_of(model, mini, eep, feh):
    """The points of a track at EEPs."""
    return _track(model, jnp.asarray(float(mini)), eep, jnp.asarray(float(feh)))


def point(model, mini, eep, feh):
    return jax.tree.map(lambda x: x[0], track_of(model, mini, jnp.asarray([float(eep)]), feh))


def test_spline_is_the_textbook_one(rng):
    knots = clamped_knots(np.array([0.0, 0.1, 0.3, 0.3, 0.5, 1.0]))
    x = np.linspace(0.0, 1.0, 37)
    matrix = design_matrix(knots, x)
    count = matrix.shape[1]
    coef = rng.normal(size=(count, count, 2))
    spline = TensorSpline((knots, knots), coef)
    got = jax.vmap(spline)(jnp.asarray(x), jnp.asarray(x[::-1].copy()))
    np.testing.assert_allclose(
        got, np.einsum("pa,pb,abo->po", matrix, matrix[::-1], coef), atol=3e-6
    )
    inside = jnp.asarray([0.07, 0.22, 0.41, 0.9])
    value, slopes = jax.vmap(spline.with_slopes)(inside, inside[::-1])
    np.testing.assert_allclose(value, jax.vmap(spline)(inside, inside[::-1]), rtol=1e-6)
    expected = jax.vmap(jax.jacfwd(spline, argnums=(0, 1)))(inside, inside[::-1])
    for slope, other in zip(slopes, expected, strict=True):
        np.testing.assert_allclose(slope, other, rtol=1e-4, atol=1e-4)


def test_a_sun(model):
    ages = track_of(model, 1.0, jnp.arange(202.0, 450.0), 0.0)
    now = int(np.argmin(np.abs(np.asarray(ages.loga) - np.log10(4.57e9))))
    assert abs(float(ages.logl[now])) < 0.05
    assert abs(10 ** float(ages.logt[now]) - 5772.0) < 100.0
    assert abs(float(ages.logg[now]) - 4.438) < 0.03


@pytest.mark.parametrize("mini, feh", [(0.5, 0.0), (1.0, -1.0), (1.5, 0.2), (3.0, -0.3)])
def test_age_grows_along_the_main_sequence(model, mini, feh):
    eep = jnp.arange(202.0, 450.0)
    track = track_of(model, mini, eep, feh)
    assert np.all(np.diff(np.asarray(track.loga)) > 0)
    assert np.all(np.asarray(track.agewt) > 0)
    grown = np.gradient(10.0 ** np.asarray(track.loga, np.float64))
    np.testing.assert_allclose(np.median(np.asarray(track.agewt) / grown), 1.0, atol=0.05)


def test_age_never_falls():
    with jax.enable_x64(True):
        model = load_tracks()
        eep = jnp.arange(1.0, 808.01, 0.5)
        for mini in (0.11, 0.83, 1.27, 2.9, 5.0, 17.0):
            age = model.ages(jnp.asarray([mini]), eep, jnp.asarray(-0.31)).loga[0]
            assert np.diff(age).min() > -1e-12


@pytest.mark.parametrize(
    "mini, eep, feh", [(1.0, 350.0, 0.0), (0.7, 300.0, -1.1), (2.0, 500.0, 0.1)]
)
def test_gradients(model, mini, eep, feh):
    with jax.enable_x64(True):
        double = load_tracks()
        x = jnp.asarray([mini, eep, feh])

        @jax.jit
        def f(x):
            return jnp.stack(double(x[0], x[1], x[2])[:4])

        jacobian = jax.jacrev(f)(x)
        for k, step in enumerate((1e-5, 1e-3, 1e-5)):
            h = jnp.zeros(3).at[k].set(step)
            slope = (f(x + h) - f(x - h)) / (2 * step)
            np.testing.assert_allclose(jacobian[:, k], slope, rtol=1e-4, atol=1e-6)


def test_lattice_is_the_same_one_by_one(model):
    mini, eep, feh = (
        jnp.asarray([0.3, 1.0, 5.0]),
        jnp.asarray([210.0, 480.5]),
        jnp.asarray([-1.2, 0.0]),
    )
    table = model.lattice(mini, eep, feh)
    for i, j, k in np.ndindex(3, 2, 2):
        one = point(model, mini[i], eep[j], feh[k])
        for name in one._fields:
            np.testing.assert_allclose(
                getattr(table, name)[i, j, k], getattr(one, name), rtol=2e-5, atol=2e-5
            )


@pytest.mark.parametrize(
    "mini, eep, feh",
    [(0.05, 300, 0), (500.0, 300, 0), (1, 0, 0), (1, 900, 0), (1, 300, 0.6), (1, 300, -5)],
)
def test_outside_is_not_valid_but_finite(model, mini, eep, feh):
    out = point(model, mini, eep, feh)
    assert not out.valid
    assert all(np.isfinite(np.asarray(x)) for x in out[:-1])


def test_inside_is_valid(model):
    assert point(model, 1.0, 350, 0.0).valid
    assert point(model, 0.8, 605, -1.5).valid


def test_close_to_the_tables(model, shared):
    path = shared / "models/mist_eep_tracks_vvcrit0.0.h5"
    with h5py.File(path) as file:
        mini, feh = file["mini"][:], file["feh_init"][:]
        picks = [
            (np.argmin(abs(mini - m)), np.argmin(abs(feh - z)))
            for m in (0.6, 0.9, 1.3, 1.7, 2.5)
            for z in (-1.5, -0.5, 0.0)
        ]
        gaps = []
        for m, z in picks:
            start, count = file["offset"][z, m]
            rows = slice(start + 201, start + min(int(count), 808))
            radius, teff = file["radius_rsun"][rows], file["teff_k"][rows]
            age = file["age_gyr"][rows]
            got = track_of(model, mini[m], jnp.arange(202.0, 809.0), feh[z])
            got = np.stack(got[:3] + got[-1:])[:, : len(teff)]
            ok = got[-1] > 0
            logl = 2 * np.log10(radius) + 4 * np.log10(teff / 5772.0)
            gap = got[:3] - np.stack([np.log10(age) + 9, logl, np.log10(teff)])
            gaps.append(np.abs(gap)[:, ok])
    gaps = np.concatenate(gaps, axis=1)
    assert gaps.shape[1] > 5000
    assert np.all(np.median(gaps, axis=1) < [0.005, 0.002, 0.002])
