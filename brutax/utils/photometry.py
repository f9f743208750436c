"""Magnitudes, fluxes, and the likelihood of photometry.

Fluxes are in maggies, f = 10^(-0.4 m), unless a zero point says otherwise. Functions compute
in the library of their arguments: NumPy in, NumPy (float64) out; JAX in, JAX out.
"""

import math
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.special

from brutax.utils._namespace import floats, namespace
from brutax.utils.math import HALF_LN_2PI, log_chisquare_density

# change of ln(flux) per magnitude, 0.921: flux = exp(-LN_PER_MAG * mag), much faster than 10**x
LN_PER_MAG = 0.4 * math.log(10.0)
LN_2PI = 2.0 * HALF_LN_2PI  # of the normalisation of a normal density


def magnitude(phot: Any, err: Any, zeropoints: Any = 1.0) -> tuple[Any, Any]:
    """Magnitudes and their errors: m = -2.5 log10(f / zp), dm = 2.5 / ln(10) df / f.

    `phot` and `err` are fluxes and errors in the unit of `zeropoints`, the flux of magnitude 0
    (maggies by default), arrays that broadcast. A negative flux has no magnitude (NaN, with a
    negative error), a zero flux an infinite one.

        magnitude([1.0, 1e-4], [0.01, 1e-6])  # ([0, 10], [0.0109, 0.0109])
    """
    xp, phot, err, zeropoints = _photometry(phot, err, zeropoints)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -2.5 * xp.log10(phot / zeropoints), err / phot / LN_PER_MAG


def inv_magnitude(mag: Any, err: Any, zeropoints: Any = 1.0) -> tuple[Any, Any]:
    """Fluxes and their errors from magnitudes, f = zp 10^(-0.4 m): the inverse of `magnitude`.

    `mag` and `err` [mag] broadcast with `zeropoints`, in whose unit the fluxes are.
    """
    xp, mag, err, zeropoints = _photometry(mag, err, zeropoints)
    phot = xp.exp(-LN_PER_MAG * mag) * zeropoints
    return phot, err * LN_PER_MAG * phot


def luptitude(phot: Any, err: Any, skynoise: Any = 1.0, zeropoints: Any = 1.0) -> tuple[Any, Any]:
    """Asinh magnitudes and errors of Lupton, Gunn & Szalay (1999, AJ 118, 1406), at any flux.

    With f = phot / zp and the softening b = skynoise / zp,
    m = -2.5 / ln(10) [asinh(f / 2b) + ln b]. `phot`, `err`, `skynoise` and `zeropoints` are
    fluxes in one unit, and broadcast.
    """
    xp, phot, err, skynoise, zeropoints = _photometry(phot, err, skynoise, zeropoints)
    soft = skynoise / zeropoints
    x = phot / zeropoints / (2.0 * soft)
    lupt = -(xp.arcsinh(x) + xp.log(soft)) / LN_PER_MAG
    return lupt, err / zeropoints / (LN_PER_MAG * 2.0 * soft * xp.sqrt(1.0 + x**2))


def inv_luptitude(
    lupt: Any, err: Any, skynoise: Any = 1.0, zeropoints: Any = 1.0
) -> tuple[Any, Any]:
    """Fluxes and their errors from asinh magnitudes [mag], the inverse of `luptitude`."""
    xp, lupt, err, skynoise, zeropoints = _photometry(lupt, err, skynoise, zeropoints)
    soft = skynoise / zeropoints
    x = -LN_PER_MAG * lupt - xp.log(soft)
    width = 2.0 * soft * zeropoints
    return width * xp.sinh(x), err * LN_PER_MAG * width * xp.cosh(x)


def add_mag(mag1: Any, mag2: Any) -> Any:
    """The magnitude of two unresolved sources together, -2.5 log10(10^(-0.4 m1) + 10^(-0.4 m2))."""
    xp, mag1, mag2 = floats(mag1, mag2)
    return -xp.logaddexp(-LN_PER_MAG * mag1, -LN_PER_MAG * mag2) / LN_PER_MAG


