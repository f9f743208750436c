"""Offsets between photometry and models, against magnitude or any other quantity."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.plotting._style import ACCENT, FAINT, INK, pyplot, style
from brutax.zeropoints.resampling import band_ratios

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4  # panels in a row
SPAN = 0.2  # default range of the axis of differences, on both sides of the median [mag]
PER_BIN = 20  # stars in each running median, at least


def photometric_offsets(
    phot: Any,
    err: Any,
    mask: Any,
    models: Any,
    idxs: Any,
    reds: Any,
    dreds: Any,
    dists: Any,
    x: Any = None,
    flux: bool = True,
    weights: Any = None,
    bins: Any = 100,
    offset: Any = None,
    dim_prior: bool = True,
    plot_thresh: float = 0.0,
    cmap: str = "viridis",
    xspan: Any = None,
    yspan: Any = None,
    titles: Sequence[str] | None = None,
    xlabel: str | None = None,
    plot_kwargs: Mapping[str, Any] | None = None,
    fig: Any = None,
) -> "tuple[Figure, np.ndarray]":
    """Model minus observed magnitude of every band, against magnitude or `x`, as 2-D histograms.

    The first arguments are those of `brutax.analysis.photometric_offsets`; with `flux=False`,
    `phot` and `err` are magnitudes. `x`: (star,) or (star, draw), by default the observed
    magnitude. Draws are weighted as if the band had not been fitted. `bins` is a number or (x, y);
    cells with no more than `plot_thresh` stars are blank; `xspan`, `yspan`: limits, one pair or one
    per band; `offset` (band,) multiplies the observed fluxes. The line is the running median.
    `fig` is `(figure, axes)` to draw into. Returns `(figure, axes)`.
    """
    phot, err, mask = _fluxes(phot, err, mask, flux)
    offset = np.ones(phot.shape[1]) if offset is None else np.asarray(offset, float)
    bands = band_ratios(
        phot, err, mask, models, idxs, reds, dreds, dists, weights, dim_prior, offset
    )
    with style():
        figure, axes = _panels(phot.shape[1], fig)
        for band, (ratios, weight) in enumerate(bands):
            ax = axes.flat[band]
            delta = _magnitudes(ratios)
            flux_ = np.where(phot[:, band] > 0, phot[:, band] * offset[band], 1.0)
            along = -2.5 * np.log10(flux_) if x is None else np.asarray(x, float)
            along = np.broadcast_to(along.reshape(len(phot), -1), delta.shape)
            use = (weight > 0) & np.isfinite(along) & np.isfinite(delta)
            _title(ax, band, titles)
            ax.set_xlabel(xlabel or ("observed magnitude" if x is None else "x"))
            ax.axhline(0.0, c=INK, lw=0.8, ls=":")
            if not use.any():
                continue
            limits = (
                _limits(xspan, band) or tuple(np.percentile(along[use], (0.5, 99.5))),
                _limits(yspan, band) or _about(delta[use], weight[use]),
            )
            counts, *edges = np.histogram2d(
                along[use], delta[use], bins, limits, weights=weight[use]
            )
            shown = np.where(counts > plot_thresh, counts, np.nan)
            kwargs = {"cmap": cmap, "rasterized": True} | dict(plot_kwargs or {})
            ax.pcolormesh(*edges, shown.T, **kwargs)
            ax.plot(*_running(along, delta, weight), c=ACCENT, lw=1.6)
            ax.set(xlim=limits[0], ylim=limits[1])
    return figure, axes


def photometric_offsets_2d(
    phot: Any,
    err: Any,
    mask: Any,
    models: Any,
    idxs: Any,
    reds: Any,
    dreds: Any,
    dists: Any,
    x: Any,
    y: Any,
    flux: bool = True,
    weights: Any = None,
    bins: Any = 100,
    offset: Any = None,
    dim_prior: bool = True,
    plot_thresh: float = 10.0,
    cmap: str = "coolwarm",
    clims: tuple[float, float] = (-0.05, 0.05),
    xspan: Any = None,
    yspan: Any = None,
    titles: Sequence[str] | None = None,
    show_off: bool = True,
    xlabel: str | None = None,
    ylabel: str | None = None,
    plot_kwargs: Mapping[str, Any] | None = None,
    fig: Any = None,
) -> "tuple[Figure, np.ndarray]":
    """Median of model minus observed magnitude of every band, in the cells of a plane (x, y).

    `x`, `y`: (star,) or (star, draw), such as log10 Teff and log10 g. Cells with fewer than
    `plot_thresh` stars are blank; `clims` are the limits of the colours [mag]; with `show_off` the
    median of all is in the title. Other arguments as in `photometric_offsets`. Returns
    `(figure, axes)`.
    """
    phot, err, mask = _fluxes(phot, err, mask, flux)
    bands = band_ratios(
        phot, err, mask, models, idxs, reds, dreds, dists, weights, dim_prior, offset
    )
    with style():
        figure, axes = _panels(phot.shape[1], fig)
        for band, (ratios, weight) in enumerate(bands):
            ax = axes.flat[band]
            delta = _magnitudes(ratios)
            place = [
                np.broadcast_to(np.asarray(v, float).reshape(len(phot), -1), delta.shape)
                for v in (x, y)
            ]
            use = (weight > 0) & np.isfinite(delta) & np.isfinite(place[0] + place[1])
            ax.set(xlabel=xlabel or "x", ylabel=ylabel or "y")
            middle = _median(delta[use], weight[use]) if use.any() else float("nan")
            _title(ax, band, titles, f"  {middle:+.3f} mag" if show_off else "")
            if not use.any():
                continue
            spans = [
                _limits(span, band) or tuple(np.percentile(v[use], (0.5, 99.5)))
                for span, v in zip((xspan, yspan), place)
            ]
            x_used, y_used = (v[use] for v in place)
            grid, edges = _medians_of_cells(
                x_used, y_used, delta[use], weight[use], bins, spans, plot_thresh
            )
            kwargs = {"cmap": cmap, "vmin": clims[0], "vmax": clims[1], "rasterized": True}
            image = ax.pcolormesh(*edges, grid.T, **(kwargs | dict(plot_kwargs or {})))
            figure.colorbar(image, ax=ax, label="model - observed  [mag]")
    return figure, axes


def zero_points(
    rounds: Sequence[Any], *, reference: Any = None, reference_label: str = "reference"
) -> "tuple[Figure, Any]":
    """Offsets of every band after each round of `brutax.zeropoints.fit`, with errors [%].

    `rounds` is a sequence of `ZeroPoints` (one, for `brutax.zeropoints.measure`); `reference`
    (band,) are other offsets to compare with. Returns `(figure, axes)`.

        figure, axes = zero_points(brutax.zeropoints.fit(grid, stars).rounds)
    """
    bands = rounds[-1].bands
    place = np.arange(len(bands))
    with style():
        figure, ax = pyplot().subplots(figsize=(1.6 + 0.6 * len(bands), 3.6), layout="constrained")
        ax.axhline(0.0, c=INK, lw=0.8, ls=":")
        for k, one in enumerate(rounds[:-1]):
            ax.plot(place, 100 * (one.offsets - 1), "o", ms=3, c=FAINT, label="" if k else "before")
        last = rounds[-1]
        known = np.isfinite(last.errors)
        ax.errorbar(
            place[known],
            100 * (last.offsets - 1)[known],
            100 * last.errors[known],
            fmt="o",
            c=ACCENT,
            label="offset",
        )
        if reference is not None:
            ax.plot(place, 100 * (np.asarray(reference) - 1), "x", c=INK, label=reference_label)
        ax.set_xticks(place, bands, rotation=45, ha="right")
        ax.set_ylabel("offset  [%]")
        ax.legend(fontsize=9)
    return figure, ax


def _fluxes(phot: Any, err: Any, mask: Any, flux: bool) -> tuple[np.ndarray, ...]:
    phot, err, mask = np.asarray(phot, float), np.asarray(err, float), np.asarray(mask)
    if flux:
        return phot, err, mask
    flux_ = 10.0 ** (-0.4 * phot)
    return flux_, 0.4 * np.log(10.0) * err * flux_, mask


def _magnitudes(ratios: np.ndarray) -> np.ndarray:
    """Model minus observed magnitude."""
    with np.errstate(divide="ignore"):
        return -2.5 * np.log10(ratios)


def _panels(n_bands: int, fig: Any) -> tuple[Any, np.ndarray]:
    if fig is not None:
        figure, axes = fig
        axes = np.atleast_1d(axes)
        if axes.size < n_bands:
            raise ValueError(f"fig has {axes.size} axes for {n_bands} bands")
        return figure, axes
    columns = min(COLUMNS, n_bands)
    lines = -(-n_bands // columns)
    size = (3.2 * columns, 2.7 * lines)
    figure, axes = pyplot().subplots(
        lines, columns, figsize=size, squeeze=False, layout="constrained"
    )
    for ax in axes.flat[n_bands:]:
        ax.set_visible(False)
    return figure, axes


def _title(ax: Any, band: int, titles: Sequence[str] | None, more: str = "") -> None:
    ax.set_title((titles[band] if titles is not None else f"band {band}") + more, fontsize=10)


def _limits(span: Any, band: int) -> Any:
    """The limits of a band: one pair for all, or one for each."""
    if span is None:
        return None
    span = np.asarray(span, float)
    return tuple(span if span.ndim == 1 else span[band])


def _about(delta: np.ndarray, weight: np.ndarray) -> tuple[float, float]:
    middle = _median(delta, weight)
    return middle - SPAN, middle + SPAN


def _median(values: np.ndarray, weight: np.ndarray) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weight[order])
    return float(values[order][np.searchsorted(reached, 0.5 * reached[-1])])


def _running(x: np.ndarray, delta: np.ndarray, weight: np.ndarray) -> tuple[list, list]:
    """Medians in groups of equally many stars by their mean x."""
    total = weight.sum(axis=1)
    stars = np.flatnonzero((total > 0) & np.isfinite(x).all(axis=1))
    mean = np.sum(weight * np.where(np.isfinite(x), x, 0.0), axis=1)
    stars = stars[np.argsort(mean[stars])]
    groups = np.array_split(stars, max(min(len(stars) // PER_BIN, 20), 1))
    groups = [g for g in groups if g.size]
    middle = [_median(delta[g].ravel(), weight[g].ravel()) for g in groups]
    return [float(np.median(mean[g])) for g in groups], middle


def _medians_of_cells(
    x: np.ndarray,
    y: np.ndarray,
    values: np.ndarray,
    weight: np.ndarray,
    bins: Any,
    spans: list,
    least: float,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """Weighted medians of the cells of a plane; NaN where the weights add up to too little."""
    shape = (bins, bins) if np.ndim(bins) == 0 else tuple(bins)
    edges = tuple(np.linspace(low, high, n + 1) for (low, high), n in zip(spans, shape))
    assert len(edges) == 2
    i, j = (np.searchsorted(edge, v, side="right") - 1 for edge, v in zip(edges, (x, y)))
    inside = (i >= 0) & (i < shape[0]) & (j >= 0) & (j < shape[1])
    cell = np.where(inside, i * shape[1] + j, -1)
    order = np.lexsort((values, cell))
    cell, values, weight = cell[order], values[order], weight[order]
    out = np.full(shape[0] * shape[1], np.nan)
    which, first = np.unique(cell, return_index=True)
    for c, low, high in zip(which, first, [*first[1:], cell.size]):
        reached = np.cumsum(weight[low:high])
        if c >= 0 and reached[-1] >= least:
            out[c] = values[low + np.searchsorted(reached, 0.5 * reached[-1])]
    return out.reshape(shape), edges
