"""Quantiles, draws from normal distributions, and resampling."""

import math
import warnings
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
from jaxtyping import Array, Float, Int

from brutax.utils._namespace import floats, namespace
from brutax.utils.linalg import clamped_cholesky
from brutax.utils.math import HALF_LN_2PI, log_mills

_FAR = 1e6  # used instead of an infinite bound of a standard normal
# intervals beyond this many standard deviations are sampled in terms of the log of the survival
# function, since the distribution function rounds to 0 or 1 in float32 from 5.5 on
_TAIL = 4.0


def quantile(x: Any, q: Any, weights: Any = None) -> Any:
    """Weighted quantiles of samples, `x` and `weights` (sample,), in the shape of `q`.

    Sample k of the sorted samples sits at (cumsum(w)_k - w_k / 2) / sum(w) of the distribution
    function, which is linear in between and constant beyond the first and the last sample.
    Raises `ValueError` for a `q` outside [0, 1] and for `weights` of another shape.

        quantile([1.0, 2.0, 3.0], [0.5])  # [2.0]
    """
    if not isinstance(q, jax.core.Tracer) and not np.all(
        (np.asarray(q) >= 0) & (np.asarray(q) <= 1)
    ):
        raise ValueError(f"quantiles must lie in [0, 1], found {q}")
    if weights is None:
        xp, x, q = floats(x, q)
        weights = xp.ones(x.shape)
    else:
        xp, x, q, weights = floats(x, q, weights)
    if x.ndim != 1 or weights.shape != x.shape:
        raise ValueError(f"samples {x.shape} and weights {weights.shape} must be of one length")
    order = xp.argsort(x)
    weights = weights[order]
    cdf = (xp.cumsum(weights) - 0.5 * weights) / xp.sum(weights)
    return xp.interp(q, cdf, x[order])


def quantile_by_integers(
    x: Float[Array, " n"], q: Float[Array, " level"], weights: Float[Array, " n"]
) -> Float[Array, " level"]:
    """`quantile` of finite samples inside programs, by a sort of integers.

    XLA sorts integers several times as fast as numbers. The high bits of each are the place of a
    sample in the range of all, the low bits which sample it is: samples within 2^-21 of the range
    (of 1024 samples) may change places.
    """
    n = x.shape[0]
    bits = max((n - 1).bit_length(), 1)
    steps = 2 ** (31 - bits) - 1
    low, span = jnp.min(x), jnp.max(x) - jnp.min(x)
    place = (x - low) / jnp.where(span > 0, span, 1.0) * steps
    place = jnp.minimum(place.astype(jnp.int32), steps - 1)
    order = jnp.sort((place << bits) | jnp.arange(n, dtype=jnp.int32)) & (2**bits - 1)
    weights = weights[order]
    total = jnp.cumsum(weights)
    cdf = (total - 0.5 * weights) / total[-1]
    above = jnp.clip(jnp.sum(cdf[None] < q[:, None], axis=1), min(1, n - 1), n - 1)
    below = jnp.maximum(above - 1, 0)
    gap = cdf[above] - cdf[below]
    share = (q - cdf[below]) / jnp.where(gap > 0, gap, 1.0)
    lower, upper = x[order[below]], x[order[above]]
    return lower + jnp.clip(share, 0.0, 1.0) * (upper - lower)


def draw_sar(
    scales: Any,
    avs: Any,
    rvs: Any,
    covs_sar: Any,
    ndraws: int = 500,
    avlim: Any = (0.0, 6.0),
    rvlim: Any = (1.0, 8.0),
    rstate: Any = None,
    max_attempts: int = 10000,
) -> tuple[Any, Any, Any]:
    """Draws (scale, A_V, R_V) from truncated normals, three arrays (distribution, `ndraws`).

    Means `scales` (1 / d^2 [kpc^-2]), `avs` [mag], `rvs`: (distribution,); covariances
    (distribution, 3, 3). Draws are
    kept where scale >= 0 and A_V and R_V are within their limits. After `max_attempts` passes
    what is missing is filled with the means and a RuntimeWarning. Runs on the host; `rstate`
    as in `sample_multivariate_normal`.
    """
    xp = namespace(scales, avs, rvs, covs_sar)
    mean = np.stack([np.asarray(v, np.float64) for v in (scales, avs, rvs)], axis=-1)
    cov = np.asarray(covs_sar, np.float64)
    rstate = _host_generator(rstate)
    low, high = np.array([0.0, avlim[0], rvlim[0]]), np.array([np.inf, avlim[1], rvlim[1]])
    draws = np.repeat(mean[:, None, :], ndraws, axis=1)
    have = np.zeros(len(mean), dtype=int)
    for _ in range(max_attempts):
        short = np.flatnonzero(have < ndraws)
        if short.size == 0:
            break
        new = _normals_numpy(mean[short], cov[short], ndraws, 1e-30, rstate, False)
        new = np.moveaxis(new, 0, -1).swapaxes(0, 1)
        inside = np.all((new >= low) & (new <= high), axis=-1)
        for i, good, keep in zip(short, new, inside):
            good = good[keep][: ndraws - have[i]]
            draws[i, have[i] : have[i] + len(good)] = good
            have[i] += len(good)
    if np.any(have < ndraws):
        warnings.warn(
            f"{np.sum(have < ndraws)} of {len(have)} distributions lie so far outside avlim="
            f"{avlim}, rvlim={rvlim} that {max_attempts} passes gave too few draws; the rest "
            "are their means",
            RuntimeWarning,
            stacklevel=2,
        )
    return tuple(xp.asarray(draws[..., i], dtype=float) for i in range(3))


