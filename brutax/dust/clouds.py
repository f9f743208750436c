"""Clouds along a line of sight: reddening in steps, by the posterior draws of stars.

Zucker et al. (2019, ApJ 879, 125) and Speagle et al. (2025, arXiv:2503.02227). In front of the
first cloud stars have the reddening of the foreground, behind each cloud that of its level, with
some scatter; a fraction of stars is anything. With draws (d_s, A_s) of a star the likelihood is

    L = (1 - p) mean over s of K(A_s | level at d_s, width) + p / (range of reddenings),

K a kernel that is normalised on the range. The call forms are those of brutus 1.2.0, in which
theta = [p, s_fore, s_back, A_fore, d_1, A_1, d_2, A_2, ...] and widths are s times the range.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.utils._namespace import floats
from brutax.utils.math import HALF_LN_2PI, log_ndtr_diff

FAR = 1e10  # distances from here on are no distances
LOG_PI = float(np.log(np.pi))  # ln pi, of the Lorentzian


def kernel_tophat(reds: Any, kp: Any, rlims: Any = None) -> Any:
    """ln of a uniform density within `kp` = (mean, half width); -inf outside.

    With `rlims` it is normalised on what of it lies in these limits. `mean` and `width` are
    numbers or of the shape of `reds`. Raises `ValueError` for a width that is not positive.
    """
    xp, reds, mean, width = _checked(reds, kp)
    low, high = mean - width, mean + width
    if rlims is not None:
        low, high = xp.maximum(low, rlims[0]), xp.minimum(high, rlims[1])
    inside = (reds >= low) & (reds < high) & (high > low)
    return xp.where(inside, -xp.log(xp.where(high > low, high - low, 1.0)), -xp.inf)


def kernel_gauss(reds: Any, kp: Any, rlims: Any = None) -> Any:
    """ln of a normal density, `kp` = (mean, standard deviation), normalised on `rlims` if given."""
    xp, reds, mean, width = _checked(reds, kp)
    value = -0.5 * ((reds - mean) / width) ** 2 - xp.log(width) - HALF_LN_2PI
    if rlims is None:
        return value
    return value - log_ndtr_diff((rlims[0] - mean) / width, (rlims[1] - mean) / width)


def kernel_lorentz(reds: Any, kp: Any, rlims: Any = None) -> Any:
    """ln of the Cauchy density of `kp` = (mean, half width at half maximum), as the others."""
    xp, reds, mean, width = _checked(reds, kp)
    value = -xp.log1p(((reds - mean) / width) ** 2) - xp.log(width) - LOG_PI
    if rlims is None:
        return value
    low, high = (rlims[0] - mean) / width, (rlims[1] - mean) / width
    # atan(high) - atan(low), without the cancellation of two that are nearly equal
    mass = xp.arctan2(high - low, 1.0 + high * low) / np.pi
    return value - xp.log(mass)


KERNELS = {"tophat": kernel_tophat, "gauss": kernel_gauss, "lorentz": kernel_lorentz}


def _checked(reds: Any, kp: Any) -> tuple:
    mean, width = kp
    xp, reds, mean, width = floats(reds, mean, width)
    if not isinstance(width, jax.core.Tracer) and not np.all(np.asarray(width) > 0):
        raise ValueError(f"the width of a kernel must be positive, found {width}")
    return xp, reds, xp.broadcast_to(mean, reds.shape), xp.broadcast_to(width, reds.shape)


def los_clouds_priortransform(
    u: Any,
    rlims: Any = (0.0, 6.0),
    dlims: Any = (4.0, 19.0),
    pb_params: Any = (-3.0, 0.7, -np.inf, 0.0),
    s_params: Any = (-3.0, 0.3, -np.inf, 0.0),
    dust_template: bool = False,
    nlims: Any = (0.2, 2.0),
) -> np.ndarray:
    """theta at a point of the unit cube (4 + 2 n,), for nested samplers.

    The outlier fraction and both scatters are log-normal (mean and standard deviation of the
    logarithm, and its limits: `pb_params`, `s_params`), the foreground is uniform in `rlims`, the
    distances are uniform in `dlims` and sorted, each with its level, uniform in `rlims` or, with
    `dust_template`, in `nlims`. Raises `ValueError` for points outside the cube and limits that
    do not increase.
    """
    from scipy.stats import truncnorm

    u = np.asarray(u, np.float64)
    if u.ndim != 1 or u.size < 6 or u.size % 2:
        raise ValueError(f"u is {u.shape}; it has 4 + 2 n numbers for n clouds")
    if not ((u >= 0) & (u <= 1)).all():
        raise ValueError("u is not in the unit cube")
    for name, limits in (("rlims", rlims), ("dlims", dlims), ("nlims", nlims)):
        if len(limits) != 2 or not limits[0] < limits[1]:
            raise ValueError(f"{name} must be two numbers that increase, found {limits}")
    out = u.copy()
    for at, name, (mean, std, low, high) in (
        (slice(0, 1), "pb_params", pb_params),
        (slice(1, 3), "s_params", s_params),
    ):
        if not (std > 0 and low < high):
            raise ValueError(
                f"{name}: the standard deviation must be positive, the limits increasing"
            )
        a, b = (low - mean) / std, (high - mean) / std
        value = np.clip(truncnorm.ppf(u[at], a, b, loc=mean, scale=std), low, high)
        out[at] = np.exp(value)
    order = np.argsort(u[4::2])
    out[3] = _scaled(u[3], rlims)
    out[4::2] = _scaled(u[4::2][order], dlims)
    out[5::2] = _scaled(u[5::2][order], nlims if dust_template else rlims)
    return out


def _scaled(u: Any, limits: Any) -> Any:
    return limits[0] + (limits[1] - limits[0]) * u


def los_clouds_loglike_samples(
    theta: Any,
    dsamps: Any,
    rsamps: Any,
    kernel: str | Callable = "gauss",
    rlims: Any = (0.0, 6.0),
    template_reds: Any = None,
    Ndraws: int = 25,
    additive_foreground: bool = False,
    monotonic: bool = True,
) -> float:
    """Log-likelihood of clouds for the first `Ndraws` draws (star, draw) of distance and reddening.

    `dsamps` in the unit of the distances in `theta`, `rsamps` in that of its levels and of
    `rlims`. `kernel`: "gauss", "lorentz", "tophat", or a function `(reds, (mean, width))` of JAX
    arrays. With `template_reds` (star,) levels are factors of these; with `additive_foreground`
    levels are added to the foreground. With `monotonic`, theta whose levels fall with distance
    has -inf. Draws that are not finite, or have no positive distance, count as impossible ones.

    Raises `ValueError` for shapes, and for a theta that cannot be meant: unsorted distances, a
    fraction outside 0 to 1, a negative scatter. `log_likelihood` is the same inside programs, with
    -inf in their place.
    """
    theta = np.asarray(theta, np.float64)
    dist, red = np.asarray(dsamps), np.asarray(rsamps)
    _check(theta, dist, red, template_reds, Ndraws, rlims)
    if callable(kernel):
        function = kernel
    elif kernel in KERNELS:
        function = functools.partial(KERNELS[kernel], rlims=tuple(float(x) for x in rlims))
    else:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)} or callable, got {kernel!r}")
    if monotonic and not _rising(theta, template_reds is not None, additive_foreground):
        return -np.inf
    template = None if template_reds is None else np.asarray(template_reds, np.float64)
    value = _sum_over_stars(
        theta,
        dist[:, :Ndraws],
        red[:, :Ndraws],
        template,
        kernel=function if callable(kernel) else kernel,
        rlims=tuple(float(x) for x in rlims),
        additive=additive_foreground,
    )
    return float(value)


def _check(
    theta: np.ndarray, dist: np.ndarray, red: np.ndarray, template: Any, n_draws: int, rlims: Any
) -> None:
    if theta.ndim != 1 or theta.size < 6 or theta.size % 2:
        raise ValueError(f"theta is {theta.shape}; it has 4 + 2 n numbers for n clouds")
    if dist.ndim != 2 or dist.shape != red.shape or not dist.size:
        raise ValueError(f"dsamps {dist.shape} and rsamps {red.shape} must be (star, draw)")
    if template is not None and np.shape(template) != (len(dist),):
        raise ValueError(
            f"template_reds is {np.shape(template)}; one for each of {len(dist)} stars"
        )
    if n_draws < 1:
        raise ValueError(f"Ndraws must be at least 1, found {n_draws}")
    if not rlims[0] < rlims[1]:
        raise ValueError(f"rlims must increase, found {rlims}")
    if not np.isfinite(theta).all():
        raise ValueError(f"theta is not finite: {theta}")
    if not 0 <= theta[0] <= 1:
        raise ValueError(f"the outlier fraction theta[0] must be in 0 to 1, found {theta[0]}")
    if (theta[1:3] < 0).any():
        raise ValueError(f"the scatters theta[1:3] must not be negative, found {theta[1:3]}")
    if (np.diff(theta[4::2]) < 0).any():
        raise ValueError(f"the distances theta[4::2] must increase, found {theta[4::2]}")


def _rising(theta: Any, template: bool, additive: bool) -> Any:
    """Whether no level is below the one before it."""
    levels = theta[5::2]
    first = theta[3:4] if not (template or additive) else levels[:1]
    ok = (levels[1:] >= levels[:-1]).all() & (levels[:1] >= first).all()
    return ok & (levels[0] >= 0) if additive else ok


@functools.partial(jax.jit, static_argnames=("kernel", "rlims", "additive"))
def _sum_over_stars(
    theta: Array,
    dist: Array,
    red: Array,
    template: Array | None,
    *,
    kernel: Any,
    rlims: tuple[float, float],
    additive: bool,
) -> Array:
    return jnp.sum(_of_stars(theta, dist, red, template, kernel, rlims, additive))


class _Shape(NamedTuple):
    """What a kernel needs to know of a level."""

    first: Array  # mean, or lower edge of a top hat
    second: Array  # 1 / width, or upper edge
    log_norm: Array


def _shape(kernel: str, mean: Array, width: Array, rlims: tuple[float, float]) -> _Shape:
    ok = width > 0  # without a width nothing is possible
    width = jnp.where(ok, width, 1.0)
    if kernel == "tophat":
        low, high = jnp.maximum(mean - width, rlims[0]), jnp.minimum(mean + width, rlims[1])
        ok = ok & (high > low)
        first, second, log_norm = low, high, -jnp.log(jnp.where(ok, high - low, 1.0))
    else:
        first, second = mean, 1.0 / width
        log_norm = KERNELS[kernel](mean, (mean, width), rlims=rlims)
    return _Shape(first, second, jnp.where(ok, log_norm, -jnp.inf))


def _log_kernel(kernel: str, red: Array, shape: _Shape) -> Array:
    if kernel == "tophat":
        inside = (red >= shape.first) & (red < shape.second)
        return jnp.where(inside, shape.log_norm, -jnp.inf)
    square = ((red - shape.first) * shape.second) ** 2
    return shape.log_norm - (0.5 * square if kernel == "gauss" else jnp.log1p(square))


def _of_stars(
    theta: Array,
    dist: Float[Array, "star draw"],
    red: Float[Array, "star draw"],
    template: Float[Array, " star"] | None,
    kernel: Any,
    rlims: tuple[float, float],
    additive: bool,
) -> Float[Array, " star"]:
    """ln of the likelihood of each star.

    Draws are gone through one by one, all stars at once: a sum over the axis that lies in memory
    side by side takes many times as long. What a kernel needs is computed once per level.
    """
    span = rlims[1] - rlims[0]
    base = theta[3] if additive else jnp.zeros_like(theta[3])
    levels = [(theta[3], theta[1] * span)]
    for k in range(5, len(theta), 2):
        levels.append((theta[k] if template is None else template * theta[k], theta[2] * span))
        levels[-1] = levels[-1][0] + base, levels[-1][1]
    places = [theta[k] for k in range(4, len(theta), 2)]
    if callable(kernel):

        def log_k(draw: Any, state: Any) -> Array:
            (red, dist), ((mean, width), *others), places = draw, *state
            good = jnp.isfinite(red) & (dist >= 0) & (dist < FAR)
            mean, width = jnp.full_like(red, mean), jnp.full_like(red, width)
            for place, (other, wide) in zip(places, others, strict=True):
                mean = jnp.where(dist >= place, other, mean)
                width = jnp.where(dist >= place, wide, width)
            good = good & (width > 0)
            width = jnp.where(width > 0, width, 1.0)
            value = kernel(jnp.where(good, red, rlims[0]), (mean, width))
            return jnp.where(good, jnp.asarray(value), -jnp.inf)

        state: Any = levels, places
    else:

        def log_k(draw: Any, state: Any) -> Array:
            (red, dist), (shape, *others), places = draw, *state
            good = jnp.isfinite(red) & (dist >= 0) & (dist < FAR)
            for place, other in zip(places, others, strict=True):
                # selections are cheaper than a search
                shape = jax.tree.map(functools.partial(jnp.where, dist >= place), other, shape)
            value = _log_kernel(kernel, jnp.where(good, red, rlims[0]), shape)
            return jnp.where(good, value, -jnp.inf)

        state = [_shape(kernel, mean, width, rlims) for mean, width in levels], places
    log_sum = _log_sum(log_k, (red.T, dist.T), state)
    some = log_sum > -jnp.inf
    log_mean = log_sum - np.log(red.shape[1])
    pb = theta[0]
    inside = _log(1.0 - pb) + jnp.where(some, log_mean, -jnp.inf)
    outside = _log(pb) - np.log(span)
    top = jax.lax.stop_gradient(jnp.maximum(inside, outside))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    return top + _log(jnp.exp(inside - top) + jnp.exp(outside - top))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _log_sum(log_k: Callable, draws: Any, state: Any) -> Float[Array, " star"]:
    """ln of the sum of exp(log_k(draw, state)) over draws, one pass with one exponential each."""

    def add(carry: tuple[Array, Array], draw: Any) -> tuple[tuple[Array, Array], None]:
        top, total = carry
        each = log_k(draw, state)
        change = each - jnp.where(each > top, top, jnp.where(top > -jnp.inf, top, 0.0))
        part = jnp.exp(-jnp.abs(change))
        total = jnp.where(change > 0, total * part + 1.0, total + part)
        return (jnp.maximum(top, each), total), None

    lowest = jnp.full(draws[0].shape[1:], -jnp.inf, draws[0].dtype)
    (top, total), _ = jax.lax.scan(add, (lowest, jnp.zeros_like(lowest)), draws)
    return jnp.where(top > -jnp.inf, top + _log(total), -jnp.inf)


@_log_sum.defjvp
def _(log_k: Callable, primals: Any, tangents: Any) -> tuple[Array, Array]:
    draws, state = primals
    log_sum = _log_sum(log_k, draws, state)
    fixed = jnp.where(log_sum > -jnp.inf, log_sum, 0.0)

    @jax.checkpoint
    def add(total: Array, draw: Any, state: Any) -> Array:
        each = log_k(draw, state)
        finite = each > -jnp.inf  # impossible draws have slopes that are finite
        return total + jnp.where(finite, jnp.exp(jnp.where(finite, each, 0.0) - fixed), 0.0)

    def shares(state: Any) -> Array:
        # one number for each star: slopes are summed over draws first, and over stars at the end
        state = jax.tree.map(lambda x: jnp.broadcast_to(x, fixed.shape), state)
        return jax.lax.scan(
            lambda total, draw: (add(total, draw, state), None), jnp.zeros_like(fixed), draws
        )[0]

    return log_sum, jax.jvp(shares, (state,), tangents[1:])[1]


def _log(x: Array) -> Array:
    """ln x, -inf with a slope of 0 where x is not positive."""
    return jnp.where(x > 0, jnp.log(jnp.where(x > 0, x, 1.0)), -jnp.inf)


def log_likelihood(
    theta: Float[Array, " parameter"],
    dist: Float[Array, "star draw"],
    red: Float[Array, "star draw"],
    *,
    kernel: str = "gauss",
    rlims: tuple[float, float] = (0.0, 6.0),
    template_reds: Float[Array, " star"] | None = None,
    weight: Float[Array, " star"] | Bool[Array, " star"] | None = None,
    additive_foreground: bool = False,
    monotonic: bool = True,
) -> Float[Array, ""]:
    """Log-likelihood of clouds inside programs: pure, differentiable, for `jax.vmap`.

    As `los_clouds_loglike_samples`, of all draws. `weight` (star,) is 0 for padding. A theta that
    cannot be (levels that fall, unsorted distances, a fraction or scatter out of range) has -inf,
    and finite gradients. Raises `ValueError` for an unknown kernel.
    """
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    ok = jnp.all(jnp.isfinite(theta)) & (theta[0] >= 0) & (theta[0] <= 1)
    ok = ok & jnp.all(theta[1:3] > 0) & jnp.all(theta[6::2] >= theta[4:-2:2])
    if monotonic:
        ok = ok & _rising(theta, template_reds is not None, additive_foreground)
    # where theta is impossible, that of an ordinary sight line takes its place
    plain = jnp.concatenate(
        [
            jnp.asarray([0.1, 0.1, 0.1, rlims[0]], theta.dtype),
            jnp.tile(jnp.asarray([1.0, rlims[0]], theta.dtype), (theta.shape[0] - 4) // 2),
        ]
    )
    theta = jnp.where(ok, theta, plain)
    each = _of_stars(theta, dist, red, template_reds, kernel, rlims, additive_foreground)
    if weight is not None:
        each = jnp.where(weight > 0, weight * each, 0.0)
    return jnp.where(ok, jnp.sum(each), -jnp.inf)
