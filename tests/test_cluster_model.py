"""The likelihood of a cluster: exact where exact answers exist, smooth, quiet about oddities."""

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import erfcx, logsumexp

from brutax.cluster import (
    ClusterModel,
    ClusterParams,
    Layout,
    isochrone,
    make_stars,
    segments,
)
from brutax.cluster.ages import (
    Ages,
    masses_at_stages,
    rough_stages,
    stages_of_mass,
)
from brutax.cluster.isochrone import Tables, cubic, isochrone_curve
from brutax.cluster.pairs import (
    PAST,
    _kernel,
    _kernel_slope,
    _leans,
    segments_of_tiles,
)
from brutax.cluster.segments import (
    BLOCK,
    Blocks,
    Reach,
    Tiles,
    log_density,
    mills,
    segment_integral,
)
from brutax.cluster.splines import Cells
from brutax.models import EEPTracks, Isochrone, StellarPop
from brutax.models.corrections import CorrectionParams
from brutax.priors import KroupaIMF, logp_imf

BANDS = ("PS_g", "PS_r", "2MASS_J")
THETA = ClusterParams(feh=0.02, loga=9.55, av=0.3, rv=3.2, distance_pc=800.0, field_fraction=0.15)
SMALL = Layout(main=40, last=8, hook=16, turn=8, late=24, late_split=2, ratios=8)


# ---- the quadrature, on segments of its own ------------------------------------------------------
def exact_integral(c0, c1, a):
    return quad(lambda t: np.exp(-0.5 * (c0 * (1 - t) + c1 * t - a * t * (1 - t))), 0, 1)[0]


@pytest.mark.parametrize("a", [1e-6, 0.01, 0.03, 1.0, 50.0, 900.0])
@pytest.mark.parametrize("foot", [-4.0, -0.3, 0.5, 1.0, 1.8])
def test_segments_are_integrated_exactly(a, foot):
    c0, c1 = 3.0 + a * foot**2, 3.0 + a * (1 - foot) ** 2
    if min(c0, c1) > 150:
        pytest.skip("of no weight")
    with jax.enable_x64(True):
        c = [jnp.asarray(x) for x in (c0, c1, a)]
        found = segment_integral(*c, jnp.exp(-0.5 * c[0]), jnp.exp(-0.5 * c[1]))
    assert float(found) == pytest.approx(exact_integral(c0, c1, a), rel=1e-6)
    single = [jnp.asarray(x, jnp.float32) for x in (c0, c1, a)]
    found = segment_integral(*single, jnp.exp(-0.5 * single[0]), jnp.exp(-0.5 * single[1]))
    assert float(found) == pytest.approx(exact_integral(c0, c1, a), rel=3e-4)


def test_mills():
    x = np.linspace(0.0, 40.0, 500)
    exact = np.sqrt(np.pi / 2) * erfcx(x / np.sqrt(2))
    with jax.enable_x64(True):
        np.testing.assert_allclose(mills(jnp.asarray(x)), exact, rtol=3e-8)


def random_problem(rng, common):
    """Five tiles, two blocks of three stars (and padding) in two bands, whitened."""
    flux = np.cumsum(rng.normal(0.1, 0.3, (5, 9, 2)), axis=1) + rng.uniform(0, 2, (5, 1, 2))
    weight = rng.uniform(0.5, 1.0, (5, 8))
    inverse = np.zeros((2, 2, BLOCK))
    inverse[:, :, :3] = rng.uniform(1.0, 4.0, (2, 2, 3))
    inverse[1, 0, 2] = 0.0  # not observed
    seen = inverse * flux[rng.integers(0, 5, 2), 4][:, :, None] + rng.normal(size=inverse.shape)
    seen = np.where(inverse > 0, seen, 0.0)
    extra = [None, None]
    if common:
        shape = rng.uniform(0.2, 0.5, inverse.shape)
        extra = [shape * inverse, np.sum(shape * seen, axis=1)]
    low = np.full((2, 2), -1e6)
    far = np.full((2, BLOCK), 40.0)
    reach = Reach(*(jnp.asarray(x) for x in (low, -low, far, 1e6 * far)))
    arrays = [jnp.asarray(x) if x is not None else None for x in (seen, inverse, *extra)]
    lean = rng.uniform(-0.5, 0.5, weight.shape)
    return Tiles(*(jnp.asarray(x) for x in (flux, weight, lean))), Blocks(*arrays), reach


