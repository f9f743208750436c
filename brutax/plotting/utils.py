"""Densities of draws in two dimensions, in the call form of brutus."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.plotting._style import pyplot
from brutax.utils import ArrayLike, quantile

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SPAN = 0.99  # probability within the default limits of an axis
SIGMAS = (0.5, 1.0, 1.5, 2.0)  # of the default contours of a normal distribution in 2-D
SMOOTHING_BINS = 2.0  # standard deviation of the smoothing, in the bins that go with it


def limits(values: np.ndarray, weights: np.ndarray | None, span: Any) -> tuple[float, float]:
    """Limits of an axis: (low, high) as given, or those of a central probability `span`."""
    if np.ndim(span) == 1:
        low, high = span
        return float(low), float(high)
    tail = 0.5 * (1.0 - float(span))
    low, high = quantile(values, np.array([tail, 1.0 - tail]), weights=weights)
    return (float(low), float(high)) if low < high else (float(low) - 0.5, float(high) + 0.5)


def smoothed_histogram(
    x: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray | None,
    spans: Sequence[tuple[float, float]],
    smooth: float | int | Sequence[float | int],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A weighted histogram (x, y) and its edges; a float smooths, an int is a number of bins.

    A float s divides an axis into round(2 / s) bins and smooths by a Gaussian of 2 bins, so that s
    is about its standard deviation as a fraction of the axis.
    """
    from scipy.ndimage import gaussian_filter

    each: list[Any] = [smooth, smooth] if np.ndim(smooth) == 0 else list(np.asarray(smooth, object))
    bins, widths = [], []
    for s in each:
        whole = isinstance(s, int | np.integer)
        bins.append(int(s) if whole else int(round(SMOOTHING_BINS / float(s))))
        widths.append(0.0 if whole else SMOOTHING_BINS)
    count, x_edges, y_edges = np.histogram2d(x, y, bins, list(spans), weights=weights)
    return gaussian_filter(count, widths), x_edges, y_edges


def heights(density: np.ndarray, levels: ArrayLike) -> np.ndarray:
    """The densities above which lie the probabilities `levels`, increasing and distinct."""
    ordered = np.sort(density.ravel())[::-1]
    inside = np.cumsum(ordered) / ordered.sum()
    at = np.clip(np.searchsorted(inside, np.asarray(levels, float)), 0, ordered.size - 1)
    return np.unique(ordered[at])


def hist2d(
    x: ArrayLike,
    y: ArrayLike,
    smooth: float | int | Sequence[float | int] = 0.02,
    span: Any = None,
    weights: ArrayLike | None = None,
    levels: ArrayLike | None = None,
    ax: "Axes | None" = None,
    color: str = "gray",
    plot_datapoints: bool = False,
    plot_density: bool = True,
    plot_contours: bool = True,
    no_fill_contours: bool = False,
    fill_contours: bool = True,
    contour_kwargs: Mapping[str, Any] | None = None,
    contourf_kwargs: Mapping[str, Any] | None = None,
    data_kwargs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> None:
    """Draws the density of points `x`, `y` (draw,) into `ax` (default: the current axes).

    `span` has one entry for each axis: (low, high), or the central probability that is shown
    (default 0.99). `levels` are probabilities within the contours, by default those within 0.5, 1,
    1.5 and 2 sigma of a normal distribution in two dimensions, 1 - exp(-sigma^2 / 2). `smooth`: see
    `smoothed_histogram`. The names of arguments are those of brutus; other keywords are ignored.
    """
    from matplotlib.colors import LinearSegmentedColormap, colorConverter

    del kwargs
    ax = pyplot().gca() if ax is None else ax
    x, y = np.ravel(np.asarray(x, float)), np.ravel(np.asarray(y, float))
    weight = None if weights is None else np.ravel(np.asarray(weights, float))
    spans = [SPAN, SPAN] if span is None else list(span)
    ranges = [limits(v, weight, s) for v, s in zip((x, y), spans, strict=True)]
    density, x_edges, y_edges = smoothed_histogram(x, y, weight, ranges, smooth)
    chosen = 1.0 - np.exp(-0.5 * np.square(SIGMAS)) if levels is None else np.asarray(levels)
    if plot_datapoints:
        points: dict[str, Any] = {"color": color, "ms": 2.0, "mec": "none", "ls": "none"}
        ax.plot(x, y, **points | {"marker": "o", "alpha": 0.1} | dict(data_kwargs or {}))
    if density.sum() > 0:
        at = heights(density, chosen)
        centres = [0.5 * (edges[1:] + edges[:-1]) for edges in (x_edges, y_edges)]
        rgb = colorConverter.to_rgb(color)
        fade = LinearSegmentedColormap.from_list("fade", [(*rgb, 0.0), (*rgb, 1.0)])
        if plot_contours and fill_contours and not no_fill_contours:
            edges = np.unique([*at, density.max() * (1 + 1e-4)])
            if edges.size > 1:
                filled = {"cmap": fade, "antialiased": False} | dict(contourf_kwargs or {})
                ax.contourf(*centres, density.T, edges, **filled)
        elif plot_density:
            ax.pcolormesh(x_edges, y_edges, density.T, cmap=fade, rasterized=True)
        if plot_contours and at.size:
            lines: dict[str, Any] = {"colors": color} | dict(contour_kwargs or {})
            ax.contour(*centres, density.T, at, **lines)
    ax.set(xlim=ranges[0], ylim=ranges[1])
