"""The likelihood of a cluster as brutus calls it, for its scripts and samplers on the host."""

from typing import Any

import numpy as np

from brutax.compat.brutus.populations import (
    NoStars,
    apply_isochrone_mixture_model,
    compute_isochrone_cluster_loglike,
    compute_isochrone_outlier_loglike,
    generate_isochrone_population_grid,
    marginalize_isochrone_grid,
)

BLOCK = 256  # stars whose likelihoods on the whole lattice are in memory at once


def isochrone_population_loglike(
    theta: Any,
    stellarpop: Any,
    obs_phot: Any,
    obs_err: Any,
    parallax: Any = None,
    parallax_err: Any = None,
    cluster_prob: Any = 0.95,
    dim_prior: bool = True,
    outlier_model_func: Any = None,
    smf_grid: Any = None,
    eep_grid: Any = None,
    mini_bound: float = 0.08,
    eep_binary_max: float = 480.0,
    corr_params: Any = None,
    return_components: bool = False,
    mask: Any = None,
    **outlier_kwargs: Any,
) -> Any:
    """Log-likelihood of a cluster, and with `return_components` also a dict of what made it.

    `theta` is [Fe/H], log10 age [yr], A_V [mag], R_V, distance [pc] and the fraction of the
    field; of five numbers the fraction is zero. Other arguments are those of the functions
    that this one calls; `obs_phot`, `obs_err`: (star, band) [maggies]. The components are
    `lnl_total`, `lnl_per_object` (star,), `isochrone_grid`, `lnl_cluster`, `lnl_outlier`,
    `lnl_mixture` (point, star) and `no_photometry` (star,): stars without a valid band, which
    contribute nothing.

    -inf where theta is not finite, has no isochrone, a distance <= 0 or a fraction outside 0 to
    1 (`isochrone_grid` and what needs it are None then). Raises `ValueError` for another count of
    parameters and for shapes that do not go together, `TypeError` for unknown options.
    """
    theta = np.asarray(theta, np.float64)
    if theta.shape not in ((5,), (6,)):
        raise ValueError(f"theta has the shape {theta.shape}; give 5 or 6 parameters")
    flux, err = np.asarray(obs_phot, np.float64), np.asarray(obs_err, np.float64)
    use = _used(flux, err, mask)
    count = flux.shape[0]
    plx = None if parallax is None else _per_star(parallax, count, "parallax")
    perr = None if parallax_err is None else _per_star(parallax_err, count, "parallax_err")
    prob = _per_star(cluster_prob, count, "cluster_prob")
    feh, loga, av, rv, dist, fraction = (*theta, 0.0)[:6]
    grid = None
    if np.isfinite(theta).all() and dist > 0 and 0.0 <= fraction <= 1.0:
        try:
            grid = generate_isochrone_population_grid(
                stellarpop, feh, loga, av, rv, dist, smf_grid, eep_grid,
                mini_bound, eep_binary_max, corr_params,
            )  # fmt: skip
        except NoStars:
            grid = None  # an impossible theta: -inf
    dark = ~(use > 0).any(axis=1)
    per_star = np.full(count, -np.inf)
    cluster = outlier = mixture = None
    if grid is None and outlier_model_func is None:  # mistakes raise at any theta
        compute_isochrone_outlier_loglike(
            flux, err, None, plx, perr, dim_prior, mask=use, **outlier_kwargs
        )
    if grid is not None:
        outlier = compute_isochrone_outlier_loglike(
            flux, err, grid, plx, perr, dim_prior, outlier_model_func, use, **outlier_kwargs
        )
        step = max(count, 1) if return_components else BLOCK
        for low in range(0, count, step):
            some = slice(low, low + step)
            near = None if plx is None else plx[some]
            near_err = None if perr is None else perr[some]
            cluster = compute_isochrone_cluster_loglike(
                flux[some], err[some], grid, near, near_err, dist, dim_prior, use[some]
            )
            mixture = apply_isochrone_mixture_model(cluster, outlier[:, some], prob[some], fraction)
            per_star[some] = marginalize_isochrone_grid(
                mixture, grid["mass_jacobians"], grid["smf_jacobians"]
            )
        per_star = np.where(dark, 0.0, per_star)
    total = float(np.sum(per_star)) if grid is not None else -np.inf
    total = total if np.isfinite(total) else -np.inf
    if not return_components:
        return total
    return total, {
        "lnl_total": total,
        "lnl_per_object": per_star,
        "isochrone_grid": grid,
        "lnl_cluster": cluster,
        "lnl_outlier": outlier,
        "lnl_mixture": mixture,
        "no_photometry": dark,
    }


def _used(flux: np.ndarray, err: np.ndarray, mask: Any) -> np.ndarray:
    """1.0 where a datum counts (star, band), else 0.0."""
    if flux.ndim != 2 or flux.shape != err.shape:
        raise ValueError(f"obs_phot {flux.shape} and obs_err {err.shape} must be (star, band)")
    seen = np.isfinite(flux) & np.isfinite(err) & (err > 0)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape not in (flux.shape, flux.shape[1:]):
            raise ValueError(f"mask {mask.shape} fits neither obs_phot {flux.shape} nor its bands")
        seen = seen & (mask != 0)
    return seen.astype(np.float64)


def _per_star(x: Any, count: int, name: str) -> np.ndarray:
    """One number per star, from as many or from one."""
    x = np.asarray(x, np.float64)
    if x.shape not in ((), (count,)):
        raise ValueError(f"{name} has the shape {x.shape}; give one number or {count}")
    return np.broadcast_to(x, (count,))