def sample_multivariate_normal(
    mean: Any,
    cov: Any,
    size: int = 1,
    eps: Any = 1e-30,
    rstate: Any = None,
    antithetic: bool = False,
) -> Any:
    """Draws from one or many normal distributions, (dim, size) or (dim, size, distribution).

    `mean`: (dim,) or (distribution, dim); `cov`: (dim, dim) or (distribution, dim, dim),
    positive semi-definite; `eps` is added to its diagonal. `rstate` is a NumPy Generator or
    RandomState (NumPy out), a JAX key (JAX out, works under jit), or None for a fresh
    Generator. `antithetic` follows the first half of the draws by their mirror images.
    """
    if isinstance(rstate, jax.Array):
        return _normals_jax(mean, cov, size, eps, rstate, antithetic)
    rstate = np.random.default_rng() if rstate is None else rstate
    mean, cov = np.asarray(mean, np.float64), np.asarray(cov, np.float64)
    if mean.ndim == 1 and not antithetic:
        return rstate.multivariate_normal(mean, cov, size).T
    if mean.ndim == 1:
        return _normals_numpy(mean[None], cov[None], size, eps, rstate, True)[..., 0]
    return _normals_numpy(mean, cov, size, eps, rstate, antithetic)


def truncnorm_ppf(u: Any, a: Any, b: Any) -> Array:
    """The quantile function of a standard normal truncated to [a, b], for JAX arrays.

    Relative to the width of the distribution it is precise in float32 however far in a tail
    the interval lies, and for infinite bounds. Intervals that reach the body are inverted from
    the smaller of the two tail probabilities. In the right tail (the left is mirrored) with
    S the survival function, ln S(x) - ln S(a) = ln v is solved for x - a: the start
    sqrt(a^2 - 2 ln v) is followed by two Newton steps. `u` in [0, 1].
    """
    u, a, b = jnp.broadcast_arrays(*(jnp.asarray(v, dtype=float) for v in (u, a, b)))
    info = jnp.finfo(u.dtype)
    u = jnp.clip(u, float(info.tiny), 1.0 - float(info.epsneg))
    lower, upper = jnp.clip(a, -_FAR, _FAR), jnp.clip(b, -_FAR, _FAR)
    left, right = upper < -_TAIL, lower > _TAIL
    tail = left | right
    near = jnp.where(left, -upper, jnp.where(right, lower, _TAIL))
    far = jnp.where(left, -lower, jnp.where(right, upper, 2.0 * _TAIL))
    in_tail = _tail_ppf(jnp.where(left, 1.0 - u, u), jnp.where(left, u, 1.0 - u), near, far)
    in_body = _body_ppf(u, jnp.where(tail, -1.0, lower), jnp.where(tail, 1.0, upper))
    x = jnp.where(tail, jnp.where(left, -in_tail, in_tail), in_body)
    return jnp.clip(x, a, b)


def systematic_indices(
    log_weights: Float[Array, " n"], u: Float[Array, ""], size: int
) -> Int[Array, " {size}"]:
    """`size` sorted indices drawn by systematic resampling of unnormalised log weights.

    Pointer i stands at (i + u) / size of the total weight, 0 <= u < 1, so that index k is
    drawn floor or ceil(size w_k / sum w) times and E[count] = size w_k / sum w. An index of
    weight zero (-inf, or NaN) is never drawn while there is another; without any the answer is 0.

    The weights are summed in three levels of blocks: one pass over all of them, then only the
    blocks that hold a pointer are looked at. What remains of a pointer inside its block is
    relative to the block's own sum, so the partial sums are short and precise in float32.
    """
    n = log_weights.shape[0]
    width = 8 * max(math.ceil(n ** (1.0 / 3.0) / 8), 1)
    rows = max(math.ceil(n / width**2), 1)
    blocks = jnp.pad(log_weights, (0, rows * width**2 - n), constant_values=-jnp.inf)
    blocks = blocks.reshape(rows, width, width)
    top = jnp.max(jnp.where(jnp.isnan(log_weights), -jnp.inf, log_weights))
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    mass = jnp.sum(_weights(blocks, top), axis=-1)
    pointers = (jnp.arange(size, dtype=log_weights.dtype) + u) / size
    row, rest = _locate(jnp.sum(mass, axis=-1)[None], pointers)
    block, rest = _locate(mass[row], rest)
    item, _ = _locate(_weights(blocks[row, block], top), rest)
    index = (row * width + block) * width + item
    return jnp.sort(index).astype(jnp.int32)