@pytest.mark.parametrize("common", [pytest.param(False, marks=pytest.mark.slow), True])
def test_sum_over_segments_and_its_derivatives(rng, common, monkeypatch):
    monkeypatch.setattr(segments, "NEGLIGIBLE", 40.0)
    with jax.enable_x64(True):
        tiles, stars, reach = random_problem(rng, common)
        out = log_density(tiles, stars, reach, True)
        flux, w, lean = (np.asarray(x) for x in tiles)
        for block, star in ((0, 1), (1, 2)):
            total = 0.0
            f, v = (np.asarray(x)[block, :, star] for x in stars[:2])
            for tile in range(5):
                for k in range(8):

                    def chi2(t, tile=tile, k=k, f=f, v=v, block=block, star=star):
                        model = flux[tile, k] * (1 - t) + flux[tile, k + 1] * t
                        value = np.sum((f - v * model) ** 2)
                        if common:
                            c = np.asarray(stars.common)[block, :, star]
                            value -= (float(stars.common_flux[block, star]) - c @ model) ** 2
                        return value

                    def density(t, chi2=chi2, lean=lean[tile, k]):
                        return (1.0 + lean * (2.0 * t - 1.0)) * np.exp(-0.5 * chi2(t))

                    total += w[tile, k] * quad(density, 0, 1)[0]
            assert float(out[block, star]) == pytest.approx(np.log(total), abs=1e-6)

        pull = jnp.asarray(rng.normal(size=out.shape) * (np.arange(BLOCK) < 3))

        def scalar(tiles, stars):
            return jnp.sum(pull * log_density(tiles, stars, reach, True))

        slopes = jax.grad(scalar, (0, 1))(tiles, stars)
        direction = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), (tiles, stars))
        step = 1e-5
        ends = [
            scalar(*jax.tree.map(lambda x, d, s=s: x + s * step * d, (tiles, stars), direction))
            for s in (-1, 1)
        ]
        product = jax.tree.map(lambda s, d: jnp.sum(s * d), slopes, direction)
        along = sum(float(x) for x in jax.tree.leaves(product))
        assert along == pytest.approx(float(ends[1] - ends[0]) / (2 * step), rel=2e-6, abs=1e-6)


# ---- the model -----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pop():
    return StellarPop(Isochrone(verbose=False), BANDS, verbose=False)


def photometry(model, params, n, rng, error=0.05):
    """Stars drawn from segments of the model's own lattice, with errors."""
    grid = jax.device_get(lattice_of(model, jax.tree.map(jnp.asarray, params)))
    share = np.asarray(grid.tiles.weight, float).ravel()
    at = rng.choice(share.size, n, p=share / share.sum())
    t = rng.random((n, 1))
    tile, k = at // 8, at % 8
    flux = grid.tiles.flux[tile, k] * (1 - t) + grid.tiles.flux[tile, k + 1] * t
    flux = flux * np.exp(np.asarray(model.stars.log_unit))
    return flux + error * flux * rng.normal(size=flux.shape), error * flux


@pytest.fixture(scope="module")
def data(pop):
    rng = np.random.default_rng(4)
    blank = make_stars(np.ones((1, 3)), np.ones((1, 3)))
    flux, err = photometry(ClusterModel(pop, blank, layout=SMALL), THETA, 20, rng)
    flux[3, 1] = np.nan
    flux[7] = np.nan
    extra = {
        "parallax": 1.25 + 0.05 * rng.normal(size=20),
        "parallax_err": np.full(20, 0.05),
        "pm": [2.0, -3.0] + 0.3 * rng.normal(size=(20, 2)),
        "pm_err": np.full((20, 2), 0.2),
        "prob": np.linspace(0.5, 1.0, 20),
    }
    extra["parallax"][2] = np.nan
    return flux, err, extra


@pytest.fixture(scope="module")
def model(pop, data):
    flux, err, extra = data
    return ClusterModel(pop, make_stars(flux, err, **extra), layout=SMALL)


