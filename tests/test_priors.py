"""Priors: reference values, normalisation, gradients, and odd places."""

import types

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from brutax import priors
from brutax.priors import Point

MASSES = np.array([0.08, 0.1, 0.5, 0.7, 1.0, 2.0, 100.0])
LOG_IMF = [
    1.9088210977944, 1.6187344810859, -0.4735348050784, -1.2474209493071933, -2.0677733203663,
    -3.6620118356542, -12.6596647481389,
]  # fmt: skip
GALACTIC = [  # d, l, b; without labels, with feh = -0.5, and with loga = 9.8 too
    (0.1, 0, 0, -4.523314708576533, -4.739161645356067, -6.972462143778659),
    (1, 90, 30, -1.547071243016568, -1.772778957202441, -4.001915893301685),
    (8.2, 0, 0, 6.916705084541132, 6.572272918909009, 4.328521458721308),
    (10, 180, -45, -3.934065747946628, -6.550895464080304, -12.18459988132524),
    (50, 270, 80, -5.902345716183930, -8.548137068828659, -28.06868418524892),
]


def integral(log_density, x):
    return np.trapezoid(np.exp(log_density), x)


# --- stars ---------------------------------------------------------------------------------


def test_mass_function_matches_reference_values():
    np.testing.assert_allclose(priors.logp_imf(MASSES), LOG_IMF, rtol=1e-12, atol=5e-13)
    np.testing.assert_allclose(priors.logp_imf(1.0, mgrid2=0.5), -2.54130813, atol=1e-8)
    assert np.all(priors.logp_imf(np.array([0.079, 100.1])) == -np.inf)
    found = priors.KroupaIMF().log_prob(Point(mini=MASSES[1:-1]))
    np.testing.assert_allclose(found, LOG_IMF[1:-1], rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"alpha_low": 1.0},
        {"alpha_high": 1.0},
        {"mass_min": 0.6},
        {"mass_max": 0.4},
        {"alpha_low": 1.00001, "mass_break": 0.2},
    ],
)
def test_mass_function_is_normalised(options):
    m = np.geomspace(options.get("mass_min", 0.08), options.get("mass_max", 100.0), 200001)
    value = priors.logp_imf(m[1:-1], **options) + np.log(m[1:-1])
    np.testing.assert_allclose(integral(value, np.log(m[1:-1])), 1.0, rtol=2e-4)


def test_mass_function_refuses_impossible_ranges():
    for options in ({"mass_min": 0.0}, {"mass_max": 0.05}, {"mass_break": -1.0}):
        with pytest.raises(ValueError):
            priors.logp_imf(1.0, **options)


def test_mass_function_has_gradients():
    with jax.enable_x64(True):
        mass = jnp.array([0.2, 0.7, 5.0])

        def total(alpha, knee):
            imf = priors.KroupaIMF(alpha_low=alpha, alpha_high=alpha + 1, mass_break=knee)
            return jnp.sum(imf.log_prob(Point(mini=mass)))

        check_grads(total, (1.3, 0.45), order=1, modes=("rev",), rtol=1e-5)
        check_grads(total, (1.0, 0.45), order=1, modes=("rev",), rtol=1e-5)
    slope = jax.grad(lambda m: priors.KroupaIMF().log_prob(Point(mini=m)))(jnp.array(0.01))
    assert slope == 0.0


def test_luminosity_function_matches_reference_values():
    Mr = np.array([-2.0, -1.0, 0.02, 4.7, 10.0, 21.0])
    expected = [-12.252588716, -11.271549145, -9.667011054, -6.161541377, -4.032497159, -313.40939]
    np.testing.assert_allclose(priors.logp_ps1_luminosity_function(Mr), expected, atol=6e-3)
    found = priors.PS1LuminosityFunction().log_prob(Point(Mr=jnp.asarray(Mr)))
    assert isinstance(found, jax.Array)
    np.testing.assert_allclose(found, priors.logp_ps1_luminosity_function(Mr), rtol=2e-6)


