"""Back from dust to stars: draws weighed by the profile of their sight line, without a new fit."""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.special import logsumexp

from brutax.dust.clouds import KERNELS

if TYPE_CHECKING:
    from brutax.sightline.search import CloudFit

N_POSTERIOR = 100  # draws of the clouds that are averaged over


class Reweighted(NamedTuple):
    """Stars before and after: weights (star, draw) that sum to one, and what they change (star,).

    Where a star has no good draw, weights are 0 and all else is NaN. `shift` is the change of a
    mean in standard deviations before; `outlier` the probability that a star is none of the sight
    line's.
    """

    weight: np.ndarray
    ess: np.ndarray
    dist_mean: np.ndarray  # [kpc], before and after (2, star)
    dist_std: np.ndarray
    av_mean: np.ndarray  # [mag]
    av_std: np.ndarray
    dist_shift: np.ndarray
    av_shift: np.ndarray
    outlier: np.ndarray

    def report(self) -> str:
        """What changed, over all stars, in a few lines."""
        ok = np.isfinite(self.ess)
        if not ok.any():
            return "no star has a good draw"
        lines = [f"{ok.sum()} stars, {np.median(self.ess[ok]):.0f} effective draws each (median)"]
        for name, unit in (("dist", "kpc"), ("av", "mag")):
            std, shift = getattr(self, f"{name}_std")[:, ok], getattr(self, f"{name}_shift")[ok]
            before, after = np.median(std, axis=1)
            lines.append(
                f"{name}: median standard deviation {before:.3g} {unit} before, {after:.3g} after; "
                f"means move by {np.median(np.abs(shift)):.2f} of them (median), "
                f"{np.percentile(np.abs(shift), 95):.2f} (95 %)"
            )
        lines.append(f"{np.sum(self.outlier[ok] > 0.5)} stars are probably outliers")
        return "\n".join(lines)


def reweight(
    fit: "CloudFit", dist: Any, av: Any, *, log_prior: Any = None, n: int = N_POSTERIOR
) -> Reweighted:
    """Draws (star, draw) of distance [kpc] and A_V [mag] under the profile of a sight line.

    The weight of a draw is the density that the clouds, their scatter and outliers included, give
    to its A_V at its distance, averaged over `n` posterior draws of all numbers of clouds. It is
    divided by the prior of A_V that the stars were fitted with: flat, or `log_prior` (star, draw).
    Raises `ValueError` for shapes.
    """
    dist, av = np.asarray(dist, np.float64), np.asarray(av, np.float64)
    if dist.ndim != 2 or dist.shape != av.shape or not dist.size:
        raise ValueError(f"dist {dist.shape} and av {av.shape} must be (star, draw)")
    prior = np.zeros_like(dist) if log_prior is None else np.asarray(log_prior, np.float64)
    if prior.shape != dist.shape:
        raise ValueError(f"log_prior {prior.shape} must be {dist.shape}")
    good = np.isfinite(dist) & np.isfinite(av) & (dist > 0) & np.isfinite(prior)
    some = good.any(axis=1)
    dist, av = np.where(good, dist, 1.0), np.where(good, av, 0.0)
    low, high = fit.av_range
    inside, outside = np.full((2, *dist.shape), -np.inf)
    draws = fit.sample(n)
    for draw in draws:
        behind = np.searchsorted(draw["distance"], dist, side="right")
        shape = draw["level"][behind], draw["scatter"][np.minimum(behind, 1)]
        log_k = KERNELS[fit.kernel](av, shape, rlims=(low, high))
        inside = np.logaddexp(inside, np.log1p(-draw["outliers"]) + log_k)
        outside = np.logaddexp(outside, np.log(draw["outliers"]) - np.log(high - low))
    log_w, log_out = (np.where(good, x - prior, -np.inf) for x in
                      (np.logaddexp(inside, outside), outside))  # fmt: skip
    weight = np.zeros_like(dist)
    total = np.asarray(logsumexp(log_w[some], axis=1, keepdims=True))
    weight[some] = np.exp(log_w[some] - total)
    outlier = np.full(len(dist), np.nan)
    outlier[some] = np.exp(logsumexp(log_out[some], axis=1) - total[:, 0])
    flat = np.where(good, 1.0, 0.0)
    flat[some] /= flat[some].sum(axis=1, keepdims=True)
    ess = np.where(some, 1.0 / np.maximum((weight**2).sum(axis=1), 1e-300), np.nan)
    moments = []
    for values in (dist, av):
        mean = np.array([(w * values).sum(axis=1) for w in (flat, weight)])
        var = [(w * (values - m[:, None]) ** 2).sum(1) for w, m in zip((flat, weight), mean)]
        moments += [np.where(some, mean, np.nan), np.where(some, np.sqrt(var), np.nan)]
    with np.errstate(invalid="ignore", divide="ignore"):
        shifts = [(m[1] - m[0]) / s[0] for m, s in (moments[:2], moments[2:])]
    dist_mean, dist_std, av_mean, av_std = moments
    return Reweighted(
        weight, ess, dist_mean, dist_std, av_mean, av_std, shifts[0], shifts[1], outlier
    )