FULL = THETA._replace(
    binary_fraction=0.6,
    ratio_slope=0.4,
    av_spread=0.05,
    scatter=0.03,
    zero_points=np.array([0.02, 0.0, -0.01]),
    corr=CorrectionParams(0.08, -0.07, 25.0, 0.4),
    parallax_offset=0.03,
    pm=np.array([1.9, -2.8]),
    pm_dispersion=0.2,
)
run = eqx.filter_jit(lambda model, params: model.log_likelihood(params))
slope = eqx.filter_jit(lambda model, params: jax.value_and_grad(model.log_likelihood)(params))
stars_of = eqx.filter_jit(lambda model, params: (model.per_star(params), model.lattice(params)))
lattice_of = eqx.filter_jit(lambda model, params: model.lattice(params))
THETA_ARRAYS = jax.tree.map(jnp.asarray, THETA)


def test_likelihood_is_the_mixture_over_the_segments(model, data):
    """Against sums of points, 400 to a segment, with full covariance matrices, by hand."""
    flux, err, extra = data
    p = FULL
    like, grid = jax.device_get(stars_of(model, jax.tree.map(jnp.asarray, p)))
    unit = np.exp(np.asarray(model.stars.log_unit, float))
    f = np.asarray(grid.tiles.flux, float) * unit
    w = np.asarray(grid.tiles.weight, float)
    assert w.sum() == pytest.approx(1.0, abs=2e-6)
    t = (np.arange(400) + 0.5) / 400
    lean = np.asarray(grid.tiles.lean, float)[..., None]
    assert np.abs(lean).max() > 0.1
    density = w[..., None] * (1.0 + lean * (2.0 * t - 1.0))
    reddening = np.asarray(model.reddening(jax.tree.map(jnp.asarray, p)), float)
    peak, pm_norm = 1000 / p.distance_pc + p.parallax_offset, -np.log(2 * np.pi)
    pm, pm_err = np.asarray(extra["pm"]), extra["pm_err"]
    for i in (0, 3, 12, 19):
        s = np.isfinite(flux[i])
        d, sigma = flux[i, s], err[i, s]
        shift = 0.4 * np.log(10) * np.maximum(d, 0)
        cov = np.diag(sigma**2 + (p.scatter * shift) ** 2)
        cov += p.av_spread**2 * np.outer(shift * reddening[s], shift * reddening[s])
        points = f[:, :-1, None, s] * (1 - t[:, None]) + f[:, 1:, None, s] * t[:, None]
        off = points - d
        chi2 = np.einsum("...i,ij,...j->...", off, np.linalg.inv(cov), off)
        norm = -0.5 * np.linalg.slogdet(2 * np.pi * cov)[1] + np.sum(np.log(sigma))
        inside = norm + logsumexp(-0.5 * chi2, b=density / t.size)
        if np.isfinite(extra["parallax"][i]):
            inside += -0.5 * ((extra["parallax"][i] - peak) / 0.05) ** 2 - 0.5 * np.log(2 * np.pi)
        var = pm_err[i] ** 2 + p.pm_dispersion**2
        inside += pm_norm - 0.5 * np.sum((pm[i] - p.pm) ** 2 / var + np.log(var))
        stars = model.stars
        outside = float(stars.field[i] + stars.field_parallax[i] + stars.field_pm[i])
        weight = (1 - 1e-6) * extra["prob"][i] * (1 - p.field_fraction)
        expected = np.logaddexp(np.log(weight) + inside, np.log1p(-weight) + outside)
        assert like.log_like[i] == pytest.approx(expected, abs=0.01)
        member = np.exp(np.log(weight) + inside - expected)
        assert like.member[i] == pytest.approx(member, abs=0.01)


def hold_segments(monkeypatch, model, p):
    """Keeps segments near the end of the main sequence where they are for `p`.

    Their places follow the age, which changes a converged sum by nothing and has no derivative.
    """
    places, where = [], isochrone._hook
    monkeypatch.setattr(isochrone, "_hook", lambda *a: places.append(where(*a)) or places[-1])
    model.lattice(p)
    monkeypatch.setattr(isochrone, "_hook", lambda *a: places[0])


