"""A star in one figure: all pairs of its quantities, and its photometry, as brutus draws it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.plotting.corner import cornerplot
from brutax.plotting.sed import posterior_predictive
from brutax.utils import ArrayLike

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INSET = (0.55, 0.68, 0.42, 0.28)  # left, bottom, width, height of the photometry in the figure


def summary_plot(
    models: ArrayLike,
    idxs: ArrayLike,
    reds: ArrayLike,
    dreds: ArrayLike,
    dists: ArrayLike,
    params: Any,
    data: ArrayLike | None = None,
    data_err: ArrayLike | None = None,
    data_mask: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    coord: Any = None,
    parallax: float | None = None,
    parallax_err: float | None = None,
    labels: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
    show_titles: bool = True,
    color: str = "black",
    vcolor: str = "black",
    pcolor: str = "black",
    R_solar: float = 8.2,
    Z_solar: float = 0.025,
    figsize: tuple[float, float] | None = None,
    **corner_kwargs: Any,
) -> "tuple[Figure, np.ndarray, Axes]":
    """`cornerplot` of a star, with `posterior_predictive` in the empty triangle above it.

    Arguments are those of the two; `labels` are names of bands. `figsize` [inch] sets the size of
    the figure. Returns figure, axes (quantity, quantity), and those of the photometry.
    """
    known = parallax is not None and parallax_err is not None
    options: dict[str, Any] = {"applied_parallax": known} | corner_kwargs
    figure, axes = cornerplot(
        idxs,
        (dists, reds, dreds),
        params,
        coord=coord,
        parallax=parallax,
        parallax_err=parallax_err,
        weights=weights,
        show_titles=show_titles,
        color=color,
        R_solar=R_solar,
        Z_solar=Z_solar,
        **options,
    )
    if figsize is not None:
        figure.set_size_inches(*figsize)
    inset = figure.add_axes(INSET)
    posterior_predictive(
        models,
        idxs,
        reds,
        dreds,
        dists,
        weights=weights,
        data=data,
        data_err=data_err,
        data_mask=data_mask,
        offset=offset,
        vcolor=vcolor,
        pcolor=pcolor,
        labels=labels,
        fig=(figure, inset),
    )
    return figure, axes, inset
