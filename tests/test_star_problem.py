"""One star in continuous parameters: its posterior against a sum over prior draws, its outputs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brutax import infer
from brutax.compat import socca
from brutax.models import EEPTracks, StarEvolTrack
from brutax.priors import (
    AbstractAvPrior,
    AgeWeight,
    GalacticStructure,
    KroupaIMF,
    Point,
    UniformAv,
)
from brutax.star import prior as star_prior
from brutax.star import problem as star_problem
from brutax.utils import inv_magnitude

BANDS = ("PS_g", "PS_r", "PS_i", "PS_y", "2MASS_J", "2MASS_Ks")
TRUTH = {"mini": 0.9, "eep": 350.0, "feh": -0.1, "dist": 0.8, "av": 0.5, "rv": 3.3}
COORDS = (120.0, 15.0)
NARROW = {"mini": (0.6, 1.3), "eep": (202.0, 480.0), "feh": (-1.0, 0.45), "dist": (0.4, 1.4)}


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def track():
    return StarEvolTrack(EEPTracks(), BANDS, verbose=False)


def seds(track, **other):
    p = TRUTH | other
    return track.get_seds(
        p["mini"], p["eep"], p["feh"], 0.0, p["av"], p["rv"], p.get("smf", 0.0), 1e3 * p["dist"]
    )[0]


@pytest.fixture(scope="module")
def star(track):
    """Fluxes of 5 %, moved by known errors, and a parallax of 10 %."""
    flux = 10.0 ** (-0.4 * seds(track))
    noise = np.array([0.5, -1.0, 0.3, 1.2, -0.4, 0.1])
    return flux * (1.0 + 0.05 * noise), 0.05 * flux, 1.3, 0.12


@pytest.fixture(scope="module")
def problem(track, star):
    flux, err, plx, plx_err = star
    return star_problem(
        track, flux, err, parallax=plx, parallax_err=plx_err, coords=COORDS,
        av=UniformAv(0.0, 2.0), rv=3.3, bounds=NARROW,
    )  # fmt: skip


@pytest.mark.slow
def test_densities_are_those_of_tracks_and_priors(track, star, problem):
    """ln L from `get_seds` in float64, and the prior's factors one by one."""
    flux, err, plx, plx_err = star
    point = {"mini": 0.95, "eep": 330.0, "feh": 0.0, "dist": 0.75, "av": 0.4}
    found = jax.jit(problem.density)(problem.prior.to_real(point), problem.data)
    model = 10.0 ** (-0.4 * seds(track, **point))
    pulls = np.append((flux - model) / err, (plx - 1.0 / point["dist"]) / plx_err)
    norm = np.log(np.append(err, plx_err)) + 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(found.log_likelihood, np.sum(-0.5 * pulls**2 - norm), atol=2e-2)
    names = dict(
        zip(track.tracks.predictions, track.tracks.get_predictions([0.95, 330.0, 0.0, 0.0]))
    )
    np.testing.assert_allclose(found.params["loga"], names["loga"], atol=1e-4)
    at = Point(**point, loga=names["loga"], agewt=names["agewt"], ell=COORDS[0], b=COORDS[1])
    prior = [p.log_prob(at) for p in (KroupaIMF(), AgeWeight(), GalacticStructure())]
    np.testing.assert_allclose(found.log_prior, sum(prior) - np.log(2.0), rtol=1e-4)


