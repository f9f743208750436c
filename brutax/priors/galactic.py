"""Where in the Galaxy stars are, and how metal-rich and old they are there.

A thin disk, a thick disk and a halo, as in Green et al. (2014) and Speagle et al. (2024): number
densities n_c relative to the thin disk's at the Sun, a normal distribution of [Fe/H] and a
truncated normal distribution of age for each, so that along a direction

    p(d, feh, age) = d^2 sum_c n_c(d) p(feh | c) p(age | c).

The d^2 is the volume of a cone per unit distance; a density in ln d has one more ln d. The
total is not normalised over distance. Lengths in kpc, ages in Gyr unless called `loga`.
"""

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float

from brutax.priors._base import AbstractPrior, Point
from brutax.utils._namespace import ArrayLike, Numeric, as_float, floats, namespace
from brutax.utils.math import HALF_LN_2PI, log_truncated_normal, squared_radius_and_height

_parameter = partial(eqx.field, converter=as_float)
_COMPONENTS = ("thin", "thick", "halo")
_LN_10 = math.log(10.0)


class GalacticStructure(AbstractPrior):
    """The density of stars in distance, [Fe/H] and age along a direction of the sky."""

    R_solar: Float[Array, ""] = _parameter(default=8.2)  # the Sun's place [kpc]
    Z_solar: Float[Array, ""] = _parameter(default=0.025)
    R_thin: Float[Array, ""] = _parameter(default=2.6)  # scale lengths [kpc]
    Z_thin: Float[Array, ""] = _parameter(default=0.3)
    Rs_thin: Float[Array, ""] = _parameter(default=2.0)  # smoothing of R [kpc]
    R_thick: Float[Array, ""] = _parameter(default=2.0)
    Z_thick: Float[Array, ""] = _parameter(default=0.9)
    f_thick: Float[Array, ""] = _parameter(default=0.04)  # density at the Sun / thin disk's
    Rs_thick: Float[Array, ""] = _parameter(default=2.0)
    Rs_halo: Float[Array, ""] = _parameter(default=2.0)
    q_halo_ctr: Float[Array, ""] = _parameter(default=0.2)  # flattening in the centre
    q_halo_inf: Float[Array, ""] = _parameter(default=0.8)  # and far away
    r_q_halo: Float[Array, ""] = _parameter(default=6.0)  # scale of its change [kpc]
    eta_halo: Float[Array, ""] = _parameter(default=4.2)  # power of the decline
    f_halo: Float[Array, ""] = _parameter(default=0.005)
    feh_thin: Float[Array, ""] = _parameter(
        default=-0.2
    )  # [Fe/H], mean and standard deviation [dex]
    feh_thin_sigma: Float[Array, ""] = _parameter(default=0.3)
    feh_thick: Float[Array, ""] = _parameter(default=-0.7)
    feh_thick_sigma: Float[Array, ""] = _parameter(default=0.4)
    feh_halo: Float[Array, ""] = _parameter(default=-1.6)
    feh_halo_sigma: Float[Array, ""] = _parameter(default=0.5)
    max_age: Float[Array, ""] = _parameter(default=13.8)  # [Gyr]
    min_age: Float[Array, ""] = _parameter(default=0.0)
    feh_age_ctr: Float[Array, ""] = _parameter(default=-0.5)  # age against mean [Fe/H]
    feh_age_scale: Float[Array, ""] = _parameter(default=0.5)
    nsigma_from_max_age: Float[Array, ""] = _parameter(default=2.0)
    max_sigma: Float[Array, ""] = _parameter(default=4.0)  # bounds of its standard deviation [Gyr]
    min_sigma: Float[Array, ""] = _parameter(default=1.0)

    def log_prob(self, point: Point) -> Array:
        """Looks at dist, ell and b, and at feh and loga where they are known."""
        xp, dist, ell, b = floats(*(as_float(x) for x in (point.dist, point.ell, point.b)))
        feh = None if point.feh is None else as_float(point.feh)
        loga = None if point.loga is None else as_float(point.loga)
        parts = _log_numbers(xp, self, dist, ell, b)
        inside = True
        if feh is not None:
            parts = [n + f for n, f in zip(parts, _log_feh(xp, self, feh))]
        if loga is not None:
            ages, inside = _log_age(xp, self, loga)
            parts = [n + a for n, a in zip(parts, ages)]
        return xp.where(inside, _logsumexp(xp, parts), -xp.inf)


