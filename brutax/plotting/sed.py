"""Spectral energy distributions as the posterior predicts them, in the call form of brutus."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.models import get_seds
from brutax.plotting._style import new_axes
from brutax.utils import ArrayLike, magnitude

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESAMPLED = 10  # times as many draws where weights are not equal
VIOLIN = 0.5  # width, of the distance between bands


def generator(rstate: Any) -> np.random.Generator | np.random.RandomState:
    """The random numbers given, or a fresh generator."""
    return np.random.default_rng() if rstate is None else rstate


def predicted(
    models: ArrayLike, idxs: ArrayLike, reds: ArrayLike, dreds: ArrayLike, dists: ArrayLike
) -> np.ndarray:
    """Apparent magnitudes (draw, band) of draws of (model, A_V, R_V, distance [kpc])."""
    rows = np.asarray(idxs)
    seds: Any = get_seds(np.asarray(models)[rows], av=np.asarray(reds), rv=np.asarray(dreds))
    return np.asarray(seds) + 5.0 * np.log10(np.asarray(dists, float))[:, None]


def resampled(size: int, weights: ArrayLike | None, rstate: Any) -> np.ndarray:
    """Indices of draws of equal weight: all once, or many drawn by weight."""
    if weights is None or np.ptp(np.asarray(weights)) == 0:
        return np.arange(size)
    share = np.asarray(weights, float)
    return generator(rstate).choice(size, RESAMPLED * size, p=share / share.sum())


def posterior_predictive(
    models: ArrayLike,
    idxs: ArrayLike,
    reds: ArrayLike,
    dreds: ArrayLike,
    dists: ArrayLike,
    weights: ArrayLike | None = None,
    flux: bool = False,
    data: ArrayLike | None = None,
    data_err: ArrayLike | None = None,
    data_mask: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    vcolor: str = "black",
    pcolor: str = "black",
    labels: Sequence[str] | None = None,
    rstate: Any = None,
    psig: float = 2.0,
    fig: Any = None,
) -> "tuple[Figure, Axes, dict[str, Any]]":
    """A violin for every band of what the posterior of a star predicts, with its data on top.

    `models` (model, band, 3) coefficients at 1 kpc; `idxs`, `reds` (A_V [mag]), `dreds` (R_V),
    `dists` [kpc]: (draw,). `data`, `data_err` (band,) in maggies, `data_mask` 1 where observed,
    multiplied by `offset` (band,); bars are `psig` standard deviations. With `flux` the axis is in
    maggies, else in magnitudes. `fig` is (figure, axes) of one's own. Returns figure, axes and the
    parts of the violins. Raises `ValueError` where labels and bands differ in number.
    """
    mag = predicted(models, idxs, reds, dreds, dists)
    mag = mag[resampled(len(mag), weights, rstate)]
    shown = 10.0 ** (-0.4 * mag) if flux else mag
    count = mag.shape[1]
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} labels for {count} bands")
    figure, ax = new_axes(None if fig is None else fig[1], (max(4.0, 0.7 * count + 1), 4.0))
    at = np.arange(count)
    parts: dict[str, Any] = ax.violinplot(list(shown.T), at, widths=VIOLIN, showextrema=False)
    for body in parts["bodies"]:
        body.set(facecolor=vcolor, edgecolor="none", alpha=0.5)
    if data is not None:
        factor = np.ones(count) if offset is None else np.asarray(offset, float)
        value = np.asarray(data, float) * factor
        error = np.zeros(count) if data_err is None else np.asarray(data_err, float) * factor
        used = np.isfinite(value) & np.isfinite(error)
        if data_mask is not None:
            used &= np.asarray(data_mask).astype(bool)
        if not flux:
            used &= value > 0
            value, error = magnitude(np.where(used, value, 1.0), np.where(used, error, 0.0))
        ax.errorbar(
            at[used],
            np.asarray(value)[used],
            psig * np.asarray(error)[used],
            fmt="o",
            color=pcolor,
            ms=4,
            capsize=2,
        )
    names = [str(k) for k in at] if labels is None else list(labels)
    ax.set_xticks(at, names, rotation=45, ha="right")
    ax.set_ylabel("flux [maggies]" if flux else "magnitude")
    if not flux and not ax.yaxis_inverted():
        ax.invert_yaxis()
    return figure, ax, parts
