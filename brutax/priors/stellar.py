"""Priors on what a star is: initial mass, age, and its cell in a grid of models."""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from brutax.priors._base import AbstractPrior, Point
from brutax.priors.luminosity import (  # where brutus has it
    logp_ps1_luminosity_function as logp_ps1_luminosity_function,
)
from brutax.utils._namespace import ArrayLike, Numeric, as_float, floats, require


class KroupaIMF(AbstractPrior):
    """The broken power law of Kroupa (2001) in initial mass, per Msun, normalised.

    p(m) ~ m^-alpha_low below `mass_break` and ~ m^-alpha_high above, continuous there.
    """

    alpha_low: Float[Array, ""] = eqx.field(converter=as_float, default=1.3)
    alpha_high: Float[Array, ""] = eqx.field(converter=as_float, default=2.3)
    mass_break: Float[Array, ""] = eqx.field(converter=as_float, default=0.5)  # [Msun]
    mass_min: Float[Array, ""] = eqx.field(converter=as_float, default=0.08)  # [Msun]
    mass_max: Float[Array, ""] = eqx.field(converter=as_float, default=100.0)  # [Msun]

    def log_prob(self, point: Point) -> Array:
        return logp_imf(
            as_float(point.mini),
            alpha_low=self.alpha_low,
            alpha_high=self.alpha_high,
            mass_break=self.mass_break,
            mass_min=self.mass_min,
            mass_max=self.mass_max,
        )


def logp_imf(
    mgrid: ArrayLike,
    alpha_low: ArrayLike = 1.3,
    alpha_high: ArrayLike = 2.3,
    mass_break: ArrayLike = 0.5,
    mgrid2: ArrayLike | None = None,
    mass_min: ArrayLike = 0.08,
    mass_max: ArrayLike = 100.0,
) -> Any:
    """Log-density of initial masses [Msun] of the broken power law of `KroupaIMF`.

    With `mgrid2` the joint density of two masses drawn independently (primary and secondary
    in either order). -inf outside `mass_min` to `mass_max`.
    """
    parameters = (alpha_low, alpha_high, mass_break, mass_min, mass_max)
    xp, mass, *parameters = floats(mgrid, *parameters)
    low, high, knee, least, most = parameters
    require((least > 0) & (knee > 0), "mass_min and mass_break must be positive")
    require(most > least, f"mass_max ({mass_max}) must exceed mass_min ({mass_min})")
    jump = (high - low) * xp.log(knee)
    norm = _power_integral(xp, xp.minimum(least, knee), xp.minimum(most, knee), low)
    above = _power_integral(xp, xp.maximum(least, knee), xp.maximum(most, knee), high)
    log_norm = xp.log(norm + xp.exp(jump) * above)
    require(xp.isfinite(log_norm), f"the mass function {tuple(parameters)} has no finite integral")

    def log_density(m: Numeric) -> Any:
        inside = (m >= least) & (m <= most)
        log_m = xp.log(xp.where(inside, m, 1.0))
        value = xp.where(m <= knee, -low * log_m, jump - high * log_m) - log_norm
        return xp.where(inside, value, -xp.inf)

    value = log_density(mass)
    return value if mgrid2 is None else value + log_density(xp.asarray(mgrid2, dtype=float))


class AgeWeight(AbstractPrior):
    """ln |d(age) / d(EEP)|: the measure that makes a grid in EEP uniform in age.

    -inf where the weight is 0 or not finite: such a model lasts no time.
    """

    def log_prob(self, point: Point) -> Array:
        xp, weight = floats(as_float(point.agewt))
        ok = xp.isfinite(weight) & (weight != 0)
        return xp.where(ok, xp.log(xp.abs(xp.where(ok, weight, 1.0))), -xp.inf)


def grid_cell_log_weight(
    labels: Mapping[str, np.ndarray], axes: tuple[str, ...]
) -> Float[np.ndarray, " model"]:
    """ln of the volume of each model's cell in the lattice spanned by `axes`, in float64.

    Along an axis with values u_1 < u_2 < ... a cell is (u_{k+1} - u_{k-1}) / 2 wide, and at the
    ends u_2 - u_1. An axis with a single value has no extent and does not count. Labels that
    are predictions rather than axes of the lattice must not be given as `axes`.
    """
    missing = [name for name in axes if name not in labels]
    if missing:
        raise ValueError(f"no labels {missing}; there are {sorted(labels)}")
    if not axes:
        raise ValueError("give at least one axis of the lattice")
    total = np.zeros(len(labels[axes[0]]))
    for name in axes:
        values = np.asarray(labels[name], np.float64)
        if not np.all(np.isfinite(values)):
            raise ValueError(f"{np.sum(~np.isfinite(values))} values of axis {name} are not finite")
        nodes = np.unique(values)
        if len(nodes) > 1:
            total += np.interp(values, nodes, np.log(np.gradient(nodes)))
    return total


def _power_integral(xp: ModuleType, a: Numeric, b: Numeric, alpha: Numeric) -> Any:
    """Integral of m^-alpha, a to b: a^(1-alpha) L (e^y - 1) / y, L = ln(b/a), y = L - alpha L."""
    log_ratio = xp.log(b) - xp.log(a)
    y = (1.0 - alpha) * log_ratio
    small = xp.abs(y) < 1e-4
    safe = xp.where(small, 1.0, y)
    growth = xp.where(small, 1.0 + y * (0.5 + y / 6.0), xp.expm1(safe) / safe)
    return xp.exp((1.0 - alpha) * xp.log(a)) * log_ratio * growth
