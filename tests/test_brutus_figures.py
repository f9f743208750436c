"""The figures of brutus, in its call forms: what they show is the posterior they are given."""

import numpy as np
import pytest

from brutax import plotting
from brutax.plotting.binning import as_type, weighted_draws
from brutax.plotting.corner import cornerplot

plt = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture
def draws(rng):
    """Draws of three stars at 0.5, 1 and 2 kpc behind A_V of 0.5, 1 and 2."""
    centre = np.array([0.5, 1.0, 2.0])[:, None]
    dist = centre * np.exp(0.05 * rng.standard_normal((3, 400)))
    av = np.abs(centre + 0.1 * rng.standard_normal((3, 400)))
    return dist, av, np.full((3, 400), 3.3)


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_every_star_is_binned_where_it_is(draws):
    binned, x, y = plotting.bin_pdfs_distred(draws, bins=(150, 60), smooth=0.01)
    assert binned.shape == (3, 150, 60) and binned.dtype == np.float32
    np.testing.assert_allclose(binned.sum(axis=(1, 2)), 1.0, atol=1e-3)
    middle = 0.5 * (x[1:] + x[:-1])
    found = (binned.sum(axis=2) * middle).sum(axis=1)
    np.testing.assert_allclose(
        found, as_type(np.array([0.5, 1.0, 2.0]), "distance_modulus"), atol=0.05
    )
    levels = 0.5 * (y[1:] + y[:-1])
    np.testing.assert_allclose((binned.sum(axis=1) * levels).sum(axis=1), [0.5, 1, 2], atol=0.03)
    summed, _, _ = plotting.bin_pdfs_distred(draws, bins=(150, 60), smooth=0.01, cdf=True)
    np.testing.assert_allclose(summed[:, :, -1].sum(axis=1), 1.0, atol=1e-3)


@pytest.mark.parametrize("kind", ["parallax", "scale", "distance", "distance_modulus"])
def test_units_of_distance(draws, kind):
    _, x, y = plotting.bin_pdfs_distred(draws, dist_type=kind, bins=40, ebv=True)
    ends = sorted(as_type(np.array([10**-1.2, 10**1.8]), kind))
    np.testing.assert_allclose([x[0], x[-1]], ends)
    np.testing.assert_allclose(y[-1], 6 / 3.32)
    with pytest.raises(ValueError, match="dist_type"):
        plotting.bin_pdfs_distred(draws, dist_type="redshift")


def test_optima_are_drawn_from_and_weighted(rng):
    """A flat prior of distance, d^3 and a sharp parallax: the parallax decides."""
    scale, av, rv = np.array([[1.0]]), np.array([[1.0]]), np.array([[3.3]])
    cov = np.diag([0.3**2, 0.1**2, 0.1**2])[None, None]
    found = weighted_draws(
        (scale, av, rv, cov),
        lndistprior=lambda d, coord: np.zeros_like(d),
        coord=None,
        avlim=(0.0, 6.0),
        rvlim=(1.0, 8.0),
        weights=None,
        parallaxes=np.array([1.1]),
        parallax_errors=np.array([0.01]),
        n_draws=20000,
        rstate=np.random.RandomState(3),
    )
    np.testing.assert_allclose(found.weight.sum(), 1.0)
    mean = (found.weight / found.dist).sum()
    assert abs(mean - 1.1) < 0.003
    with pytest.raises(ValueError, match="coord"):
        plotting.bin_pdfs_distred((scale, av, rv, cov))


def test_density_of_one_star(draws):
    one = [x[1] for x in draws]
    density, x, y, image = plotting.dist_vs_red(one, bins=50, truths=(10.0, 1.0))
    assert density.shape == (50, 50) and image.axes is plt.gca()
    peak = np.unravel_index(density.argmax(), density.shape)
    assert abs(x[peak[0]] - 10.0) < 0.5 and abs(y[peak[1]] - 1.0) < 0.3


def test_corner_and_summary(small_grid, draws, rng):
    rows = rng.integers(0, len(small_grid), 400)
    labels = small_grid.labels
    data = [x[1] for x in draws]
    with pytest.raises(ValueError, match="applied_parallax"):
        cornerplot(rows, data, labels)
    fig, axes = cornerplot(rows, data, labels, parallax=1.0, parallax_err=0.05, show_titles=True)
    names = [name for name in labels.dtype.names if name != "agewt"]
    assert axes.shape == (len(names) + 4,) * 2
    fig, axes, inset = plotting.summary_plot(
        small_grid.models,
        rows,
        data[1],
        data[2],
        data[0],
        labels,
        data=10 ** (-0.4 * np.full(len(small_grid.bands), 15.0)),
        data_err=np.full(len(small_grid.bands), 1e-8),
        labels=small_grid.bands,
        parallax=1.0,
        parallax_err=0.05,
    )
    assert inset.yaxis_inverted() and inset.get_figure() is fig
    assert [t.get_text() for t in inset.get_xticklabels()] == list(small_grid.bands)


def test_predicted_magnitudes_are_those_of_the_models(small_grid):
    rows, one = np.zeros(20, int), np.ones(20)
    _, ax, parts = plotting.posterior_predictive(
        small_grid.models, rows, 0 * one, 3.3 * one, 1.0 + 1e-4 * np.arange(20)
    )
    for k, body in enumerate(parts["bodies"]):
        y = body.get_paths()[0].vertices[:, 1]
        assert abs(np.median(y) - small_grid.mag[0, k]) < 0.01


def test_contours_hold_what_they_say(rng):
    from brutax.plotting.utils import heights

    x = rng.standard_normal((2, 40000))
    density, *_ = np.histogram2d(*x, 80)
    at = heights(density, [0.3935])[0]  # within 1 sigma in two dimensions
    assert abs(density[density >= at].sum() / density.sum() - 0.3935) < 0.02
    plotting.hist2d(*x, plot_datapoints=True, ax=plt.gca())
    assert plt.gca().get_xlim()[0] < -2.0
