"""Posteriors of stars binned in distance and reddening, in the call form of brutus."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from brutax.priors import logp_galactic_structure, logp_parallax
from brutax.utils import ArrayLike, draw_sar

DIST_TYPES = ("parallax", "scale", "distance", "distance_modulus")
MODULUS_RANGE = (4.0, 19.0)  # of the default span [mag]: 63 pc to 63 kpc
MEAN_RV = 3.32  # by which limits of A_V are divided for those of E(B-V) (Schlafly et al. 2016)


class Draws(NamedTuple):
    """Draws of several stars, each (star, draw)."""

    dist: np.ndarray  # [kpc]
    av: np.ndarray  # [mag]
    rv: np.ndarray
    weight: np.ndarray  # sums to one for each star


def weighted_draws(
    data: Sequence[ArrayLike],
    *,
    lndistprior: Callable[..., Any] | None,
    coord: Any,
    avlim: Sequence[float],
    rvlim: Sequence[float],
    weights: ArrayLike | None,
    parallaxes: ArrayLike | None,
    parallax_errors: ArrayLike | None,
    n_draws: int,
    rstate: Any,
    R_solar: float = 8.2,
    Z_solar: float = 0.025,
) -> Draws:
    """Draws of stars from either form of `data`.

    (dists [kpc], reds [mag], dreds), each (star, draw), are taken as they are. From (scales, avs,
    rvs, covs_sar) of optima `n_draws` are drawn from each Gaussian, and weighted by
    exp(lndistprior(d, coord)) d^3, d^3 being the change of variables from scale = d^-2 to d, and by
    the density of the parallax. Raises `ValueError` for other data, and where the Galactic prior
    needs a `coord` that is not given.
    """
    arrays = [np.asarray(x, float) for x in data]
    count = len(arrays[0])
    if len(arrays) == 3:
        dist, av, rv = arrays
        weight = np.ones(dist.shape) if weights is None else np.asarray(weights, float)
    elif len(arrays) == 4:
        if lndistprior is None and coord is None:
            raise ValueError("the Galactic prior needs coord: Galactic (l, b) [deg] of the stars")
        places = [None] * count if coord is None else list(coord)
        if len(places) != count:
            places = [coord] * count
        drawn = [
            draw_sar(scale, av, rv, cov, n_draws, avlim=avlim, rvlim=rvlim, rstate=rstate)
            for scale, av, rv, cov in zip(*arrays, strict=True)
        ]
        scale, av, rv = (np.stack([np.ravel(one[j]) for one in drawn]) for j in range(3))
        dist = 1.0 / np.sqrt(scale)
        log_weight = np.empty(dist.shape)
        for k, place in enumerate(places):
            if lndistprior is None:
                prior = logp_galactic_structure(dist[k], place, R_solar=R_solar, Z_solar=Z_solar)
            else:
                prior = lndistprior(dist[k], place)
            log_weight[k] = prior + 3.0 * np.log(dist[k])
            if parallaxes is not None and parallax_errors is not None:
                p, e = np.atleast_1d(parallaxes)[k], np.atleast_1d(parallax_errors)[k]
                log_weight[k] += logp_parallax(1.0 / dist[k], p, e)
        weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
        if weights is not None:
            weight = weight * np.repeat(np.asarray(weights, float), n_draws, axis=1)
    else:
        raise ValueError(
            f"data has {len(arrays)} arrays: give (dists, reds, dreds) or "
            "(scales, avs, rvs, covs_sar)"
        )
    return Draws(dist, av, rv, weight / weight.sum(axis=1, keepdims=True))


def as_type(dist: np.ndarray, dist_type: str) -> np.ndarray:
    """Distances [kpc] as parallax [mas], scale [kpc^-2], distance [kpc] or modulus [mag]."""
    if dist_type == "parallax":
        return 1.0 / dist
    if dist_type == "scale":
        return dist**-2
    if dist_type == "distance":
        return dist
    if dist_type == "distance_modulus":
        return 5.0 * np.log10(dist) + 10.0
    raise ValueError(f"dist_type must be one of {', '.join(DIST_TYPES)}, got {dist_type!r}")


def default_span(
    dist_type: str, avlim: Sequence[float], ebv: bool
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of distance (moduli of 4 to 19) and of A_V, or of E(B-V)."""
    ends = as_type(10.0 ** (np.array(MODULUS_RANGE) / 5.0 - 2.0), dist_type)
    red = np.asarray(avlim, float) / (MEAN_RV if ebv else 1.0)
    return (float(ends.min()), float(ends.max())), (float(red[0]), float(red[1]))


