"""The two call forms that are documented for brutus, and the results they return."""

import logging

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from brutax import BruteForce, FitResult, StarGrid, inv_magnitude
from brutax.catalog import CatalogError
from brutax.priors import logp_extinction


@pytest.fixture(scope="module")
def fitter(small_grid):
    return BruteForce(small_grid, verbose=False)


@pytest.fixture(scope="module")
def one_star(small_grid):
    k = 900
    red = small_grid.red[k] + 3.3 * small_grid.dred[k]
    return small_grid.mag[k] + 0.5 * red + 5 * np.log10(0.4), np.full(5, 0.02)


@pytest.fixture(scope="module")
def answer(fitter, one_star):
    return fitter.fit(*one_star, parallax=2.5, parallax_err=0.1, n_samples=400)


def test_one_star_in_magnitudes(answer):
    assert answer["dist_samples"].shape == (400,) == answer["av_samples"].shape
    assert abs(np.median(answer["dist_samples"]) - 0.4) < 0.05
    assert answer["rv_samples"].shape == answer["mini_samples"].shape == (400,)
    assert "1 star" in repr(answer) and "dist=" in repr(answer)
    draws = answer.draws()
    assert {"dist", "av", "rv", "mini", "loga", "feh"} <= draws.keys()
    np.testing.assert_array_equal(draws["dist"], answer["dist_samples"])
    with pytest.raises(KeyError, match="dist_samples"):
        answer["distance"]


def test_one_star_in_both_units_and_with_the_mask(fitter, one_star, answer):
    flux, err = inv_magnitude(*one_star)
    masked = flux.copy()
    masked[1] = 1e3 * flux[1]
    kw = {"parallax": 2.5, "parallax_err": 0.1, "n_samples": 400}
    fluxes = fitter.fit(flux, err, units="maggies", **kw)
    np.testing.assert_allclose(fluxes["dist_samples"], answer["dist_samples"], rtol=1e-4)
    nan = flux.copy()
    nan[1] = np.nan
    for mask in (np.array([1, 0, 1, 1, 1]), np.array([True, False, True, True, True])):
        a = fitter.fit(masked, err, mask, units="maggies", **kw)
        b = fitter.fit(nan, err, units="maggies", **kw)
        np.testing.assert_array_equal(a["dist_samples"], b["dist_samples"])


def test_units_are_inferred_only_where_they_must_be(fitter, one_star, caplog):
    with caplog.at_level(logging.INFO, "brutax"):
        fitter.fit(*one_star, n_samples=10)
    assert "read as magnitudes" in caplog.text
    mixed = one_star[0].copy()
    mixed[0] = 0.3
    with pytest.raises(CatalogError, match="units='mag'"):
        fitter.fit(mixed, one_star[1])
    with pytest.raises(CatalogError, match="'maggies' or 'mag'"):
        fitter.fit(*one_star, units="Jy")


def test_a_catalogue_in_maggies(fitter, one_star, tmp_path):
    mag = np.stack([one_star[0], one_star[0] + 1])
    flux, err = inv_magnitude(mag, np.full((2, 5), 0.02))
    path = fitter.fit(
        data=flux,
        data_err=err,
        data_mask=np.ones((2, 5), bool),
        data_labels=np.array([[11], [12]]),
        save_file=str(tmp_path / "results"),
        parallax=np.array([2.5, np.nan]),
        parallax_err=np.array([0.1, np.nan]),
        data_coords=np.array([[90.0, 20.0], [90.0, 20.0]]),
        Ndraws=100,
    )
    assert isinstance(path, str) and path.endswith("results.h5")
    with h5py.File(path) as file:
        assert file["samps_dist"].shape == (2, 100)
        assert abs(np.median(file["samps_dist"][0]) - 0.4) < 0.05
        assert file["labels"][:].tolist() == [[11], [12]]
        assert file["obj_Nbands"][:].tolist() == [6, 5]
    result = FitResult.load(path)
    assert result["source_id"].tolist() == [11, 12]


def test_results_survive_saving(answer, tmp_path):
    path = answer.save(tmp_path / "one.h5")
    again = FitResult.load(path)
    assert again.single
    for name in ("dist_samples", "loga_samples", "obj_log_evid", "summary_quantiles"):
        np.testing.assert_array_equal(again[name], answer[name])
    assert again.parameters == answer.parameters


def test_table_has_quantiles_units_and_flags(answer):
    table = answer.table()
    assert len(table) == 1 and table["dist_median"].unit == "kpc"
    draws = answer["dist_samples"]
    for percent, level in (("p16", 0.16), ("median", 0.5), ("p84", 0.84)):
        assert abs(table[f"dist_{percent}"][0] - np.quantile(draws, level)) < 0.3 * draws.std()
    assert (table["dist_p16"] < table["dist_median"]).all()
    assert "NO_COORDINATES" in table["flags"][0]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_arviz(answer):
    pytest.importorskip("arviz")
    data = answer.to_arviz()
    assert data.posterior["dist"].shape == (1, 400)