def test_luminosity_function_follows_its_table(shared):
    Mr, expected = np.loadtxt(shared / "priors" / "PSMrLF_lnprior.dat", unpack=True)
    error = priors.logp_ps1_luminosity_function(Mr) - expected
    assert np.std(error[Mr < 16]) < 2e-3 and np.max(np.abs(error[Mr < 16])) < 0.01
    assert np.max(np.abs(error)) < 0.05
    slope = np.diff(expected)[[0, -1]] / 0.05
    beyond = priors.logp_ps1_luminosity_function(np.array([-3.0, 22.0]))
    np.testing.assert_allclose(beyond, expected[[0, -1]] + slope * [-2, 2], atol=0.1)


def test_luminosity_function_has_gradients():
    with jax.enable_x64(True):
        Mr = jnp.array([-2.0, 0.3, 4.4, 16.5, 21.0])
        total = lambda x: jnp.sum(priors.logp_ps1_luminosity_function(x))  # noqa: E731
        check_grads(total, (Mr,), order=1, modes=("rev",), rtol=1e-5)


def test_age_weight():
    weight = jnp.array([2.0, -2.0, 0.0, jnp.nan, jnp.inf])
    found = priors.AgeWeight().log_prob(Point(agewt=weight))
    np.testing.assert_allclose(found, np.log([2.0, 2.0, 0, 0, 0], where=[1, 1, 0, 0, 0],
                               out=np.full(5, -np.inf)), rtol=1e-6)  # fmt: skip
    total = lambda w: jnp.sum(priors.AgeWeight().log_prob(Point(agewt=w))[:2])  # noqa: E731
    assert np.all(np.isfinite(jax.grad(total)(weight)))


def test_cell_weights_of_a_lattice():
    mini, feh, one = np.meshgrid([1.0, 2.0, 4.0], [-1.0, -0.5, 0.25], [7.0], indexing="ij")
    labels = {"mini": mini.ravel(), "feh": feh.ravel(), "afe": one.ravel(), "logt": mini.ravel()}
    found = priors.grid_cell_log_weight(labels, ("mini", "feh", "afe"))
    expected = np.log(np.outer([1.0, 1.5, 2.0], [0.5, 0.625, 0.75])).ravel()
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert found.dtype == np.float64
    with pytest.raises(ValueError, match="eep"):
        priors.grid_cell_log_weight(labels, ("mini", "eep"))


# --- parallax ------------------------------------------------------------------------------


def test_parallax_matches_reference_values():
    for measured, expected in [
        ((1, 0.1), (1.01, 0.20049937655763)),
        ((2, 0.1), (4.01, 0.40024992192379)),
        ((-2, 0.1), (0.01, 0.0141421356237310)),
        ((0.39, 0.1), (1e-20, 1e20)),
        ((np.nan, 0.1), (1e-20, 1e20)),
        ((1, -0.1), (1e-20, 1e20)),
    ]:
        np.testing.assert_allclose(
            priors.convert_parallax_to_scale(*measured), expected, rtol=1e-12
        )
    scales = priors.logp_parallax_scale(np.array([1, 1.2]), np.array([0.1, 0.1]), 1, 0.1)
    np.testing.assert_allclose(scales, [0.575935577001299, 0.217369839949506], rtol=1e-12)
    assert np.all(priors.logp_parallax_scale(np.ones(2), np.ones(2), 0.39, 0.1) == 0)
    np.testing.assert_allclose(priors.logp_parallax(1.1, 1, 0.1), 0.883646559789372, rtol=1e-12)
    assert priors.logp_parallax(1.1, np.nan, 0.1) == 0 and priors.logp_parallax(1.1, 1, 0.0) == 0


def test_parallax_factor():
    prior = priors.GaussianParallax(1.0, 0.1)
    found = prior.log_prob(Point(dist=jnp.array([1 / 1.1, 0.0, 1e9])))
    np.testing.assert_allclose(found[0], 0.883646559789372, rtol=1e-5)
    assert np.all(np.isfinite(found))
    slope = jax.grad(lambda d: jnp.sum(prior.log_prob(Point(dist=d))))(jnp.array([0.0, 1.0, 1e9]))
    assert np.all(np.isfinite(slope))
    assert priors.GaussianParallax(jnp.nan, 0.1).log_prob(Point(dist=1.0)) == 0
    many = jax.vmap(lambda p, s: priors.GaussianParallax(p, s).log_prob(Point(dist=1.0)))
    assert many(jnp.ones(3), jnp.ones(3)).shape == (3,)


