"""All pairs of quantities of one posterior."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.catalog import FitResult
from brutax.plotting._style import ACCENT, INK, MAP, label, pyplot, style
from brutax.utils import quantile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTITIES = ("dist", "av", "rv", "mini", "feh", "loga")  # shown by default, of a star
LEVELS = (0.68, 0.95)  # probability within the contours
N_EQUAL = 10_000  # equal-weight draws that weighted ones are resampled to
SMOOTH = 1.3  # width of the Gaussian that smooths the density [bins]


def corner(
    result: Any,
    index: int = 0,
    *,
    quantities: Sequence[str] | None = None,
    truth: Mapping[str, float] | None = None,
    bins: int = 24,
) -> "tuple[Figure, np.ndarray]":
    """Histograms of single quantities and of all pairs.

    `result` is a table of stars, of which `index` is the row, or a posterior of `brutax.infer`.
    Contours hold 68 % and 95 % of the draws; titles give the median and the central 68 %.
    `truth` maps quantities to values that are marked. Quantities that do not vary are left out
    unless `quantities` names them. Returns `(figure, axes)`, axes (quantity, quantity). Raises
    `ValueError` for unknown quantities and for a star without a posterior.

        figure, axes = brutax.plotting.corner(brutax.load("posterior.h5"), 0)
    """
    draws, known = _draws(result, index)
    names = [name for name in known if name in draws and np.ptp(draws[name]) > 0]
    if quantities is not None:
        unknown = [name for name in quantities if name not in draws]
        if unknown:
            raise ValueError(f"no {', '.join(unknown)} in the draws: there are {', '.join(draws)}")
        names = list(quantities)
    if not names:
        raise ValueError(
            f"star {index} has no posterior to draw"
            if isinstance(result, FitResult)
            else "no parameter of this posterior varies"
        )
    size = len(names)
    with style():
        fig, axes = pyplot().subplots(
            size, size, figsize=(1.75 * size + 0.6, 1.75 * size + 0.6), squeeze=False
        )
        fig.subplots_adjust(left=0.1, bottom=0.1, right=0.98, top=0.96, wspace=0.06, hspace=0.06)
        ranges = {name: _range(draws[name]) for name in names}
        for row, y in enumerate(names):
            for column, x in enumerate(names):
                ax = axes[row, column]
                if column > row:
                    ax.set_axis_off()
                elif column == row:
                    _single(ax, draws[x], ranges[x], bins)
                else:
                    _pair(ax, draws[x], draws[y], ranges[x], ranges[y], bins)
                _finish(ax, x, y, row, column, size, truth or {})
    return fig, axes


def _draws(result: Any, index: int) -> tuple[dict[str, np.ndarray], Sequence[str]]:
    """Draws of equal weight, and the quantities to show."""
    if isinstance(result, FitResult):
        return result.draws(index), QUANTITIES
    at = np.random.default_rng(0).choice(len(result.weights), N_EQUAL, p=result.weights)
    draws = {name: values[at] for name, values in result.columns().items()}
    return draws, list(draws)


def _range(values: np.ndarray) -> tuple[float, float]:
    low, high = np.percentile(values, (0.25, 99.75))
    margin = 0.08 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _single(ax: Any, values: np.ndarray, limits: tuple[float, float], bins: int) -> None:
    ax.hist(values, np.linspace(*limits, bins + 1), histtype="stepfilled", color="#c6dbef", ec=INK)
    low, middle, high = quantile(values, np.array([0.16, 0.5, 0.84]))
    for value, dash in ((low, ":"), (middle, "-"), (high, ":")):
        ax.axvline(value, c=INK, lw=0.9, ls=dash)
    digits = int(np.clip(1 - np.floor(np.log10(max(high - low, 1e-6) / 2)), 0, 4))
    text = f"${middle:.{digits}f}_{{-{middle - low:.{digits}f}}}^{{+{high - middle:.{digits}f}}}$"
    ax.set_title(text, fontsize=10)
    ax.set(xlim=limits, yticks=[])


def _pair(
    ax: Any,
    x: np.ndarray,
    y: np.ndarray,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    bins: int,
) -> None:
    from scipy.ndimage import gaussian_filter

    count, x_edges, y_edges = np.histogram2d(x, y, bins, [x_range, y_range])
    density = gaussian_filter(count, SMOOTH, mode="constant")
    ax.pcolormesh(x_edges, y_edges, density.T, cmap=MAP, vmin=0, rasterized=True)
    ordered = np.sort(density.ravel())[::-1]
    inside = np.cumsum(ordered) / ordered.sum()
    heights = [float(ordered[np.searchsorted(inside, level)]) for level in LEVELS]
    centres = (0.5 * (edges[1:] + edges[:-1]) for edges in (x_edges, y_edges))
    levels = sorted(set(heights))
    ax.contour(*centres, density.T, levels=levels, colors=INK, linewidths=0.9)
    ax.set(xlim=x_range, ylim=y_range)


def _finish(
    ax: Any, x: str, y: str, row: int, column: int, size: int, truth: Mapping[str, float]
) -> None:
    """Labels at the margins only, and the truth."""
    from matplotlib.ticker import MaxNLocator

    if column > row:
        return
    ax.xaxis.set_major_locator(MaxNLocator(3, prune="both"))
    if x in truth:
        ax.axvline(truth[x], c=ACCENT, lw=1.2)
    if column < row:
        ax.yaxis.set_major_locator(MaxNLocator(3, prune="both"))
        if y in truth:
            ax.axhline(truth[y], c=ACCENT, lw=1.2)
    if row == size - 1:
        ax.set_xlabel(label(x), fontsize=9)
    else:
        ax.set_xticklabels([])
    if column == 0 and row > 0:
        ax.set_ylabel(label(y), fontsize=9)
    else:
        ax.set_yticklabels([])
    ax.tick_params(labelsize=8)
    ax.xaxis.set_label_coords(0.5, -0.24)
    ax.yaxis.set_label_coords(-0.28, 0.5)