class ExponentialDiskDistance(AbstractPrior):
    """p(d) = d^2 exp(-d / L) / (2 L^3) of Bailer-Jones (2015), for stars without a position."""

    length: Float[Array, ""] = eqx.field(converter=as_float, default=1.35)  # L [kpc]

    def log_prob(self, point: Point) -> Array:
        xp, dist = floats(as_float(point.dist))
        log_norm = math.log(2.0) + 3.0 * xp.log(self.length)
        return _log_volume(xp, dist) - dist / self.length - log_norm


def logp_galactic_structure(
    dists: ArrayLike,
    coord: Any,
    labels: Any = None,
    feh: ArrayLike | None = None,
    loga: ArrayLike | None = None,
    return_components: bool = False,
    **parameters: ArrayLike,
) -> Any:
    """Log-density of distances `dists` [kpc] along `coord` (and [Fe/H], ages): `GalacticStructure`.

    `coord` is (l, b) [deg] or an object with `.galactic`. `labels` is a structured array or a
    mapping that may hold "feh" [dex] and "loga" [log10 yr]; `feh` and `loga`, arrays of the
    length of `dists`, replace them. `parameters` are those of `GalacticStructure`. With
    `return_components` also {"number_density", "feh", "age"}: the logs of the density of each
    component, and of its contribution to p(feh) and p(age), as far as they are used.
    """
    p = _with_defaults(parameters)
    ell, b = _longitude_latitude(coord)
    feh = _label("feh", feh, labels, dists)
    loga = _label("loga", loga, labels, dists)
    xp = namespace(dists, ell, b, feh, loga, list(parameters.values()))
    dist, ell, b = (xp.asarray(x, dtype=float) for x in (dists, ell, b))
    parts = _log_numbers(xp, p, dist, ell, b)
    log_prob = _logsumexp(xp, parts)
    components = {"number_density": parts}
    weights = [n - log_prob for n in parts]
    if feh is not None:
        terms = [f + w for f, w in zip(_log_feh(xp, p, xp.asarray(feh, dtype=float)), weights)]
        log_feh = _logsumexp(xp, terms)
        weights = [term - log_feh for term in terms]
        log_prob, components["feh"] = log_prob + log_feh, terms
    if loga is not None:
        ages, inside = _log_age(xp, p, xp.asarray(loga, dtype=float))
        terms = [age + w for age, w in zip(ages, weights)]
        log_prob = xp.where(inside, log_prob + _logsumexp(xp, terms), -xp.inf)
        components["age"] = [xp.where(inside, term, -xp.inf) for term in terms]
    return (log_prob, components) if return_components else log_prob


def logn_disk(
    R: ArrayLike,
    Z: ArrayLike,
    R_solar: ArrayLike = 8.2,
    Z_solar: ArrayLike = 0.025,
    R_scale: ArrayLike = 2.6,
    Z_scale: ArrayLike = 0.3,
    R_smooth: ArrayLike = 2.0,
) -> Any:
    """ln of the number density of an exponential disk at (R, Z) [kpc], relative to the Sun."""
    xp, *arguments = floats(R, Z, R_solar, Z_solar, R_scale, Z_scale, R_smooth)
    return _log_disk(xp, arguments[0] ** 2, *arguments[1:])