# --- the Galaxy ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "R, Z, thin, thick, halo",
    [
        (8.2, 0.025, 0, 0, 0),
        (4, 0.5, -0.05708595510099, 1.45634381392427, 2.4126379233992),
        (0, 0, 2.56040223271936, 3.24796734697962, 6.04756987024671),
        (12, -2, -8.01608176494593, -4.05701740554083, -1.67372501929555),
        (8.2, 10, -33.25, -11.0833333333333, -3.08161337920946),
    ],
)
def test_densities_match_reference_values(R, Z, thin, thick, halo):
    found = priors.logn_disk(R, Z), priors.logn_disk(R, Z, R_scale=2.0, Z_scale=0.9)
    np.testing.assert_allclose(found, (thin, thick), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(priors.logn_halo(R, Z), halo, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("d, l, b, plain, with_feh, with_age", GALACTIC)
def test_galactic_structure_matches_reference_values(d, l, b, plain, with_feh, with_age):
    dists, feh, loga = np.array([d]), np.array([-0.5]), np.array([9.8])
    labels = {"feh": feh, "loga": loga, "mini": feh}
    function = priors.logp_galactic_structure
    exact = {"rtol": 1e-12}
    np.testing.assert_allclose(function(dists, (l, b)), plain, **exact)
    np.testing.assert_allclose(function(dists, (l, b), feh=feh), with_feh, **exact)
    np.testing.assert_allclose(function(dists, (l, b), feh=feh, loga=loga), with_age, **exact)
    np.testing.assert_allclose(function(dists, (l, b), labels), with_age, **exact)
    table = np.zeros(1, [("feh", float), ("loga", float)])
    table["loga"] = 9.8
    np.testing.assert_allclose(function(dists, (l, b), table, feh=feh), with_age, **exact)
    point = Point(dist=d, ell=l, b=b)
    prior = priors.GalacticStructure()
    for change, expected in [({}, plain), ({"feh": -0.5}, with_feh),
                             ({"feh": -0.5, "loga": 9.8}, with_age)]:  # fmt: skip
        found = prior.log_prob(point._replace(**change))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


def test_galactic_structure_over_distance():
    d = np.array([0.5, 1, 5, 20])
    expected = [-2.14599445, -1.54707124, -2.40464079, -3.57832841]
    coordinate = types.SimpleNamespace(
        galactic=types.SimpleNamespace(
            l=types.SimpleNamespace(deg=90.0), b=types.SimpleNamespace(deg=30.0)
        )
    )
    np.testing.assert_allclose(priors.logp_galactic_structure(d, coordinate), expected, atol=1e-8)
    d = np.linspace(0.0, 100.0, 200001)
    total = integral(priors.logp_galactic_structure(d, (90, 20)), d)
    np.testing.assert_allclose(total, 3.20715, rtol=1e-5)


def test_galactic_components_add_up(rng):
    d, feh, loga = np.geomspace(0.1, 30, 9), rng.uniform(-2, 0.4, 9), rng.uniform(8, 10.1, 9)
    total, parts = priors.logp_galactic_structure(
        d, (30, 10), feh=feh, loga=loga, return_components=True
    )
    assert {name: len(part) for name, part in parts.items()} == dict.fromkeys(
        ("number_density", "feh", "age"), 3
    )
    np.testing.assert_allclose(
        sum(np.logaddexp.reduce(part, axis=0) for part in parts.values()), total, rtol=1e-12
    )


def test_galactic_arguments_are_checked():
    with pytest.raises(ValueError, match="one-dimensional"):
        priors.logp_galactic_structure(np.ones(3), (0, 0), feh=np.ones(2))
    with pytest.raises(TypeError, match="R_sun"):
        priors.logp_galactic_structure(np.ones(3), (0, 0), R_sun=8.0)
    moved = priors.logp_galactic_structure(1.0, (0.0, 0.0), R_solar=8.5)
    assert abs(moved - priors.logp_galactic_structure(1.0, (0.0, 0.0))) > 1e-4


def test_metallicity_and_age_are_densities():
    np.testing.assert_allclose(priors.logp_feh(0.0), 0.062812048899041, rtol=1e-12)
    expected = {
        -0.2: (-2.646029310, -2.173543567, -4.228572080),
        -0.7: (-5.351766863, -2.606791046, -3.376892667),
        -1.6: (-66.078372963, -28.384599962, -0.997053961),
    }
    age = np.linspace(0.0, 13.8, 20001)
    for mean, values in expected.items():
        found = priors.logp_age_from_feh(np.array([1.0, 5.0, 13.0]), feh_mean=mean)
        np.testing.assert_allclose(found, values, atol=1e-9)
        np.testing.assert_allclose(
            integral(priors.logp_age_from_feh(age, feh_mean=mean), age), 1, rtol=1e-6
        )
    assert np.all(priors.logp_age_from_feh(np.array([-0.1, 13.9])) == -np.inf)


def test_stars_older_than_the_universe():
    """-inf in both forms whatever the number of stars, and no NaN in the gradient."""
    for n in (1, 2000):
        found = priors.logp_galactic_structure(np.ones(n), (9, 9), loga=np.full(n, 10.15))
        assert np.all(found == -np.inf)
    point = Point(dist=jnp.ones(2), ell=9.0, b=9.0, feh=-0.5, loga=jnp.array([10.15, 9.0]))
    prior = priors.GalacticStructure()
    assert prior.log_prob(point)[0] == -np.inf and np.isfinite(prior.log_prob(point)[1])
    slope = eqx.filter_grad(lambda p: p[0].log_prob(p[1])[0])((prior, point))
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


ODD_PLACES = [(0.0, 10.0, 20.0), (1e-30, 0.0, -90.0), (8.2, 0.0, 0.0), (1e5, 120.0, 45.0),
              (0.05, 0.0, -30.0), (300.0, 33.0, 0.0)]  # fmt: skip


@pytest.mark.parametrize("d, l, b", ODD_PLACES)
def test_galactic_structure_is_finite_everywhere(d, l, b):
    """At the Sun, in the plane (the kink of |Z|), at the Galactic centre, in the far halo."""
    prior = priors.GalacticStructure()
    point = Point(dist=jnp.array(d), ell=jnp.array(float(l)), b=jnp.array(b), feh=-1.0, loga=9.9)
    value, slope = eqx.filter_value_and_grad(lambda p: p[0].log_prob(p[1]))((prior, point))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slope))


