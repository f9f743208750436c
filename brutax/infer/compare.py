"""Which of several models the data prefer: evidences, Bayes factors, suspiciousness."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray
from scipy.special import log_expit

from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

MAX_RHAT = 1.01  # Vehtari et al. (2021), arXiv:1903.08008
ROUNDS, SETTLED = 1000, 1e-10  # of the iteration for a bridge


class BayesFactor(NamedTuple):
    """One model against another, both with the same data.

    `sigma` is sign(ln B) sqrt(2 |ln B|); `probability` that of the first at equal odds.
    `log_suspiciousness` is ln B without the price of the prior's volume (Handley & Lemos 2019,
    arXiv:1902.04029): <ln L> of the first less that of the second.
    """

    log_bayes_factor: float
    error: float
    sigma: float
    probability: float
    log_suspiciousness: float


class Row(NamedTuple):
    """A model among others; differences are to the one of the highest evidence.

    `information` is D_KL of posterior and prior [nats], `dimension` 2 var(ln L): the number of
    parameters that the data constrain (Handley & Lemos 2019, arXiv:1903.06682).
    """

    name: str
    logz: float
    logz_err: float
    log_bayes_factor: float
    error: float
    sigma: float
    probability: float  # among all, at equal odds
    mean_log_likelihood: float
    information: float
    dimension: float


def bayes_factor(a: Posterior, b: Posterior) -> BayesFactor:
    """The evidence of `a` divided by that of `b`, with the error of both.

    Raises `ValueError` where one has no evidence, or their data differ.
    """
    _comparable({"the first": a, "the second": b})
    log_b = a.logz - b.logz
    return BayesFactor(
        log_b,
        float(np.hypot(a.logz_err, b.logz_err)),
        _sigma(log_b),
        float(np.exp(log_expit(log_b))),
        _mean_log_likelihood(a) - _mean_log_likelihood(b),
    )


def compare(models: Mapping[str, Posterior] | list[Posterior]) -> list[Row]:
    """All models by falling evidence. Raises `ValueError` as `bayes_factor` does."""
    if not isinstance(models, Mapping):
        models = {f"model {k}": one for k, one in enumerate(models)}
    if not models:
        raise ValueError("there is no model to compare")
    _comparable(models)
    order = sorted(models, key=lambda name: -models[name].logz)
    best = models[order[0]]
    logz = np.array([models[name].logz for name in order])
    share = np.exp(logz - logz[0])
    share = share / share.sum()
    rows = []
    for name, probability in zip(order, share, strict=True):
        one = models[name]
        log_b, mean = one.logz - best.logz, _mean_log_likelihood(one)
        error = 0.0 if one is best else float(np.hypot(one.logz_err, best.logz_err))
        log_like = one.log_likelihood[one.weights > 0]
        spread = np.sum(one.weights[one.weights > 0] * (log_like - mean) ** 2)
        rows.append(
            Row(
                name,
                one.logz,
                one.logz_err,
                log_b,
                error,
                _sigma(log_b),
                float(probability),
                mean,
                mean - one.logz,
                float(2.0 * spread),
            )  # fmt: skip
        )
    return rows


def bridge_evidence(
    problem: Problem, posterior: Posterior, key: int | PRNGKeyArray = 0
) -> tuple[float, float]:
    """Log-evidence and its error from draws of equal weight, such as those of NUTS.

    Bridge sampling (Meng & Wong 1996, Statistica Sinica 6, 831): a normal distribution fitted to
    half of the draws, in the coordinates that samplers move in, against the other half; the
    error is that of Fruehwirth-Schnatter (2004, Econometrics Journal 7, 143). `posterior` must be
    of this `problem`. Wrong without notice where the chains miss a mode.

    Raises `ValueError` for weighted draws, chains that disagree (R-hat above 1.01), too few
    draws, or other data than those of `problem`.
    """
    if np.ptp(posterior.weights) > 0:
        raise ValueError("bridge sampling takes draws of equal weight; these have their evidence")
    if posterior.meta.get("data", problem.data_digest()) != problem.data_digest():
        raise ValueError("the draws are of other data than the problem")
    rhats = [np.max(v) for k, v in posterior.stats.items() if k.startswith("rhat/")]
    if rhats and not max(rhats) <= MAX_RHAT:
        raise ValueError(f"chains that disagree (R-hat {max(rhats):.3g}) have no evidence")
    names = list(problem.prior.free)
    params = {name: jnp.asarray(posterior.samples[name]) for name in names}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        z = np.asarray(jax.vmap(problem.prior.to_real)(params), np.float64)
        if len(z) < 20 * problem.prior.size:
            raise ValueError(f"{len(z)} draws are too few for {problem.prior.size} parameters")
        fitted, tested = z[::2], z[1::2]
        mean, cov = fitted.mean(axis=0), np.atleast_2d(np.cov(fitted.T))
        root = np.linalg.cholesky(cov)
        key = jax.random.key(key) if isinstance(key, int) else key
        normal = np.asarray(jax.random.normal(key, tested.shape), np.float64)
        proposed = mean + normal @ root.T

        def log_ratio(z: np.ndarray) -> np.ndarray:
            """ln of the posterior density, not normalised, over the normal one."""
            density = jax.jit(jax.vmap(lambda x: problem.density(x, problem.data).log_target))
            pull = np.linalg.solve(root, (z - mean).T)
            log_normal = -0.5 * np.sum(pull**2 + np.log(2 * np.pi), axis=0)
            log_normal = log_normal - np.sum(np.log(np.diag(root)))
            return np.asarray(density(jnp.asarray(z, params[names[0]].dtype))) - log_normal

        at_draws, at_normal = log_ratio(tested), log_ratio(proposed)
    at_normal = np.where(np.isfinite(at_normal), at_normal, -np.inf)
    effective = min(max(posterior.ess / 2.0, 1.0), len(tested))
    share = effective / (effective + len(proposed))  # of the draws; the rest is the normal's
    logz = float(np.median(at_draws))

    def sides(logz: float) -> tuple[np.ndarray, np.ndarray]:
        top = at_normal - np.logaddexp(np.log(share) + at_normal, np.log1p(-share) + logz)
        return top, -np.logaddexp(np.log(share) + at_draws, np.log1p(-share) + logz)

    for _ in range(ROUNDS):
        top, bottom = sides(logz)
        before, logz = logz, _log_mean(top) - _log_mean(bottom)
        if abs(logz - before) < SETTLED:
            break
    top, bottom = sides(logz)
    f_normal = np.exp(top - top.max())
    f_draws = np.exp(bottom - bottom.max())
    variance = np.var(f_normal) / np.mean(f_normal) ** 2 / len(proposed)
    variance = variance + np.var(f_draws) / np.mean(f_draws) ** 2 / effective
    return logz, float(np.sqrt(variance))


def log_prior_power(
    problem: Problem, key: int | PRNGKeyArray = 0, n: int = 10_000
) -> tuple[float, float]:
    """ln of the integral of the squared prior density, and its error, from `n` prior draws.

    ln B less that of both models (a minus b) is a Bayes factor without the price of the prior's
    volume, in the manner of socca's; unlike suspiciousness it changes with the units of the
    parameters.
    """
    key = jax.random.key(key) if isinstance(key, int) else key
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):

        def one(key: PRNGKeyArray) -> Any:
            params, log_base, _ = problem.prior.from_real(problem.sample_real(key))
            # draws are of the base measure: density squared over it
            return log_base + 2.0 * problem.prior.log_factor(params)

        values = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, n)), np.float64)
    power = np.exp(values - values.max())
    error = float(np.std(power) / np.mean(power) / np.sqrt(n))
    return _log_mean(values), error


def _log_mean(x: np.ndarray) -> float:
    top = np.max(x)
    return float(top + np.log(np.mean(np.exp(x - top))))


def _sigma(log_b: float) -> float:
    return float(np.sign(log_b) * np.sqrt(2.0 * abs(log_b)))


def _mean_log_likelihood(post: Posterior) -> float:
    some = post.weights > 0
    return float(np.sum(post.weights[some] * post.log_likelihood[some]))


def _comparable(models: Mapping[str, Posterior]) -> None:
    for name, one in models.items():
        if not np.isfinite(one.logz):
            raise ValueError(
                f"{name} ({one.method}) has no evidence: use 'nested', or `bridge_evidence`"
            )
    digests = {one.meta.get("data") for one in models.values()}
    if len(digests) > 1:
        raise ValueError("the models were fitted to different data, and cannot be compared")
