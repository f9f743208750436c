"""Priors over named parameters, and the flat vector that samplers move in.

A prior is a dictionary, read in order: a numpyro distribution is a free parameter, a function of
the parameters before it is a tie (it returns a value) or a conditional prior (it returns a
distribution), an `AbstractDensity` is a density over one parameter, or, under a tuple of names,
over several, anything else is a constant. A density alone, with `bounds`, is a joint density of
the parameters in `bounds`.

A density has no sampler of its own. Its parameter is drawn uniformly between its bounds, or from
the distribution that stands in their place, and the ratio of the two densities is a factor beside
the likelihood: products of prior and likelihood, and so posterior and evidence, are the same
whatever is drawn from. (`brutax.star.density` makes one of a prior of stars.)
"""

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax.scipy.special import betainc, ndtri
from jaxtyping import Array, Float, PRNGKeyArray
from numpyro.distributions.transforms import biject_to

Params = dict[str, Any]  # parameters by name: arrays, or what ties and constants are
Bounds = Sequence[float] | dist.Distribution  # (low, high), or what is drawn from


class AbstractDensity(eqx.Module):
    """ln of a density over some parameters that distributions of numpyro do not describe.

    class Spiral(infer.AbstractDensity):
        pitch: Array

        def log_prob(self, params):
            return -0.5 * (params["x"] - self.pitch * params["y"]) ** 2

    infer.Problem({("x", "y"): Spiral(jnp.array(0.3))}, log_like, bounds=dict(x=(-5, 5), y=(-5, 5)))
    """

    @abc.abstractmethod
    def log_prob(self, params: Mapping[str, Any]) -> Array:
        """ln of the density at all parameters (those of the dictionary so far), a scalar."""

    def bounds(self, name: str) -> tuple[float, float]:
        """The bounds of a parameter whose density this is; raises `ValueError` if it has none."""
        raise ValueError(
            f"{type(self).__name__} has no bounds of its own: give bounds=dict({name}=(low, high))"
        )

    def check(self, name: str) -> None:
        """Raises `ValueError` for names of parameters that the density does not describe."""

    def describe(self) -> str:
        """What messages call it."""
        return type(self).__name__


class Free(NamedTuple):
    """One free parameter: its shape, and its place in the flat vector."""

    shape: tuple[int, ...]
    start: int
    stop: int
    real_shape: tuple[int, ...]
    has_icdf: bool


