"""Extinction against distance: the dust along the line of sight to the stars of a catalogue."""

from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.catalog import FitResult
from brutax.plotting._style import (
    ACCENT,
    INK,
    MAP,
    good_stars,
    label,
    new_axes,
    plain_log_ticks,
    style,
    summary,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER_BIN = 40  # stars in each running percentile, at least: 16 % of them are 6 stars
SMOOTH = 1.0  # width of the Gaussian that smooths the density [bins]


def distance_extinction(
    result: FitResult,
    *,
    ax: "Axes | None" = None,
    distance: tuple[float, float] | None = None,
    av: tuple[float, float] | None = None,
    bins: int = 120,
    n_running: int | None = None,
) -> "tuple[Figure, Axes]":
    """A_V against distance for all stars of a result that are fitted well.

    The shade is the density of all posterior draws, dots are the medians of single stars, and
    the line with its band is the running median and central 68 % of the draws, in `n_running` bins
    of equally many stars (none with 0). `distance` [kpc] and `av` [mag] are the limits; by
    default they hold 99 % of the draws. Raises `ValueError` for limits that do not increase, and
    if no star has a good fit.

        figure, axes = brutax.plotting.distance_extinction(brutax.load("posterior.h5"))
        figure.savefig("dust.png")
    """
    good = good_stars(result)
    dist = np.atleast_2d(result["dist_samples"])[good]
    dust = np.atleast_2d(result["av_samples"])[good]
    near, far = distance or np.percentile(dist, (0.5, 99.5))
    low, high = av or (0.0, 1.05 * float(np.percentile(dust, 99)))
    if not 0 < near < far or not low < high:
        raise ValueError(f"limits must increase: distance ({near}, {far}), av ({low}, {high})")
    with style():
        fig, ax = new_axes(ax, (6.4, 4.4))
        edges = np.geomspace(near, far, bins + 1), np.linspace(low, high, bins + 1)
        _shade(ax, dist, dust, edges)
        points = summary(result, "dist")[1][good], summary(result, "av")[1][good]
        size = float(np.clip(4000 / len(dist), 1.0, 12.0))
        ax.scatter(*points, s=size, c=INK, alpha=0.5, lw=0, label="stars")
        if n_running is None:
            n_running = min(len(dist) // PER_BIN, 24)
        if n_running:
            _running(ax, points[0], dist, dust, n_running)
        ax.set(xscale="log", xlim=(near, far), ylim=(low, high))
        ax.set(xlabel=label("dist"), ylabel=label("av"))
        plain_log_ticks(ax.xaxis)
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, fontsize=9, markerscale=3)
        ax.set_title(f"{good.sum():,} stars", loc="right", fontsize=9)
    return fig, ax


def _shade(ax: Any, dist: np.ndarray, dust: np.ndarray, edges: tuple) -> None:
    """Density of draws, with the square root of the density as the depth of colour."""
    from scipy.ndimage import gaussian_filter

    count, *_ = np.histogram2d(dist.ravel(), dust.ravel(), edges)
    depth = np.sqrt(gaussian_filter(count, SMOOTH))
    top = 1.25 * float(np.percentile(depth, 99.5)) or 1.0
    ax.pcolormesh(*edges, depth.T, cmap=MAP, vmin=0, vmax=top, rasterized=True)


def _running(ax: Any, medians: np.ndarray, dist: np.ndarray, dust: np.ndarray, n_bins: int) -> None:
    """Percentiles of A_V in bins of equally many stars by median distance."""
    groups = np.array_split(np.argsort(medians), n_bins)
    groups = [group for group in groups if group.size]
    x = [np.median(dist[group]) for group in groups]
    low, middle, high = np.transpose([np.percentile(dust[g], (16, 50, 84)) for g in groups])
    ax.fill_between(x, low, high, color=ACCENT, alpha=0.2, lw=0, label="68 % of draws")
    ax.plot(x, middle, c=ACCENT, lw=1.8, label="running median")
