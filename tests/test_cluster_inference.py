"""Clusters in the hands of samplers, and what their posterior says of single stars."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import log_density

from brutax import infer
from brutax.cli.app import main
from brutax.cluster import (
    ClusterModel,
    ClusterParams,
    Layout,
    make_stars,
    members,
    mock_members,
)
from brutax.cluster import (
    numpyro_model as cluster_numpyro,
)
from brutax.cluster import (
    prior as cluster_prior,
)
from brutax.cluster import (
    problem as cluster_problem,
)
from brutax.cluster.outputs import COMPONENTS
from brutax.cluster.pairs import segments_of_tiles
from brutax.cluster.problem import log_likelihood
from brutax.compat import socca
from brutax.models import Isochrone, StellarPop
from brutax.priors import Point, TruncatedNormalAv

BANDS = ("PS_g", "PS_r", "2MASS_J")
TRUTH = {"feh": 0.02, "loga": 9.55, "av": 0.3, "rv": 3.2, "distance_pc": 800.0}
TRUTH |= {"field_fraction": 0.1, "binary_fraction": 0.4}
SMALL = Layout(main=40, last=8, hook=16, turn=8, late=24, late_split=2, ratios=8)
ERROR, FIELD = 0.02, 4


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    """numpyro's distributions mix types and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def pop():
    return StellarPop(Isochrone(), BANDS)


@pytest.fixture(scope="module")
def sample(pop):
    """36 members on the segments of an isochrone and 4 field stars; masses and mass ratios."""
    rng = np.random.default_rng(4)
    blank = ClusterModel(pop, make_stars(np.ones((1, 3)), np.ones((1, 3))), layout=SMALL)
    params = ClusterParams(**{k: jnp.float32(x) for k, x in TRUTH.items()})
    grid = jax.tree.map(np.asarray, jax.jit(lambda p: blank.lattice(p))(params))
    weight = grid.tiles.weight * (grid.tiles.flux[:, 1:, 1] > 1e-8)  # brighter than r = 20
    at = rng.choice(weight.size, 40 - FIELD, p=(weight / weight.sum()).ravel())
    tile, segment = np.unravel_index(at, weight.shape)
    t = rng.uniform(0, 1, (len(at), 1))
    flux = grid.tiles.flux[tile, segment] * (1 - t) + grid.tiles.flux[tile, segment + 1] * t
    place = segments_of_tiles(SMALL, 0.5)[tile, segment]
    mass = np.exp(0.5 * (grid.curve.log_mass[1:] + grid.curve.log_mass[:-1]))[place]
    low, high = flux.min(axis=0), flux.max(axis=0)
    field = np.exp(rng.uniform(np.log(low), np.log(high), (FIELD, 3)))
    flux = np.concatenate([flux, field])
    err = ERROR * flux
    return flux + err * rng.normal(size=flux.shape), err, mass, grid.q[tile]


@pytest.fixture(scope="module")
def model(pop, sample):
    return ClusterModel(pop, make_stars(*sample[:2]), layout=SMALL)


def typed(**other):
    return ClusterParams(**{k: jnp.float32(x) for k, x in (TRUTH | other).items()})


@pytest.mark.slow
def test_mapped_is_one_after_the_other(model):
    """Values and slopes under `vmap` are those of the model, and of impossible points too."""
    points = [typed(), typed(loga=9.7), typed(distance_pc=-1.0)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *points)
    one = jax.jit(jax.value_and_grad(lambda p: model.log_likelihood(p)))
    mapped = jax.jit(jax.vmap(jax.value_and_grad(lambda p: log_likelihood(p, model))))
    values, slopes = mapped(stacked)
    for k, point in enumerate(points):
        value, slope = one(point)
        assert float(values[k]) == pytest.approx(float(value), rel=1e-5)
        for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(slope), strict=True):
            np.testing.assert_allclose(a[k], b, rtol=2e-3, atol=1e-3)
    assert values[2] == -np.inf and all(x[2] == 0 for x in jax.tree.leaves(slopes))


