"""All pairs of labels of a star's models, with dust and distance, in the call form of brutus."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.plotting._style import pyplot
from brutax.plotting.binning import weighted_draws
from brutax.plotting.utils import SPAN, hist2d, limits
from brutax.utils import ArrayLike, quantile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXTRA = ("Av", "Rv", "Parallax", "Distance")
HIDDEN = ("agewt",)  # labels that describe the grid, not the star


def columns(
    idxs: ArrayLike,
    data: Sequence[ArrayLike],
    params: Any,
    lndistprior: Callable[..., Any] | None,
    coord: Any,
    avlim: Sequence[float],
    rvlim: Sequence[float],
    weights: ArrayLike | None,
    parallax: float | None,
    parallax_err: float | None,
    n_draws: int,
    rstate: Any,
    R_solar: float,
    Z_solar: float,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Labels of the models, A_V, R_V, parallax and distance at every draw, and the weights."""
    arrays = [np.asarray(x, float)[None] for x in data]
    drawn = weighted_draws(
        arrays,
        lndistprior=lndistprior,
        coord=None if coord is None else [coord],
        avlim=avlim,
        rvlim=rvlim,
        weights=None if weights is None else np.asarray(weights, float)[None],
        parallaxes=None if parallax is None else np.atleast_1d(parallax),
        parallax_errors=None if parallax_err is None else np.atleast_1d(parallax_err),
        n_draws=n_draws,
        rstate=rstate,
        R_solar=R_solar,
        Z_solar=Z_solar,
    )
    rows = np.asarray(idxs)
    rows = np.repeat(rows, drawn.dist.shape[1] // rows.size)
    names = params.dtype.names if hasattr(params, "dtype") else tuple(params)
    out: dict[str, Any] = {
        name: np.asarray(params[name])[rows] for name in names if name not in HIDDEN
    }
    dist = drawn.dist[0]
    extra = (drawn.av[0], drawn.rv[0], 1.0 / dist, dist)
    return out | dict(zip(EXTRA, extra, strict=True)), drawn.weight[0]


def cornerplot(
    idxs: ArrayLike,
    data: Sequence[ArrayLike],
    params: Any,
    lndistprior: Callable[..., Any] | None = None,
    coord: Any = None,
    avlim: Sequence[float] = (0.0, 6.0),
    rvlim: Sequence[float] = (1.0, 8.0),
    weights: ArrayLike | None = None,
    parallax: float | None = None,
    parallax_err: float | None = None,
    Nr: int = 500,
    applied_parallax: bool = True,
    pcolor: str = "blue",
    parallax_kwargs: Mapping[str, Any] | None = None,
    span: Any = None,
    quantiles: Sequence[float] | None = (0.025, 0.5, 0.975),
    color: str = "black",
    smooth: Any = 10,
    hist_kwargs: Mapping[str, Any] | None = None,
    hist2d_kwargs: Mapping[str, Any] | None = None,
    labels: Sequence[str] | None = None,
    label_kwargs: Mapping[str, Any] | None = None,
    show_titles: bool = False,
    title_fmt: str = ".2f",
    title_kwargs: Mapping[str, Any] | None = None,
    title_quantiles: Sequence[float] = (0.025, 0.5, 0.975),
    truths: Sequence[float | None] | None = None,
    truth_color: str = "red",
    truth_kwargs: Mapping[str, Any] | None = None,
    max_n_ticks: int = 5,
    top_ticks: bool = False,
    use_math_text: bool = False,
    verbose: bool = False,
    fig: Any = None,
    rstate: Any = None,
    R_solar: float = 8.2,
    Z_solar: float = 0.025,
) -> "tuple[Figure, np.ndarray]":
    """Histograms of the labels of a star's models, A_V, R_V, parallax and distance, and all pairs.

    `idxs` (draw,) rows of the models; `data` (dists [kpc], reds [mag], dreds), each (draw,), or
    (scales, avs, rvs, covs_sar) of optima, of which `Nr` draws are made; `params` the labels of all
    models (structured array or mapping), of which `agewt` is left out. `applied_parallax` says that
    the parallax [mas] took part in the fit: its density is then drawn over the panel of parallaxes;
    without, draws are weighted by it. `smooth`, `span` as in `hist2d`. `truths` has one entry for
    each panel of the diagonal. `fig` is (figure, axes) of one's own.

    Returns figure and axes (quantity, quantity). Raises `ValueError` if `applied_parallax` and
    there is no parallax, or the Galactic prior needs `coord`.
    """
    del verbose
    if applied_parallax and (parallax is None or parallax_err is None):
        raise ValueError("applied_parallax needs parallax and parallax_err; or say False")
    found, weight = columns(
        idxs, data, params, lndistprior, coord, avlim, rvlim, weights, parallax, parallax_err, Nr,
        rstate, R_solar, Z_solar,
    )  # fmt: skip
    names, size = list(found), len(found)
    titles = names if labels is None else [*labels, *EXTRA][:size]
    spans = [SPAN] * size if span is None else list(span)
    ranges = [limits(found[n], weight, s) for n, s in zip(names, spans, strict=True)]
    smooths = [smooth] * size if np.ndim(smooth) == 0 else list(smooth)
    if fig is None:
        figure, axes = pyplot().subplots(size, size, figsize=(2 * size, 2 * size), squeeze=False)
    else:
        figure, axes = fig
    known: dict[str, Any] = {"color": color} | dict(hist2d_kwargs or {})
    for row, y in enumerate(names):
        for column, x in enumerate(names):
            ax = axes[row, column]
            if column > row:
                ax.set_axis_off()
                continue
            if column == row:
                _histogram(ax, found[x], weight, ranges[row], smooths[row], color, hist_kwargs)
                for q in quantiles or ():
                    at = float(quantile(found[x], np.array([q]), weights=weight)[0])
                    ax.axvline(at, color=color, ls="--", lw=1)
                if show_titles:
                    text = _title(found[x], weight, title_quantiles, title_fmt)
                    ax.set_title(f"{titles[row]} = {text}", **dict(title_kwargs or {}))
                if x == "Parallax" and applied_parallax:
                    _parallax(ax, ranges[row], parallax, parallax_err, pcolor, parallax_kwargs)
            else:
                pair = [ranges[column], ranges[row]]
                both = [smooths[column], smooths[row]]
                hist2d(found[x], found[y], both, pair, weight, ax=ax, **known)
            _mark(ax, column, row, truths, {"color": truth_color} | dict(truth_kwargs or {}))
            _ticks(ax, row, column, size, max_n_ticks, top_ticks, use_math_text)
            if row == size - 1:
                ax.set_xlabel(titles[column], **dict(label_kwargs or {}))
            if column == 0 and row > 0:
                ax.set_ylabel(titles[row], **dict(label_kwargs or {}))
    return figure, axes


def _histogram(
    ax: Any,
    values: np.ndarray,
    weight: np.ndarray,
    ends: tuple[float, float],
    smooth: float | int,
    color: str,
    options: Mapping[str, Any] | None,
) -> None:
    from scipy.ndimage import gaussian_filter1d

    whole = isinstance(smooth, int | np.integer)
    bins = int(smooth) if whole else int(round(2.0 / float(smooth)))
    count, edges = np.histogram(values, bins, ends, weights=weight)
    if not whole:
        count = gaussian_filter1d(count, 2.0)
    ax.stairs(count, edges, **{"color": color, "fill": True, "alpha": 0.6} | dict(options or {}))
    ax.set(xlim=ends, ylim=(0.0, 1.1 * max(count.max(), 1e-300)), yticks=[])


def _title(values: np.ndarray, weight: np.ndarray, levels: Sequence[float], style: str) -> str:
    low, middle, high = quantile(values, np.asarray(levels), weights=weight)
    return f"${middle:{style}}_{{-{middle - low:{style}}}}^{{+{high - middle:{style}}}}$"


def _parallax(
    ax: Any,
    ends: tuple[float, float],
    parallax: float | None,
    error: float | None,
    color: str,
    options: Mapping[str, Any] | None,
) -> None:
    """The density of the measured parallax, scaled to the panel."""
    if parallax is None or error is None:
        return
    x = np.linspace(*ends, 300)
    density = np.exp(-0.5 * ((x - parallax) / error) ** 2)
    ax.plot(
        x, density * ax.get_ylim()[1] / 1.1, **{"color": color, "lw": 1.5} | dict(options or {})
    )


def _mark(ax: Any, column: int, row: int, truths: Any, options: Mapping[str, Any]) -> None:
    if truths is None:
        return
    if truths[column] is not None:
        ax.axvline(truths[column], **options)
    if column < row and truths[row] is not None:
        ax.axhline(truths[row], **options)


def _ticks(
    ax: Any, row: int, column: int, size: int, most: int, top: bool, math_text: bool
) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    ax.xaxis.set_major_locator(MaxNLocator(most, prune="lower"))
    ax.xaxis.set_major_formatter(ScalarFormatter(useMathText=math_text))
    if top:
        ax.xaxis.set_ticks_position("top")
    if column < row:
        ax.yaxis.set_major_locator(MaxNLocator(most, prune="lower"))
        ax.yaxis.set_major_formatter(ScalarFormatter(useMathText=math_text))
    if row < size - 1:
        ax.set_xticklabels([])
    if 0 < column < row:
        ax.set_yticklabels([])
