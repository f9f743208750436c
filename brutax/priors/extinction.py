"""Priors on the dust in front of a star: A_V [mag] and R_V.

What a fit needs to know of such a prior is declared by `AbstractAvPrior` and `AbstractRvPrior`:
a density, the bounds of its support, and the Gaussian that proposals are made from.
"""

import abc
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.priors._base import AbstractPrior, Point
from brutax.utils._namespace import ArrayLike, Numeric, as_float, floats, require
from brutax.utils.math import HALF_LN_2PI, log_ndtr_diff, log_truncated_normal


class AbstractAvPrior(AbstractPrior):
    """A prior of the extinction A_V [mag] of a star, which may depend on its distance.

    A prior of one's own is one class: its density, the bounds of its support, and `moments`, a
    Gaussian that resembles it. Draws are made with the help of that Gaussian and weighted by the
    density itself, so that a poor resemblance costs effective draws and no exactness.

        class ExponentialAv(AbstractAvPrior):
            scale: Array = eqx.field(converter=as_float)
            low: Array = eqx.field(converter=as_float, default=0.0)
            high: Array = eqx.field(converter=as_float, default=20.0)

            def log_prob(self, point):
                inside = (point.av >= self.low) & (point.av <= self.high)
                norm = jnp.log(jnp.exp(-self.low / self.scale) - jnp.exp(-self.high / self.scale))
                value = -point.av / self.scale - jnp.log(self.scale) - norm
                return jnp.where(inside, value, -jnp.inf)

            def moments(self, dist):
                return jnp.zeros_like(dist) + self.scale, jnp.zeros_like(dist) + 1 / self.scale

        brutax.fit("stars.csv", priors=brutax.Priors(av=ExponentialAv(0.5)))
    """

    low: eqx.AbstractVar[Array]  # lower bound of the support [mag], not negative
    high: eqx.AbstractVar[Array]  # upper bound of the support [mag]

    @abc.abstractmethod
    def log_prob(self, point: Point) -> Array:
        """ln of the density per mag at `point.av`, for a star at `point.dist` [kpc].

        Element by element, normalised on [low, high] at every distance, -inf outside; in JAX
        operations with two derivatives in `point.dist`.
        """

    @abc.abstractmethod
    def moments(self, dist: Numeric) -> tuple[Array, Array]:
        """Mean [mag] and 1 / standard deviation of the Gaussian part at a distance [kpc].

        Both of the shape of `dist`. An inverse of 0 says that there is none: the density is flat
        there, or nothing is known of it.
        """


class AbstractRvPrior(AbstractPrior):
    """A prior of R_V = A_V / E(B-V); see `AbstractAvPrior`, whose moments know the distance."""

    low: eqx.AbstractVar[Array]  # lower bound of the support
    high: eqx.AbstractVar[Array]  # upper bound of the support

    @abc.abstractmethod
    def log_prob(self, point: Point) -> Array:
        """ln of the density at `point.rv`, normalised on [low, high], -inf outside."""

    @abc.abstractmethod
    def moments(self) -> tuple[Array, Array]:
        """Mean and 1 / standard deviation of the Gaussian part; an inverse of 0: there is none."""


class UniformAv(AbstractAvPrior):
    """Any A_V between two bounds [mag]."""

    low: Float[Array, ""] = eqx.field(converter=as_float, default=0.0)
    high: Float[Array, ""] = eqx.field(converter=as_float, default=20.0)

    def __check_init__(self) -> None:
        _check_bounds(self)

    def log_prob(self, point: Point) -> Array:
        return _uniform(as_float(point.av), self.low, self.high)

    def moments(self, dist: Numeric) -> tuple[Array, Array]:
        """The middle [mag], and 0: there is no Gaussian part, at any distance [kpc]."""
        return jnp.zeros_like(dist) + 0.5 * (self.low + self.high), jnp.zeros_like(dist)


class UniformRv(AbstractRvPrior):
    """Any R_V between two bounds."""

    low: Float[Array, ""] = eqx.field(converter=as_float, default=1.0)
    high: Float[Array, ""] = eqx.field(converter=as_float, default=8.0)

    def __check_init__(self) -> None:
        _check_bounds(self)

    def log_prob(self, point: Point) -> Array:
        return _uniform(as_float(point.rv), self.low, self.high)

    def moments(self) -> tuple[Array, Array]:
        """Mean and 1 / standard deviation of the Gaussian part: here there is none."""
        return 0.5 * (self.low + self.high), jnp.zeros_like(self.low)


class TruncatedNormalAv(AbstractAvPrior):
    """A normal distribution of A_V [mag] between two bounds."""

    mean: Float[Array, ""] = eqx.field(converter=as_float)
    std: Float[Array, ""] = eqx.field(converter=as_float)
    low: Float[Array, ""] = eqx.field(converter=as_float, default=0.0)
    high: Float[Array, ""] = eqx.field(converter=as_float, default=20.0)

    def __check_init__(self) -> None:
        _check_bounds(self)
        require(self.std > 0, f"the standard deviation must be positive, found {self.std}")

    def log_prob(self, point: Point) -> Array:
        return _truncated(as_float(point.av), self.mean, self.std, self.low, self.high)

    def moments(self, dist: Numeric) -> tuple[Array, Array]:
        """Mean and 1 / standard deviation of the Gaussian part, the same at every distance."""
        return jnp.zeros_like(dist) + self.mean, jnp.zeros_like(dist) + 1.0 / self.std