@pytest.mark.slow
def test_nested_sampling_has_the_posterior_of_weighted_prior_draws(track, star):
    """Importance sampling from the base measure, of which nested sampling knows nothing."""
    flux, err, plx, plx_err = star
    problem = star_problem(
        track, flux, 4.0 * err, parallax=plx, parallax_err=3.0 * plx_err, coords=COORDS,
        av=UniformAv(0.0, 2.0), rv=3.3, bounds=NARROW,
    )  # fmt: skip
    z = jax.vmap(problem.sample_real)(jax.random.split(jax.random.key(0), 1_000_000))
    table = problem.evaluate(z)
    base = jax.jit(jax.vmap(lambda z: problem.prior.from_real(z)[1]))(z)
    log_w = np.asarray(table.log_likelihood + table.log_prior - base, np.float64)
    logz = np.logaddexp.reduce(log_w) - np.log(len(z))
    weight = np.exp(log_w - np.logaddexp.reduce(log_w))
    assert 1.0 / np.sum(weight**2) > 1500
    post = infer.fit(problem, "nested", key=2, num_live=300)
    assert abs(post.logz - logz) < 3.5 * np.hypot(post.logz_err, 0.03)
    for name in ("mini", "eep", "feh", "dist", "av", "loga", "logt"):
        values = np.asarray(table.params[name], np.float64)
        mean = weight @ values
        std = np.sqrt(weight @ (values - mean) ** 2)
        row = post.summary()[name]
        assert abs(row.mean - mean) < 0.25 * std and 0.8 < row.std / std < 1.25, name


@pytest.mark.slow
def test_sed_with_and_without_dust(track, star, tmp_path):
    """`getmodel` is `get_seds` at the parameters; files say what is in them."""
    fits, table = pytest.importorskip("astropy.io.fits"), pytest.importorskip("astropy.table")
    one = {name: np.array([x], np.float32) for name, x in TRUTH.items()}
    meta = {"called": "optimizer", "free": list(TRUTH), "key": [0, 1], "data": "0"}
    fit = socca.fitter(star_problem(track, *star[:2]))
    fit._posterior = infer.Posterior("map", one, *np.ones((3, 1)), meta=meta)
    model = fit.getmodel("reddened")
    assert tuple(model["band"]) == BANDS and tuple(model["system"])[:2] == ("AB", "AB")
    np.testing.assert_allclose(model["mag"], seds(track), atol=2e-3)
    np.testing.assert_allclose(model["flux"], 10.0 ** (-0.4 * model["mag"]), rtol=1e-4)
    bare = fit.getmodel("intrinsic")
    np.testing.assert_allclose(bare["mag"], seds(track, av=0.0), atol=2e-3)
    fit.savemodel(tmp_path / "sed.ecsv", what="intrinsic")
    read = table.Table.read(tmp_path / "sed.ecsv")
    assert list(read["band"]) == list(BANDS) and str(read["mag"].unit) == "mag"
    assert read.meta["MODEL"] == "intrinsic" and read.meta["ESTIMATE"] == "maximum"
    fit.savemodel(tmp_path / "sed.fits")
    with fits.open(tmp_path / "sed.fits") as file:
        assert [hdu.name for hdu in file[1:]] == ["reddened", "intrinsic"]
        np.testing.assert_allclose(file["reddened"].data["mag"], model["mag"], rtol=1e-6)
    with pytest.raises(ValueError, match="ECSV holds one table"):
        fit.savemodel(tmp_path / "both.ecsv", what=["reddened", "intrinsic"])
    with pytest.raises(ValueError, match="no 'redened'; do you mean 'reddened'"):
        fit.getmodel("redened")
    with pytest.raises(ValueError, match="no component"):
        fit.getmodel(component="companion")


@pytest.mark.slow
def test_pairs(track):
    """A companion of the same age adds its light; the components of the model say how much."""
    mag = seds(track, smf=0.7)
    flux = inv_magnitude(mag, np.full(len(mag), 0.02))
    problem = star_problem(track, *flux, smf=dist.Uniform(0.0, 1.0), bounds=NARROW)
    point = {k: jnp.asarray(x) for k, x in (TRUTH | {"smf": 0.7}).items()}
    both, one, other = (
        jax.jit(problem.outputs(["reddened"], component, {}))(point)["reddened"]
        for component in (None, ("primary",), ("companion",))
    )
    np.testing.assert_allclose(both["mag"], mag, atol=3e-3)
    np.testing.assert_allclose(one["mag"], seds(track), atol=2e-3)
    np.testing.assert_allclose(one["flux"] + other["flux"], both["flux"], rtol=1e-4)
    of = jax.jit(lambda p: problem.log_likelihood(problem.complete(p), problem.data))
    assert float(of(point)) > float(of({**point, "smf": jnp.asarray(0.0)})) + 10.0


