"""Figures show what is in a result; no fit is needed to draw one."""

import numpy as np
import pytest
from scipy.stats import kstest

from brutax.catalog import FitResult
from brutax.models import Status
from brutax.plotting import corner, distance_extinction, truth_ranks, truth_recovery

matplotlib = pytest.importorskip("matplotlib")
N_STARS, N_DRAWS, N_MODELS = 200, 100, 500
LEVELS = (0.025, 0.16, 0.5, 0.84, 0.975)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture
def truth(rng) -> dict[str, np.ndarray]:
    dist = np.exp(rng.normal(0.0, 0.7, N_STARS))
    return {
        "true_dist": dist,
        "true_av": 1.0 + 1.5 * (dist > 1.0),  # a cloud at 1 kpc
        "true_mini": rng.uniform(0.5, 1.5, N_STARS),
        "true_loga": rng.uniform(9.0, 10.0, N_STARS),
    }


@pytest.fixture
def result(rng, truth) -> FitResult:
    """A calibrated posterior: truth and draws are exchangeable."""
    models = {"mini": rng.uniform(0.5, 1.5, N_MODELS), "loga": rng.uniform(9.0, 10.0, N_MODELS)}
    shape = (N_STARS, N_DRAWS)
    draws = {}
    for name, width in (("dist", 0.05), ("av", 0.1)):
        noise = rng.normal(0.0, width, (N_STARS, 1)) + rng.normal(0.0, width, shape)
        draws[name] = np.abs(truth[f"true_{name}"][:, None] * (1.0 + noise))
    draws["rv"] = rng.normal(3.3, 0.2, shape)
    index = rng.integers(0, N_MODELS, shape)
    values = [*draws.values(), *(column[index] for column in models.values())]
    quantiles = np.stack([np.quantile(x, LEVELS, axis=1).T for x in values], axis=1)
    status = np.zeros(N_STARS, np.int32)
    status[0], status[1] = Status.NO_PHOTOMETRY, Status.POOR_FIT
    arrays = {
        "samps_dist": draws["dist"],
        "samps_red": draws["av"],
        "samps_dred": draws["rv"],
        "samps_logp": np.zeros(shape),
        "samps_weight": np.full(shape, 1.0 / N_DRAWS),
        "model_idx": index,
        "status": status,
        "summary_quantiles": quantiles,
    } | {f"models/{name}": column for name, column in models.items()}
    attrs = {"parameters": ["dist", "av", "rv", "mini", "loga"], "quantile_levels": LEVELS}
    return FitResult(arrays, attrs)


def saved(figure, path) -> int:
    figure.savefig(path)
    return path.stat().st_size


def test_distance_extinction_shows_the_cloud(result, tmp_path):
    figure, ax = distance_extinction(result)
    assert saved(figure, tmp_path / "a.png") > 10_000
    assert "kpc" in ax.get_xlabel() and "A_V" in ax.get_ylabel()
    (line,) = ax.get_lines()
    x, y = line.get_data()
    assert np.all(np.diff(x) > 0)
    assert np.all(y[x < 0.7] < 1.4) and np.all(y[x > 1.4] > 2.1)
    points = ax.collections[1].get_offsets()
    assert len(points) == N_STARS - 2  # neither the star without photometry nor the poor fit
    assert np.allclose(points[:, 0], np.median(result["dist_samples"][2:], axis=1))


def test_distance_extinction_draws_into_given_axes(result):
    figure, ax = matplotlib.pyplot.subplots()
    ours, same = distance_extinction(
        result, ax=ax, distance=(0.1, 10.0), av=(0.0, 5.0), n_running=0
    )
    assert ours is figure and same is ax and not ax.get_lines()
    assert ax.get_xlim() == (0.1, 10.0) and ax.get_ylim() == (0.0, 5.0)


def test_truth_recovery_counts_the_stars(result, truth, tmp_path):
    figure, axes = truth_recovery(result, truth)
    assert saved(figure, tmp_path / "a.pdf") > 5_000
    assert axes.shape == (2, 2)
    draws = result["av_samples"][2:]
    below = np.mean(draws < truth["true_av"][2:, None], axis=1)  # without ties
    inside = np.mean((below > 0.16) & (below < 0.84))
    assert 0.55 < inside < 0.8
    shown = float(axes[0, 1].get_title(loc="left").split(": ")[1].split("%")[0]) / 100
    assert shown == pytest.approx(inside, abs=0.02)
    assert [ax.get_xlabel().split("  ")[0] for ax in axes.flat] == [
        "true distance",
        "true $A_V$",
        "true initial mass",
        "true $\\log_{10}$ age",
    ]


def test_ranks_are_uniform_with_ties(result, rng):
    """A truth that is one of few values, drawn like the draws themselves."""
    coarse = {name: result[name] for name in result.keys()}
    coarse["models/mini"] = np.round(coarse["models/mini"] * 4) / 4
    coarse = FitResult(coarse, result.attrs)
    truth = rng.choice(coarse["models/mini"], N_STARS)
    rank = truth_ranks(coarse, {"true_mini": truth}, "mini")
    assert kstest(rank, "uniform").pvalue > 1e-3
    assert np.array_equal(rank, truth_ranks(coarse, {"true_mini": truth}, "mini"))


def test_truth_recovery_of_some_quantities(result, truth):
    _, axes = truth_recovery(result, truth, quantities=["dist", "av", "loga"])
    assert axes.shape == (2, 2) and not axes[1, 1].axison
    with pytest.raises(ValueError, match="no truth for feh"):
        truth_recovery(result, truth, quantities=["feh"])
    with pytest.raises(ValueError, match="3 rows for 200 stars"):
        truth_recovery(result, {name: column[:3] for name, column in truth.items()})


def test_corner_marks_truth_and_median(result, truth, tmp_path):
    figure, axes = corner(result, 5, truth={"dist": 1.25})
    assert saved(figure, tmp_path / "a.png") > 10_000
    assert axes.shape == (5, 5)
    median = float(np.median(result["dist_samples"][5]))
    at = [line.get_xdata()[0] for line in axes[0, 0].get_lines()]
    assert at[1] == pytest.approx(median, rel=0.02) and at[-1] == 1.25
    assert not axes[0, 4].axison and axes[4, 0].get_xlabel().startswith("distance")
    with pytest.raises(ValueError, match="no teff"):
        corner(result, 0, quantities=["teff"])


def test_nothing_to_draw(result):
    flagged = {"status": np.full(N_STARS, 1, np.int32)}
    arrays = {name: result[name] for name in result.keys()} | flagged
    with pytest.raises(ValueError, match="nothing to draw"):
        distance_extinction(FitResult(arrays, result.attrs))


def test_style_does_not_leak(result):
    before = dict(matplotlib.rcParams)
    distance_extinction(result)
    assert dict(matplotlib.rcParams) == before