class TruncatedNormalRv(AbstractRvPrior):
    """A normal distribution of R_V between two bounds; the defaults are Schlafly et al. (2016)."""

    mean: Float[Array, ""] = eqx.field(converter=as_float, default=3.32)
    std: Float[Array, ""] = eqx.field(converter=as_float, default=0.18)
    low: Float[Array, ""] = eqx.field(converter=as_float, default=1.0)
    high: Float[Array, ""] = eqx.field(converter=as_float, default=8.0)

    def __check_init__(self) -> None:
        _check_bounds(self)
        require(self.std > 0, f"the standard deviation must be positive, found {self.std}")

    def log_prob(self, point: Point) -> Array:
        return _truncated(as_float(point.rv), self.mean, self.std, self.low, self.high)

    def moments(self) -> tuple[Array, Array]:
        """Mean and 1 / standard deviation of the Gaussian part."""
        return self.mean, 1.0 / self.std


class DustProfileAv(AbstractAvPrior):
    """The A_V of a three-dimensional dust map along one line of sight.

    A truncated normal distribution whose mean and standard deviation are linear in distance between
    the nodes and constant beyond them. Where a node next to the distance is not valid (mean
    or standard deviation not finite, or standard deviation not positive) nothing is known and A_V
    is uniform. Both are normalised, so distances with and without a map are on one scale.
    """

    ln_dist: Float[Array, "*star node"]  # ln(distance / kpc), increasing
    mean: Float[Array, "*star node"]  # A_V [mag]; 0 where not valid
    std: Float[Array, "*star node"]  # [mag]; 1 where not valid
    valid: Bool[Array, "*star node"]
    low: Float[Array, ""]
    high: Float[Array, ""]

    def __init__(
        self,
        ln_dist: ArrayLike,
        mean: ArrayLike,
        std: ArrayLike,
        low: ArrayLike = 0.0,
        high: ArrayLike = 20.0,
    ) -> None:
        mean, std = as_float(mean), as_float(std)
        self.ln_dist = as_float(ln_dist)
        self.valid = jnp.isfinite(mean) & jnp.isfinite(std) & (std > 0)
        self.mean = jnp.where(self.valid, mean, 0.0)
        self.std = jnp.where(self.valid, std, 1.0)
        self.low, self.high = as_float(low), as_float(high)

    def __check_init__(self) -> None:
        _check_bounds(self)
        if self.ln_dist.shape[-1] < 2:
            raise ValueError("a dust profile needs at least two distances")
        require(jnp.diff(self.ln_dist) > 0, "the distances of a dust profile must increase")

    def log_prob(self, point: Point) -> Array:
        av = as_float(point.av)
        mean, std, known = self._at(as_float(point.dist))
        mapped = _truncated(
            av, jnp.where(known, mean, 0.0), jnp.where(known, std, 1.0), self.low, self.high
        )
        return jnp.where(known, mapped, _uniform(av, self.low, self.high))

    def moments(self, dist: Numeric) -> tuple[Array, Array]:
        """Mean and 1 / standard deviation of the map at a distance [kpc]; (middle, 0) without."""
        mean, std, known = self._at(as_float(dist))
        middle = 0.5 * (self.low + self.high)
        inverse = 1.0 / jnp.where(known, std, 1.0)
        return jnp.where(known, mean, middle), jnp.where(known, inverse, 0.0)

    def _at(self, dist: Array) -> tuple[Array, Array, Array]:
        node, step = _bracket(jnp, dist, jnp.exp(self.ln_dist))
        mean = _between(jnp, self.mean, node, step)
        std = _between(jnp, self.std, node, step)
        known = (self.valid[node] | (step >= 1)) & (self.valid[node + 1] | (step <= 0))
        return mean, std, known


def dust_profile(
    dustmap: Any,
    ell: ArrayLike,
    b: ArrayLike,
    low: ArrayLike = 0.0,
    high: ArrayLike = 20.0,
    floor: ArrayLike = 0.0,
) -> DustProfileAv:
    """The prior along Galactic (`ell`, `b`) [deg] of a map with a method `query`.

    `query([l, b])` returns (distances [kpc], mean, standard deviation of A_V), or (mean, standard
    deviation) the same at all distances. `floor` [mag] is added to the standard deviations in
    quadrature, for what the map's own errors leave out.
    """
    answer = _query(dustmap, np.array([ell, b], dtype=np.float64))
    if not isinstance(answer, tuple) or len(answer) not in (2, 3):
        raise ValueError("query must return (distance, mean, std) or (mean, std)")
    mean, std = (np.asarray(value, np.float64).reshape(-1) for value in answer[-2:])
    std = np.where(std > 0, np.hypot(std, floor), np.nan)
    if len(answer) == 2:
        return DustProfileAv(np.array([0.0, 1.0]), np.repeat(mean, 2), np.repeat(std, 2), low, high)
    dist = np.asarray(answer[0], np.float64).reshape(-1)
    if not dist.shape == mean.shape == std.shape:
        raise ValueError(f"{dist.shape} distances for profiles {mean.shape} and {std.shape}")
    use = np.isfinite(dist) & (dist > 0)
    return DustProfileAv(np.log(dist[use]), mean[use], std[use], low, high)