class Prior:
    """The compiled form of a prior: maps between the flat vector z and parameters.

        prior = infer.Prior({"a": dist.Normal(0, 1), "b": lambda p: dist.Normal(p["a"], 1.0)})
        params, log_base, log_jacobian = prior.from_real(jnp.zeros(prior.size))

    Free parameters become real numbers by numpyro's bijections, one after the other. `size` is
    the length of z, `free` the free parameters by name, `names` all parameters. Raises
    `ValueError` for names that Python does not allow, bounds that are missing or do not increase,
    discrete parameters, and where none is free; `TypeError` for what is no prior.
    """

    def __init__(
        self,
        prior: "Mapping[Any, Any] | AbstractDensity",
        bounds: Mapping[str, Bounds] | None = None,
    ) -> None:
        self._entries: dict[str, Any] = {}
        self._factors: list[AbstractDensity] = []
        bounds = dict(bounds or {})
        self._bases: dict[str, dist.Distribution] = {}  # what is drawn from under densities
        if isinstance(prior, AbstractDensity):
            if not bounds:
                raise ValueError(
                    "a density alone needs bounds=dict(name=(low, high)) of the parameters "
                    "that are free, or a dictionary of one prior per parameter"
                )
            self._factors.append(prior)
            for name in list(bounds):
                self._add_base(name, prior, bounds.pop(name))
            prior = {}
        if not isinstance(prior, Mapping):
            raise TypeError(f"prior is a dictionary or a density, found {type(prior).__name__}")
        for name, entry in prior.items():
            if isinstance(name, tuple):
                self._add_joint(name, entry, bounds)
                continue
            if not (isinstance(name, str) and name.isidentifier()):
                raise ValueError(f"parameter {name!r} is not a name that Python allows")
            if isinstance(entry, AbstractDensity):
                self._factors.append(entry)
                self._add_base(name, entry, bounds.pop(name, None) or entry.bounds(name))
            else:
                self._entries[name] = entry
        if bounds:
            raise ValueError(f"bounds for {', '.join(bounds)}, which no density describes")
        self.free: dict[str, Free] = {}
        self.names: tuple[str, ...] = ()
        self._lay_out()
        if not self.free:
            raise ValueError("no parameter is free: give at least one of them a distribution")
        self.size = max(free.stop for free in self.free.values())

    def _add_joint(self, names: tuple[str, ...], entry: object, bounds: dict[str, Bounds]) -> None:
        if not isinstance(entry, AbstractDensity):
            raise TypeError(f"under {names} goes a density, found {type(entry).__name__}")
        if missing := [name for name in names if name not in bounds]:
            raise ValueError(f"a joint prior needs bounds=dict(name=(low, high)) of {missing}")
        self._factors.append(entry)
        for name in names:
            self._add_base(name, entry, bounds.pop(name))

    def _add_base(self, name: str, density: AbstractDensity, bounds: Bounds) -> None:
        density.check(name)
        if not isinstance(bounds, dist.Distribution):
            low, high = (float(x) for x in bounds)
            if not (math.isfinite(low) and math.isfinite(high) and low < high):
                raise ValueError(f"bounds of '{name}' must be finite and increase, found {bounds}")
            self._entries[name] = self._bases[name] = dist.Uniform(low, high)
        else:
            self._entries[name] = self._bases[name] = bounds

    def _lay_out(self) -> None:
        """Walks through the prior once, with draws, to learn shapes."""
        params: dict[str, Any] = {}
        key, start = jax.random.key(0), 0
        for name, entry in self._entries.items():
            value = resolve(name, entry, params)
            if not isinstance(value, dist.Distribution):
                params[name] = value
                continue
            if value.support.is_discrete:
                raise ValueError(f"'{name}' is discrete; sum it out in the likelihood instead")
            key, sub = jax.random.split(key)
            params[name] = value.sample(sub)
            real = biject_to(value.support).inv(params[name])
            stop = start + math.prod(real.shape)
            self.free[name] = Free(
                params[name].shape, start, stop, real.shape, _has_icdf(value, real)
            )
            start = stop
        self.names = tuple(params)

    @property
    def without_icdf(self) -> tuple[str, ...]:
        """Free parameters whose distribution has no inverse CDF (nautilus, dynesty need one)."""
        return tuple(name for name, free in self.free.items() if not free.has_icdf)

    def sample(self, key: PRNGKeyArray) -> Params:
        """One draw from the base measure: the prior, uniform where a density stands in."""
        params: dict[str, Any] = {}
        for name, entry in self._entries.items():
            value = resolve(name, entry, params)
            if isinstance(value, dist.Distribution):
                key, sub = jax.random.split(key)
                value = value.sample(sub)
            params[name] = value
        return params

    def from_real(self, z: Float[Array, " z"]) -> tuple[Params, Array, Array]:
        """Parameters at z, ln of their base density, and ln |d parameters / d z|."""
        params: dict[str, Any] = {}
        log_base = log_jacobian = jnp.zeros((), z.dtype)
        for name, entry in self._entries.items():
            value = resolve(name, entry, params)
            if isinstance(value, dist.Distribution):
                free = self.free[name]
                real = z[free.start : free.stop].reshape(free.real_shape)
                transform = biject_to(value.support)
                params[name] = transform(real)
                log_jacobian += jnp.sum(transform.log_abs_det_jacobian(real, params[name]))
                log_base += jnp.sum(value.log_prob(params[name]))
            else:
                params[name] = value
        return params, log_base, log_jacobian

    def from_cube(self, u: Float[Array, " z"]) -> Params:
        """Parameters at a point of the unit cube, by inverse CDFs."""
        params: dict[str, Any] = {}
        for name, entry in self._entries.items():
            value = resolve(name, entry, params)
            if isinstance(value, dist.Distribution):
                free = self.free[name]
                value = _from_cube(value, u[free.start : free.stop].reshape(free.real_shape))
            params[name] = value
        return params

    def to_real(self, params: Mapping[str, Any]) -> Array:
        """The flat vector z of parameters (only the free ones are looked at)."""
        known: dict[str, Any] = {}
        parts = []
        for name, entry in self._entries.items():
            value = resolve(name, entry, known)
            if isinstance(value, dist.Distribution):
                known[name] = jnp.asarray(params[name], dtype=float)
                parts.append(jnp.ravel(biject_to(value.support).inv(known[name])))
            else:
                known[name] = value
        return jnp.concatenate(parts)

    def log_factor(self, params: Mapping[str, Any]) -> Array:
        """ln of (prior density / base density) of what densities describe."""
        if not self._factors:
            return jnp.zeros(())
        log_base: Any = sum(base.log_prob(params[name]) for name, base in self._bases.items())
        return sum(factor.log_prob(params) for factor in self._factors) - log_base


