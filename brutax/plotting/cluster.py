"""Colour-magnitude diagrams of clusters."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from brutax.cluster import ClusterModel, ClusterParams, Members
from brutax.cluster.isochrone import TWINS
from brutax.plotting._style import ACCENT, FAINT, INK, new_axes, pyplot, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SHOWN = 40  # draws whose isochrones make the band
CELLS = (60, 90)  # of the density of predicted stars, in colour and magnitude


def cluster_diagram(
    model: ClusterModel,
    mag: Any,
    samples: Mapping[str, Any],
    stars: Members | None = None,
    *,
    colour: tuple[str, str] | None = None,
    band: str | None = None,
    predicted: Any = None,
    draws: int = SHOWN,
    seed: int = 0,
    ax: "Axes | None" = None,
) -> "tuple[Figure, Axes]":
    """Magnitude against colour: stars, isochrones of `draws` of the posterior, their pairs.

    `mag`: observed magnitudes (star, band) in the bands of the model, NaN where there is none;
    `samples` by parameter, (draw, ...). Points are shaded by the membership in `stars`. `colour`
    are two bands (default: the first and the last), `band` that of the magnitude (default: the
    first of these). Lines are single stars, dashes pairs of equal stars. With `predicted`
    magnitudes (any, band), such as those of `mock_members` with errors like the catalogue's, their
    density is shaded: a posterior predictive check. Raises `ValueError` for bands that the model
    has not.
    """
    bands = list(model.pop.filters)
    blue, red = colour or (bands[0], bands[-1])
    bright = band or blue
    for name in (blue, red, bright):
        if name not in bands:
            raise ValueError(f"no band {name!r} in this model: it has {', '.join(bands)}")
    first, second, third = (bands.index(name) for name in (blue, red, bright))
    mag = np.asarray(mag, float)
    if mag.ndim != 2 or mag.shape[1] != len(bands):
        raise ValueError(f"mag has the shape {mag.shape}; (star, {len(bands)}) is needed")
    known = {k: np.asarray(v) for k, v in samples.items() if k in ClusterParams._fields}
    count = len(known["feh"])
    chosen = np.random.default_rng(seed).choice(count, min(draws, count), replace=False)
    with style():
        fig, ax = new_axes(ax, (5.2, 6.4))
        member = np.ones(len(mag)) if stars is None else np.nan_to_num(stars.member)
        x, y = mag[:, first] - mag[:, second], mag[:, third]
        seen = np.isfinite(x) & np.isfinite(y)
        limits = (_limits(x[seen], 0.1), _limits(y[seen], 0.3)) if seen.any() else None
        if predicted is not None:
            made = np.asarray(predicted, float)
            _shade(ax, made[:, first] - made[:, second], made[:, third], limits)
        order = np.argsort(member)
        shade = pyplot().get_cmap("Greys")(0.25 + 0.65 * member[order])
        ax.scatter(x[order], y[order], s=9, c=shade, lw=0, label="stars, dark: members")
        for n, k in enumerate(chosen):
            params = ClusterParams(**{name: jnp.asarray(v[k]) for name, v in known.items()})
            line = np.asarray(model.magnitudes(params), float)
            colours, mags = line[:, first] - line[:, second], line[:, third]
            alpha = max(0.04, 1.0 / len(chosen))
            ax.plot(colours, mags, c=ACCENT, lw=1.2, alpha=alpha)
            ax.plot(colours, mags - TWINS, c=ACCENT, lw=0.8, ls="--", alpha=0.6 * alpha)
            if not n:  # for the legend, at full strength
                ax.plot([], [], c=ACCENT, lw=1.2, label="isochrones of the posterior")
                ax.plot([], [], c=ACCENT, lw=0.8, ls="--", label="pairs of equal stars")
        if limits is not None:
            ax.set_xlim(*limits[0])
            ax.set_ylim(*limits[1][::-1])
        ax.set(xlabel=f"{_text(blue)} - {_text(red)}  [mag]", ylabel=f"{_text(bright)}  [mag]")
        ax.legend(fontsize=8, labelcolor=INK)
        ax.grid(c=FAINT, alpha=0.15)
    return fig, ax


def _shade(ax: "Axes", x: np.ndarray, y: np.ndarray, limits: Any) -> None:
    """The density of predicted stars, its square root so that sparse stages show."""
    range_ = None if limits is None else [list(limits[0]), list(limits[1])]
    known = np.isfinite(x) & np.isfinite(y)
    count, across, along = np.histogram2d(x[known], y[known], bins=CELLS, range=range_)
    ax.pcolormesh(across, along, np.sqrt(count).T, cmap="Blues", alpha=0.7, rasterized=True)
    ax.fill_between([], [], color="C0", alpha=0.4, label="stars as predicted")


def _limits(values: np.ndarray, margin: float) -> tuple[float, float]:
    low, high = np.percentile(values, (0.5, 99.5))
    return float(low) - margin, float(high) + margin


def _text(band: str) -> str:
    return band.replace("_", " ")
