"""A catalogue through the solver: the same answers however it is cut, and nothing lost."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from brutax.analysis import BruteForce
from brutax.catalog import make_catalog
from brutax.fitting import FitOptions, ModelPrior, Output, Priors, devices, rounds
from brutax.fitting.prepare import device_models, model_log_prior
from brutax.fitting.rounds import hash_ids, star_keys
from brutax.models import StarGrid, Status
from brutax.solver import Settings

QUIET = Output(verbose=False)


@pytest.fixture(scope="module")
def result(small_grid, small_stars):
    return BruteForce(small_grid).fit_catalog(small_stars, output=QUIET)


def same(a, b, rows=slice(None)):
    for name in a.keys():
        if not name.startswith("models/"):
            np.testing.assert_array_equal(a[name][rows], b[name], err_msg=name)


def test_every_star_is_accounted_for(result, small_stars):
    assert len(result) == len(small_stars)
    status = result["status"]
    assert status[3] & Status.NO_PHOTOMETRY and not result.fitted[3]
    assert status[5] & Status.FEW_BANDS and result.fitted[5]
    assert status[8] & Status.NO_COORDINATES and result.fitted[8]
    assert result.fitted.sum() == len(small_stars) - 1
    for name in result.keys():
        assert np.isfinite(result[name]).all() or name == "source_id", name


def test_unfitted_rows_hold_fill_values(result):
    assert (result["model_idx"][3] == -99).all()
    assert (result["samps_dist"][3] == 1).all()
    assert result["obj_log_evid"][3] == 0


def test_truth_is_recovered(result, small_stars):
    good = result.fitted & (result["obj_Nbands"] >= 5) & np.isfinite(small_stars.parallax)
    true = 1 / small_stars.parallax[good]
    error = small_stars.parallax_err[good] * true**2
    pull = (result["summary_mean"][good, 0] - true) / np.hypot(
        error, result["summary_std"][good, 0]
    )
    assert np.abs(pull).max() < 4.5


def test_batch_size_changes_nothing(result, small_grid, small_stars):
    other = BruteForce(small_grid).fit_catalog(small_stars, FitOptions(batch_size=8), output=QUIET)
    same(result, other)


def test_star_order_changes_nothing(result, small_grid, small_stars):
    order = np.random.default_rng(0).permutation(len(small_stars))[:9]
    other = BruteForce(small_grid).fit_catalog(small_stars.select(order), output=QUIET)
    same(result, other, order)


def test_model_order_changes_nothing(result, small_grid, small_stars):
    order = np.random.default_rng(1).permutation(len(small_grid))
    other = BruteForce(small_grid.select(rows=order)).fit_catalog(small_stars, output=QUIET)
    np.testing.assert_array_equal(result["samps_dist"], other["samps_dist"])
    seen = result["model_idx"] >= 0
    np.testing.assert_array_equal(result["model_idx"][seen], order[other["model_idx"][seen]])


def test_seed_and_source_id_decide_the_draws(result, small_grid, small_stars):
    some = small_stars.select(np.arange(5))
    other = BruteForce(small_grid).fit_catalog(some, FitOptions(seed=1), output=QUIET)
    assert (other["samps_dist"][0] != result["samps_dist"][0]).any()
    np.testing.assert_allclose(other["obj_log_evid"][:3], result["obj_log_evid"][:3], atol=0.05)
    a, b = star_keys(0, np.array([1, 2])), star_keys(0, np.array([2, 1]))
    assert (a[0] == b[1]).all() and (a[0] != a[1]).any()
    text = hash_ids(np.array(["a", "b"]))
    assert text[0] != text[1] and (text == hash_ids(np.array([b"a", b"b"]))).all()
    assert hash_ids(np.array([2**63 + 5], np.uint64))[0] == 2**63 + 5


def test_four_times_brighter_is_half_as_far(result, small_grid, small_stars):
    some = small_stars.select(np.arange(3))
    near = make_catalog(
        4 * some.flux,
        4 * some.flux_err,
        some.bands,
        parallax=2 * some.parallax,
        parallax_err=2 * some.parallax_err,
        source_id=some.source_id,
    )
    far = make_catalog(
        some.flux,
        some.flux_err,
        some.bands,
        parallax=some.parallax,
        parallax_err=some.parallax_err,
        source_id=some.source_id,
    )
    from brutax.priors import AbstractPrior, Point

    class Scaleless(AbstractPrior):
        def log_prob(self, point: Point):
            import jax.numpy as jnp

            return -jnp.log(point.dist)

    fit = BruteForce(small_grid).fit_catalog
    priors = Priors(stars=Scaleless())
    some_coords = np.array([[10.0, 10.0]] * 3)
    near, far = (
        make_catalog(
            c.flux,
            c.flux_err,
            c.bands,
            parallax=c.parallax,
            parallax_err=c.parallax_err,
            coords=some_coords,
            source_id=c.source_id,
        )
        for c in (near, far)
    )
    near, far = fit(near, priors=priors, output=QUIET), fit(far, priors=priors, output=QUIET)
    # rounding may move a draw across the edge of a model, so nearly all have to agree
    ratio = 2 * near["samps_dist"] / far["samps_dist"]
    assert (np.abs(ratio - 1) < 1e-3).mean() > 0.98
    np.testing.assert_allclose(2 * near["summary_mean"][:, 0], far["summary_mean"][:, 0], rtol=5e-3)


@pytest.mark.slow
def test_reference_and_fast_paths_agree(result, small_grid, small_stars):
    some = small_stars.select(np.arange(12))
    options = FitOptions(method="reference", weighted_draws=4096)
    oracle = BruteForce(small_grid).fit_catalog(some, options, output=QUIET)
    ok = oracle.fitted & (oracle["obj_Nbands"] >= 5)
    first = {k: v[:12] for k, v in result.items() if not k.startswith("models/")}
    sigma = oracle["summary_std"][ok]
    for rows in ("summary_mean",):
        shift = np.abs(first[rows][ok] - oracle[rows][ok]) / np.where(sigma > 0, sigma, 1)
        # two estimates from 1024 and 4096 draws
        assert np.median(shift) < 0.05 and shift.max() < 0.2
    error = np.hypot(first["obj_log_evid_err"], oracle["obj_log_evid_err"])[ok]
    assert (np.abs(first["obj_log_evid"] - oracle["obj_log_evid"])[ok] < 5 * error + 1e-3).all()
    assert (oracle["obj_captured"][ok] > 0.999).all()


def test_weighted_draws_are_worth_what_they_should(result):
    ok = result.fitted & (result["obj_Nbands"] >= 5)
    assert np.median(result["obj_ess"][ok] / result["obj_nsamp"][ok]) > 0.9
    assert not (result["status"][ok] & Status.LOW_ESS).any()


def test_a_star_with_one_band_is_finite_and_flagged(result):
    assert result["status"][5] & Status.FEW_BANDS
    assert result["samps_red"][5].max() > 3.0  # one band says nothing of the dust


@pytest.mark.slow
def test_a_grid_of_one_model(small_grid, small_stars):
    one = small_grid.select(rows=np.array([700]))
    some = small_stars.select(np.arange(2))
    out = BruteForce(one).fit_catalog(some, FitOptions(effort="low"), output=QUIET)
    assert (out["model_idx"] == 0).all() and np.isfinite(out["obj_log_evid"]).all()


def test_grid_without_a_possible_model(small_grid, small_stars):
    with pytest.raises(ValueError, match="no model"):
        BruteForce(small_grid).fit_catalog(
            small_stars,
            priors=Priors(models=ModelPrior(log_mass=np.full(len(small_grid), -np.inf))),
            output=QUIET,
        )


def test_models_older_than_the_galaxy_are_flagged(small_grid, small_stars):
    labels = dict(small_grid.label_table)
    labels["loga"] = np.full(len(small_grid), 10.2)
    table = np.zeros(len(small_grid), [(k, "f8") for k in labels])
    for name in labels:
        table[name] = labels[name]
    mask = {name: name in small_grid.axes for name in labels}
    old = StarGrid(small_grid.models, table, mask, filters=small_grid.bands)
    out = BruteForce(old).fit_catalog(small_stars.select(np.arange(2)), output=QUIET)
    assert (out["status"] & Status.NO_MODELS).all() and np.isfinite(out["samps_dist"]).all()


@pytest.mark.slow
def test_one_band_is_right_or_flagged(small_grid):
    """A single band leaves distance and dust degenerate, far from any Gaussian."""
    flux = np.full((2, 5), np.nan)
    flux[0, 0], flux[1, 4] = 1e-7, 3e-7
    stars = make_catalog(flux, 0.02 * flux, small_grid.bands, coords=np.array([[100.0, 20.0]] * 2))
    fast = BruteForce(small_grid).fit_catalog(stars, output=QUIET)
    oracle = BruteForce(small_grid).fit_catalog(stars, FitOptions(method="reference"), output=QUIET)
    for k in range(2):
        error = np.hypot(fast["obj_log_evid_err"][k], oracle["obj_log_evid_err"][k])
        agree = abs(fast["obj_log_evid"][k] - oracle["obj_log_evid"][k]) < 5 * error + 0.05
        assert agree or fast["status"][k] & Status.LOW_ESS


def test_a_parallax_places_what_photometry_cannot(small_grid, small_stars):
    """Nothing but a parallax of S/N 100: every band is below the noise."""
    rng = np.random.default_rng(2)
    err = np.full((1, 5), 1e-6)
    stars = make_catalog(
        err * rng.normal(size=(1, 5)),
        err,
        small_grid.bands,
        parallax=np.array([10.0]),
        parallax_err=np.array([0.1]),
        coords=np.array([[100.0, 20.0]]),
    )
    out = BruteForce(small_grid).fit_catalog(stars, output=QUIET)
    assert abs(out["summary_mean"][0, 0] - 0.1) < 0.01 or out["status"][0] & Status.LOW_ESS


@pytest.mark.slow
def test_models_of_unknown_age_are_left_out(small_grid, small_stars):
    import equinox as eqx

    loga = small_grid.label_table["loga"].copy()
    loga[::3] = np.nan
    holes = eqx.tree_at(lambda g: g.label_table["loga"], small_grid, loga)
    out = BruteForce(holes).fit_catalog(small_stars.select(np.arange(3)), output=QUIET)
    assert (out["model_idx"] % 3 != 0).all() and np.isfinite(out["loga_samples"]).all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"draws": -1},
        {"weighted_draws": 3},
        {"batch_size": 0},
        {"method": "magic"},
        {"effort": "much"},
        {"seed": -1},
    ],
)
def test_options_are_checked(wrong):
    with pytest.raises(ValueError):
        FitOptions(**wrong)


def test_out_of_memory_shrinks_the_batch(result, small_grid, small_stars, monkeypatch, caplog):
    inner, sizes = rounds.fit_stars, []

    def scarce(stars, *args):
        sizes.append(stars.weight.shape[0])
        if sizes[-1] > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")
        return inner(stars, *args)

    monkeypatch.setattr(rounds, "fit_stars", scarce)
    some = np.arange(6)
    other = BruteForce(small_grid).fit_catalog(small_stars.select(some), output=QUIET)
    same(result, other, some)
    assert max(sizes) == devices.CPU_BATCH and "out of memory: going on with 8" in caplog.text

    def none(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating")

    monkeypatch.setattr(rounds, "fit_stars", none)
    with pytest.raises(MemoryError, match="single star"):
        BruteForce(small_grid).fit_catalog(small_stars.select(some), output=QUIET)


def test_batches_of_an_accelerator_follow_its_memory(small_grid):
    tiled, _ = device_models(small_grid, model_log_prior(small_grid))
    each = devices.bytes_per_star(tiled, Settings())
    assert each > 4 * tiled.models.log_prior.size  # scores at least
    assert each > devices.bytes_per_star(tiled, Settings(n_samples=64))

    def batch(free):
        memory = {"bytes_limit": 2 * free, "bytes_in_use": free}
        return devices.batch_within(memory, each, 1000)

    assert devices.batch_within({}, each, 1000) == devices.UNKNOWN_MEMORY
    assert devices.batch_within({}, each, 10) == 10
    assert batch(1) == 1 and batch(10**13) == 1000
    assert batch(400 * each) == 400 * devices.SHARE


@pytest.mark.slow
def test_pieces_of_an_accelerator_are_put_together_again(
    result, small_grid, small_stars, monkeypatch
):
    """Stars side by side, several batches and both kinds of scores in a piece of work."""
    inner, sizes = rounds.BatchFitter.__init__, []

    def side_by_side(self, job, worker):
        inner(self, job, worker)
        self.one_by_one, self.batch, self.later = False, 4, 2

    def counted(fitter, rows):
        sizes.append(rows.size)
        return all_rounds(fitter, rows)

    all_rounds = rounds.BatchFitter._all_rounds
    monkeypatch.setattr(rounds.BatchFitter, "__init__", side_by_side)
    monkeypatch.setattr(rounds.BatchFitter, "_all_rounds", counted)
    out = BruteForce(small_grid).fit_catalog(small_stars, output=QUIET)
    assert max(sizes) > 4  # several batches
    for name in ("summary_mean", "summary_std", "obj_log_evid", "summary_quantiles"):
        np.testing.assert_allclose(out[name], result[name], rtol=2e-2, atol=5e-3, err_msg=name)
    np.testing.assert_array_equal(out["status"], result["status"])


SEVERAL_DEVICES = """
import jax, numpy as np
import brutax
from brutax.fitting import FitOptions, Output, devices, fit_catalog, mock_catalog

grid = brutax.demo_grid(bands=("PS_g", "PS_r", "2MASS_J"), n_mass=16, n_eep=16, n_feh=3)
stars = brutax.read_stars(mock_catalog(grid, 20, seed=1, coords=(90.0, 30.0)), grid.bands)
fit = lambda: fit_catalog(stars, grid, FitOptions(batch_size=4), output=Output(verbose=False))
split = fit()
assert {worker.device.id for worker in devices.make_workers(None)} == {0, 1, 2}
with jax.default_device(jax.devices()[0]):
    assert {worker.device.id for worker in devices.make_workers(None)} == {0}
    whole = fit()
for name in whole.keys():
    np.testing.assert_array_equal(split[name], whole[name], err_msg=name)
"""


@pytest.mark.slow
def test_several_devices_share_the_stars():
    """In a process of its own, in which the host counts as three devices."""
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=3"
    command = [sys.executable, "-c", SEVERAL_DEVICES]
    done = subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