@pytest.mark.slow
def test_gradients_are_those_of_the_value(pop, data, monkeypatch):
    flux, err, extra = data
    with jax.enable_x64(True):
        wide = StellarPop(Isochrone(verbose=False), BANDS, verbose=False)
        model = ClusterModel(wide, make_stars(flux, err, **extra), imf=KroupaIMF(), layout=SMALL)
        p = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), FULL)
        hold_segments(monkeypatch, model, p)
        held = eqx.filter_jit(lambda m, p: m.log_likelihood(p))
        value, slopes = eqx.filter_jit(
            lambda m, p: jax.value_and_grad(lambda p: m.log_likelihood(p))(p)
        )(model, p)
        assert np.isfinite(value)
        leaves, tree = jax.tree.flatten(p)
        flat, where = jax.flatten_util.ravel_pytree(p)
        steps = np.asarray(jax.flatten_util.ravel_pytree(slopes)[0])
        for k in range(flat.size):
            h = 1e-5 * max(1.0, abs(float(flat[k])))
            ends = [float(held(model, where(flat.at[k].add(s * h)))) for s in (-1, 1)]
            numeric = (ends[1] - ends[0]) / (2 * h)
            assert steps[k] == pytest.approx(numeric, rel=2e-4, abs=2e-4), (k, leaves, tree)


@pytest.mark.parametrize(
    "feh, loga",
    [
        (0.1, 9.6),
        pytest.param(-1.3, 10.1, marks=pytest.mark.slow),
        pytest.param(0.4, 8.2, marks=pytest.mark.slow),
        pytest.param(-2.2, 9.0, marks=pytest.mark.slow),
    ],
)
def test_stars_of_an_isochrone_have_its_age(feh, loga):
    """Masses and EEPs found for an age give it back, and move with it and with [Fe/H]."""
    with jax.enable_x64(True):
        tracks = EEPTracks(verbose=False)
        stages = np.append(202.0, np.linspace(454.0, 800.0, 60))
        ages = Ages(tracks.smooth, stages)

        @jax.jit
        def old(feh, loga):
            return masses_at_stages(ages, ages.at(jax.lax.stop_gradient(feh)), feh, loga)

        @jax.jit
        def young(feh, loga):
            now = ages.at(jax.lax.stop_gradient(feh))
            return stages_of_mass(ages, now, rough_stages(ages, now, mass, loga), mass, feh, loga)

        @jax.jit
        @jax.vmap
        def age(log_mass, eep):
            def of(x):
                return tracks.evaluate(jnp.exp(x), eep, feh).loga

            return jax.value_and_grad(of)(log_mass)

        at = jnp.asarray(feh), jnp.asarray(loga)
        late = old(*at)
        valid = np.asarray(late.valid)
        assert valid[1:40].all()
        low = late.log_mass[0] if valid[0] else np.log(0.1)  # the lightest stars are still younger
        mass = low + (late.log_mass[1] - low) * (np.arange(90) + 0.5) / 90.0
        values, slopes = age(late.log_mass, stages)
        np.testing.assert_allclose(values[valid], loga, atol=1e-6)
        np.testing.assert_allclose(late.fall[valid], -slopes[valid], rtol=1e-5)
        np.testing.assert_allclose(age(mass, young(*at))[0], loga, atol=1e-6)

        h = 1e-6
        for unit in ((1.0, 0.0), (0.0, 1.0)):
            along = tuple(jnp.asarray(u) for u in unit)
            ends = [[x + s * h * u for x, u in zip(at, unit)] for s in (1.0, -1.0)]
            up, down = (old(*end) for end in ends)
            _, moves = jax.jvp(lambda *x: old(*x)[:2], at, along)
            for move, high, low in zip(moves, up, down):
                numeric = (high - low)[valid] / (2 * h)
                np.testing.assert_allclose(move[valid], numeric, rtol=1e-3, atol=1e-3)
            numeric = (young(*ends[0]) - young(*ends[1])) / (2 * h)
            np.testing.assert_allclose(jax.jvp(young, at, along)[1], numeric, rtol=1e-3, atol=1e-3)


def test_cells_are_found():
    rng = np.random.default_rng(5)
    for nodes in (np.cumsum(rng.exponential(size=60)), np.linspace(-1, 2, 7), np.array([0.0, 1.0])):
        cells = Cells(nodes)
        x = np.concatenate([nodes, rng.uniform(nodes[0] - 1, nodes[-1] + 1, 400)])
        x = x.astype(np.float32).astype(float)
        known = np.asarray(cells.nodes, float)
        expected = np.clip(np.searchsorted(known, x, side="right") - 1, 0, len(nodes) - 2)
        np.testing.assert_array_equal(cells.find(jnp.asarray(x, jnp.float32)), expected)