@pytest.mark.slow
def test_numpyro_program_has_the_posterior_of_the_problem(model):
    """Under a prefix, with a tie, a constant and a term of the user's own."""
    prior = cluster_prior(
        model,
        rv=3.2,
        loga=dist.Normal(9.5, 0.2),
        ratio_slope=lambda p: 2.0 * p["binary_fraction"],
    )

    def program():
        params = cluster_numpyro(model, prior, prefix="ngc_")
        numpyro.factor("mine", -0.5 * (params.feh / 0.1) ** 2)

    free = {k: jnp.float32(x) for k, x in TRUTH.items() if k != "rv"}
    density, trace = log_density(program, (), {}, {f"ngc_{k}": x for k, x in free.items()})
    assert trace["ngc_ratio_slope"]["value"] == pytest.approx(0.8)
    problem = cluster_problem(model, prior)
    found = problem.density(problem.prior.to_real(free), problem.data)
    mine = -0.5 * (TRUTH["feh"] / 0.1) ** 2
    assert float(density) == pytest.approx(
        float(found.log_likelihood + found.log_prior) + mine, rel=1e-5
    )


@pytest.mark.slow
def test_search_for_the_maximum_climbs(model):
    """From the truth, and from draws; the Gaussian there gives draws and an evidence."""
    problem = cluster_problem(model, cluster_prior(model, rv=TRUTH["rv"]))
    free = {k: np.float32(x) for k, x in TRUTH.items() if k != "rv"}
    there = problem.density(problem.prior.to_real(free), problem.data)
    post = infer.fit(
        problem, "map", key=1, start=free, num_starts=2, num_steps=20, chunk=20,
        num_draws=50, curvature="differences",
    )  # fmt: skip
    best = float((post.log_likelihood + post.log_prior).max())
    assert best > float(there.log_likelihood + there.log_prior)
    assert np.isfinite(post.logz) and np.ptp(post.samples["loga"]) > 0


def test_priors_are_checked(model, pop):
    with pytest.raises(ValueError, match="'metallicity' is no parameter"):
        cluster_prior(model, metallicity=0.0)
    with pytest.raises(ValueError, match="needs distance_pc"):
        cluster_prior(model, distance_pc=None)
    assert "binary_fraction" not in cluster_prior(model, binary_fraction=None)
    moving = make_stars(
        np.ones((2, 3)), np.ones((2, 3)), pm=np.ones((2, 2)), pm_err=np.ones((2, 2))
    )
    assert "pm" in cluster_prior(ClusterModel(pop, moving, layout=SMALL))


@pytest.mark.slow
def test_members_are_those_of_all_segments(model, sample):
    """Averages over a lattice of points within segments, summed one by one."""
    draw = {k: np.full((1, *np.shape(x)), x, np.float32) for k, x in TRUTH.items()}
    found = members(model, draw)
    params = typed()
    grid = jax.tree.map(lambda x: np.asarray(x, np.float64), model.lattice(params))
    unit = np.exp(np.asarray(model.stars.log_unit, np.float64))
    flux, err, _, _ = sample
    segment = segments_of_tiles(SMALL, 0.4)
    mass = np.exp(0.5 * (grid.curve.log_mass[1:] + grid.curve.log_mass[:-1]))[segment]
    eep = (0.5 * (grid.curve.eep[1:] + grid.curve.eep[:-1]))[segment]
    ratio = np.broadcast_to(grid.q[:, None], mass.shape)
    t = ((np.arange(200) + 0.5) / 200)[:, None, None, None]
    points = (grid.tiles.flux[:, :-1] * (1 - t) + grid.tiles.flux[:, 1:] * t) * unit
    for star in (0, 7, 20):
        chi2 = np.sum(((points - flux[star]) / err[star]) ** 2, axis=-1)
        density = 1.0 + grid.tiles.lean * (2.0 * t[..., 0] - 1.0)
        share = grid.tiles.weight * (density * np.exp(-0.5 * chi2)).mean(axis=0)
        share /= share.sum()
        for name, values, rounding in (
            ("mass", mass, 1e-3),
            ("ratio", ratio, 1e-3),
            ("eep", eep, 0.1),
        ):
            mean = np.sum(share * values)
            std = np.sqrt(np.sum(share * (values - mean) ** 2))
            assert getattr(found, name)[star] == pytest.approx(mean, rel=2e-3, abs=2e-3)
            assert getattr(found, f"{name}_std")[star] == pytest.approx(std, rel=0.02, abs=rounding)
        assert found.companion[star] == pytest.approx(share[ratio > 0].sum(), abs=2e-3)
    np.testing.assert_allclose(found.member, model.per_star(params).member, atol=1e-5)


