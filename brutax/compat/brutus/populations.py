"""Likelihood of a coeval population, in the call forms of brutus: mixture before marginalisation.

A star of a cluster has an initial mass m and, unresolved, a companion of q m. Its data d have

    L(d | theta) = integral of [w L_c(d | m, q, theta) + (1 - w) L_o(d)] dm dq / integral of dm dq,

w the probability of being a member: members and outliers are mixed at every point of the lattice
(Speagle et al. 2025, arXiv:2503.02227), and the measure is flat in m and q. These functions sum
over the points of a lattice, as brutus 1.2.0 does; they are for scripts written for it, on the
host. `ClusterModel` integrates along the isochrone and is differentiable.
"""

from typing import Any

import numpy as np

from brutax.utils import (
    chisquare_outlier_loglike,
    phot_loglike,
    uniform_outlier_loglike,
)
from brutax.utils._namespace import floats


class NoStars(ValueError):
    """No star of an age and composition is on a lattice."""


def generate_isochrone_population_grid(
    stellarpop: Any,
    feh: float,
    loga: float,
    av: float,
    rv: float,
    dist: float,
    smf_grid: Any = None,
    eep_grid: Any = None,
    mini_bound: float = 0.08,
    eep_binary_max: float = 480.0,
    corr_params: Any = None,
) -> dict[str, Any]:
    """Points of an isochrone in (initial mass, mass ratio), with the measure of each.

    `stellarpop` is a `StellarPop`, or any object with its `get_seds_smf_grid` or `get_seds`;
    `loga` is log10 age [yr], `dist` in pc. `smf_grid` (default 21 in 0 to 1) holds the mass
    ratios q, `eep_grid` (default 1000 in 202 to 808) the EEPs. The measures dm and dq are central
    differences in the lattice; points where the mass does not grow are left out. Points beyond
    `eep_binary_max` have no companion: they are there once, with the measure of all q.

    Returns `photometry` (point, band) [maggies], NaN where there is no star; `masses`,
    `smf_values`, `mass_jacobians`, `smf_jacobians`, (point,); and `grid_info`, with `smf_grid`,
    `eep_grid` and `n_total_points`. Raises `ValueError` where no point is left, for
    parameters that are not finite and a distance that is not positive.
    """
    ratios = np.linspace(0.0, 1.0, 21) if smf_grid is None else np.asarray(smf_grid, np.float64)
    eeps = np.linspace(202.0, 808.0, 1000) if eep_grid is None else np.asarray(eep_grid, np.float64)
    widths = _spacings(ratios)
    slices = _slices(
        stellarpop,
        ratios,
        feh=feh,
        loga=loga,
        av=av,
        rv=rv,
        eep=eeps,
        dist=dist,
        mini_bound=mini_bound,
        eep_binary_max=eep_binary_max,
        corr_params=corr_params,
    )
    late, late_done = eeps > eep_binary_max, False
    columns: list[tuple[np.ndarray, ...]] = []
    for ratio, width, (mag, first, _) in zip(ratios, widths, slices, strict=True):
        masses = np.asarray(first["mini"], np.float64)
        steps = _spacings(masses)
        blocks = [(~late, width)]
        if not late_done and np.any((steps > 0) & late):
            blocks.append((late, np.sum(widths)))
            late_done = True
        for where, share in blocks:
            at = np.flatnonzero((steps > 0) & where)
            full = np.ones(at.size)
            flux = 10.0 ** (-0.4 * np.asarray(mag, np.float64)[at])
            columns.append((flux, masses[at], ratio * full, steps[at], share * full))
    flux, mass, smf, dm, dq = (np.concatenate(column) for column in zip(*columns))
    if not mass.size:
        raise NoStars(f"no star of log10 age {loga} and [Fe/H] {feh} is on the lattice")
    info = {"smf_grid": ratios, "eep_grid": eeps, "n_total_points": mass.size}
    return {
        "photometry": flux,
        "masses": mass,
        "smf_values": smf,
        "mass_jacobians": dm,
        "smf_jacobians": dq,
        "grid_info": info,
    }


def compute_isochrone_cluster_loglike(
    obs_flux: Any,
    obs_err: Any,
    isochrone_grid: dict[str, Any],
    parallax: Any = None,
    parallax_err: Any = None,
    distance: Any = None,
    dim_prior: bool = True,
    mask: Any = None,
) -> Any:
    """Log-likelihood of every star at every point of a lattice, (point, star); NaN off the models.

    `obs_flux`, `obs_err`: (star, band) in the unit of the lattice; bands with a non-finite
    flux or error, or an error <= 0, do not count, nor those where `mask` (star, band) is 0.
    `parallax`, `parallax_err`: (star,) [mas], compared with 1000 / `distance` [pc] where all are
    given and valid. With `dim_prior` the density of chi-square over bands and parallax with as
    many degrees of freedom, else the Gaussian one of the data. Raises `ValueError` for shapes
    that do not go together.
    """
    xp, flux, err, models = floats(obs_flux, obs_err, isochrone_grid["photometry"])
    there = xp.all(xp.isfinite(models), axis=1)
    models = xp.where(xp.isfinite(models), models, 0.0)
    if parallax is None or parallax_err is None or distance is None:
        log_like = phot_loglike(flux, err, models, mask=mask, dim_prior=dim_prior)
    else:
        plx = xp.broadcast_to(xp.asarray(parallax, dtype=float), flux.shape[:1])
        perr = xp.broadcast_to(xp.asarray(parallax_err, dtype=float), flux.shape[:1])
        good = xp.isfinite(plx) & xp.isfinite(perr) & (perr > 0)
        pull = xp.where(good, plx - 1000.0 / distance, 0.0) / xp.where(good, perr, 1.0)
        dims = xp.where(good, 1.0, 0.0) if dim_prior else None
        log_like = phot_loglike(flux, err, models, mask, dim_prior, 0, pull**2, dims)
        if not dim_prior:
            log_var = xp.log(2.0 * xp.pi * xp.where(good, perr, 1.0) ** 2)
            log_like = log_like - 0.5 * xp.where(good, log_var, 0.0)[:, None]
    return xp.where(there[:, None], log_like.T, xp.nan)


