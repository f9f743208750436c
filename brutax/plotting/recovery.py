"""Posteriors against true values, for simulated stars."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.catalog import FitResult
from brutax.plotting._style import (
    ACCENT,
    FAINT,
    INK,
    good_stars,
    label,
    plain_log_ticks,
    pyplot,
    style,
    summary,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

QUANTITIES = ("dist", "av", "mini", "loga")  # shown by default
LOGARITHMIC = ("dist", "mini")  # those with logarithmic axes


def truth_ranks(result: FitResult, table: Any, name: str) -> np.ndarray:
    """Rank of the true value among the draws of each star, from 0 to 1, (star,).

    `name` is a quantity of the result, whose true values are in column `true_<name>` of `table`, in
    the order of the stars. Ranks of a calibrated fit are uniform (Talts et al. 2018,
    arXiv:1804.06788). Quantities of a grid take few values, so that true value and draws are often
    equal; such ties are broken at random, with a fixed seed.
    """
    draws = np.atleast_2d(result[f"{name}_samples"])
    truth = np.asarray(table[f"true_{name}"]).astype(draws.dtype)[:, None]
    below, tied = np.sum(draws < truth, axis=1), np.sum(draws == truth, axis=1)
    u = np.random.default_rng(0).random(len(draws))
    return (below + u * (tied + 1)) / (draws.shape[1] + 1)


def truth_recovery(
    result: FitResult, table: Any, *, quantities: Sequence[str] | None = None
) -> "tuple[Figure, np.ndarray]":
    """Posterior medians and central 68 % intervals against true values, a panel per quantity.

    `table` has the columns `true_<quantity>`, in the order of the stars of the result, as
    `mock_catalog` writes them. The title of each panel is the fraction of stars whose true value is
    in the central 68 % of the draws by `truth_ranks`. Stars with a flag are grey. By default the
    quantities are distance, A_V, initial mass and age, as far as they are known. Returns
    `(figure, axes)`. Raises `ValueError` if true values are missing or the table has another
    number of rows.

        mock = brutax.mock_catalog(grid, 100)
        figure, axes = truth_recovery(brutax.fit(mock, grid), mock)
    """
    columns = getattr(table, "colnames", None) or list(table)
    if quantities is None:
        known = (name for name in QUANTITIES if f"true_{name}" in columns)
        quantities = tuple(name for name in known if name in result.parameters)
    lacking = [name for name in quantities if f"true_{name}" not in columns]
    if lacking or not quantities:
        raise ValueError(
            f"the table has no truth for {', '.join(lacking or QUANTITIES)}: columns "
            "like true_dist are needed"
        )
    truths = {name: np.asarray(table[f"true_{name}"], np.float64) for name in quantities}
    if (size := len(truths[quantities[0]])) != result.n_stars:
        raise ValueError(f"the table has {size} rows for {result.n_stars} stars of the result")
    good = good_stars(result)
    n_columns = min(len(quantities), 2)
    n_rows = -(-len(quantities) // n_columns)
    with style():
        fig, axes = pyplot().subplots(
            n_rows,
            n_columns,
            figsize=(3.9 * n_columns, 3.7 * n_rows),
            layout="constrained",
            squeeze=False,
        )
        for ax, name in zip(axes.flat, quantities):
            _panel(ax, name, truths[name], summary(result, name), good, result.fitted)
            inside = np.mean(np.abs(truth_ranks(result, table, name) - 0.5) < 0.34, where=good)
            ax.set_title(f"truth in central 68 %: {inside:.0%} of stars", loc="left", fontsize=9)
        for ax in axes.flat[len(quantities) :]:
            ax.set_axis_off()
    return fig, axes


def _panel(
    ax: Any, name: str, truth: np.ndarray, quantiles: tuple, good: np.ndarray, fitted: np.ndarray
) -> None:
    low, middle, high = quantiles
    for some, color, alpha in ((fitted & ~good, FAINT, 0.5), (good, INK, 0.75)):
        bars = np.stack([middle - low, high - middle])[:, some]
        ax.errorbar(
            truth[some],
            middle[some],
            np.maximum(bars, 0.0),
            fmt="o",
            ms=3.2,
            mew=0,
            lw=0.8,
            c=color,
            alpha=alpha,
        )
    values = np.concatenate([truth[good], low[good], high[good]])
    least, most = values.min(), values.max()
    if name in LOGARITHMIC:
        limits = least / (most / least) ** 0.05, most * (most / least) ** 0.05
        ax.set(xscale="log", yscale="log")
    else:
        margin = 0.05 * (most - least) or 0.5
        limits = least - margin, most + margin
    ax.plot(limits, limits, c=ACCENT, lw=1.2, zorder=3)
    ax.set(xlim=limits, ylim=limits, aspect="equal")
    if name in LOGARITHMIC:
        plain_log_ticks(ax.xaxis)
        plain_log_ticks(ax.yaxis)
    ax.set(xlabel=f"true {label(name)}", ylabel=f"posterior {label(name)}")