@pytest.mark.slow
def test_oddities_of_members(pop, sample):
    flux, err = sample[0][:6].copy(), sample[1][:6].copy()
    flux[1] = np.nan  # no valid band
    flux[2] *= [1.0, 300.0, 1.0]  # like no star of a cluster
    odd = ClusterModel(pop, make_stars(flux, err), layout=SMALL)
    found = members(odd, {k: np.full(3, x, np.float32) for k, x in TRUTH.items()})
    assert np.isnan(found.mass[1]) and found.member[1] == pytest.approx(0.9, abs=1e-3)
    assert found.member[2] < 1e-3
    assert np.isfinite(found.mass[[0, 3, 4, 5]]).all()
    with pytest.raises(ValueError, match="no draws"):
        members(odd, {})


@pytest.mark.slow
def test_mock_members_follow_mass_and_companions(model, pop):
    """Even in initial mass, companions by their fraction, single stars on the isochrone."""
    draw = {k: np.full(2, x, np.float32) for k, x in TRUTH.items()}
    stars = mock_members(model, draw, 20_000, seed=3)
    low, high = stars.mass.min(), stars.mass.max()
    assert low < 0.102 and stars.mag.shape == (20_000, 3)
    even = (stars.mass < high - 0.1) & (stars.mass > low)
    quarters = np.quantile(stars.mass[even], [0.25, 0.5, 0.75])
    wide = stars.mass[even].max() - low
    np.testing.assert_allclose(quarters, low + wide * np.array([0.25, 0.5, 0.75]), atol=0.02)
    paired = stars.eep < 480
    share = np.mean(stars.ratio[paired] > 0)
    assert share == pytest.approx(TRUTH["binary_fraction"], abs=4 * np.sqrt(0.24 / 20_000))
    # main-sequence stars alone are those of the population, but for the scatter
    spread = mock_members(model, {**draw, "scatter": np.full(2, 0.2, np.float32)}, 4000, seed=3)
    for some, width in ((stars, 0.0), (spread, 0.2)):
        alone = np.flatnonzero((some.ratio == 0) & (some.eep < 400) & (some.mass > 0.5))[:200]
        sed, _, _ = pop.get_seds(
            feh=TRUTH["feh"], loga=TRUTH["loga"], av=TRUTH["av"], rv=TRUTH["rv"],
            dist=TRUTH["distance_pc"], eep=some.eep[alone], apply_corr=False,
        )  # fmt: skip
        off = np.median(np.abs(some.mag[alone] - sed)) / 0.6745
        assert off == pytest.approx(width, abs=0.03)
    with pytest.raises(ValueError, match="no draws"):
        mock_members(model, {})


# ---- what a cluster looks like -------------------------------------------------------------------
def outputs_of(model, **other):
    problem = cluster_problem(model, colour=("PS_g", "PS_r"))
    params = {k: jnp.float32(x) for k, x in (TRUTH | other).items()}

    def of(what, *component):
        return jax.jit(problem.outputs([what], component or None, {}))(params)[what]

    return problem, of


@pytest.mark.slow
def test_density_is_that_of_stars_thrown_with_errors(model, sample):
    """Moments of a component's density against stars drawn from the tiles, errors included."""
    problem, of = outputs_of(model)
    kind = problem.describe(["density"], None)["density"]
    area = np.prod([axis.step for axis in kind.axes])
    single, pair, field = (np.asarray(of("density", name), float) for name in COMPONENTS)
    np.testing.assert_allclose(
        np.asarray(of("density"), float), single + pair + field, rtol=1e-4, atol=1e-3
    )
    grid = jax.tree.map(lambda x: np.asarray(x, float), model.lattice(typed()))
    unit = np.exp(np.asarray(model.stars.log_unit, float))
    rng = np.random.default_rng(1)
    for density, chosen in ((single, grid.q == 0), (pair, grid.q > 0)):
        weight = np.where(chosen[:, None], grid.tiles.weight, 0.0)
        at = rng.choice(weight.size, 200_000, p=(weight / weight.sum()).ravel())
        tile, segment = np.unravel_index(at, weight.shape)
        t = rng.uniform(0, 1, (len(at), 1))
        flux = grid.tiles.flux[tile, segment] * (1 - t) + grid.tiles.flux[tile, segment + 1] * t
        flux = (flux * unit)[:, :2]
        mag = -2.5 * np.log10(flux) + ERROR * 2.5 / np.log(10) * rng.normal(size=flux.shape)
        points = np.stack([mag[:, 0] - mag[:, 1], mag[:, 0]], axis=1)
        edges = [axis.start + axis.step * (np.arange(n + 1) - 0.5)
                 for axis, n in zip(kind.axes, density.shape[::-1], strict=True)]  # fmt: skip
        thrown = np.histogram2d(*points.T, bins=edges)[0].T
        members = len(model.stars) * (1 - TRUTH["field_fraction"])
        share = weight.sum() * members / len(at)
        np.testing.assert_allclose(density.sum() * area, thrown.sum() * share, rtol=0.02)
        for k, axis in enumerate(kind.axes):
            x = axis.centres(density.shape[1 - k])
            for counts in (density, thrown):
                marginal = counts.sum(axis=k) / counts.sum()
                mean = marginal @ x
                moments = mean, np.sqrt(marginal @ (x - mean) ** 2)
                if counts is density:
                    expected = moments
            chance = 4.0 * expected[1] / np.sqrt(len(at))
            np.testing.assert_allclose(moments, expected, atol=0.003 + chance)
    # the field: uniform in both magnitudes, so that diagonals of one length are alike
    inside = field[field > 0.99 * field.max()]
    low, high = np.asarray(model.stars.field_range)[:, :2]
    count = TRUTH["field_fraction"] * len(model.stars)
    np.testing.assert_allclose(np.median(inside), count / np.prod(high - low), rtol=1e-3)