def logn_halo(
    R: ArrayLike,
    Z: ArrayLike,
    R_solar: ArrayLike = 8.2,
    Z_solar: ArrayLike = 0.025,
    R_smooth: ArrayLike = 2.0,
    eta: ArrayLike = 4.2,
    q_ctr: ArrayLike = 0.2,
    q_inf: ArrayLike = 0.8,
    r_q: ArrayLike = 6.0,
) -> Any:
    """ln of the number density of a flattened halo at (R, Z) [kpc], relative to the Sun."""
    xp, *arguments = floats(R, Z, R_solar, Z_solar, R_smooth, eta, q_ctr, q_inf, r_q)
    return _log_halo(xp, arguments[0] ** 2, *arguments[1:])


def logp_feh(feh: ArrayLike, feh_mean: ArrayLike = -0.2, feh_sigma: ArrayLike = 0.3) -> Any:
    """Log-density of [Fe/H] [dex], a normal distribution."""
    xp, value, mean, sigma = floats(feh, feh_mean, feh_sigma)
    return -0.5 * ((value - mean) / sigma) ** 2 - xp.log(sigma) - HALF_LN_2PI


def logp_age_from_feh(
    age: ArrayLike,
    feh_mean: ArrayLike = -0.2,
    max_age: ArrayLike = 13.8,
    min_age: ArrayLike = 0.0,
    feh_age_ctr: ArrayLike = -0.5,
    feh_age_scale: ArrayLike = 0.5,
    nsigma_from_max_age: ArrayLike = 2.0,
    max_sigma: ArrayLike = 4.0,
    min_sigma: ArrayLike = 1.0,
) -> Any:
    """Log-density of an age [Gyr] in a population of mean metallicity `feh_mean` [dex].

    A normal distribution truncated to `min_age`, `max_age` (-inf outside), whose mean falls
    from one to the other along a logistic function of `feh_mean`, and whose standard deviation puts
    `max_age` at `nsigma_from_max_age`, within `min_sigma` to `max_sigma`.
    """
    arguments = (max_age, min_age, feh_age_ctr, feh_age_scale)
    arguments += (nsigma_from_max_age, max_sigma, min_sigma)
    xp, value, metallicity, *numbers = floats(age, feh_mean, *arguments)
    high, low, center, scale, nsigma, widest, narrowest = numbers
    mean = (high - low) / (1.0 + xp.exp((metallicity - center) / scale)) + low
    std = xp.clip((high - mean) / nsigma, narrowest, widest)
    bounds = (low - mean) / std, (high - mean) / std
    inside = (value >= low) & (value <= high)
    return log_truncated_normal(xp, (value - mean) / std, *bounds, inside) - xp.log(std)


def _log_numbers(
    xp: ModuleType, p: GalacticStructure | SimpleNamespace, dist: Numeric, ell: Numeric, b: Numeric
) -> list[Any]:
    """ln(d^2 n_c) of the three components."""
    R2, Z = squared_radius_and_height(xp, dist, ell, b, p.R_solar, p.Z_solar)
    volume = _log_volume(xp, dist)
    sun = (p.R_solar, p.Z_solar)
    thin = _log_disk(xp, R2, Z, *sun, p.R_thin, p.Z_thin, p.Rs_thin)
    thick = _log_disk(xp, R2, Z, *sun, p.R_thick, p.Z_thick, p.Rs_thick)
    shape = (p.eta_halo, p.q_halo_ctr, p.q_halo_inf, p.r_q_halo)
    halo = _log_halo(xp, R2, Z, *sun, p.Rs_halo, *shape)
    return [thin + volume, thick + volume + xp.log(p.f_thick), halo + volume + xp.log(p.f_halo)]


def _log_volume(xp: ModuleType, dist: Numeric) -> Any:
    """2 ln d, finite at d = 0."""
    least = 1e-300 if xp is np else float(xp.finfo(xp.asarray(dist).dtype).tiny)
    return 2.0 * xp.log(xp.maximum(dist, least))


