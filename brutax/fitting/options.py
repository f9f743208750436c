"""The options of a fit: what they mean, and which of brutus' have nothing to act on."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from brutax.catalog import CatalogError
from brutax.priors import AbstractPrior

log = logging.getLogger("brutax")


@dataclass(frozen=True)
class Priors:
    """What is believed before the data; see `BruteForce.fit` for each entry."""

    lnprior: Any = None
    apply_agewt: bool = True
    apply_grad: bool = True
    avlim: Sequence[float] = (0.0, 20.0)
    av_gauss: Sequence[float] | None = None
    rvlim: Sequence[float] = (1.0, 8.0)
    rv_gauss: Sequence[float] | None = (3.32, 0.18)
    lngalprior: Callable | AbstractPrior | None = None
    lndustprior: Callable | None = None
    dustfile: Any = None
    dust_floor: float = 0.0
    apply_dlabels: bool = True
    R_solar: float = 8.2
    Z_solar: float = 0.025


# brutus' knobs, their defaults, and why they have nothing to act on
KNOBS: dict[str, tuple[Any, str]] = {
    "Nmc_prior": (50, "each draw is weighed exactly, whatever the number of draws per model"),
    "wt_thresh": (1e-3, "no model is cut"),
    "cdf_thresh": (2e-3, "no model is cut"),
    "ltol": (3e-2, "every optimum that is used is converged"),
    "ltol_subthresh": (1e-2, "every optimum that is used is converged"),
    "logl_initthresh": (5e-3, "no model is cut"),
    "mem_lim": (8000.0, "memory does not grow with the number of models kept"),
    "max_models": (50000, "no model is thinned out"),
    "subsample_mode": ("representative", "no model is thinned out"),
    "running_io": (True, "every finished batch is saved at once"),
}


def note_knobs(**given: Any) -> None:
    """Checks brutus' tuning knobs and logs those that were turned in vain.

    Raises `ValueError` for values that brutus would not take either, and for
    `precision_shrinkage`, which would change the posterior.
    """
    shrinkage = given.pop("precision_shrinkage", 0.0)
    if shrinkage != 0.0:
        raise ValueError(
            f"precision_shrinkage={shrinkage} would change the posterior away from the exact one "
            "and is refused; leave it at 0"
        )
    if given.get("subsample_mode") not in (None, "representative", "topk"):
        raise ValueError(
            f"subsample_mode must be 'representative' or 'topk', got {given['subsample_mode']!r}"
        )
    for name in ("Nmc_prior", "ltol", "ltol_subthresh", "mem_lim", "max_models"):
        if name in given and not given[name] > 0:
            raise ValueError(f"{name} must be positive, got {given[name]}")
    for name, value in given.items():
        default, reason = KNOBS[name]
        if value != default:
            log.warning("%s=%r has no effect: %s", name, value, reason)


def check_units(units: str | None, data: np.ndarray) -> str:
    """ "maggies" or "mag": as given, or inferred where only one reading is possible.

    Photometry above 1 everywhere can only be magnitudes (in maggies it would outshine Vega);
    photometry below 1 everywhere can only be maggies. Anything else raises `CatalogError`.
    """
    if units is not None:
        if units not in ("maggies", "mag"):
            raise CatalogError(f"units must be 'maggies' or 'mag', got {units!r}")
        return units
    values = data[np.isfinite(data) & (np.abs(data) < 90)]  # beyond: codes for missing values
    values = values[values != 0]
    if values.size and (values > 1).all():
        log.info(
            "units not given: photometry between %.3g and %.3g read as magnitudes",
            values.min(),
            values.max(),
        )
        return "mag"
    if (values < 1).all():
        log.info("units not given: photometry below 1 read as maggies")
        return "maggies"
    raise CatalogError(
        f"photometry between {values.min():.3g} and {values.max():.3g} may be magnitudes or "
        "maggies; say which with units='mag' or units='maggies'"
    )


def seed_from(rstate: Any, seed: int) -> int:
    """The seed: drawn from a NumPy `RandomState` or `Generator` if one is given."""
    if rstate is None:
        return int(seed)
    if isinstance(rstate, int | np.integer):
        return int(rstate)
    draw = getattr(rstate, "integers", None) or getattr(rstate, "randint", None)
    if draw is None:
        raise TypeError(
            f"rstate must be a NumPy RandomState or Generator, got {type(rstate).__name__}; "
            "for a fixed seed use seed="
        )
    return int(draw(0, 2**31 - 1))
