"""Posterior files: durable, resumable, and clear about what is wrong with them."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from brutax import plotting
from brutax.analysis import BruteForce
from brutax.catalog import FitResult, PosteriorStore, StoreError, make_catalog
from brutax.catalog import store as store_module
from brutax.catalog.schema import PER_DRAW
from brutax.fitting import FitOptions, ModelPrior, Output, Priors
from brutax.priors import GalacticStructure


@pytest.fixture(scope="module")
def fitted(small_grid, small_stars, tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "all.h5"
    BruteForce(small_grid).fit_catalog(small_stars, output=Output(path=path, verbose=False))
    return path


def fit(grid, stars, path, options=None, priors=None, **output):
    return BruteForce(grid).fit_catalog(
        stars, options, priors, Output(path=path, verbose=False, **output)
    )


def datasets(path):
    with h5py.File(path) as file:
        out = {}
        file.visititems(
            lambda name, item: out.update({name: item[()]}) if hasattr(item, "dtype") else None
        )
        return out


class Stop(Exception):
    pass


def stopping_after(n):
    def progress(counts, total, done):
        for k, count in enumerate(counts):
            if k == n:
                raise Stop
            yield count

    return progress


def test_layout_is_that_of_brutus(fitted, small_stars):
    n, d = len(small_stars), 250
    expected = {
        "model_idx": ((n, d), "int32"),
        "ml_scale": ((n, d), "float32"),
        "ml_av": ((n, d), "float32"),
        "ml_rv": ((n, d), "float32"),
        "ml_cov_sar": ((n, d, 3, 3), "float32"),
        "obj_log_post": ((n, d), "float32"),
        "obj_log_evid": ((n,), "float32"),
        "obj_chi2min": ((n,), "float32"),
        "obj_Nbands": ((n,), "int16"),
        "mc_ess": ((n, d), "float32"),
        "samps_dist": ((n, d), "float32"),
        "samps_red": ((n, d), "float32"),
        "samps_dred": ((n, d), "float32"),
        "samps_logp": ((n, d), "float32"),
    }
    with h5py.File(fitted) as file:
        for name, (shape, dtype) in expected.items():
            assert file[name].shape == shape and file[name].dtype == dtype, name
        assert (file["labels"][:] == small_stars.source_id).all()


def test_numbers_of_the_modes_are_consistent(fitted):
    result = FitResult.load(fitted)
    ok = result.fitted & (result["obj_Nbands"] >= 5)
    cov = result["ml_cov_sar"][ok].astype(float)
    np.testing.assert_allclose(cov, np.swapaxes(cov, -1, -2), rtol=1e-4, atol=1e-12)
    scaled = cov / np.sqrt(
        np.einsum("...i,...j->...ij", *[np.diagonal(cov, axis1=-2, axis2=-1)] * 2)
    )
    assert np.linalg.eigvalsh(scaled).min() > -1e-4
    # the draws scatter around the modes by about their widths
    scale = result["samps_dist"][ok] ** -2.0
    pull = (scale - result["ml_scale"][ok]) / np.sqrt(cov[..., 0, 0])
    assert 0.5 < np.std(pull) < 2.0
    assert (result["mc_ess"][ok] >= 1 - 1e-4).all()
    np.testing.assert_allclose(result["samps_weight"][ok].sum(axis=1), 1, rtol=1e-5)


def test_an_interrupted_run_continues_to_the_same_file(fitted, small_grid, small_stars, tmp_path):
    path = tmp_path / "broken.h5"
    for n in (0, 0):
        with pytest.raises(Stop):
            fit(small_grid, small_stars, path, FitOptions(batch_size=8), progress=stopping_after(n))
    partial = FitResult.load(path)
    assert 0 < len(partial) < len(small_stars)
    assert partial.attrs["unfinished"] == len(small_stars) - len(partial)
    fit(small_grid, small_stars, path, FitOptions(batch_size=8))
    ours, whole = datasets(path), datasets(fitted)
    assert ours.keys() == whole.keys()
    for name in whole:
        np.testing.assert_array_equal(ours[name], whole[name], err_msg=name)


def test_a_finished_file_is_left_alone(fitted, small_grid, small_stars):
    before = fitted.read_bytes()
    assert fit(small_grid, small_stars, fitted) == str(fitted)
    assert fitted.read_bytes() == before


@pytest.mark.parametrize(
    "change, named",
    [
        ({"options": FitOptions(seed=3)}, "seed was 0, now 3"),
        ({"options": FitOptions(draws=100)}, "n_draws was 250, now 100"),
        ({"priors": Priors(av=(0.0, 6.0))}, "priors"),
        ({"priors": Priors(stars=GalacticStructure(R_solar=8.0))}, "priors"),
        ({"priors": Priors(models=ModelPrior(cell_size=False))}, "model prior"),
        ({"save_draws": False}, "save_draws"),
    ],
)
def test_another_fit_is_refused_by_name(fitted, small_grid, small_stars, change, named):
    with pytest.raises(StoreError, match="another fit") as error:
        fit(small_grid, small_stars, fitted, **change)
    assert named in str(error.value) and "overwrite" in str(error.value)


def test_other_stars_or_another_grid_are_refused(fitted, small_grid, small_stars):
    with pytest.raises(StoreError, match="stars was"):
        fit(small_grid, small_stars.select(np.arange(20)), fitted)
    with pytest.raises(StoreError, match="grid was"):
        fit(small_grid.select(rows=np.arange(1000)), small_stars, fitted)


@pytest.mark.slow
def test_other_functions_as_priors_are_refused(small_grid, small_stars, tmp_path):
    def decline(rate):
        return lambda dists, coord, labels=None: -rate * dists

    some = small_stars.select(np.arange(2))
    path = tmp_path / "p.h5"
    fit(small_grid, some, path, priors=Priors(stars=decline(1.0)))
    fit(small_grid, some, path, priors=Priors(stars=decline(1.0)))
    with pytest.raises(StoreError, match="prior values"):
        fit(small_grid, some, path, priors=Priors(stars=decline(50.0)))


def test_only_posterior_files_are_replaced(small_grid, small_stars, tmp_path):
    path = tmp_path / "grid.h5"
    small_grid.write(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not a posterior file"):
        fit(small_grid, small_stars.select(np.arange(2)), path, overwrite=True)
    assert path.read_bytes() == before


def test_labels_are_checked_before_the_work(small_grid, small_stars):
    some = small_stars.select(np.arange(2))
    bad = np.array([{}, {}], object)
    with pytest.raises(StoreError, match="labels"):
        fit(small_grid, some, None, labels=bad, progress=stopping_after(0))
    good = fit(small_grid, some, None, labels=np.array(["a", "ü"], object))
    assert good["labels"].tolist() == [b"a", "ü".encode()]


def test_a_result_keeps_its_own_draws(small_grid, small_stars, tmp_path):
    some, path = small_stars.select(np.arange(2)), tmp_path / "a.h5"
    fit(small_grid, some, path, FitOptions(seed=1))
    first = FitResult.load(path)
    fit(small_grid, some, path, FitOptions(seed=2), overwrite=True)
    again = FitResult.load(first.save(tmp_path / "b.h5"))
    np.testing.assert_array_equal(again["samps_dist"], first["samps_dist"])
    with pytest.raises(StoreError, match="exists"):
        first.save(path)


def test_a_loaded_result_takes_no_memory_until_it_is_used(fitted):
    arrays = FitResult.load(fitted)._arrays
    for name in ("samps_dist", "ml_cov_sar", "summary_mean", "models/mini"):
        assert isinstance(arrays[name].base, np.memmap) and not arrays[name].flags.writeable, name


def test_damage_is_named(fitted, tmp_path, small_grid, small_stars):
    path = tmp_path / "d.h5"
    path.write_bytes(fitted.read_bytes())
    with h5py.File(path, "r+") as file:
        file.attrs["fingerprint"] = "{"
        del file["status"]
    with pytest.raises(StoreError, match="damaged"):
        FitResult.load(path)
    with pytest.raises(StoreError, match="damaged"):
        fit(small_grid, small_stars, path)


def test_overwrite_replaces(small_grid, small_stars, tmp_path):
    path = tmp_path / "a.h5"
    some = small_stars.select(np.arange(3))
    fit(small_grid, some, path)
    fit(small_grid, some, path, FitOptions(seed=9), overwrite=True)
    assert '"seed": 9' in h5py.File(path).attrs["fingerprint"]


def test_without_draws_only_summaries_are_kept(small_grid, small_stars, tmp_path):
    path = fit(small_grid, small_stars.select(np.arange(3)), tmp_path / "b.h5", save_draws=False)
    result = FitResult.load(path)
    assert "samps_dist" not in result.keys() and np.isfinite(result["summary_mean"]).all()
    with pytest.raises(StoreError, match="without draws"):
        result.draws(0)


def test_summaries_only(fitted, small_grid, small_stars, tmp_path):
    """Without draws the summaries are those of any other number of draws, bit for bit."""
    none = FitOptions(draws=0)
    path = fit(small_grid, small_stars, tmp_path / "none.h5", none)
    memory = fit(small_grid, small_stars, None, none)
    whole, kept = datasets(fitted), datasets(path)
    assert kept.keys() == {k for k in whole if k not in PER_DRAW and not k.startswith("models/")}
    for name in kept:
        np.testing.assert_array_equal(kept[name], whole[name], err_msg=name)
    assert kept.keys() - {"done"} == set(memory.keys())
    assert Path(path).stat().st_size < 0.1 * fitted.stat().st_size
    result = FitResult.load(path)
    everything = FitResult.load(fitted).table()
    assert (result.table()["dist_median"] == everything["dist_median"]).all()
    assert "dist_samples" not in result and "samps_dist" not in result and "status" in result
    again = FitResult.load(result.save(tmp_path / "again.h5"))
    assert set(again.keys()) == set(result.keys())


@pytest.mark.parametrize(
    "asked",
    [
        lambda result: result.draws(0),
        lambda result: result["dist_samples"],
        lambda result: result["mini_samples"],
        lambda result: result["samps_red"],
        lambda result: result.to_arviz(0),
        lambda result: plotting.corner(result),
        lambda result: plotting.distance_extinction(result),
        lambda result: plotting.truth_ranks(result, {"true_dist": np.ones(3)}, "dist"),
    ],
)
def test_draws_that_were_not_kept_are_asked_for(small_grid, small_stars, asked):
    result = fit(small_grid, small_stars.select(np.arange(3)), None, FitOptions(draws=0))
    with pytest.raises(StoreError, match=r"without draws \(n_draws=0\)"):
        asked(result)


def test_half_precision_is_the_nearest(fitted, small_grid, small_stars, tmp_path):
    path = fit(small_grid, small_stars, tmp_path / "half.h5", draw_dtype="float16")
    whole, half = datasets(fitted), datasets(path)
    assert half.keys() == whole.keys()
    for name in whole:
        rounded = name in ("samps_dist", "samps_red", "samps_dred")
        expected = whole[name].astype(np.float16) if rounded else whole[name]
        assert half[name].dtype == expected.dtype, name
        np.testing.assert_array_equal(half[name], expected, err_msg=name)
    result = FitResult.load(path)
    draws = result.draws(0)
    assert draws["dist"].dtype == np.float32
    np.testing.assert_allclose(draws["dist"], whole["samps_dist"][0], rtol=2.0**-11)
    again = datasets(result.save(tmp_path / "again.h5"))
    assert again["samps_dist"].tobytes() == half["samps_dist"].tobytes()
    memory = fit(small_grid, small_stars, None, draw_dtype="float16")
    np.testing.assert_array_equal(memory["samps_dist"], result["samps_dist"])


def test_what_is_kept_is_part_of_the_fit(fitted, small_grid, small_stars, tmp_path):
    with pytest.raises(StoreError, match='draw_dtype was "float32", now "float16"'):
        fit(small_grid, small_stars, fitted, draw_dtype="float16")
    some = small_stars.select(np.arange(2))
    path = fit(small_grid, some, tmp_path / "half.h5", draw_dtype="float16")
    fit(small_grid, some, path, draw_dtype="float16")
    with pytest.raises(StoreError, match='draw_dtype was "float16", now "float32"'):
        fit(small_grid, some, path)
    with pytest.raises(ValueError, match="float32 or float16"):
        Output(draw_dtype="float8")


def test_files_of_before_are_continued(fitted, small_grid, small_stars):
    """A fingerprint says nothing of the type of draws where that is single precision."""
    assert "draw_dtype" not in FitResult.load(fitted).attrs["fingerprint"]
    assert fit(small_grid, small_stars, fitted, draw_dtype="float32") == str(fitted)


@pytest.mark.slow
def test_draws_that_half_precision_spoils_are_counted(small_grid, small_stars, caplog):
    some = small_stars.select(np.arange(3))
    sharp = make_catalog(
        some.flux,
        1e-3 * some.flux,
        some.bands,
        parallax=some.parallax,
        parallax_err=np.full(3, 2e-3),
        coords=some.coords,
        source_id=some.source_id,
    )
    with caplog.at_level("WARNING", "brutax"):
        fit(small_grid, some, None, draw_dtype="float16")
        assert not caplog.messages
        fit(small_grid, sharp, None, draw_dtype="float16")
    assert "draws of 3 stars" in caplog.text


def test_bad_targets_are_named(small_grid, small_stars, tmp_path):
    some = small_stars.select(np.arange(2))
    with pytest.raises(StoreError, match="folder .* does not exist"):
        fit(small_grid, some, tmp_path / "no" / "x.h5")
    (tmp_path / "dir.h5").mkdir()
    with pytest.raises(StoreError, match="is a folder"):
        fit(small_grid, some, tmp_path / "dir.h5", overwrite=True)
    text = tmp_path / "text.h5"
    text.write_text("hello")
    with pytest.raises(StoreError, match="not an HDF5 file"):
        fit(small_grid, some, text)
    foreign = tmp_path / "foreign.h5"
    with h5py.File(foreign, "w") as file:
        file["x"] = [1]
    with pytest.raises(StoreError, match="not written by brutax"):
        fit(small_grid, some, foreign)
    with pytest.raises(StoreError, match="not a posterior file"):
        FitResult.load(foreign)
    with pytest.raises(StoreError, match="does not exist"):
        FitResult.load(tmp_path / "nothing.h5")


def test_a_truncated_file_is_named(fitted, tmp_path, small_grid, small_stars):
    path = tmp_path / "cut.h5"
    path.write_bytes(fitted.read_bytes()[:5000])
    for attempt in (FitResult.load, lambda p: fit(small_grid, small_stars, p)):
        with pytest.raises(StoreError, match="truncated"):
            attempt(path)


def test_a_full_disk_is_found_before_the_work(monkeypatch, small_grid, small_stars, tmp_path):
    class Full:
        f_bavail, f_frsize = 10, 4096

    monkeypatch.setattr(store_module.os, "statvfs", lambda path: Full())
    with pytest.raises(StoreError, match="MB free"):
        fit(small_grid, small_stars, tmp_path / "x.h5")


def test_a_disk_that_fills_up_loses_nothing(fitted, small_stars, tmp_path, monkeypatch):
    copy = tmp_path / "full.h5"
    copy.write_bytes(fitted.read_bytes())
    with h5py.File(copy, "r+") as file:
        file["done"][5:] = 0
        fingerprint = __import__("json").loads(file.attrs["fingerprint"])
    store = PosteriorStore.resume(copy, fingerprint)
    assert store.todo().tolist() == list(range(5, len(small_stars)))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store_module, "_sync", full)
    with store, pytest.raises(StoreError, match="no space left.*are safe"):
        store.append(np.array([5]), {"samps_dist": np.ones((1, 250))})
    assert len(FitResult.load(copy)) == 5


def test_provenance_is_complete(fitted, small_grid):
    attrs = FitResult.load(fitted).attrs
    text = attrs["fingerprint"]
    for word in ("grid", "bands", "priors", "seed", "n_draws", "precision"):
        assert f'"{word}"' in text
    assert small_grid.hash in text and "GalacticStructure" in text
    assert "jax" in attrs["versions"] and attrs["brutax_version"]