def compute_isochrone_outlier_loglike(
    obs_flux: Any,
    obs_err: Any,
    isochrone_grid: dict[str, Any] | None = None,
    parallax: Any = None,
    parallax_err: Any = None,
    dim_prior: bool = True,
    outlier_model_func: Any = None,
    mask: Any = None,
    **outlier_kwargs: Any,
) -> Any:
    """Log-likelihood of every star as an outlier, (point, star), or (1, star) without a lattice.

    `chisquare_outlier_loglike` with `dim_prior`, else `uniform_outlier_loglike`, or
    `outlier_model_func(flux, err, stellar_params=, parallax=, parallax_err=, mask=, ...)` with
    the lattice's `masses` and `smf_values` in `stellar_params`, returning (star,) or (point,
    star). `outlier_kwargs` go to the one that is called, which raises `TypeError` for those it
    does not know. Raises `ValueError` for results of another shape.
    """
    xp, flux, err = floats(obs_flux, obs_err)
    params = None
    if isochrone_grid is not None:
        params = {name: isochrone_grid[name] for name in ("masses", "smf_values")}
    default = chisquare_outlier_loglike if dim_prior else uniform_outlier_loglike
    model = default if outlier_model_func is None else outlier_model_func
    out = xp.asarray(
        model(
            flux, err, stellar_params=params, parallax=parallax, parallax_err=parallax_err,
            mask=mask, **outlier_kwargs,
        )
    )  # fmt: skip
    count = flux.shape[0]
    points = None if params is None else len(params["masses"])
    if points is None:
        return out[None, :] if out.ndim == 1 else out
    if out.shape not in ((count,), (points, count)):
        raise ValueError(
            f"the outlier model returned {out.shape}, neither ({count},) nor ({points}, {count})"
        )
    return xp.broadcast_to(out, (points, count)) if out.ndim == 1 else out


def apply_isochrone_mixture_model(
    lnl_cluster: Any, lnl_outlier: Any, cluster_prob: Any, field_fraction: Any
) -> Any:
    """ln[w L_c + (1 - w) L_o] with w = `cluster_prob` (1 - `field_fraction`), (point, star).

    `cluster_prob` is a number or (star,). NaN where the cluster's likelihood is, or w outside 0
    to 1. Raises `ValueError` unless both likelihoods have one shape.
    """
    xp, cluster, outlier, prob, fraction = floats(
        lnl_cluster, lnl_outlier, cluster_prob, field_fraction
    )
    if cluster.shape != outlier.shape:
        raise ValueError(f"lnl_cluster {cluster.shape} and lnl_outlier {outlier.shape} differ")
    weight = prob * (1.0 - fraction)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_in = xp.broadcast_to(xp.log(weight), cluster.shape)
        log_out = xp.broadcast_to(xp.log(1.0 - weight), cluster.shape)
        return xp.logaddexp(cluster + log_in, outlier + log_out)


def marginalize_isochrone_grid(lnl_mixture: Any, mass_jacobians: Any, smf_jacobians: Any) -> Any:
    """ln of the mean of a likelihood (point, star) over the points' measure dm dq, (star,).

    The mean is over points that are finite for at least one star: the measure is a uniform
    density over the mass ratios and the masses of the isochrone. -inf where no point is.
    """
    xp, mixture, dm, dq = floats(lnl_mixture, mass_jacobians, smf_jacobians)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_measure = xp.log(dm * dq)
    valid = xp.any(xp.isfinite(mixture), axis=1) & xp.isfinite(log_measure)
    log_measure = xp.where(valid, log_measure, -xp.inf)
    norm = _logsumexp(xp, log_measure)
    norm = xp.where(xp.isfinite(norm), norm, 0.0)
    total = mixture + (log_measure - norm)[:, None]
    return _logsumexp(xp, xp.where(xp.isfinite(total), total, -xp.inf))


def _spacings(x: np.ndarray) -> np.ndarray:
    """Central differences of a lattice, one for a single point."""
    return np.gradient(x) if x.size > 1 else np.ones(x.shape)


def _slices(stellarpop: Any, ratios: np.ndarray, **settings: Any) -> list[tuple[Any, Any, Any]]:
    """`get_seds` for every mass ratio."""
    if hasattr(stellarpop, "get_seds_smf_grid"):
        return list(stellarpop.get_seds_smf_grid(ratios, **settings))
    return [stellarpop.get_seds(binary_fraction=ratio, **settings) for ratio in ratios]


def _logsumexp(xp: Any, x: Any) -> Any:
    """ln of the sum of exp(x) over the first axis; -inf where all are."""
    top = xp.max(x, axis=0)
    top = xp.where(xp.isfinite(top), top, 0.0)
    total = xp.sum(xp.exp(x - xp.broadcast_to(top, x.shape)), axis=0)
    some = total > 0
    return xp.where(some, top + xp.log(xp.where(some, total, 1.0)), -xp.inf)