def logp_extinction(
    avs: ArrayLike,
    dustmap: Any,
    coord: Any,
    distance: ArrayLike | None = None,
    return_components: bool = False,
    avlim: Sequence[float] | None = (0.0, 20.0),
) -> Any:
    """Log-prior of extinctions `avs` [mag] in a dust map, in the conventions of brutus.

    The Gaussian of the map at `distance` [kpc], normalised within `avlim` (over all A_V if
    None), but 0 where the map has no answer: not a density there. `DustProfileAv` is one.
    With `return_components` also the (mean, standard deviation) of the map.
    """
    if avlim is not None and not (np.all(np.isfinite(avlim)) and avlim[0] < avlim[1]):
        raise ValueError(f"avlim must be finite and increasing, found {avlim}")
    xp, avs = floats(avs) if distance is None else floats(avs, distance)[:2]
    try:
        answer = _query(dustmap, coord)
    except (AttributeError, TypeError) as error:
        if not hasattr(dustmap, "query"):
            raise
        warnings.warn(f"the dust map could not be queried: {error}", RuntimeWarning, stacklevel=2)
        answer = None
    mean, std = _map_at(xp, answer, distance)
    known = xp.isfinite(mean) & xp.isfinite(std) & (std > 0)
    mu, sigma = xp.where(known, mean, 0.0), xp.where(known, std, 1.0)
    value = -0.5 * ((avs - mu) / sigma) ** 2 - xp.log(sigma) - HALF_LN_2PI
    if avlim is not None:
        value = value - log_ndtr_diff((avlim[0] - mu) / sigma, (avlim[1] - mu) / sigma)
    value = xp.where(known, value, 0.0)
    return (value, (mean, std)) if return_components else value


def _query(dustmap: Any, coord: Any) -> Any:
    if not hasattr(dustmap, "query"):
        raise TypeError(
            f"a dust map needs a method query(coord); found {type(dustmap).__name__}. Load a "
            "file of the Bayestar map with brutax.dust.Bayestar(file)"
        )
    return dustmap.query(coord)


def _map_at(xp: ModuleType, answer: Any, distance: ArrayLike | None) -> tuple[Any, Any]:
    """Mean and standard deviation of a map's answer at a distance, NaN where there is none."""
    if isinstance(answer, tuple) and len(answer) == 2:
        return xp.asarray(answer[0], dtype=float), xp.asarray(answer[1], dtype=float)
    if not isinstance(answer, tuple) or len(answer) != 3 or distance is None:
        return xp.asarray(np.nan, dtype=float), xp.asarray(np.nan, dtype=float)
    dist, mean, std = (xp.asarray(value, dtype=float) for value in answer)
    node, step = _bracket(xp, xp.asarray(distance, dtype=float), dist)
    return _between(xp, mean, node, step), _between(xp, std, node, step)


def _bracket(xp: ModuleType, x: Numeric, nodes: Array | np.ndarray) -> tuple[Any, Any]:
    """The interval of `nodes` (node,) that x is in, and how far along it, 0 to 1."""
    node = xp.clip(xp.searchsorted(nodes, x, side="right") - 1, 0, nodes.shape[0] - 2)
    left = nodes[node]
    return node, xp.clip((x - left) / (nodes[node + 1] - left), 0.0, 1.0)


def _between(
    xp: ModuleType, values: Array | np.ndarray, node: Array | np.ndarray | np.integer, step: Numeric
) -> Any:
    """Linear between nodes; at a node its own value, whatever its neighbours are."""
    left, right = values[node], values[node + 1]
    value = left + step * (right - left)
    return xp.where(step <= 0, left, xp.where(step >= 1, right, value))


def _uniform(x: Numeric, low: Numeric, high: Numeric) -> Any:
    return jnp.where((x >= low) & (x <= high), -jnp.log(high - low), -jnp.inf)


def _truncated(x: Numeric, mean: Numeric, std: Numeric, low: Numeric, high: Numeric) -> Any:
    a, b = (low - mean) / std, (high - mean) / std
    inside = (x >= low) & (x <= high)
    return log_truncated_normal(jnp, (x - mean) / std, a, b, inside) - jnp.log(std)


def _check_bounds(prior: Any) -> None:
    require(prior.low < prior.high, f"the bounds {prior.low}, {prior.high} must increase")