@pytest.mark.slow
def test_odd_stars(track, star):
    flux, err, plx, plx_err = star
    with pytest.raises(ValueError, match="must both be"):
        star_problem(track, flux[:3], err[:3])
    with pytest.raises(ValueError, match="no band is valid"):
        star_problem(track, np.full(6, np.nan), err)
    with pytest.raises(ValueError, match="units are"):
        star_problem(track, flux, err, units="Jy")
    with pytest.raises(ValueError, match="bounds are of mini, eep, feh, dist, found av"):
        star_problem(track, flux, err, bounds={"av": (0, 1)})
    with pytest.raises(ValueError, match="both parallax and parallax_err"):
        star_problem(track, flux, err, parallax=plx)
    with pytest.raises(TypeError, match="must be a StarEvolTrack"):
        star_problem("track", flux, err)
    mags = star_problem(track, -2.5 * np.log10(flux), 1.0857 * err / flux, units="mag")
    same = star_problem(track, flux, err)
    point = {k: jnp.asarray(x) for k, x in TRUTH.items()}
    of = jax.jit(same.log_likelihood)
    values = [float(of(point, p.data)) for p in (mags, same)]
    assert values[0] == pytest.approx(values[1], abs=0.02)
    gone = {**point, "mini": jnp.asarray(3.0), "eep": jnp.asarray(808.0), "feh": jnp.asarray(0.9)}
    value, slope = jax.jit(jax.value_and_grad(same.log_likelihood))(gone, same.data)
    assert value == -np.inf and all(np.all(x == 0) for x in jax.tree.leaves(slope))


class ExponentialAv(AbstractAvPrior):
    """A prior of A_V of one's own, exponential between 0 and 3 mag."""

    scale: jax.Array = eqx.field(converter=jnp.asarray)
    low: jax.Array = eqx.field(converter=jnp.asarray, default=0.0)
    high: jax.Array = eqx.field(converter=jnp.asarray, default=3.0)

    def log_prob(self, point):
        norm = jnp.log(self.scale) + jnp.log1p(-jnp.exp(-self.high / self.scale))
        inside = (point.av >= self.low) & (point.av <= self.high)
        return jnp.where(inside, -point.av / self.scale - norm, -jnp.inf)

    def moments(self, dist):
        return jnp.zeros_like(dist) + self.scale, jnp.zeros_like(dist)


def test_a_prior_of_av_of_ones_own_in_stars_and_clusters(track, star):
    """One class: its density takes the place of the uniform one between its own bounds."""
    own = ExponentialAv(0.5)
    alone = star_problem(track, *star[:2], av=own)
    uniform = star_problem(track, *star[:2], av=UniformAv(0.0, 3.0))
    cluster = star_prior({"av": own, "rv": 3.3})
    point = {"mini": 0.9, "eep": 350.0, "feh": -0.1, "dist": 0.8, "rv": 3.3}

    @jax.jit
    def factors(av):
        known = alone.prior.from_real(alone.prior.to_real({**point, "av": av}))[0]
        gain = alone.prior.log_factor(known) - uniform.prior.log_factor(known)
        return gain, cluster.log_factor(cluster.from_real(cluster.to_real({"av": av}))[0])

    for av in jnp.asarray([0.2, 1.0, 2.5]):
        expected = own.log_prob(Point(av=av)) - jnp.log(1.0 / 3.0)
        np.testing.assert_allclose(factors(av), [expected, expected], atol=1e-4)