@pytest.mark.slow
def test_isochrones_by_component(model, pop):
    _, of = outputs_of(model)
    alone, twins = of("isochrone", "singles"), of("isochrone", "binaries")
    count = len(twins["mass"])
    np.testing.assert_allclose(
        twins["PS_r"], alone["PS_r"][:count] - 2.5 * np.log10(2.0), rtol=1e-5
    )
    k = 30  # on the main sequence
    seen = pop.population(0.02, 9.55, jnp.asarray([float(alone["eep"][k])]), jnp.asarray([0.0]),
                          0.3, 3.2, 800.0)  # fmt: skip
    np.testing.assert_allclose(seen.mini[0], alone["mass"][k], rtol=2e-3)
    np.testing.assert_allclose(seen.mag[0, 0], [alone[b][k] for b in BANDS], atol=0.02)
    bare = pop.population(0.02, 9.55, jnp.asarray([float(alone["eep"][k])]), jnp.asarray([0.0]),
                          0.0, 3.2, 10.0)  # fmt: skip
    found = of("intrinsic", "singles")
    np.testing.assert_allclose(bare.mag[0, 0], [found[b][k] for b in BANDS], atol=0.02)


@pytest.mark.slow
def test_files_of_a_cluster_say_what_is_in_them(model, pop, sample, tmp_path, monkeypatch):
    from astropy.io import fits
    from astropy.table import Table

    problem = cluster_problem(model)
    values = {k: jnp.full((3,), x) for k, x in TRUTH.items()}
    post = infer.Posterior(
        "nested", {k: np.asarray(v) for k, v in values.items()}, np.full(3, 1 / 3), np.zeros(3),
        np.zeros(3), meta={"called": "nested", "free": list(TRUTH), "key": [0, 0], "data": "x"},
    )  # fmt: skip
    fit = socca.fitter(problem)
    fit._posterior = post
    fit.savemodel(tmp_path / "iso.ecsv", what="isochrone", component=["singles", "binaries"])
    table = Table.read(tmp_path / "iso.ecsv")
    assert table["mass"].unit == "Msun" and set(table["component"]) == {"singles", "binaries"}
    assert table.meta["COMPONEN"] == "singles,binaries"
    fit.savemodel(tmp_path / "cmd.fits", what="density", component="singles")
    header = fits.getheader(tmp_path / "cmd.fits")
    assert header["CTYPE1"] == "PS_g-2MASS_J" and header["CTYPE2"] == "PS_g"
    assert header["BUNIT"] == "mag-2" and header["MODEL"] == "density"
    kind = problem.describe(["density"], None)["density"]
    assert header["CRVAL2"] == pytest.approx(kind.axes[1].start)
    fit.savemodel(tmp_path / "all.fits")
    with fits.open(tmp_path / "all.fits") as file:
        assert [hdu.name for hdu in file[1:]] == ["isochrone", "intrinsic", "density"]
    monkeypatch.setattr("brutax.compat.socca.fitter.N_REALIZATIONS", 4)
    draws = fit.getmodel("density", component="singles", usebest=False)
    np.testing.assert_allclose(draws, fit.getmodel("density", component="singles"), rtol=1e-3,
                               atol=1e-2)  # fmt: skip
    with pytest.raises(ValueError, match="the field has no isochrone"):
        fit.getmodel("isochrone", component="field")
    with pytest.raises(ValueError, match="no component 'single'; do you mean 'singles'"):
        fit.getmodel("isochrone", component="single")
    with pytest.raises(ValueError, match="one of the bands of the colour"):
        cluster_problem(model, colour=("PS_g", "PS_r"), band="2MASS_J")
    with pytest.raises(ValueError, match="must be two bands of"):
        cluster_problem(model, colour=("PS_g", "PS_x"))
    own = make_stars(*sample[:2], field=np.zeros(40))
    other, of = outputs_of(ClusterModel(pop, own, layout=SMALL))
    with pytest.raises(ValueError, match="known at the stars only"):
        of("density")
    assert np.isfinite(np.asarray(of("density", "binaries"))).all()