def test_galactic_structure_has_gradients():
    with jax.enable_x64(True):
        prior = priors.GalacticStructure()

        def by_point(d, l, b, feh, loga):
            return prior.log_prob(Point(dist=d, ell=l, b=b, feh=feh, loga=loga))

        for d, l, b in [(0.7, 30.0, 5.0), (12.0, 200.0, -40.0)]:
            check_grads(by_point, (d, l, b, -0.6, 9.7), order=1, modes=("rev",), rtol=1e-5)

        def by_parameter(scale, spread):
            changed = priors.GalacticStructure(R_thin=scale, feh_halo_sigma=spread)
            return changed.log_prob(Point(dist=3.0, ell=10.0, b=4.0, feh=-1.1, loga=9.7))

        check_grads(by_parameter, (2.6, 0.5), order=1, modes=("rev",), rtol=1e-5)
    slope = jax.grad(lambda x: priors.logp_galactic_structure(1.0, (180.0, 0.0), R_thin=x))(2.6)
    assert slope > 0  # beyond the solar circle a longer disk has more stars


def test_single_precision_galactic_structure(rng):
    n = 200
    d, l, b = np.geomspace(0.01, 60, n), rng.uniform(0, 360, n), rng.uniform(-90, 90, n)
    feh, loga = rng.uniform(-2.5, 0.5, n), rng.uniform(7.0, 10.12, n)
    point = [np.float32(x) for x in (d, l, b, feh, loga)]
    d, l, b, feh, loga = (np.float64(x) for x in point)
    exact = priors.logp_galactic_structure(d, (l, b), feh=feh, loga=loga)
    arrays = (jnp.asarray(x) for x in point)
    found = priors.GalacticStructure().log_prob(
        Point(**dict(zip(("dist", "ell", "b", "feh", "loga"), arrays)))
    )
    np.testing.assert_allclose(found, exact, rtol=1e-5, atol=3e-5)