def _log_disk(
    xp: ModuleType,
    R2: Numeric,
    Z: Numeric,
    R_solar: Numeric,
    Z_solar: Numeric,
    R_scale: Numeric,
    Z_scale: Numeric,
    Rs: Numeric,
) -> Any:
    radial = xp.sqrt(R2 + Rs**2) - xp.sqrt(R_solar**2 + Rs**2)
    return -radial / R_scale - (xp.abs(Z) - xp.abs(Z_solar)) / Z_scale


def _log_halo(
    xp: ModuleType,
    R2: Numeric,
    Z: Numeric,
    R_solar: Numeric,
    Z_solar: Numeric,
    R_smooth: Numeric,
    eta: Numeric,
    q_ctr: Numeric,
    q_inf: Numeric,
    r_q: Numeric,
) -> Any:
    def effective(R2: Numeric, Z: Numeric) -> Any:
        r = xp.sqrt(R2 + Z**2 + r_q**2)
        q = q_inf - (q_inf - q_ctr) * xp.exp(1.0 - r / r_q)
        return R2 + (Z / q) ** 2 + R_smooth**2

    return -0.5 * eta * (xp.log(effective(R2, Z)) - xp.log(effective(R_solar**2, Z_solar)))


def _log_feh(xp: ModuleType, p: GalacticStructure | SimpleNamespace, feh: Numeric) -> list[Any]:
    means, sigmas = _feh_means(p), (p.feh_thin_sigma, p.feh_thick_sigma, p.feh_halo_sigma)
    return [logp_feh(feh, mean, sigma) for mean, sigma in zip(means, sigmas)]


def _log_age(
    xp: ModuleType, p: GalacticStructure | SimpleNamespace, loga: Numeric
) -> tuple[list[Any], Any]:
    """ln p(age | c), finite everywhere, and whether the age is possible."""
    age = xp.exp(_LN_10 * (loga - 9.0))  # Gyr
    inside = (age >= p.min_age) & (age <= p.max_age)
    age = xp.where(inside, age, 0.5 * (p.min_age + p.max_age))
    relation = (p.max_age, p.min_age, p.feh_age_ctr, p.feh_age_scale)
    spread = (p.nsigma_from_max_age, p.max_sigma, p.min_sigma)
    ages = [logp_age_from_feh(age, mean, *relation, *spread) for mean in _feh_means(p)]
    return ages, inside


def _feh_means(p: GalacticStructure | SimpleNamespace) -> tuple[Any, Any, Any]:
    return p.feh_thin, p.feh_thick, p.feh_halo


def _logsumexp(xp: ModuleType, parts: list[Any]) -> Any:
    """ln of the sum of exponentials of three finite terms."""
    top = xp.maximum(xp.maximum(parts[0], parts[1]), parts[2])
    return top + xp.log(sum(xp.exp(part - top) for part in parts))


def _with_defaults(parameters: dict[str, Any]) -> SimpleNamespace:
    """Parameters as float64 numbers, or as JAX arrays if the caller gave them so."""
    values = {field.name: field.default for field in dataclasses.fields(GalacticStructure)}
    unknown = sorted(set(parameters) - set(values))
    if unknown:
        raise TypeError(f"unknown parameters {unknown}; there are {sorted(values)}")
    return SimpleNamespace(**{**values, **parameters})


def _longitude_latitude(coord: Any) -> tuple[Any, Any]:
    """(l, b) [deg] of a pair of numbers or of a coordinate object."""
    if hasattr(coord, "galactic"):
        galactic = coord.galactic
        return galactic.l.deg, galactic.b.deg
    ell, b = coord
    return ell, b


def _label(name: str, array: ArrayLike | None, labels: Any, dists: ArrayLike) -> Any:
    """The plain array where there is one, else the field of that name, else None."""
    if array is not None:
        if np.ndim(dists) != 1 or np.shape(array) != np.shape(dists):
            raise ValueError(
                f"{name} {np.shape(array)} must be one-dimensional like dists {np.shape(dists)}"
            )
        return array
    names = (
        labels if isinstance(labels, Mapping) else getattr(labels, "dtype", np.dtype(float)).names
    )
    return labels[name] if names is not None and name in names else None