@pytest.mark.parametrize(
    "feh, loga, corr",
    [
        (0.1, 9.6, CorrectionParams()),
        pytest.param(0.1, 9.6, None, marks=pytest.mark.slow),
        pytest.param(-2.2, 9.9, None, marks=pytest.mark.slow),
        pytest.param(0.3, 8.0, CorrectionParams(), marks=pytest.mark.slow),
    ],
)
def test_stars_of_an_isochrone_look_as_tracks_and_photometry_say(feh, loga, corr):
    layout = Layout(main=40, last=8, hook=32, turn=8, late=64, late_split=1, ratios=4)
    with jax.enable_x64(True):
        wide = StellarPop(Isochrone(verbose=False), BANDS, verbose=False)
        x = [jnp.asarray(one) for one in (feh, loga, 0.4, 3.3)]
        corr = None if corr is None else jax.tree.map(jnp.asarray, corr)
        tables = Tables(wide, layout)
        curve = jax.jit(lambda x: isochrone_curve(tables, layout, None, *x, corr))(x)

        @jax.jit
        @jax.vmap
        def seen(log_mass, eep):
            mass = jnp.maximum(jnp.exp(log_mass), 0.1)  # rounding would leave the models
            star = wide.isochrone.tracks.evaluate(mass, eep, x[0], 0.0, corr)
            return wide.photometry(star, x[0], x[2], x[3]).mag, star.valid, star.loga

        mag, valid, age = seen(curve.log_mass, curve.eep)
        there = np.append(np.asarray(curve.measure) > 0, False)
        assert there.sum() > 80 and valid[there].all()
        magnitudes = -2.5 / np.log(10) * np.asarray(curve.log_flux)
        np.testing.assert_allclose(magnitudes[there], mag[there], atol=1e-8)
        # stars begin at the first EEP of isochrones, some of them younger than there
        assert np.all((np.abs(age - loga)[there] < 1e-6) | (curve.eep[there] <= 202.0))


@pytest.mark.slow
def test_gradients_of_compiled_functions(model):
    """Those of a user's own `jit`, to which the model is an argument."""

    def brightness(model, feh, av):
        return jnp.sum(model.lattice(THETA_ARRAYS._replace(feh=feh, av=av)).curve.log_flux)

    compiled = eqx.filter_jit(brightness)
    at = THETA_ARRAYS.feh, THETA_ARRAYS.av
    outside = jax.grad(lambda *x: compiled(model, *x), argnums=(0, 1))(*at)
    inside = jax.jit(jax.grad(lambda *x: brightness(model, *x), argnums=(0, 1)))(*at)
    np.testing.assert_allclose(outside, inside, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["feh", "loga"])
def test_isochrones_move_as_their_derivatives_say(monkeypatch, name):
    """Also where cores contract and a hair's breadth of age is a long way along the isochrone."""
    with jax.enable_x64(True):
        wide = StellarPop(Isochrone(verbose=False), BANDS, verbose=False)
        model = ClusterModel(wide, make_stars(np.ones((1, 3)), np.ones((1, 3))))
        p = jax.tree.map(jnp.asarray, THETA._replace(feh=0.0, loga=9.6))
        hold_segments(monkeypatch, model, p)

        def curve(x):
            found = model.lattice(p._replace(**{name: x})).curve
            return found.eep, found.log_mass, found.log_flux

        x, h = getattr(p, name), 1e-5
        _, slopes = jax.jit(lambda x: jax.jvp(curve, (x,), (jnp.ones_like(x),)))(x)
        moved = jax.jit(curve)
        for found, up, down in zip(slopes, moved(x + h), moved(x - h)):
            numeric = np.asarray(up - down) / (2 * h)
            np.testing.assert_allclose(found, numeric, rtol=2e-3, atol=1e-3)


