"""brutus' keywords: what they mean here, and which have nothing to act on."""

import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brutax.catalog import CatalogError
from brutax.dust import Bayestar
from brutax.fitting import (
    DustMapAv,
    FunctionAv,
    FunctionDistance,
    ModelPrior,
    Priors,
    WithoutLabels,
)
from brutax.fitting.prior import AV_RANGE, RV_RANGE, bounds
from brutax.priors import (
    AbstractAvPrior,
    AbstractPrior,
    GalacticStructure,
    TruncatedNormalAv,
    TruncatedNormalRv,
    UniformAv,
    UniformRv,
)
from brutax.utils import as_float

log = logging.getLogger("brutax")


# width [mag] from which on brutus' Gaussian priors are flat for all purposes
FLAT_WIDTH = 1e5


def make_priors(
    *,
    lnprior: Any = None,
    apply_agewt: bool = True,
    apply_grad: bool = True,
    avlim: Sequence[float] = AV_RANGE,
    av_gauss: Sequence[float] | None = None,
    rvlim: Sequence[float] = RV_RANGE,
    rv_gauss: Sequence[float] | None = (3.32, 0.18),
    lngalprior: Callable | AbstractPrior | None = None,
    lndustprior: Callable | None = None,
    dustfile: Any = None,
    dust_floor: float = 0.0,
    apply_dlabels: bool = True,
    R_solar: float = 8.2,
    Z_solar: float = 0.025,
) -> Priors:
    """brutus' keywords as `brutax.Priors`; `BruteForce.fit` says what each means.

    Raises `ValueError` for bounds that do not increase, for `lndustprior` without a map, and for
    `av_gauss` beside one.
    """
    if lngalprior is None:
        stars = GalacticStructure(R_solar=as_float(R_solar), Z_solar=as_float(Z_solar))
    elif isinstance(lngalprior, AbstractPrior):
        stars = lngalprior
    else:
        stars = FunctionDistance(lngalprior)
    return Priors(
        av=_av(avlim, av_gauss, lndustprior, dustfile, dust_floor),
        rv=rv_prior(rvlim, rv_gauss),
        stars=stars if apply_dlabels else WithoutLabels(stars),
        models=ModelPrior(age_weight=apply_agewt, cell_size=apply_grad, log_mass=lnprior),
    )


def _av(
    avlim: Sequence[float],
    av_gauss: Sequence[float] | None,
    lndustprior: Callable | None,
    dustfile: Any,
    dust_floor: float,
) -> AbstractAvPrior | DustMapAv:
    plain = av_prior(avlim, av_gauss)
    if dustfile is None:
        if lndustprior is not None:
            raise ValueError("lndustprior needs dustfile: the map that it is given")
        return plain
    dustmap = Bayestar(dustfile) if isinstance(dustfile, str | Path) else dustfile
    if not hasattr(dustmap, "query"):
        raise ValueError(f"dustfile: {type(dustmap).__name__} has no method query")
    if av_gauss is not None:
        raise ValueError(
            "av_gauss and dustfile are both priors on A_V (brutus documents that the first "
            "replaces the second, and multiplies them); give one"
        )
    low, high = float(plain.low), float(plain.high)
    if lndustprior is not None:
        return FunctionAv(function=lndustprior, dustmap=dustmap, low=low, high=high)
    return DustMapAv(dustmap, low, high, dust_floor)


def av_prior(
    avlim: Sequence[float], av_gauss: Sequence[float] | None
) -> UniformAv | TruncatedNormalAv:
    """Uniform on `avlim` [mag], or a normal distribution (mean, std) truncated there."""
    low, high = bounds("avlim", avlim)
    if low < 0:
        raise ValueError(f"avlim starts at {low}: negative extinction is not a model here")
    if av_gauss is None or _gauss("av_gauss", av_gauss)[1] >= FLAT_WIDTH:
        return UniformAv(low, high)
    return TruncatedNormalAv(*_gauss("av_gauss", av_gauss), low, high)


def rv_prior(
    rvlim: Sequence[float], rv_gauss: Sequence[float] | None
) -> UniformRv | TruncatedNormalRv:
    """A normal distribution (mean, std) truncated to `rvlim`, or uniform there."""
    low, high = bounds("rvlim", rvlim)
    if rv_gauss is None or _gauss("rv_gauss", rv_gauss)[1] >= FLAT_WIDTH:
        return UniformRv(low, high)
    return TruncatedNormalRv(*_gauss("rv_gauss", rv_gauss), low, high)


def _gauss(name: str, gauss: Sequence[float]) -> tuple[float, float]:
    try:
        mean, std = (float(x) for x in gauss)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (mean, standard deviation), got {gauss!r}") from None
    if not (np.isfinite(mean) and std > 0):
        raise ValueError(
            f"{name} needs a finite mean and a positive standard deviation, got {gauss!r}"
        )
    return mean, std


# brutus' tuning keywords, their defaults, and why they have nothing to act on here
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


def warn_of_extra(function: str, extra: Iterable[str]) -> None:
    """Names keywords that neither brutus nor brutax has, in one warning."""
    if names := sorted(extra):
        log.warning("%s: unknown keywords have no effect: %s", function, ", ".join(names))