def test_distances_without_a_direction():
    prior = priors.ExponentialDiskDistance()
    d = np.linspace(0.0, 40.0, 20001)
    value = np.float64(prior.log_prob(Point(dist=jnp.asarray(d, dtype=float))))
    np.testing.assert_allclose(integral(value, d), 1.0, rtol=1e-4)
    np.testing.assert_allclose(d[np.argmax(value)], 2 * 1.35, atol=0.05)
    assert np.isfinite(jax.grad(lambda x: prior.log_prob(Point(dist=x)))(0.0))


# --- dust ----------------------------------------------------------------------------------

PROFILE = (
    np.log([0.1, 0.5, 1.0, 2.0, 5.0]),
    np.array([0.1, 0.3, 0.5, np.nan, 1.2]),
    np.array([0.05, 0.1, 0.1, 0.1, 0.2]),
)
AV_PRIORS = [
    priors.UniformAv(0.5, 3.0),
    priors.TruncatedNormalAv(0.3, 0.2),
    priors.TruncatedNormalAv(-2.0, 0.2, 0.0, 1.0),  # ten deviations below the bound
    priors.DustProfileAv(*PROFILE, 0.0, 20.0),
]
RV_PRIORS = [priors.UniformRv(2.0, 6.0), priors.TruncatedNormalRv(), priors.TruncatedNormalRv(9.0)]


@pytest.mark.parametrize("dist", [0.05, 0.4, 1.5, 9.0])
@pytest.mark.parametrize("prior", AV_PRIORS + RV_PRIORS)
def test_dust_priors_are_normalised(prior, dist):
    low, high = float(prior.low), float(prior.high)
    x = np.linspace(low, high, 40001)
    point = Point(av=jnp.asarray(x, dtype=float), rv=jnp.asarray(x, dtype=float), dist=dist)
    np.testing.assert_allclose(integral(np.float64(prior.log_prob(point)), x), 1.0, rtol=1e-3)
    beyond = jnp.array([low - 0.01, high + 0.01, jnp.nan])
    outside = prior.log_prob(Point(av=beyond, rv=beyond, dist=dist))
    assert np.all(outside == -np.inf)


@pytest.mark.parametrize("prior", AV_PRIORS + RV_PRIORS)
def test_dust_priors_have_finite_gradients(prior):
    for x in (-1.0, 0.0, 2.5, 8.0, 30.0):

        def value(p, x=x):
            return p[0].log_prob(Point(av=p[1], rv=p[1], dist=p[2]))

        arguments = (prior, jnp.array(x), jnp.array(0.7))
        slope = eqx.filter_grad(value)(arguments)
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(slope))


def test_dust_profile_gradients_and_values():
    with jax.enable_x64(True):
        prior = priors.DustProfileAv(*PROFILE, 0.0, 20.0)
        value = lambda av, dist: prior.log_prob(Point(av=av, dist=dist))  # noqa: E731
        for at in [(0.4, 0.3), (0.2, 0.05), (1.0, 7.0), (1.0, 1.5)]:
            check_grads(value, at, order=1, modes=("rev",), rtol=1e-5)
        # halfway from 0.5 to 1 kpc the map says 0.4 +- 0.1; 0 and 20 are at -4 and 196 deviations
        expected = -0.5 - np.log(0.1 * np.sqrt(2 * np.pi)) - np.log1p(-3.167124183311992e-05)
        np.testing.assert_allclose(value(0.5, 0.75), expected, rtol=1e-9)
        for unknown in (1.0001, 1.5, 3.0):
            np.testing.assert_allclose(value(0.5, unknown), -np.log(20.0))
        np.testing.assert_allclose(value(1.2, 8.0), -np.log(0.2 * np.sqrt(2 * np.pi)), rtol=1e-6)


class Map:
    """A dust map with a fixed answer."""

    def __init__(self, *answer):
        self.answer, self.asked = answer, []

    def query(self, coord):
        self.asked.append(coord)
        return self.answer


