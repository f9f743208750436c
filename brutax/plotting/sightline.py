"""Clouds along a sight line: draws of its stars, and the profile over them."""

from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.plotting._style import ACCENT, INK, MAP, label, new_axes, plain_log_ticks, style
from brutax.sightline import CloudFit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEAST = 4.0  # draws per star in a column, below which it is pale


def sightline_profile(
    fit: CloudFit, dist: Any, av: Any, *, ax: "Axes | None" = None, bins: int = 90
) -> "tuple[Figure, Axes]":
    """A_V against distance: draws (star, draw) as density, the profile with its bands over them.

    The shade is normalised at each distance, so that a level shows however many stars there are.
    The line is the median of the profile over all numbers of clouds, each by its evidence, with
    bands of 68 and 95 %; marks above are the distances of the clouds of the best number with 68 %.
    Returns `(figure, axes)`.
    """
    dist, av = np.asarray(dist, float), np.asarray(av, float)
    if dist.shape != av.shape or dist.ndim != 2:
        raise ValueError(f"dist {dist.shape} and av {av.shape} must be (star, draw)")
    good = np.isfinite(dist) & np.isfinite(av) & (dist > 0)
    near, far = fit.dist_range
    low, high = fit.av_range
    with style():
        fig, ax = new_axes(ax, (6.4, 4.4))
        edges = np.geomspace(near, far, bins + 1), np.linspace(low, high, bins + 1)
        count, *_ = np.histogram2d(dist[good], av[good], edges)
        column = count.sum(axis=1, keepdims=True)
        count = count / np.maximum(column, LEAST * dist.shape[1])
        top = float(np.percentile(count[count > 0], 99)) if count.any() else 1.0
        ax.pcolormesh(*edges, count.T, cmap=MAP, vmin=0, vmax=top, rasterized=True)
        nodes = fit.nodes(400)
        levels = (0.025, 0.16, 0.5, 0.84, 0.975)
        bands = np.quantile(fit.profiles(nodes, 400), levels, axis=0)
        ax.fill_between(nodes, bands[0], bands[4], color=ACCENT, alpha=0.15, lw=0, label="95 %")
        ax.fill_between(nodes, bands[1], bands[3], color=ACCENT, alpha=0.35, lw=0, label="68 %")
        ax.plot(nodes, bands[2], c=ACCENT, lw=1.6, label="profile")
        for k, cloud in enumerate(fit.found()):
            below, middle, above = cloud.distance
            bars = [[middle - below], [above - middle]]
            ax.errorbar(middle, low + 0.96 * (high - low), xerr=bars, fmt="v", ms=5, c=INK, lw=1.2,
                        label="clouds" if not k else None)  # fmt: skip
        ax.set(xscale="log", xlim=(near, far), ylim=(low, high))
        ax.set(xlabel=label("dist"), ylabel=label("av"))
        plain_log_ticks(ax.xaxis)
        ax.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=4, fontsize=9)
        ax.set_title(f"{fit.n_stars:,} stars", loc="right", fontsize=9)
    return fig, ax
