"""Spectral energy distributions: the photometry of a model behind dust."""

from types import ModuleType
from typing import Any

import jax
import numpy as np

from brutax.utils._namespace import ArrayLike, Numeric, namespace
from brutax.utils.photometry import LN_PER_MAG as LN_PER_MAG


def reddened_mag(mag: Numeric, red: Numeric, dred: Numeric, av: Numeric, rv: Numeric) -> Any:
    """Magnitudes of one model at 1 kpc behind dust: `M + A_V (r0 + R_V dr)`."""
    return mag + av * (red + rv * dred)


def _sed(
    mag: Numeric, red: Numeric, dred: Numeric, av: Numeric, rv: Numeric, return_flux: bool
) -> Any:
    """`(sed, rvec, drvec)` of one model; see `get_seds`."""
    rvec = red + rv * dred
    sed = reddened_mag(mag, red, dred, av, rv)
    if not return_flux:
        return sed, rvec, dred
    xp = namespace(sed)
    flux = xp.exp(-LN_PER_MAG * sed)
    return flux, -LN_PER_MAG * rvec * flux, -LN_PER_MAG * dred * flux


def _get_seds(
    mag_coeffs: ArrayLike,
    av: ArrayLike,
    rv: ArrayLike,
    return_flux: bool = False,
) -> Any:
    """`(seds, rvecs, drvecs)`, each (model, band), for `av` and `rv` of shape (model,)."""
    xp = namespace(mag_coeffs, av, rv)
    coeffs = xp.asarray(mag_coeffs, dtype=float)
    if coeffs.ndim != 3 or coeffs.shape[-1] != 3:
        raise ValueError(f"mag_coeffs are {coeffs.shape}, not (model, band, 3)")
    n = coeffs.shape[0]
    each = (_per_model(x, n, name, xp) for x, name in ((av, "av"), (rv, "rv")))
    dust: list[Any] = list(each)
    tables = (coeffs[..., 0], coeffs[..., 1], coeffs[..., 2])
    if xp is np:
        return _sed(*tables, dust[0][:, None], dust[1][:, None], return_flux)
    return jax.vmap(lambda m, r, d, a, v: _sed(m, r, d, a, v, return_flux))(*tables, *dust)


def _per_model(value: ArrayLike, n: int, name: str, xp: ModuleType) -> Any:
    found = xp.asarray(value, dtype=float)
    if found.shape not in ((), (n,)):
        raise ValueError(f"{name} is {found.shape}; it is a number or has one per model ({n},)")
    return xp.broadcast_to(found, (n,))


def get_seds(
    mag_coeffs: ArrayLike,
    av: ArrayLike | None = None,
    rv: ArrayLike | None = None,
    return_flux: bool = False,
    return_rvec: bool = False,
    return_drvec: bool = False,
) -> Any:
    """Photometry of models (model, band, 3) at 1 kpc, for one or one per model A_V and R_V.

    In magnitudes `sed = M + A_V (r0 + R_V dr)`, with `rvec = r0 + R_V dr` and `drvec = dr`.
    With `return_flux`, `sed` is in maggies, `rvec = d(sed)/d(A_V)` and
    `drvec = d(sed)/d(R_V) / A_V`. Defaults are A_V = 0 and R_V = 3.3, as in brutus.
    NumPy in, NumPy float64 out; JAX in, JAX out.
    """
    av = 0.0 if av is None else av
    rv = 3.3 if rv is None else rv
    seds, rvecs, drvecs = _get_seds(mag_coeffs, av, rv, return_flux)
    if return_rvec and return_drvec:
        return seds, rvecs, drvecs
    if return_rvec:
        return seds, rvecs
    return (seds, drvecs) if return_drvec else seds
