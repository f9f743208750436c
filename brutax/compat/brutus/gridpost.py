"""Model by model: the best fit of every model to one star, and the posterior mass of each.

The call forms are those of `BruteForce.loglike_grid` and `BruteForce.logpost_grid` of brutus; the
optima are converged and the masses integrate the exact posterior over (distance, A_V, R_V).
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from brutax.catalog import CatalogError, make_catalog
from brutax.compat.brutus.keywords import (
    av_prior,
    make_priors,
    note_knobs,
    rv_prior,
    seed_from,
    warn_of_extra,
)
from brutax.fitting.prior import star_priors
from brutax.models import StarGrid, Stars
from brutax.priors import AbstractPrior, Point
from brutax.solver import (
    Models,
    StarPrior,
    Theta,
    TruncatedGaussian,
    best_fit,
    draw_weighted,
    fisher_sar,
    fit_gaussian,
    make_models,
)

CHUNK = 4096  # models at once


class FlatDistance(AbstractPrior):
    """Uniform in distance (`power` 0) or in its logarithm (`power` -1); improper."""

    power: float = eqx.field(static=True, default=0.0)

    def log_prob(self, point: Point) -> Any:
        return self.power * jnp.log(point.dist)


class GridLikelihood(tuple):
    """What `loglike_grid` returns: (lnl, Ndim, chi2[, scale, av, rv, icov_sar]).

    The tuple remembers the star, for `logpost_grid`.
    """

    star: Stars
    indices: np.ndarray | None
    gauss: tuple[Any, Any]
    constant: float


class GridPosterior(NamedTuple):
    """What `logpost_grid` returns, for the models that were kept."""

    sel: np.ndarray  # (kept,) rows of the grid
    cov_sar: np.ndarray  # (kept, 3, 3) of (scale, A_V, R_V) at the posterior mode
    lnp: np.ndarray  # (kept,) ln posterior mass of the model
    dist_mc: np.ndarray  # (kept, Nmc) draws [kpc]
    av_mc: np.ndarray
    rv_mc: np.ndarray
    lnp_mc: np.ndarray  # ln weights of the draws: the mean weight is the mass of the model
    mc_ess: np.ndarray  # (kept,)


def _models(grid: StarGrid, log_prior: np.ndarray, indices: Any) -> Models:
    rows = slice(None) if indices is None else np.asarray(indices)
    labels = {name: np.nan_to_num(values[rows]) for name, values in grid.label_table.items()}
    return make_models(grid.mag[rows], grid.red[rows], grid.dred[rows], log_prior[rows], labels)


@eqx.filter_jit
def _optima(
    star: Stars, models: Models, prior: StarPrior, first: Theta, given: Array
) -> tuple[Theta, Array, Array]:
    """Optimum, chi-square and Fisher matrix of every model, a chunk at a time."""

    def one(inputs: tuple) -> tuple:
        model, first = inputs
        theta, chi2 = best_fit(star, model, prior, first, given)
        return theta, chi2, fisher_sar(theta, star, model, prior)

    return _chunked(one, models, (first,))


def _chunked(function: Any, models: Models, others: tuple) -> Any:
    """Maps a function of (model, ...) over a table, in chunks of a fixed size."""
    by_model = (jax.tree.map(lambda x: jnp.moveaxis(x, -1, 0), models), *others)
    size = models.log_prior.shape[0]
    return jax.lax.map(function, by_model, batch_size=min(CHUNK, size))


def loglike_grid(
    grid: StarGrid,
    data: Any,
    data_err: Any,
    data_mask: Any,
    avlim: Sequence[float] = (0.0, 20.0),
    av_gauss: Sequence[float] | None = (0.0, 1e6),
    rvlim: Sequence[float] = (1.0, 8.0),
    rv_gauss: Sequence[float] | None = (3.32, 0.18),
    av_init: Any = None,
    rv_init: Any = None,
    dim_prior: bool = True,
    ltol: float = 3e-2,
    ltol_subthresh: float = 1e-2,
    init_thresh: float | None = 5e-3,
    parallax: float | None = None,
    parallax_err: float | None = None,
    return_vals: bool = False,
    indices: Any = None,
    **extra: Any,
) -> GridLikelihood:
    """Best (distance, A_V, R_V) of every model for one star, under Gaussian A_V and R_V priors.

    `data`, `data_err` [maggies] and `data_mask` (bool or 0/1): (band,). The optimum maximises
    -chi2/2 plus the logs of the Gaussian priors within the bounds; as in brutus the parallax
    takes no part in it, so that `parallax` here changes nothing (no model is culled). `av_init`,
    `rv_init` (model,) are starting points; `indices` selects models. `ltol`, `ltol_subthresh`
    and `init_thresh` have nothing to act on.

    Returns (lnl, Ndim, chi2): the Gaussian log-likelihood with its constant (plus
    (Ndim - 3)/2 ln Ndim if `dim_prior`), the number of bands, and chi-square, each (model,); with
    `return_vals` also scale [kpc^-2], av [mag], rv, and the precision matrices of
    (scale, A_V, R_V), (model, 3, 3). Raises `ValueError` if no band is usable.
    """
    warn_of_extra("loglike_grid", extra)
    note_knobs(ltol=ltol, ltol_subthresh=ltol_subthresh, logl_initthresh=init_thresh)
    del parallax, parallax_err
    data = np.asarray(data, np.float64)
    if data.ndim != 1:
        raise CatalogError(f"loglike_grid takes one star, got data of shape {data.shape}")
    mask = None if data_mask is None else np.asarray(data_mask)[None]
    catalog = make_catalog(
        data[None], np.asarray(data_err, np.float64)[None], grid.bands, mask=mask
    )
    used = np.isfinite(catalog.flux[0]) & (catalog.flux_err[0] > 0)
    n_dim = int(used.sum())
    if n_dim == 0:
        raise CatalogError("no band has a finite flux and a positive error")
    sigma = catalog.flux_err[0][used]
    constant = -0.5 * float(np.sum(np.log(2.0 * np.pi * sigma**2)))
    if dim_prior:
        constant += 0.5 * (n_dim - 3) * np.log(n_dim)
    star = jax.tree.map(lambda x: x[0], catalog.stars())
    av, rv = av_prior(avlim, av_gauss), rv_prior(rvlim, rv_gauss)
    prior = StarPrior(FlatDistance(-1.0), av, rv)
    models = _models(grid, np.zeros(len(grid)), indices)
    size = models.log_prior.shape[0]
    first, given = [jnp.zeros(size)], []
    for name, start in (("av_init", av_init), ("rv_init", rv_init)):
        values = np.zeros(size) if start is None else np.array(start, np.float64)
        if values.shape != (size,):
            raise ValueError(f"{name} has shape {values.shape}; one value per model is needed")
        first.append(jnp.asarray(values, dtype=float))
        given.append(start is not None)
    theta, chi2, fisher = _optima(star, models, prior, Theta(*first), jnp.asarray(given))
    chi2 = np.asarray(chi2)
    values = (-0.5 * chi2 + constant, n_dim, chi2)
    if return_vals:
        scale = np.exp(-2.0 * np.asarray(theta.eta))
        values += (scale, np.asarray(theta.av), np.asarray(theta.rv), np.asarray(fisher))
    result = GridLikelihood(values)
    result.star, result.indices, result.constant = star, indices, constant
    result.gauss = (av_gauss, rv_gauss)
    return result


@eqx.filter_jit
def _gaussians(star: Stars, models: Models, prior: StarPrior) -> tuple:
    return _chunked(lambda inputs: fit_gaussian(star, inputs[0], prior), models, ())


@eqx.filter_jit
def _draws(
    star: Stars,
    models: Models,
    prior: StarPrior,
    gauss: TruncatedGaussian,
    keys: Key[Array, " model"],
    n_mc: int,
) -> tuple:
    def one(inputs: tuple) -> tuple:
        model, gauss, key = inputs
        return draw_weighted(gauss, star, model, prior, key, n_mc)

    return _chunked(one, models, (gauss, keys))


def logpost_grid(
    grid: StarGrid,
    results: GridLikelihood,
    parallax: float | None = None,
    parallax_err: float | None = None,
    coord: Any = None,
    Nmc_prior: int = 100,
    lnprior: Any = None,
    wt_thresh: float | None = 1e-3,
    cdf_thresh: float | None = 2e-3,
    max_models: int = 50000,
    precision_shrinkage: float = 0.0,
    subsample_mode: str = "representative",
    lngalprior: Any = None,
    lndustprior: Any = None,
    dustfile: Any = None,
    dlabels: Any = None,
    avlim: Sequence[float] = (0.0, 20.0),
    rvlim: Sequence[float] = (1.0, 8.0),
    mem_lim: float = 8000.0,
    rstate: Any = None,
    apply_av_prior: bool = True,
    R_solar: float = 8.2,
    Z_solar: float = 0.025,
    **extra: Any,
) -> GridPosterior:
    """Posterior mass and draws of (distance, A_V, R_V), model by model, for one star.

    `results` is what `loglike_grid` returned. `parallax`, `parallax_err` [mas]; `coord` Galactic
    (l, b) [deg]: without it the distance prior is uniform in distance. `lnprior` (model,) log
    prior masses, default 0. Models are kept whose mass exceeds `wt_thresh` times the largest; if
    that is None, those that together hold 1 - `cdf_thresh` of the mass; if both are None, all.
    `Nmc_prior` draws per model, fewer if they would fill more than `mem_lim` [MB]. `dustfile` is
    a map with `query`, used if `apply_av_prior`. `dlabels=False` hides [Fe/H] and age from the
    Galactic prior. `max_models` and `subsample_mode` have nothing to act on.

    The draws of a model come from a Gaussian fitted to its posterior and truncated in A_V; their
    weights `lnp_mc` are exact, and include the constants of `results`.
    """
    warn_of_extra("logpost_grid", extra)
    if not isinstance(results, GridLikelihood):
        raise TypeError("results must be what loglike_grid returned, not a copy of its arrays")
    note_knobs(
        max_models=max_models,
        subsample_mode=subsample_mode,
        precision_shrinkage=precision_shrinkage,
        mem_lim=mem_lim,
        Nmc_prior=50 if Nmc_prior > 0 else Nmc_prior,
    )
    sky = np.full((1, 2), np.nan) if coord is None else np.asarray(coord, float)[None]
    star = Stars.from_fluxes(
        np.ones((1, 1)), np.ones((1, 1)), _column(parallax), _column(parallax_err), sky
    )
    star = jax.tree.map(lambda x: x[0], star)
    star = eqx.tree_at(
        lambda s: (s.flux, s.weight, s.unit_mag),
        star,
        (results.star.flux, results.star.weight, results.star.unit_mag),
    )
    av_gauss, rv_gauss = results.gauss
    priors = make_priors(
        avlim=avlim,
        av_gauss=None if _flat(av_gauss) else av_gauss,
        rvlim=rvlim,
        rv_gauss=rv_gauss,
        lngalprior=lngalprior,
        lndustprior=lndustprior if apply_av_prior and dustfile is not None else None,
        dustfile=dustfile if apply_av_prior else None,
        apply_dlabels=dlabels is not False,
        R_solar=R_solar,
        Z_solar=Z_solar,
    )
    prior, _ = star_priors(priors, sky, grid.label_table)
    if coord is None and lngalprior is None:
        prior = StarPrior(FlatDistance(), prior.av, prior.rv)
    log_prior = np.zeros(len(grid)) if lnprior is None else np.array(lnprior, np.float64)
    if results.indices is not None and log_prior.shape == (len(results[0]),):
        full = np.full(len(grid), -np.inf)
        full[np.asarray(results.indices)] = log_prior
        log_prior = full
    if log_prior.shape != (len(grid),):
        raise ValueError(f"lnprior has shape {log_prior.shape}, the grid {len(grid)} models")
    models = _models(grid, log_prior, results.indices)
    keys = jax.random.split(jax.random.key(seed_from(rstate, 0)), len(results[0]))
    gauss, cov = _gaussians(star, models, prior)
    log_z = np.where(np.isfinite(gauss.log_z), gauss.log_z, -np.inf)
    sel = np.flatnonzero(_kept(log_z, wt_thresh, cdf_thresh))
    n_mc = max(1, min(int(Nmc_prior), int(mem_lim * 1e6 / (32 * sel.size))))
    gauss = jax.tree.map(lambda x: x[sel], gauss)
    out = _draws(star, models[sel], prior, gauss, keys[sel], n_mc)
    theta, lnp_mc = jax.tree.map(np.asarray, out)
    lnp_mc = lnp_mc + results.constant
    top = lnp_mc.max(axis=1, keepdims=True)
    weight = np.exp(lnp_mc - np.where(np.isfinite(top), top, 0.0))
    total = weight.sum(axis=1)
    with np.errstate(divide="ignore"):
        lnp = np.log(total / n_mc) + top[:, 0]
    square = np.sum(weight**2, axis=1)
    ess = np.where(square > 0, total**2 / np.where(square > 0, square, 1.0), 0.0)
    rows = sel if results.indices is None else np.asarray(results.indices)[sel]
    return GridPosterior(
        rows, np.asarray(cov)[sel], lnp, np.exp(theta.eta), theta.av, theta.rv, lnp_mc, ess
    )


def _flat(gauss: Any) -> bool:
    return gauss is None or gauss[1] >= 1e5


def _column(value: float | None) -> Float[np.ndarray, "1"]:
    return np.array([np.nan if value is None else float(value)])


def _kept(log_z: np.ndarray, wt_thresh: float | None, cdf_thresh: float | None) -> np.ndarray:
    finite = np.isfinite(log_z)
    if not finite.any():
        raise ValueError("no model has any posterior mass")
    top = log_z.max()
    if wt_thresh is not None:
        return finite & (log_z > top + np.log(wt_thresh))
    if cdf_thresh is None:
        return finite
    order = np.argsort(-log_z)
    cdf = np.cumsum(np.exp(log_z[order] - top))
    keep = np.zeros(log_z.size, bool)
    keep[order[: np.searchsorted(cdf, (1.0 - cdf_thresh) * cdf[-1]) + 1]] = True
    return keep & finite