def bin_pdfs_distred(
    data: Sequence[ArrayLike],
    cdf: bool = False,
    ebv: bool = False,
    dist_type: str = "distance_modulus",
    lndistprior: Callable[..., Any] | None = None,
    coord: Any = None,
    avlim: Sequence[float] = (0.0, 6.0),
    rvlim: Sequence[float] = (1.0, 8.0),
    weights: ArrayLike | None = None,
    parallaxes: ArrayLike | None = None,
    parallax_errors: ArrayLike | None = None,
    Nr: int = 100,
    bins: int | Sequence[int] = (750, 300),
    span: Sequence[Sequence[float]] | None = None,
    smooth: float | Sequence[float] = 0.01,
    rstate: Any = None,
    verbose: bool = False,
    R_solar: float = 8.2,
    Z_solar: float = 0.025,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The posterior of every star on a grid of distance and reddening.

    `data`: (dists [kpc], reds [mag], dreds), each (star, draw), or (scales, avs, rvs, covs_sar) of
    optima, of which `Nr` draws each are made and weighted by prior and parallax
    (`weighted_draws`). `dist_type`: "parallax" [mas], "scale" [kpc^-2], "distance" [kpc] or
    "distance_modulus" [mag]. With `ebv` reddening is E(B-V) = A_V / R_V. `smooth`: standard
    deviation of a Gaussian, as a fraction of each axis; along distance at most half of what the
    error of the parallax leaves. `cdf` adds up along reddening.

    Returns (star, distance, reddening) in float32, each star summing to one over the whole plane,
    and the edges of both axes. Raises `ValueError` for unknown names and forms of data.
    """
    del verbose
    draws = weighted_draws(
        data,
        lndistprior=lndistprior,
        coord=coord,
        avlim=avlim,
        rvlim=rvlim,
        weights=weights,
        parallaxes=parallaxes,
        parallax_errors=parallax_errors,
        n_draws=Nr,
        rstate=rstate,
        R_solar=R_solar,
        Z_solar=Z_solar,
    )
    from scipy.ndimage import gaussian_filter

    numbers = (bins, bins) if isinstance(bins, int | np.integer) else tuple(bins)
    ranges: Any = default_span(dist_type, avlim, ebv) if span is None else span
    edges = [np.linspace(a, b, n + 1) for (a, b), n in zip(ranges, numbers, strict=True)]
    x = as_type(draws.dist, dist_type)
    y = draws.av / draws.rv if ebv else draws.av
    widths = np.broadcast_to(np.asarray(smooth, float), 2) * np.array(numbers)
    out = np.empty((len(x), *numbers), np.float32)
    for k in range(len(x)):
        count, _, _ = np.histogram2d(x[k], y[k], edges, weights=draws.weight[k])
        along = widths[0]
        if parallaxes is not None and parallax_errors is not None:
            p, e = np.atleast_1d(parallaxes)[k], np.atleast_1d(parallax_errors)[k]
            along = min(along, _parallax_width(p, e, dist_type, edges[0]))
        smoothed = gaussian_filter(count, (along, widths[1]))
        out[k] = np.cumsum(smoothed, axis=1) if cdf else smoothed
    return out, edges[0], edges[1]


def _parallax_width(p: float, e: float, dist_type: str, edges: np.ndarray) -> float:
    """Half of the range of distance within one error of a parallax, in bins."""
    if not (np.isfinite(p) and np.isfinite(e) and p - e > 0):
        return np.inf
    ends = as_type(1.0 / np.array([p - e, p + e]), dist_type)
    return float(0.5 * abs(ends[1] - ends[0]) / (edges[1] - edges[0]))