@pytest.mark.slow
def test_measures(pop):
    blank = make_stars(np.ones((1, 3)), np.ones((1, 3)))
    for imf in (None, KroupaIMF()):
        model = ClusterModel(pop, blank, imf=imf, layout=Layout(main=80, last=8, hook=32, ratios=8))
        curve = jax.device_get(lattice_of(model, THETA_ARRAYS).curve)
        assert bool(curve.exists) and (curve.measure >= 0).all()
        assert np.sum(curve.measure) == pytest.approx(1.0, abs=1e-5)
        done = np.flatnonzero(curve.eep >= 453.9)[0]
        mass = np.exp(np.asarray(curve.log_mass, float))
        density = (lambda m: 1.0) if imf is None else (lambda m: np.exp(logp_imf(m)))
        middle = done // 2
        expected = quad(density, mass[0], mass[middle])[0] / quad(density, mass[0], mass[done])[0]
        found = np.sum(curve.measure[:middle]) / np.sum(curve.measure[:done])
        assert found == pytest.approx(expected, rel=2e-4)
        # masses and measure of the stages after the main sequence tell the same story
        late = slice(done, done + 40)
        masses = np.sum(density(mass[late]) * np.diff(mass[late.start : late.stop + 1]))
        share = np.sum(curve.measure[late]) / np.sum(curve.measure[:done])
        assert share == pytest.approx(masses / quad(density, mass[0], mass[done])[0], rel=0.05)
        assert (curve.eep > 201.9).all() and (curve.eep < 808.1).all()


@pytest.mark.slow
def test_primaries_stay_in_the_window_of_companions(pop):
    """Their masses go past the end of the main sequence by no more cells than are looked up."""
    blank = make_stars(np.ones((1, 3)), np.ones((1, 3)))
    model = ClusterModel(pop, blank)
    layout = model.layout
    end = layout.pairs - layout.turn
    for feh in (-2.0, -1.0, -0.25, 0.0, 0.5):
        for loga in (7.0, 8.0, 9.0, 9.5, 9.7, 9.8, 9.9, 10.1):
            at = THETA_ARRAYS._replace(feh=jnp.float32(feh), loga=jnp.float32(loga))
            curve = jax.device_get(lattice_of(model, at).curve)
            there = curve.measure[end : layout.pairs] > 0
            if not there.any():  # the youngest have no such stars on the models
                assert loga == 7.0
                continue
            step = (curve.log_mass[end] - curve.log_mass[0]) / layout.main
            past = (curve.log_mass[end + 1 : layout.pairs + 1] - curve.log_mass[end]) / step
            assert past[there].max() < layout.main / PAST


@pytest.mark.slow
def test_pairs_are_two_stars_of_one_isochrone(pop):
    blank = make_stars(np.ones((1, 3)), np.ones((1, 3)))
    layout = Layout(main=160, last=16, hook=32, ratios=8)
    model = ClusterModel(pop, blank, layout=layout)
    grid = jax.device_get(lattice_of(model, THETA_ARRAYS))
    where = segments_of_tiles(layout, None)
    mass = np.exp(np.asarray(grid.curve.log_mass, float))
    sed, first, second = pop.get_seds(
        feh=THETA.feh, loga=THETA.loga, av=THETA.av, rv=THETA.rv, dist=THETA.distance_pc,
        eep=np.asarray(grid.curve.eep[:-1], float), binary_fraction=float(grid.q[100]),
        mini_bound=0.1, apply_corr=False,
    )  # fmt: skip
    tiles = np.flatnonzero(grid.q == grid.q[100])
    ours = -2.5 * np.log10(grid.tiles.flux[tiles, :-1].reshape(-1, 3))
    at = where[tiles].ravel()
    known = np.isfinite(second["mini"][at]) & (second["mini"][at] > 0.15)
    # of several stars of an age at one EEP `get_seds` takes the most massive one
    known[known] = np.abs(first["mini"][at][known] / mass[at][known] - 1) < 1e-3
    assert known.sum() > 60
    off = np.abs(ours - sed[at])[known]
    assert np.median(off) < 0.003 and np.quantile(off, 0.9) < 0.03


@pytest.mark.slow
def test_a_finer_lattice_changes_little(pop, data):
    """Default layout, 5 % errors."""
    flux, err, _ = data
    stars = make_stars(flux, err)
    usual, finer = (
        float(run(ClusterModel(pop, stars, layout=layout), THETA_ARRAYS))
        for layout in (Layout(), Layout().scaled(2))
    )
    assert abs(usual - finer) < 0.1


def moved(name, shift):
    return jax.tree.map(jnp.asarray, THETA._replace(**{name: getattr(THETA, name) + shift}))