def test_labels_that_do_not_identify_are_only_stored(fitter, one_star, tmp_path):
    flux, err = inv_magnitude(np.stack([one_star[0]] * 2), np.full((2, 5), 0.02))
    path = fitter.fit(flux, err, data_labels=np.array(["a", "a"]), save_file=tmp_path / "x.h5")
    with h5py.File(path) as file:
        assert file["labels"][:].tolist() == [b"a", b"a"]
        assert file["source_id"][:].tolist() == [0, 1]
        assert (file["samps_dist"][0] != file["samps_dist"][1]).any()


def test_random_state_gives_the_seed(fitter, one_star):
    a = fitter.fit(*one_star, rstate=np.random.RandomState(4), n_samples=20)
    b = fitter.fit(*one_star, rstate=np.random.RandomState(4), n_samples=20)
    c = fitter.fit(*one_star, rstate=np.random.default_rng(5), n_samples=20)
    np.testing.assert_array_equal(a["dist_samples"], b["dist_samples"])
    assert (a["dist_samples"] != c["dist_samples"]).any()
    with pytest.raises(TypeError, match="rstate"):
        fitter.fit(*one_star, rstate="7")


def test_knobs_that_do_nothing_say_so(fitter, one_star, caplog):
    with caplog.at_level(logging.WARNING, "brutax"):
        fitter.fit(*one_star, n_samples=10, Nmc_prior=100, wt_thresh=1e-4, ltol=1e-3)
    for name in ("Nmc_prior", "wt_thresh", "ltol"):
        assert f"{name}=" in caplog.text
    with pytest.raises(ValueError, match="precision_shrinkage"):
        fitter.fit(*one_star, precision_shrinkage=0.03)
    with pytest.raises(ValueError, match="subsample_mode"):
        fitter.fit(*one_star, subsample_mode="best")
    caplog.clear()
    with caplog.at_level("WARNING", "brutax"):
        fitter.fit(*one_star, no_such_option=1, another=2)
    assert caplog.text.count("another, no_such_option") == 1  # both in one warning


def test_constant_of_brutus_is_an_option(fitter, one_star):
    plain = fitter.fit(*one_star, n_samples=10)
    added = fitter.fit(*one_star, n_samples=10, logl_dim_prior=True)
    np.testing.assert_allclose(
        added["obj_log_evid"] - plain["obj_log_evid"], np.log(5.0), atol=2e-5
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"avlim": (2.0, 1.0)},
        {"avlim": (1.0, 1.0)},
        {"avlim": (-1.0, 5.0)},
        {"avlim": (0.0, np.inf)},
        {"rvlim": (8.0, 1.0)},
        {"rv_gauss": (3.3, 0.0)},
        {"av_gauss": (np.nan, 1.0)},
        {"n_samples": 0},
        {"parallax": 2.0},
        {"lnprior": np.zeros(3)},
        {"lnprior": np.full(10**4, np.nan)},
        {"dustfile": "map.h5"},
        {"lndustprior": lambda *a, **k: 0.0},
        {"dustfile": object()},
        {"error_floor": -1.0},
        {"phot_offsets": [1.0, 1.0]},
        {"data_coords": (10.0, 95.0)},
        {"method": "best"},
    ],
    ids=lambda w: "-".join(w),
)
def test_bad_options_fail_at_the_door(fitter, one_star, wrong):
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        fitter.fit(*one_star, **wrong)
    assert len(str(error.value).splitlines()) == 1


def test_bad_shapes_fail_at_the_door(fitter, one_star):
    with pytest.raises(CatalogError, match="5 bands"):
        fitter.fit(one_star[0][:4], one_star[1][:4])
    with pytest.raises(CatalogError):
        fitter.fit(one_star[0], one_star[1][:4])
    with pytest.raises(CatalogError):
        fitter.fit(*one_star, np.ones(4, bool))
    with pytest.raises(TypeError, match="StarGrid"):
        BruteForce("grid.h5")


def test_offsets_multiply_fluxes(fitter, one_star):
    offsets = np.array([1.1, 1.0, 0.9, 1.0, 1.0])
    flux, err = inv_magnitude(*one_star)
    a = fitter.fit(flux, err, units="maggies", phot_offsets=offsets, n_samples=50)
    b = fitter.fit(flux * offsets, err * offsets, units="maggies", n_samples=50)
    np.testing.assert_allclose(a["dist_samples"], b["dist_samples"], rtol=1e-5)


