"""The extinction profile of clouds by component, in memory and in files."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

from brutax import infer
from brutax.compat import socca
from brutax.sightline.profile import profile_outputs


@pytest.fixture(autouse=True)
def promotion_as_users_have_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module")
def fit():
    """40 stars behind nothing, one, or two clouds, at 0.3 and 0.9 kpc; draws are points."""
    rng = np.random.default_rng(0)
    d = rng.uniform(0.1, 1.6, 40)
    av = 0.1 + 0.6 * (d >= 0.3) + 1.0 * (d >= 0.9) + 0.05 * rng.normal(size=40)
    prior = {
        "near": dist.Uniform(0.1, 0.6),
        "far": dist.Uniform(0.6, 1.6),
        "rises": dist.Uniform(jnp.zeros(3), 2.0),
        "distance": lambda p: jnp.stack([p["near"], p["far"]]),
        "level": lambda p: jnp.cumsum(p["rises"]),
    }

    def log_likelihood(p, data):
        behind = data[0][:, None] >= p["distance"][None, :]
        model = p["rises"][0] + jnp.sum(jnp.where(behind, p["rises"][1:], 0.0), axis=1)
        return jnp.sum(-0.5 * ((data[1] - model) / 0.05) ** 2)

    problem = infer.Problem(
        prior, log_likelihood, (d, av), profile_outputs(2, (0.1, 2.0))
    )  # as a sight line's
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        out = socca.fitter(problem)
        out.run("nested", nlive=100, key=1)
    return out


def test_components_add_up(fit):
    assert fit.mod.components == ("foreground", "cloud_1", "cloud_2")
    total = fit.getmodel("profile")
    parts = [fit.getmodel("profile", component=k)["av"] for k in range(3)]
    np.testing.assert_allclose(sum(parts), total["av"], atol=1e-5)
    steps = {0.15: 0.1, 0.5: 0.7, 1.8: 1.7}
    for where, av in steps.items():
        assert np.interp(where, total["dist"], total["av"]) == pytest.approx(av, abs=0.06)
    np.testing.assert_allclose(parts[0], parts[0][0])
    smooth = fit.getmodel("profile", usebest=False)["av"]
    assert np.all(np.diff(smooth) >= -1e-6)
    table = fit.getmodel("clouds", component=["cloud_2", "cloud_1"])
    assert list(table["component"]) == ["cloud_2", "cloud_1"]
    np.testing.assert_allclose(table["dist"], [0.9, 0.3], atol=0.1)
    np.testing.assert_allclose(table["av"], [1.0, 0.6], atol=0.06)


def test_profiles_in_files(fit, tmp_path):
    fits, table = pytest.importorskip("astropy.io.fits"), pytest.importorskip("astropy.table")
    fit.savemodel(tmp_path / "cloud.ecsv", what="profile", component="cloud_1")
    read = table.Table.read(tmp_path / "cloud.ecsv")
    assert read["dist"].unit == "kpc" and read["av"].unit == "mag"
    assert read.meta["COMPONEN"] == "cloud_1" and read.meta["METHOD"] == "nested"
    fit.savemodel(tmp_path / "all.fits")
    with fits.open(tmp_path / "all.fits") as file:
        assert file["CLOUDS"].columns["av"].unit == "mag" and len(file["PROFILE"].data) == 241
    with pytest.raises(ValueError, match="no component 'cloud_3'; do you mean 'cloud_"):
        fit.getmodel(component="cloud_3")
    with pytest.raises(ValueError, match="no component 5: there are 3, foreground, cloud_1"):
        fit.getmodel(component=5)
    with pytest.raises(ValueError, match="no 'profil'"):
        fit.savemodel(tmp_path / "x.fits", what="profil")
    with pytest.raises(ValueError, match="dist_range"):
        profile_outputs(1, (1.0, 0.5))