def phot_loglike(
    flux: Any,
    err: Any,
    mfluxes: Any,
    mask: Any = None,
    dim_prior: bool = False,
    dof_reduction: Any = 0,
    extra_chi2: Any = None,
    extra_dims: Any = None,
) -> Any:
    """Log-likelihood of every model for every object, (object, model).

    Gaussian: -(chi2 + N ln 2pi + sum ln sigma^2) / 2 over the N observed bands. With
    `dim_prior` instead the chi-square density of chi2 with N - `dof_reduction` degrees of
    freedom (-inf if there are none left).

    `flux`, `err`: (object, band); bands with a non-finite flux or error or an error <= 0 are
    not observed. `mfluxes`: (object, model, band), or (model, band) for models shared by all.
    `mask`: (object, band) or (band,), true or 1 where a band may be used. `extra_chi2`:
    (object,) or (object, model), added to chi2, and `extra_dims`: (object,), to N; the
    normalisation of such an extra Gaussian term is left to the caller.

    All fluxes are in one unit. Raises `ValueError` for shapes that do not agree.
    """
    xp, flux, err, mfluxes = floats(flux, err, mfluxes)
    _check_shapes(flux, err, mfluxes)
    valid = _observed(xp, flux, err, mask)
    chi2 = _chi_square(xp, flux, xp.where(valid, err, 1.0), mfluxes, valid)
    dims = xp.sum(xp.where(valid, 1.0, 0.0), axis=-1)
    if extra_chi2 is not None:
        extra = xp.asarray(extra_chi2, dtype=float)
        chi2 = chi2 + xp.broadcast_to(extra[:, None] if extra.ndim == 1 else extra, chi2.shape)
    if extra_dims is not None:
        dims = dims + xp.broadcast_to(xp.asarray(extra_dims, dtype=float), dims.shape)
    if dim_prior:
        dof = xp.broadcast_to((dims - dof_reduction)[:, None], chi2.shape)
        return log_chisquare_density(chi2, dof)
    log_var = xp.sum(2.0 * xp.log(xp.where(valid, err, 1.0)), axis=-1)
    return -0.5 * (chi2 + (dims * LN_2PI + log_var)[:, None])


def chisquare_outlier_loglike(
    flux: Any,
    err: Any,
    stellar_params: Any = None,
    parallax: Any = None,
    parallax_err: Any = None,
    p_value_cut: Any = 1e-5,
    mask: Any = None,
    dof_reduction: Any = 0,
) -> Any:
    """Log-likelihood of an outlier to go with `phot_loglike(..., dim_prior=True)`, (object,).

    The chi-square density at the value that a member exceeds with probability `p_value_cut`: a
    constant for each number of observed dimensions (bands, and a valid parallax). `flux`, `err`
    and `mask` as in `phot_loglike`; `parallax`, `parallax_err` (object,) [mas]. `stellar_params`
    is accepted for a common call form and not used.
    """
    xp, flux, err = floats(flux, err)
    count = xp.sum(xp.where(_observed(xp, flux, err, mask), 1, 0), axis=-1)
    if parallax is not None and parallax_err is not None:
        plx, perr = xp.asarray(parallax, dtype=float), xp.asarray(parallax_err, dtype=float)
        count = count + xp.where(_observed(xp, plx, perr, None), 1, 0)
    dof = np.arange(flux.shape[-1] + 2) - float(dof_reduction)
    cut = scipy.special.chdtri(np.where(dof > 0, dof, 1.0), p_value_cut)
    return xp.asarray(log_chisquare_density(cut, dof), dtype=float)[count]