def host_prior(dists, coord, labels=None):
    assert isinstance(dists, np.ndarray) and coord[0] == 90.0
    density = scipy.stats.norm.logpdf(labels["feh"], -0.2, 0.3)
    return 2 * np.log(dists) - dists / 1.35 + density


def traced_prior(dists, coord, labels=None):
    feh = -0.5 * ((labels["feh"] + 0.2) / 0.3) ** 2 - np.log(0.3) - 0.5 * np.log(2 * np.pi)
    return 2 * jnp.log(dists) - dists / 1.35 + feh


@pytest.mark.slow
def test_galactic_priors_of_users(fitter, one_star):
    kw = {"data_coords": (90.0, 20.0), "n_samples": 200}
    a = fitter.fit(*one_star, lngalprior=host_prior, **kw)
    b = fitter.fit(*one_star, lngalprior=traced_prior, **kw)
    assert abs(a["obj_log_evid"] - b["obj_log_evid"]) < 0.05
    width = b["summary_std"]
    assert (np.abs(a["summary_mean"] - b["summary_mean"]) < 0.25 * width + 1e-4).all()
    default = fitter.fit(*one_star, **kw)
    assert abs(default["obj_log_evid"] - b["obj_log_evid"]) > 0.05


class SharpMap:
    """A_V = 0.5 d, known to 0.02 mag or less well; silent beyond 2 kpc."""

    def __init__(self, scatter=0.02):
        self.scatter = scatter

    def query(self, coord):
        dist = np.linspace(0.05, 4.0, 60)
        mean = np.where(dist < 2, 0.5 * dist, np.nan)
        return dist, mean, np.full(60, self.scatter)


@pytest.mark.slow
def test_dust_maps(fitter, one_star):
    kw = {"data_coords": (90.0, 20.0), "n_samples": 300, "dustfile": SharpMap()}
    mapped = fitter.fit(*one_star, **kw)
    near = mapped["dist_samples"] < 1.9
    pull = (mapped["av_samples"] - 0.5 * mapped["dist_samples"])[near] / 0.02
    assert np.abs(pull).max() < 6 and near.mean() > 0.5
    assert mapped["obj_ess"] > 0.9 * mapped["obj_nsamp"]  # a sharp map costs no effective draws

    def own(avs, dustmap, coord, distance=None):
        value = logp_extinction(np.asarray(avs), dustmap, coord, distance=np.asarray(distance))
        return np.where(np.asarray(distance) > 2, -np.log(20.0), value)

    # a function of the user's says nothing of where it peaks: a map less sharp spares more rounds
    loose = kw | {"dustfile": SharpMap(0.3)}
    mapped, same = (fitter.fit(*one_star, **more, **loose) for more in ({}, {"lndustprior": own}))
    assert abs(same["obj_log_evid"] - mapped["obj_log_evid"]) < 0.2
    with pytest.raises(ValueError, match="av_gauss"):
        fitter.fit(*one_star, av_gauss=(0.1, 0.1), **kw)
    with pytest.raises(ValueError, match="data_coords"):
        fitter.fit(*one_star, dustfile=SharpMap())


def test_priors_that_fail_are_named_at_the_door(fitter, one_star):
    def broken(dists, coord, labels=None):
        return labels["no such label"]

    def misshapen(dists, coord, labels=None):
        return np.zeros(7)

    for function, word in ((broken, "no such label"), (misshapen, "shape")):
        with pytest.raises(ValueError, match=word):
            fitter.fit(*one_star, lngalprior=function, data_coords=(90.0, 20.0))


@pytest.mark.slow
def test_labels_can_be_hidden_from_the_galaxy(fitter, one_star):
    kw = {"data_coords": (90.0, 20.0), "n_samples": 50}
    shown, hidden = fitter.fit(*one_star, **kw), fitter.fit(*one_star, apply_dlabels=False, **kw)
    assert abs(shown["obj_log_evid"] - hidden["obj_log_evid"]) > 0.1


def test_every_construction_gives_the_same_posterior(small_grid, one_star, answer):
    table = small_grid.labels
    inputs, outputs = list(small_grid.axes), list(small_grid.param_names)
    mask = np.zeros(1, [(name, bool) for name in table.dtype.names])
    for name in inputs:
        mask[name] = True
    forms = [
        StarGrid(small_grid.models, table, filters=small_grid.bands),
        StarGrid(small_grid.models, table, mask, filters=small_grid.bands),
        StarGrid(small_grid.models, table[inputs], table[outputs], filters=small_grid.bands),
    ]
    for grid in forms:
        other = BruteForce(grid).fit(*one_star, parallax=2.5, parallax_err=0.1, n_samples=400)
        np.testing.assert_array_equal(other["model_idx"], answer["model_idx"])
