"""Reddening against distance of one star, or of several, in the call form of brutus."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from brutax.plotting._style import pyplot
from brutax.plotting.binning import bin_pdfs_distred
from brutax.utils import ArrayLike

LABELS = {
    "parallax": "parallax [mas]",
    "scale": "scale [kpc$^{-2}$]",
    "distance": "distance [kpc]",
    "distance_modulus": "distance modulus [mag]",
}


def dist_vs_red(
    data: Sequence[ArrayLike],
    ebv: bool | None = None,
    dist_type: str = "distance_modulus",
    lndistprior: Callable[..., Any] | None = None,
    coord: Any = None,
    avlim: Sequence[float] = (0.0, 6.0),
    rvlim: Sequence[float] = (1.0, 8.0),
    weights: ArrayLike | None = None,
    parallax: float | None = None,
    parallax_err: float | None = None,
    Nr: int = 300,
    cmap: str = "Blues",
    bins: int | Sequence[int] = 300,
    span: Sequence[Sequence[float]] | None = None,
    smooth: float | Sequence[float] = 0.015,
    plot_kwargs: Mapping[str, Any] | None = None,
    truths: Sequence[float] | None = None,
    truth_color: str = "red",
    truth_kwargs: Mapping[str, Any] | None = None,
    rstate: Any = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Any]:
    """Draws the density in (distance, reddening) of a star into the current axes.

    `data` as in `bin_pdfs_distred`, with or without the axis over stars; several stars are
    averaged. `truths` (distance in the unit of `dist_type`, reddening) is marked. Returns the
    density (distance, reddening), both edges, and the image.
    """
    arrays = [np.asarray(x, float) for x in data]
    one = arrays[0].ndim == 1
    if one:
        arrays = [x[None] for x in arrays]
        coord = None if coord is None else [coord]
        weights = None if weights is None else np.asarray(weights, float)[None]
    density, x_edges, y_edges = bin_pdfs_distred(
        arrays,
        ebv=bool(ebv),
        dist_type=dist_type,
        lndistprior=lndistprior,
        coord=coord,
        avlim=avlim,
        rvlim=rvlim,
        weights=weights,
        parallaxes=None if parallax is None else np.atleast_1d(parallax),
        parallax_errors=None if parallax_err is None else np.atleast_1d(parallax_err),
        Nr=Nr,
        bins=bins,
        span=span,
        smooth=smooth,
        rstate=rstate,
    )
    mean = density.mean(axis=0)
    ax = pyplot().gca()
    options = {"cmap": cmap, "rasterized": True} | dict(plot_kwargs or {})
    image = ax.pcolormesh(x_edges, y_edges, mean.T, **options)
    ax.set(xlabel=LABELS[dist_type], ylabel="E(B-V) [mag]" if ebv else "$A_V$ [mag]")
    if truths is not None:
        mark = {"color": truth_color} | dict(truth_kwargs or {})
        ax.axvline(truths[0], **mark)
        ax.axhline(truths[1], **mark)
    return mean, x_edges, y_edges, image