def test_dust_profile_is_read_from_a_map():
    ln_dist, mean, std = PROFILE
    dustmap = Map(np.exp(ln_dist), mean, std)
    prior = priors.dust_profile(dustmap, 10.0, -5.0, 0.0, 6.0, floor=0.1)
    np.testing.assert_array_equal(dustmap.asked, [[10.0, -5.0]])
    np.testing.assert_array_equal(prior.valid, [True, True, True, False, True])
    np.testing.assert_allclose(prior.std[0], np.hypot(0.05, 0.1), rtol=1e-6)
    assert float(prior.high) == 6.0
    flat = priors.dust_profile(Map(0.3, 0.1), 0.0, 0.0)
    values = flat.log_prob(Point(av=0.4, dist=jnp.array([0.01, 1.5, 50.0])))
    np.testing.assert_allclose(values, priors.TruncatedNormalAv(0.3, 0.1).log_prob(Point(av=0.4)))
    with pytest.raises(TypeError, match="query"):
        priors.dust_profile("map.h5", 0.0, 0.0)
    with pytest.raises(ValueError, match="must return"):
        priors.dust_profile(Map(1.0), 0.0, 0.0)


def test_extinction_in_the_conventions_of_brutus():
    ln_dist, mean, _ = PROFILE
    std = np.array([0.05, 0.1, 0.1, np.nan, 0.2])
    dustmap = Map(np.exp(ln_dist), np.array([0.1, 0.3, 0.5, 1.0, 1.2]), std)
    dist = np.array([0.05, 0.3, 0.5, 1.0, 1.2, 2.0, 3.0, 5.0, 9.0])
    av = np.linspace(0, 2, 9)
    expected = [
        0.09980664967828168, 1.4529441452810272, -0.6150026302458788, -1.7413531535590137,
        0.0, 0.0, 0.0, -3.090750619783985, -7.309500619783985,
    ]  # fmt: skip
    found, (mu, sigma) = priors.logp_extinction(av, dustmap, (1, 2), dist, return_components=True)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert mu[1] == pytest.approx(0.2) and np.isnan(sigma[4])
    single = priors.logp_extinction(jnp.asarray(av), dustmap, (1, 2), jnp.asarray(dist))
    np.testing.assert_allclose(single, expected, rtol=1e-5, atol=1e-5)
    whole = priors.logp_extinction(av, Map(0.4, 0.1), (1, 2), avlim=None)
    np.testing.assert_allclose(integral(whole, av), 1.0, rtol=0.2)
    assert np.all(priors.logp_extinction(av, dustmap, (1, 2)) == 0)  # needs a distance
    assert np.all(priors.logp_extinction(av, Map(1, 2, 3, 4), (1, 2), dist) == 0)


def test_extinction_without_a_usable_map():
    with pytest.raises(TypeError, match="query"):
        priors.logp_extinction(np.ones(2), "map.h5", (1, 2))
    with pytest.raises(ValueError, match="avlim"):
        priors.logp_extinction(np.ones(2), Map(1.0, 1.0), (1, 2), avlim=(1.0, 0.0))
    broken = types.SimpleNamespace(query=lambda: None)
    with pytest.warns(RuntimeWarning, match="queried"):
        assert np.all(priors.logp_extinction(np.ones(2), broken, (1, 2)) == 0)


def test_impossible_dust_priors_are_refused():
    with pytest.raises(ValueError, match="bounds"):
        priors.UniformAv(1.0, 0.0)
    with pytest.raises(ValueError, match="positive"):
        priors.TruncatedNormalRv(std=0.0)
    with pytest.raises(ValueError, match="increase"):
        priors.DustProfileAv(np.array([1.0, 0.0]), np.ones(2), np.ones(2))


def test_factors_compose_and_batch():
    prior = priors.TruncatedNormalRv() * priors.UniformAv() * priors.GaussianParallax(1.0, 0.1)
    point = Point(av=1.0, rv=3.2, dist=jnp.array([0.9, 1.1]))
    single = [p.log_prob(point) for p in (priors.TruncatedNormalRv(), priors.UniformAv())]
    np.testing.assert_allclose(
        eqx.filter_jit(prior.log_prob)(point),
        single[0] + single[1] + priors.GaussianParallax(1.0, 0.1).log_prob(point),
        rtol=1e-5,
    )
    stack = jax.vmap(lambda m: priors.TruncatedNormalAv(m, 0.1))(jnp.array([0.1, 0.5]))
    values = jax.vmap(lambda p: p.log_prob(Point(av=0.5)))(stack)
    assert values.shape == (2,) and values[1] > values[0]