@pytest.mark.slow
def test_smooth_in_every_parameter(model):
    """Values over a small range are a polynomial to within the 0.02 nats that samplers need."""
    usual = ClusterModel(model.pop, model.stars, layout=Layout())
    x = np.linspace(-1.0, 1.0, 11)
    for name, step in (("feh", 0.004), ("loga", 0.003), ("av", 0.01), ("distance_pc", 4.0)):
        values = [float(run(usual, moved(name, d))) for d in step * x]
        off = values - np.polyval(np.polyfit(x, values, 4), x)
        assert np.std(off) < 0.02, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, value",
    [
        ("feh", 0.9), ("feh", np.nan), ("loga", 12.0), ("loga", 5.5), ("distance_pc", -3.0),
        ("distance_pc", 0.0), ("rv", -1.0), ("field_fraction", 1.2), ("field_fraction", -0.1),
        ("av", np.inf),
    ],
)  # fmt: skip
def test_impossible_parameters(model, name, value):
    params = jax.tree.map(jnp.asarray, THETA._replace(**{name: value}))
    like, slopes = slope(model, params)
    assert like == -np.inf
    assert all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(slopes))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, value", [("binary_fraction", 1.5), ("scatter", -0.1), ("ratio_slope", -1.5)]
)
def test_impossible_options(model, name, value):
    full = jax.tree.map(jnp.asarray, FULL._replace(**{name: value}))
    assert run(model, full) == -np.inf


@pytest.mark.slow
def test_bounds_of_the_fraction_have_finite_gradients(model):
    for value in (0.0, 1.0):
        like, slopes = slope(model, jax.tree.map(jnp.asarray, THETA._replace(field_fraction=value)))
        assert np.isfinite(like)
        assert all(np.isfinite(np.asarray(x)).all() for x in jax.tree.leaves(slopes))


@pytest.mark.slow
def test_stars_without_photometry_say_nothing(model, data):
    flux, err, extra = data
    like, _ = stars_of(model, THETA_ARRAYS)
    assert like.log_like[7] == 0.0 and not bool(model.stars.lit[7])
    rest = np.arange(20) != 7
    less = make_stars(flux[rest], err[rest], **{k: np.asarray(v)[rest] for k, v in extra.items()})
    fewer, _ = slope(eqx.tree_at(lambda m: m.stars, model, less), THETA_ARRAYS)
    assert float(fewer) == pytest.approx(float(jnp.sum(like.log_like)), abs=2e-3)


