"""Sight lines: stars' draws of distance and A_V, and the likelihood of clouds between them.

The model is that of `brutax.dust.clouds` with one change, without which the likelihood would be
flat between draws and jump at them: a draw at distance d_s stands for an Epanechnikov density of
half width h in ln d, a fraction of the spread of its star's draws. With F its distribution
function a share F((ln d_s - ln d_k) / h) lies behind cloud k, and

    L = (1 - p) mean over s of sum over k of share_k K(A_s | level_k, width_k) + p / range,

with share_k what lies behind cloud k and in front of the next. It is differentiable in everything.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from brutax.dust.clouds import FAR, KERNELS

N_DRAWS = 128  # of each star, by default; of few draws distances come out too certain
SMOOTHING = 0.3  # half widths over the spread of a star's ln d
LEAST_HALF_WIDTH = 1e-3  # of ln d
EDGE = 0.2  # of a top hat's half width, over which its edges fall
MARGIN = 1.05  # of the default range of A_V over nearly all draws
MIN_GOOD = 2  # draws that a star needs


class CloudParams(NamedTuple):
    """Clouds of a sight line. Levels are A_V [mag] in front of the first cloud and behind each."""

    distance: Float[Array, " cloud"]  # [kpc], increasing
    level: Float[Array, " level"]  # cloud + 1
    scatter: Float[Array, "2"]  # [mag], in front and behind
    outliers: Float[Array, ""]  # share of stars that are anything


class SightLine(eqx.Module):
    """Draws of stars in one direction, or padded stacks of them (line, ...): see `make_sightline`.

    Stars without a good draw, and padding, have the weight 0. `dist_range` [kpc] and `av_range`
    [mag] are where clouds and levels may be.
    """

    log_dist: Float[Array, "*line draw star"]  # ln d [kpc]
    av: Float[Array, "*line draw star"]
    half_width: Float[Array, "*line star"]  # of ln d
    weight: Float[Array, "*line star"]
    dist_range: tuple[float, float] = eqx.field(static=True)
    av_range: tuple[float, float] = eqx.field(static=True)
    kernel: str = eqx.field(static=True)

    @property
    def n_stars(self) -> int:
        """Stars that count, in all lines."""
        return int(np.count_nonzero(np.asarray(self.weight)))

    def per_star(self, params: CloudParams) -> Float[Array, " star"]:
        """ln of the likelihood of each star; of one sight line."""
        span = self.av_range[1] - self.av_range[0]
        state = tuple(params.distance), _levels(params)
        inside = _density(self.kernel, self.av_range, self, state) / self.log_dist.shape[0]
        p = params.outliers
        total = (1.0 - p) * inside + p / span
        return jnp.where(total > 0, jnp.log(jnp.where(total > 0, total, 1.0)), -jnp.inf)

    def log_likelihood(self, params: CloudParams) -> Float[Array, ""]:
        """ln of the likelihood of all stars; -inf for clouds that cannot be.

        Distances and levels that fall, levels outside `av_range`, scatters that are not positive
        and shares outside 0 to 1 cannot be; slopes are 0 there.
        """
        low, high = self.av_range
        ok = jnp.all(jnp.diff(params.distance) >= 0) & jnp.all(params.distance > 0)
        ok = ok & jnp.all((params.level >= low) & (params.level <= high))
        ok = ok & jnp.all(jnp.diff(params.level) >= 0) & jnp.all(params.scatter > 0)
        ok = ok & (params.outliers >= 0) & (params.outliers <= 1)
        for value in params:
            ok = ok & jnp.all(jnp.isfinite(value))
        dtype = self.av.dtype
        plain = CloudParams(
            jnp.ones_like(params.distance),
            jnp.full_like(params.level, self.av_range[0]),
            jnp.ones_like(params.scatter),
            jnp.full_like(params.outliers, 0.5),
        )
        safe = CloudParams(*(jnp.where(ok, x, y).astype(dtype) for x, y in zip(params, plain)))
        each = jnp.where(self.weight > 0, self.weight * self.per_star(safe), 0.0)
        return jnp.where(ok, jnp.sum(each), -jnp.inf)


def _levels(params: CloudParams) -> tuple[tuple[Array, Array], ...]:
    """Mean and width of every level."""
    return tuple((mean, params.scatter[min(k, 1)]) for k, mean in enumerate(params.level))


def _smooth_step(u: Array) -> Array:
    """The distribution function of the Epanechnikov density on -1 to 1."""
    u = jnp.clip(u, -1.0, 1.0)
    return 0.5 + u * (0.75 - 0.25 * u * u)


def _integral_of_step(u: Array) -> Array:
    inner = jnp.clip(u, -1.0, 1.0)
    square = inner * inner
    return 0.1875 + 0.5 * inner + square * (0.375 - 0.0625 * square) + jnp.maximum(u - 1.0, 0.0)


def _norm(kernel: str, mean: Array, width: Array, limits: tuple[float, float]) -> Array:
    """The density of a level at its mean, which is between the limits it is normalised on."""
    up, down = (limits[1] - mean) / width, (mean - limits[0]) / width
    if kernel == "gauss":
        root = np.sqrt(0.5)
        erf = jax.scipy.special.erf
        return np.sqrt(2.0 / np.pi) / width / (erf(root * up) + erf(root * down))
    if kernel == "lorentz":
        return 1.0 / width / (jnp.arctan(up) + jnp.arctan(down))
    edge = EDGE * width

    def below(x: float) -> Array:
        steps = _integral_of_step((x - mean + width) / edge)
        return edge * (steps - _integral_of_step((x - mean - width) / edge))

    return 1.0 / (below(limits[1]) - below(limits[0]))


def _shape(kernel: str, x: Array, width: Array) -> Array:
    """The density at x from the mean, divided by that at the mean; top hats have soft edges."""
    if kernel == "gauss":
        return jnp.exp(-0.5 * (x / width) ** 2)
    if kernel == "lorentz":
        return 1.0 / (1.0 + (x / width) ** 2)
    edge = EDGE * width
    return _smooth_step((x + width) / edge) - _smooth_step((x - width) / edge)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _density(
    kernel: str, limits: tuple[float, float], line: SightLine, state: Any
) -> Float[Array, " star"]:
    """Sum over draws of each star; draws one by one, all stars at once."""
    return _scan(kernel, limits, line, state)


@_density.defjvp
def _(kernel: str, limits: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    line, state = primals

    def spread(state: Any) -> Array:
        # one number for each star: slopes are summed over draws first, and over stars at the end
        state = jax.tree.map(lambda x: jnp.broadcast_to(x, line.weight.shape), state)
        return _scan(kernel, limits, line, state)

    return jax.jvp(spread, (state,), (tangents[1],))


def _scan(kernel: str, limits: tuple[float, float], line: SightLine, state: Any) -> Array:
    places, levels = tuple(jnp.log(d) for d in state[0]), state[1]
    levels = [(mean, width, _norm(kernel, mean, width, limits)) for mean, width in levels]
    inverse = 1.0 / line.half_width

    @jax.checkpoint
    def add(total: Array, draw: Any, inverse: Array, places: Any, levels: Any) -> Array:
        log_dist, av = draw
        front = jnp.ones_like(total)  # what is behind the cloud before
        steps = [_smooth_step((log_dist - place) * inverse) for place in places]
        for (mean, width, norm), behind in zip(levels, [*steps, jnp.zeros_like(total)]):
            total = total + (front - behind) * norm * _shape(kernel, av - mean, width)
            front = behind
        return total

    return jax.lax.scan(
        lambda total, draw: (add(total, draw, inverse, places, levels), None),
        jnp.zeros_like(line.weight),
        (line.log_dist, line.av),
    )[0]


def make_sightline(
    dist: Any,
    av: Any,
    *,
    n_draws: int = N_DRAWS,
    dist_range: Any = None,
    av_range: Any = None,
    kernel: str = "gauss",
    smoothing: float = SMOOTHING,
    n_stars: int | None = None,
) -> SightLine:
    """A sight line from draws (star, draw) of distance [kpc] and A_V [mag], of equal weight.

    At most `n_draws` of each star are used, evenly spread over those given. Draws that are not
    finite, or have no positive distance, are left out star by star; a star with fewer than two
    good ones does not count. `dist_range` is by default that of nearly all draws, `av_range` from
    0 to a little more than nearly all of them. `kernel`: "gauss", "lorentz", or "tophat" (with
    soft edges). `n_stars` pads.

    Raises `ValueError` for shapes, ranges that do not increase, and where no star is left.
    """
    (line,) = _lines([(dist, av)], n_draws, dist_range, av_range, kernel, smoothing, n_stars)
    return line


def stack_sightlines(
    draws: Sequence[tuple[Any, Any]],
    *,
    n_draws: int = N_DRAWS,
    dist_range: Any = None,
    av_range: Any = None,
    kernel: str = "gauss",
    smoothing: float = SMOOTHING,
) -> SightLine:
    """Many sight lines (line, ...), padded to the most stars, from `(dist, av)` of each.

    Ranges are common to all; all else as in `make_sightline`.
    """
    if not len(draws):
        raise ValueError("there is no sight line")
    most = max(np.shape(dist)[0] if np.ndim(dist) else 0 for dist, _ in draws)
    lines = _lines(draws, n_draws, dist_range, av_range, kernel, smoothing, most)
    return jax.tree.map(lambda *x: jnp.stack(x), *lines)


def _lines(
    draws: Sequence[tuple[Any, Any]],
    n_draws: int,
    dist_range: Any,
    av_range: Any,
    kernel: str,
    smoothing: float,
    n_stars: int | None,
) -> list[SightLine]:
    if kernel not in KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(KERNELS)}, got {kernel!r}")
    if n_draws < MIN_GOOD:
        raise ValueError(f"n_draws must be at least {MIN_GOOD}, found {n_draws}")
    if not smoothing > 0:
        raise ValueError(f"smoothing must be positive, found {smoothing}")
    chosen = [_chosen(dist, av, n_draws, f"sight line {k}") for k, (dist, av) in enumerate(draws)]
    all_dist, all_av = (
        np.concatenate([x[which][:, x[3] > 0].ravel() for x in chosen]) for which in (0, 1)
    )
    if dist_range is None:
        dist_range = tuple(np.exp(np.percentile(all_dist, (0.5, 99.5))))
    if av_range is None:
        av_range = 0.0, max(MARGIN * float(np.percentile(all_av, 99.9)), 0.1)
    near, far = (float(x) for x in dist_range)
    low, high = (float(x) for x in av_range)
    if not 0 < near < far < FAR:
        raise ValueError(f"dist_range must be positive and increase, found {dist_range}")
    if not low < high < np.inf:
        raise ValueError(f"av_range must increase, found {av_range}")
    out = []
    for log_dist, value, spread, weight in chosen:
        more = 0 if n_stars is None else n_stars - len(weight)
        if more < 0:
            raise ValueError(f"{len(weight)} stars do not go into n_stars={n_stars}")
        log_dist, value = (np.pad(x, ((0, 0), (0, more))) for x in (log_dist, value))
        width = np.maximum(smoothing * np.pad(spread, (0, more)), LEAST_HALF_WIDTH)
        a, b, c, d = (
            jnp.asarray(x, float) for x in (log_dist, value, width, np.pad(weight, (0, more)))
        )
        out.append(SightLine(a, b, c, d, (near, far), (low, high), kernel))
    return out


def _chosen(dist: Any, av: Any, n_draws: int, name: str) -> tuple[np.ndarray, ...]:
    """ln d and A_V (draw, star) of good draws, the spread of ln d and the weight of each star."""
    dist, av = np.asarray(dist, np.float64), np.asarray(av, np.float64)
    if dist.ndim != 2 or dist.shape != av.shape or not dist.size:
        raise ValueError(f"{name}: dist {dist.shape} and av {av.shape} must be (star, draw)")
    good = np.isfinite(av) & np.isfinite(dist) & (dist > 0) & (dist < FAR)
    count = good.sum(axis=1)
    if not (count >= MIN_GOOD).any():
        raise ValueError(f"{name}: no star has {MIN_GOOD} draws of distance and A_V")
    wanted = min(n_draws, dist.shape[1])
    # good draws first, in their order; of these evenly many, the same ones again where few
    order = np.argsort(~good, axis=1, kind="stable")
    place = np.arange(wanted) * np.maximum(count, wanted)[:, None] // wanted
    at = np.take_along_axis(order, place % np.maximum(count, 1)[:, None], axis=1)
    weight = (count >= MIN_GOOD).astype(float)
    log_dist, value = (
        np.where(weight[:, None] > 0, np.take_along_axis(x, at, axis=1), fill).T
        for x, fill in ((np.log(np.where(good, dist, 1.0)), 0.0), (np.where(good, av, 0.0), 0.0))
    )
    low, high = np.percentile(log_dist, (16, 84), axis=0)
    spread = np.minimum(log_dist.std(axis=0), 0.5 * (high - low))
    return log_dist, value, spread, weight