def _weights(log_weights: Array, top: Array) -> Array:
    weights = jnp.exp(log_weights - top)
    return jnp.where(weights > 0, weights, 0.0)  # also for NaN


def _locate(weights: Array, fraction: Array) -> tuple[Array, Array]:
    """Where a `fraction` (m,) of the sum of each row of `weights` (m or 1, k) is reached.

    Returns the element, always one with weight, and the fraction of it that was used up.
    """
    m, k = fraction.shape[0], weights.shape[-1]
    place = jnp.broadcast_to(jnp.arange(k), (m, k))
    positive = jnp.broadcast_to(weights > 0, (m, k))
    sums = jnp.cumsum(weights, axis=-1)
    target = fraction * sums[:, -1]
    first = jnp.min(jnp.where((sums > target[:, None]) & positive, place, k), axis=-1)
    last = jnp.max(jnp.where(positive, place, 0), axis=-1)  # where rounding reached the end
    index = jnp.where(first < k, first, last)
    row = jnp.arange(m) if weights.shape[0] > 1 else jnp.zeros_like(index)
    weight = weights[row, index]
    used = target - (sums[row, index] - weight)
    below_one = 1.0 - float(jnp.finfo(weights.dtype).epsneg)
    return index, jnp.clip(used / jnp.where(weight > 0, weight, 1.0), 0.0, below_one)


def _body_ppf(u: Array, a: Array, b: Array) -> Array:
    """Inverts whichever is smaller of the lower and the upper tail probability at x."""
    lower = (1.0 - u) * jsp.ndtr(a) + u * jsp.ndtr(b)
    upper = (1.0 - u) * jsp.ndtr(-a) + u * jsp.ndtr(-b)
    z = jsp.ndtri(jnp.clip(jnp.minimum(lower, upper), float(jnp.finfo(u.dtype).tiny), 0.5))
    return jnp.where(lower < upper, z, -z)


def _tail_ppf(u: Array, one_minus_u: Array, a: Array, b: Array) -> Array:
    """The same for 0 << a < b, solving for the distance y of x from a."""
    mills_a = log_mills(jnp, a)
    log_ratio = -0.5 * (b - a) * (b + a) + log_mills(jnp, b) - mills_a  # ln S(b) / S(a)
    small = u < 0.5
    log_v = jnp.where(
        small,
        jnp.log1p(jnp.where(small, u, 0.5) * jnp.expm1(log_ratio)),
        jnp.log(one_minus_u + u * jnp.exp(log_ratio)),
    )
    y = -2.0 * log_v / (a + jnp.sqrt(a**2 - 2.0 * log_v))
    for _ in range(2):
        mills = log_mills(jnp, a + y)
        excess = -0.5 * y * (2.0 * a + y) + mills - mills_a - log_v
        y = y + excess * jnp.exp(mills + HALF_LN_2PI)
    return a + y


def _normals_jax(mean: Any, cov: Any, size: int, eps: Any, key: Array, antithetic: bool) -> Array:
    mean, cov = jnp.asarray(mean, dtype=float), jnp.asarray(cov, dtype=float)
    half = (size + 1) // 2 if antithetic else size
    z = jax.random.normal(key, (*mean.shape, half), dtype=mean.dtype)
    z = jnp.concatenate([z, -z[..., : size - half]], axis=-1)
    draws = mean[..., None] + jnp.matmul(clamped_cholesky(cov, eps), z, precision="highest")
    return draws if mean.ndim == 1 else jnp.moveaxis(draws, 0, -1)


def _normals_numpy(
    mean: np.ndarray, cov: np.ndarray, size: int, eps: Any, rstate: Any, antithetic: bool
) -> np.ndarray:
    half = (size + 1) // 2 if antithetic else size
    z = rstate.normal(0.0, 1.0, (*mean.shape, half))
    z = np.concatenate([z, -z[..., : size - half]], axis=-1)
    draws = mean[..., None] + clamped_cholesky(cov, eps) @ z
    return np.moveaxis(draws, 0, -1)


def _host_generator(rstate: Any) -> Any:
    """A NumPy source of random numbers; a JAX key seeds one."""
    if isinstance(rstate, jax.Array):
        typed = jnp.issubdtype(rstate.dtype, jax.dtypes.prng_key)
        return np.random.default_rng(np.asarray(jax.random.key_data(rstate) if typed else rstate))
    return np.random.default_rng() if rstate is None else rstate