def resolve(name: str, entry: object, params: Mapping[str, Any]) -> Any:
    """What an entry is, given the parameters before it."""
    if isinstance(entry, dist.Distribution):
        return entry
    if callable(entry):
        try:
            entry = entry(params)
        except KeyError as error:
            raise ValueError(
                f"'{name}' refers to {error}, which no entry before it names"
            ) from None
        if isinstance(entry, dist.Distribution):
            return entry
    try:
        return jnp.asarray(entry, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(
            f"'{name}' is {type(entry).__name__}; give a numpyro distribution, a number, an array, "
            "a function of the parameters or a density (infer.AbstractDensity; brutax.star.density "
            "makes one of a prior of stars)"
        ) from None


def _from_cube(value: dist.Distribution, u: Array) -> Array:
    """The value at a point of the unit cube: one component after the other (Rosenblatt 1952).

    Raises `NotImplementedError` where a distribution has no such map.
    """
    if isinstance(value, dist.Independent):
        return _from_cube(value.base_dist, u)
    if isinstance(value, dist.MultivariateNormal):
        scale: Any = value.scale_tril
        return jnp.asarray(value.loc) + jnp.einsum("...ij,...j->...i", scale, ndtri(u))
    if isinstance(value, dist.Beta):
        return _beta_icdf(jnp.asarray(value.concentration1), jnp.asarray(value.concentration0), u)
    if isinstance(value, dist.Dirichlet):  # shares of what is left, each of a beta distribution
        each: Any = value.concentration
        first, later = each[..., :-1], jnp.cumsum(each[..., ::-1], axis=-1)[..., ::-1][..., 1:]
        share = _beta_icdf(first, later, u)
        one = jnp.ones_like(share[..., :1])
        left = jnp.concatenate([one, jnp.cumprod(1.0 - share, axis=-1)], axis=-1)
        return left * jnp.concatenate([share, one], axis=-1)
    if value.event_shape:
        raise NotImplementedError
    return value.icdf(u)


def _beta_icdf(a: Array, b: Array, u: Array) -> Array:
    """The inverse of `betainc`, by halving: numpyro's needs another package."""

    def halve(_: int | Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        below = betainc(a, b, middle) < u
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    u = jnp.asarray(u, dtype=float)
    steps = int(jnp.finfo(u.dtype).nmant) + 7
    low, high = jax.lax.fori_loop(0, steps, halve, (jnp.zeros_like(u), jnp.ones_like(u)))
    return 0.5 * (low + high)


def _has_icdf(value: dist.Distribution, real: Array) -> bool:
    try:
        return bool(np.all(np.isfinite(_from_cube(value, jnp.full(real.shape, 0.3)))))
    except (NotImplementedError, ImportError):
        return False