def uniform_outlier_loglike(
    flux: Any,
    err: Any,
    stellar_params: Any = None,
    parallax: Any = None,
    parallax_err: Any = None,
    sigma_clip: Any = 3.0,
    mask: Any = None,
) -> Any:
    """Log-likelihood of an outlier with uniform fluxes over the range of the sample, (object,).

    The range of a band runs from min(f - k sigma) to max(f + k sigma) over the objects that
    observe it, k = `sigma_clip`; a parallax counts as one more band. The density therefore
    depends on the sample. `stellar_params` is accepted and not used.
    """
    xp, flux, err = floats(flux, err)
    log_like = -_log_ranges(xp, flux, err, _observed(xp, flux, err, mask), sigma_clip)
    if parallax is not None and parallax_err is not None:
        plx = xp.asarray(parallax, dtype=float)[:, None]
        perr = xp.asarray(parallax_err, dtype=float)[:, None]
        valid = _observed(xp, plx, perr, None)
        log_like = log_like - _log_ranges(xp, plx, perr, valid, sigma_clip)
    return xp.where(xp.isfinite(log_like), log_like, -xp.inf)


def _photometry(phot: Any, *others: Any) -> tuple:
    """`floats`, with everything broadcast: zero points may be per band or one for all."""
    xp, *arrays = floats(phot, *others)
    return xp, *xp.broadcast_arrays(*arrays)


def _observed(xp: ModuleType, flux: Any, err: Any, mask: Any) -> Any:
    """True where a datum counts; any mask of zeros and ones is a mask, never an index."""
    valid = xp.isfinite(flux) & xp.isfinite(err) & (err > 0)
    if mask is None:
        return valid
    mask = (jnp if namespace(mask) is jnp else np).asarray(mask)
    if mask.shape not in (valid.shape, valid.shape[-1:]):
        raise ValueError(f"mask {mask.shape} fits neither flux {valid.shape} nor its bands")
    return valid & xp.broadcast_to(xp.asarray(mask != 0), valid.shape)


def _check_shapes(flux: Any, err: Any, mfluxes: Any) -> None:
    if flux.ndim != 2 or flux.shape != err.shape:
        raise ValueError(
            f"flux {flux.shape} and err {err.shape} must both have the shape (object, band)"
        )
    if mfluxes.ndim not in (2, 3) or mfluxes.shape[-1] != flux.shape[-1]:
        raise ValueError(
            f"mfluxes {mfluxes.shape} must be (model, band) or (object, model, band) "
            f"with the {flux.shape[-1]} bands of flux"
        )
    if mfluxes.ndim == 3 and mfluxes.shape[0] != flux.shape[0]:
        raise ValueError(f"mfluxes are for {mfluxes.shape[0]} objects, flux for {flux.shape[0]}")


def _chi_square(xp: ModuleType, flux: Any, err: Any, mfluxes: Any, valid: Any) -> Any:
    """Sum of squared whitened residuals, (object, model), never larger than that in memory."""
    shared = mfluxes.ndim == 2
    total = xp.zeros((flux.shape[0], mfluxes.shape[-2]))
    for band in range(flux.shape[-1]):
        model = mfluxes[None, :, band] if shared else mfluxes[:, :, band]
        residual = (flux[:, band, None] - model) / err[:, band, None]
        total = total + xp.where(valid[:, band, None], residual, 0.0) ** 2
    return total


def _log_ranges(xp: ModuleType, value: Any, err: Any, valid: Any, nsigma: Any) -> Any:
    """Sum over the observed columns of ln(range of the column), (object,)."""
    reach = nsigma * xp.where(valid, err, 1.0)
    value = xp.where(valid, value, 0.0)
    high = xp.max(xp.where(valid, value + reach, -xp.inf), axis=0, keepdims=True)
    low = xp.min(xp.where(valid, value - reach, xp.inf), axis=0, keepdims=True)
    span = xp.broadcast_to(high - low, value.shape)
    span = xp.where(span > 0, span, 2.0 * reach)
    return xp.sum(xp.where(valid, xp.log(xp.where(valid, span, 1.0)), 0.0), axis=-1)