# ---- the command ---------------------------------------------------------------------------------
@pytest.fixture
def table(sample, tmp_path):
    from astropy.table import Table

    flux, err, _, _ = sample
    mag = -2.5 * np.log10(flux)
    out = Table({band: mag[:, k] for k, band in enumerate(BANDS)})
    for k, band in enumerate(BANDS):
        out[f"{band}_err"] = err[:, k] / flux[:, k] * 2.5 / np.log(10)
    out["p_member"] = 0.95
    path = tmp_path / "stars.csv"
    out[~np.isnan(mag).any(axis=1)].write(path)
    return path


@pytest.mark.parametrize(
    ("extra", "text"),
    [
        (["--prior", "loga=ten"], "is not NAME=LOW,HIGH"),
        (["--prior", "age=9,10"], "'age' is no parameter"),
        (["--prob", "missing"], "no column 'missing'"),
        (["--colour", "PS_g"], "two bands"),
        (["--figure", "cmd.txt"], "images are written as"),
        (["--particles", "64"], "--particles is an option of --method smc, not nuts"),
        (["--method", "smc", "--draws", "9"], "--draws is an option of --method nuts, not smc"),
        (["--chains", "0"], "--chains must be at least 1"),
    ],
)
def test_command_says_what_is_wrong(table, tmp_path, capsys, extra, text):
    out = tmp_path / "cluster.h5"
    command = ["cluster", str(table), "-o", str(out), "--units", "mag", *extra]
    assert main(command) == 2 and text in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        ["--chains", "2", "--warmup", "30", "--draws", "20"],
        ["--method", "smc", "--particles", "40"],
    ],
)
def test_command_writes_posterior_members_and_figure(table, tmp_path, capsys, how):
    from astropy.table import Table

    out = tmp_path / "cluster.h5"
    command = ["cluster", str(table), "-o", str(out), "--units", "mag", "--coarse"]
    command += ["--prob", "p_member", "--members", str(tmp_path / "members.ecsv")]
    command += ["--figure", str(tmp_path / "cmd.png"), *how]
    command += ["--prior", "rv=3.2", "--prior", "feh=-0.3,0.3"]
    command += ["--prior", "loga=9.3,9.8", "--prior", "distance_pc=600,1000"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "log10 age" in said and "stars are members" in said
    post = infer.Posterior.load(out)
    assert len(post.weights) == 40 and 9.3 < post.samples["loga"].mean() < 9.8
    found = Table.read(tmp_path / "members.ecsv")
    assert found["member"][:30].mean() > 0.8 and found["mass"].unit == "Msun"
    assert (tmp_path / "cmd.png").stat().st_size > 10_000
    assert not list(tmp_path.glob("*.run*"))
    assert main(command) == 2  # nothing is overwritten unasked


def test_a_prior_of_brutax_in_a_numpyro_program(model):
    """A_V under a normal prior: the density of the program is that of the problem."""
    own = TruncatedNormalAv(0.3, 0.1, 0.0, 1.0)
    given: dict = TRUTH | {"av": own}
    entries = cluster_prior(model, **given)

    @jax.jit  # which leaves out the likelihood, of which nothing is asked
    def density(av):
        program = numpyro.handlers.seed(lambda: cluster_numpyro(model, entries), 0)
        sites = numpyro.handlers.trace(numpyro.handlers.condition(program, {"av": av})).get_trace()
        return sites["av"]["fn"].log_prob(av), sites["av_prior"]["fn"].log_factor

    base, factor = density(jnp.asarray(0.35))
    total = base + factor
    np.testing.assert_allclose(total, own.log_prob(Point(av=jnp.asarray(0.35))), atol=1e-5)
    problem = cluster_problem(model, entries)
    z = problem.prior.to_real({"av": jnp.asarray(0.35)})
    factor = problem.prior.log_factor(problem.prior.from_real(z)[0])
    np.testing.assert_allclose(factor + base, own.log_prob(Point(av=jnp.asarray(0.35))), atol=1e-5)
