"""Sight lines: the smooth likelihood, its prior, clouds that are found, maps and stars weighed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.integrate import quad

from brutax.catalog import FitResult
from brutax.cli import main
from brutax.dust import CloudParams, ProfileMap, log_likelihood, make_sightline, stack_sightlines
from brutax.dust.sightline import _norm, _shape
from brutax.sightline import (
    CloudFit,
    dust_map,
    reweight,
)
from brutax.sightline import (
    fit as fit_clouds,
)
from brutax.sightline import (
    prior as sightline_prior,
)
from brutax.sightline import (
    problem as sightline_problem,
)

TRUE = ((0.4, 0.9), (0.1, 0.9, 1.7))


def draws(seed=1, stars=120, n=40):
    """Draws (star, draw) of stars about two clouds; three of them spoilt."""
    rng = np.random.default_rng(seed)
    true = np.exp(rng.uniform(np.log(0.15), np.log(2.5), stars))
    level = np.array(TRUE[1])[np.searchsorted(TRUE[0], true)] + 0.05 * rng.normal(size=stars)
    seen = np.log(true) + 0.05 * rng.normal(size=stars)
    dist = np.exp(seen[:, None] + 0.05 * rng.normal(size=(stars, n)))
    av = (level + 0.1 * rng.normal(size=stars))[:, None] + 0.1 * rng.normal(size=(stars, n))
    return dist, np.abs(av)


def params(**change):
    values = dict(distance=TRUE[0], level=TRUE[1], scatter=(0.1, 0.15), outliers=0.05) | change
    return CloudParams(*(jnp.asarray(values[name], float) for name in CloudParams._fields))


@pytest.fixture(scope="module")
def fits():
    """Two sight lines, the second with fewer stars and spoilt draws, fitted in one program."""
    dist, av = draws(2, stars=90)
    av[3], dist[4, :5], av[5, 2] = np.nan, -1.0, np.inf
    stack = stack_sightlines([draws(), (dist, av)], dist_range=(0.15, 2.5), av_range=(0.0, 2.5))
    return fit_clouds(stack, (1, 2), key=0, num_particles=200)


def test_sharp_limit_is_the_likelihood_of_brutus():
    """With draws that stand for themselves, and a scatter in units of the range."""
    with jax.enable_x64(True):
        dist, av = draws()
        line = make_sightline(
            dist, av, n_draws=40, smoothing=1e-9, dist_range=(0.1, 3.0), av_range=(0.0, 6.0)
        )
        for kernel in ("gauss", "lorentz"):
            theta = [0.05, 0.1 / 6, 0.15 / 6, 0.1, 0.4, 0.9, 0.9, 1.7]
            expected = log_likelihood(
                jnp.asarray(theta), jnp.asarray(dist), jnp.asarray(av), kernel=kernel
            )
            sharp = make_sightline(
                dist,
                av,
                n_draws=40,
                smoothing=1e-9,
                dist_range=(0.1, 3.0),
                av_range=(0.0, 6.0),
                kernel=kernel,
            )
            # draws within a thousandth of a cloud are shared out all the same
            assert abs(sharp.log_likelihood(params()) - expected) < 0.3
        assert line.n_stars == 120


@pytest.mark.parametrize("kernel", ["gauss", "lorentz", "tophat"])
def test_gradients_and_norms(kernel):
    with jax.enable_x64(True):
        line = make_sightline(*draws(stars=20), kernel=kernel, av_range=(0.0, 3.0))
        check_grads(line.log_likelihood, (params(),), 1, ["fwd", "rev"], eps=1e-6)
        for mean in (0.02, 1.5, 2.9):
            m, w = jnp.asarray(mean), jnp.asarray(0.3)
            height = float(_norm(kernel, m, w, (0.0, 3.0)))
            area = quad(
                lambda x, m=m, w=w: float(_shape(kernel, jnp.asarray(x) - m, w)),
                0,
                3,
                points=[mean],
                limit=200,
            )
            np.testing.assert_allclose(height * area[0], 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"distance": (0.9, 0.4)},
        {"level": (0.9, 0.1, 1.7)},
        {"level": (0.1, 0.9, np.nan)},
        {"level": (0.1, 0.9, 99.0)},
        {"scatter": (0.0, 0.1)},
        {"outliers": 1.5},
    ],
    ids=str,
)
def test_impossible_clouds_have_no_likelihood_and_no_slope(change):
    line = make_sightline(*draws(stars=20))
    value, slopes = jax.value_and_grad(lambda p: line.log_likelihood(p))(params(**change))
    assert value == -np.inf and all(np.all(x == 0) for x in slopes)


def test_bad_draws_are_left_out_star_by_star():
    dist, av = draws(stars=30)
    clean = make_sightline(dist, av, dist_range=(0.1, 3), av_range=(0, 3)).per_star(params())
    dist[0], av[1, ::2], dist[2, 3] = np.nan, np.inf, -1.0
    dist[3, 1:] = np.nan  # one draw says nothing about a spread
    line = make_sightline(dist, av, dist_range=(0.1, 3), av_range=(0, 3), n_stars=40)
    assert line.n_stars == 28 and line.weight.shape == (40,)
    each = line.per_star(params())
    np.testing.assert_allclose(each[4:30], clean[4:], rtol=1e-4, atol=1e-4)
    assert np.isfinite(each).all() and abs(each[1] - clean[1]) < 1.0
    expected = np.sum(np.asarray(each)[np.asarray(line.weight) > 0])
    np.testing.assert_allclose(line.log_likelihood(params()), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"av": np.zeros((3, 3))}, "must be \\(star, draw\\)"),
        ({"av": np.full((120, 40), np.nan)}, "no star"),
        ({"n_draws": 1}, "n_draws"),
        ({"kernel": "gaus"}, "kernel"),
        ({"dist_range": (2.0, 1.0)}, "dist_range"),
        ({"av_range": (1.0, 1.0)}, "av_range"),
        ({"smoothing": 0.0}, "smoothing"),
        ({"n_stars": 3}, "n_stars"),
    ],
    ids=str,
)
def test_bad_input(change, words):
    dist, av = draws()
    with pytest.raises(ValueError, match=words):
        make_sightline(**({"dist": dist, "av": av} | change))


@pytest.mark.slow
def test_prior_is_in_order_and_takes_changes():
    line = make_sightline(*draws(stars=20))
    problem = sightline_problem(line, 3)
    assert problem.components == ("foreground", "cloud_1", "cloud_2", "cloud_3")
    z = jax.vmap(problem.sample_real)(jax.random.split(jax.random.key(0), 200))
    found = jax.vmap(lambda z: problem.prior.from_real(z)[0])(z)
    assert np.all(np.diff(found["distance"], axis=1) > 0)
    assert np.all(np.diff(found["level"], axis=1) > 0)
    assert np.all(found["distance"] <= line.dist_range[1] * 1.0001)
    # gaps of 4 pieces with the exponents 1, 2, 2, 1: the middle ones are twice as long
    log_d = np.log(np.asarray(found["distance"]) / line.dist_range[0])
    share = np.mean(log_d / np.log(line.dist_range[1] / line.dist_range[0]), axis=0)
    np.testing.assert_allclose(share, [1 / 6, 3 / 6, 5 / 6], atol=0.04)
    assert "dist_gaps" not in sightline_prior(line, 1, distance=jnp.asarray([0.4]))
    with pytest.raises(ValueError, match="no parameter of clouds"):
        sightline_prior(line, 1, distances=1.0)
    with pytest.raises(ValueError, match="number of clouds"):
        sightline_prior(line, -1)
    with pytest.raises(ValueError, match="'smc' or 'nested'"):
        fit_clouds(line, 1, method="nuts")


def test_clouds_are_found(fits):
    for fit, stars in zip(fits, (120, 89), strict=True):
        assert fit.best == 2 and fit.probability[1] > 0.99 and fit.n_stars == stars
        assert not fit.warnings
        for cloud, d, jump in zip(fit.found(), TRUE[0], np.diff(TRUE[1]), strict=True):
            low, middle, high = cloud.distance
            assert low < middle < high and abs(middle - d) < 3 * (high - low)
            assert abs(cloud.jump[1] - jump) < 3 * (cloud.jump[2] - cloud.jump[0])


def test_saved_fit_is_the_same(fits, tmp_path):
    fits[0].save(tmp_path / "los.h5")
    again = CloudFit.load(tmp_path / "los.h5")
    assert again.clouds == (1, 2) and again.dist_range == fits[0].dist_range
    nodes = fits[0].nodes(50)
    np.testing.assert_array_equal(again.profiles(nodes), fits[0].profiles(nodes))
    (tmp_path / "other.h5").write_bytes(b"")
    with pytest.raises(OSError):
        CloudFit.load(tmp_path / "other.h5")


def test_map_answers_like_those_of_dustmaps(fits, tmp_path):
    units = pytest.importorskip("astropy.units")
    from astropy.coordinates import SkyCoord

    dust = dust_map(fits, [(204.7, -19.2), (210.0, -19.0)], radius=1.5)
    dist, mean, std = dust.query_gal([204.7, 100.0], [-19.2, 0.0])
    assert mean.shape == (2, dist.size) and np.isnan(mean[1]).all()
    np.testing.assert_allclose(np.interp([0.2, 0.6, 1.8], dist, mean[0]), TRUE[1], atol=0.1)
    assert np.all(std[0] >= 0)
    sky = SkyCoord(
        [204.7, 209.9, 100.0] * units.deg,
        [-19.2, -19.0, 0.0] * units.deg,
        distance=[200.0, 1800.0, 500.0] * units.pc,
        frame="galactic",
    )
    found = dust.query(sky)
    assert found.shape == (3,) and np.isnan(found[2])
    np.testing.assert_allclose(found[:2], [0.1, 1.7], atol=0.1)
    assert dust.query(sky, mode="samples").shape == (3, 50)
    assert dust.query(sky, mode="percentile", pct=[16, 84]).shape == (3, 2)
    assert np.ndim(dust.query(sky[0], mode="median")) == 0
    dust.save(tmp_path / "map.h5")
    np.testing.assert_array_equal(ProfileMap.load(tmp_path / "map.h5").query(sky), found)
    for mode, pct in (("men", None), ("percentile", None), ("mean", 16)):
        with pytest.raises(ValueError, match="mode|pct"):
            dust.query(sky, mode=mode, pct=pct)
    with pytest.raises(ValueError, match="samples"):
        ProfileMap([(0.0, 0.0)], [1.0, 2.0], np.zeros((1, 3, 5)))


def test_stars_are_weighed_by_the_profile(fits):
    """A star at 0.2 kpc cannot have the A_V of the second cloud: distant draws win."""
    rng = np.random.default_rng(3)
    dist = np.exp(rng.uniform(np.log(0.2), np.log(2.0), (3, 500)))
    av = np.stack([rng.normal(1.7, 0.05, 500), rng.normal(0.9, 0.05, 500), np.full(500, np.nan)])
    out = reweight(fits[0], dist, av)
    assert out.dist_mean[1, 0] > 1.2 and 0.4 < out.dist_mean[1, 1] < 0.9
    assert np.all(out.dist_std[1, :2] < out.dist_std[0, :2])
    np.testing.assert_allclose(out.weight.sum(axis=1), [1, 1, 0])
    assert np.isnan(out.ess[2]) and "2 stars" in out.report()
    # dividing by what the weights are leaves the draws as they were
    with np.errstate(divide="ignore"):
        flat = reweight(fits[0], dist[:1], av[:1], log_prior=np.log(out.weight[:1]))
    assert flat.ess[0] > 499
    with pytest.raises(ValueError, match="log_prior"):
        reweight(fits[0], dist, av, log_prior=np.zeros(3))


def result_of_a_fit():
    """Stars about two clouds as `brutax fit` gives them."""
    dist, av = draws(5, stars=100)
    stars = len(dist)
    arrays = {
        "source_id": np.arange(stars),
        "labels": np.arange(stars),
        "status": np.zeros(stars, np.int32),
        "samps_dist": dist.astype(np.float32),
        "samps_red": av.astype(np.float32),
    }
    return FitResult(arrays, {})


@pytest.mark.slow
def test_command_line(monkeypatch, tmp_path, capsys):
    pytest.importorskip("matplotlib").use("Agg")
    result = result_of_a_fit()
    monkeypatch.setattr(FitResult, "load", classmethod(lambda cls, path: result))
    out, image, dust = (tmp_path / name for name in ("los.h5", "los.png", "map.h5"))
    files = ["--figure", str(image), "--map", str(dust), "--sky", "204.7,-19.2"]
    command = ["dust", "stars.h5", "-o", str(out), "--clouds", "2", "--draws", "16"]
    assert main([*command, *files]) == 0
    text = capsys.readouterr().out
    assert "2 clouds" in text and "outliers" in text
    fit = CloudFit.load(out)
    assert abs(fit.found()[0].distance[1] - 0.4) < 0.05 and image.stat().st_size > 10_000
    assert ProfileMap.load(dust).query_gal(204.7, -19.2, 1.8)[1][0] > 1.5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["los.h5", "los.png", "map.h5"]
    for wrong in (["--clouds", "4-1"], ["--clouds", "x"], ["--distance", "1"], ["--sky", "a,b"]):
        assert main([*command, "--overwrite", *wrong]) == 2
    assert main(command) == 2  # exists