@pytest.mark.slow
def test_order_masks_and_units_do_not_matter(model, data):
    flux, err, extra = data
    like, _ = stars_of(model, THETA_ARRAYS)
    order = np.random.default_rng(1).permutation(20)
    shuffled = make_stars(
        flux[order], err[order], **{k: np.asarray(v)[order] for k, v in extra.items()}
    )
    other, _ = stars_of(eqx.tree_at(lambda m: m.stars, model, shuffled), THETA_ARRAYS)
    np.testing.assert_allclose(other.log_like, like.log_like[order], atol=2e-3)
    mask = np.isfinite(flux)
    masked = make_stars(np.where(mask, flux, 1.0), err, mask=mask, **extra)
    other, _ = stars_of(eqx.tree_at(lambda m: m.stars, model, masked), THETA_ARRAYS)
    np.testing.assert_allclose(other.log_like, like.log_like, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("params", [THETA, FULL], ids=["plain", "full"])
def test_what_is_left_out_does_not_matter(model, monkeypatch, params):
    """Against all segments whose boxes stars reach, with none left out after that."""
    arrays = jax.tree.map(jnp.asarray, params)
    usual = eqx.filter_jit(lambda m, p: m.per_star(p).log_like)(model, arrays)
    monkeypatch.setattr(segments, "CLOSE", 1e6)
    whole = eqx.filter_jit(lambda m, p: m.per_star(p).log_like)(model, arrays)
    np.testing.assert_allclose(usual, whole, atol=2e-3)


@pytest.mark.slow
def test_corrections_as_an_array_are_those_by_name(model):
    corr = CorrectionParams(0.08, -0.07, 25.0, 0.4)
    by_name = run(model, THETA._replace(corr=corr))
    as_array = run(model, THETA._replace(corr=jnp.asarray(corr)))
    assert float(by_name) == float(as_array)
    assert float(by_name) != float(run(model, THETA))
    impossible = THETA._replace(corr=jnp.asarray([0.08, -0.07, -1.0, 0.4]))
    assert float(run(model, impossible)) == -np.inf


@pytest.mark.slow
def test_many_clusters_at_once(model):
    many = ClusterParams(*(jnp.stack([x, x * 1.001]) for x in THETA_ARRAYS[:6]))
    both = eqx.filter_jit(lambda m, p: jax.vmap(m.log_likelihood)(p))(model, many)
    one = [slope(model, jax.tree.map(lambda x, k=k: x[k], many))[0] for k in range(2)]
    np.testing.assert_allclose(both, np.asarray(one), atol=2e-3)


def test_mistakes_raise(pop, data):
    flux, err, _ = data
    with pytest.raises(ValueError, match="star, band"):
        make_stars(flux, err[:3])
    with pytest.raises(ValueError, match="mask"):
        make_stars(flux, err, mask=np.ones((20, 2)))
    with pytest.raises(ValueError, match="parallax"):
        make_stars(flux, err, parallax=np.ones(20))
    with pytest.raises(ValueError, match="parallax_err"):
        make_stars(flux, err, parallax=np.ones(20), parallax_err=np.ones(3))
    with pytest.raises(ValueError, match="prob"):
        make_stars(flux, err, prob=1.5)
    with pytest.raises(ValueError, match="pm"):
        make_stars(flux, err, pm=np.ones((3, 2)), pm_err=np.ones((3, 2)))
    with pytest.raises(ValueError, match="field"):
        make_stars(flux, err, field=np.zeros(3))
    with pytest.raises(ValueError, match="no star"):
        make_stars(np.full((2, 3), np.nan), np.ones((2, 3)))
    with pytest.raises(TypeError):
        make_stars(flux, err, paralax=np.ones(20))
    with pytest.raises(ValueError, match="bands"):
        ClusterModel(pop, make_stars(flux[:, :2], err[:, :2]))
    with pytest.raises(ValueError, match="multiples"):
        ClusterModel(pop, make_stars(flux, err), layout=Layout(turn=15))


def test_fields_of_users(model, data):
    flux, err, _ = data
    default = make_stars(flux, err).field

    def flat(flux, err, seen):
        return -2.0 * seen.sum(axis=1)

    own = make_stars(flux, err, field=flat)
    seen = np.isfinite(flux)
    per_error = np.sum(np.where(seen, np.log(err), 0.0), axis=1)
    lit = seen.any(axis=1)
    np.testing.assert_allclose(
        own.field, np.where(lit, per_error - 2.0 * seen.sum(1), 0), rtol=1e-5
    )
    assert np.isfinite(default).all()


@pytest.mark.parametrize("rise, more", [(0.06, 0.0), (0.0, 0.08), (0.05, -0.07), (-0.04, 0.03)])
def test_densities_lean_as_those_of_smooth_isochrones(rise, more):
    """Stars whose number goes as exp(more k) along k, their fluxes as exp(rise k) in two bands."""
    with jax.enable_x64(True):
        k = np.arange(12.0)
        flux = np.exp(rise * k)[:, None] * np.array([[1.0, 3.0]])
        if rise == 0:  # brightness stands still while colours change
            flux = 1.0 + 1e-3 * k[:, None] * np.array([[1.0, -1.0]])
        measure = np.exp(more * (k[:-1] + 0.5))
        found = np.asarray(_leans(jnp.asarray(flux), jnp.asarray(measure)))
        t = np.linspace(0.0, 1.0, 2001)
        along = np.log1p(t * np.expm1(rise)) / rise if rise else t
        density = np.exp(more * along) * np.gradient(along, t)
        exact = 6.0 * np.mean((density / np.mean(density) - 1.0) * (t - 0.5))  # its least squares
        np.testing.assert_allclose(found[1:-1], exact, atol=4e-4)


def test_kernel_is_the_cubic_between_nodes():
    """One weight by distance, four by the place in a cell, and the slope of both."""
    t = jnp.linspace(0.02, 0.98, 25)
    for k, weight in enumerate(cubic(t)):
        away = t + (1.0 - k)
        np.testing.assert_allclose(_kernel(away), weight, atol=2e-6)
        slope = jax.vmap(jax.grad(lambda t, k=k: cubic(t)[k]))(t)
        np.testing.assert_allclose(_kernel_slope(away), slope, atol=5e-6)
