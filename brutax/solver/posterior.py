"""From the data of a star to its posterior: screen, draw, refine, weigh, summarise."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from brutax.core.star import Stars
from brutax.solver.diagnostics import effective_size, pareto_k
from brutax.solver.importance import ModelDraws, draw_models, draw_theta, log_proposal
from brutax.solver.laplace import covariance_sar, laplace
from brutax.solver.objective import Scalar, Theta, log_target
from brutax.solver.problem import Models, StarPrior, over_models
from brutax.solver.quadrature import quadrature_log_z
from brutax.solver.refine import refine
from brutax.solver.screen import screen, start, where_seen
from brutax.solver.shortlist import draw_from_tiles, shortlist, with_scores
from brutax.solver.tiles import TiledModels
from brutax.utils.sampling import quantile_by_integers, systematic_indices

QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
CHUNK = 1024  # models refined at once in the reference path


class Settings(eqx.Module):
    """What chooses the program of a fit."""

    n_samples: int = eqx.field(static=True, default=512)  # weighted draws
    n_draws: int = eqx.field(static=True, default=250)  # equal-weight draws kept
    tiles: int = eqx.field(static=True, default=512)  # most tiles looked into; 0: score all models
    closely: bool = eqx.field(static=True, default=False)  # all models decide about tiles
    survivors: int = eqx.field(static=True, default=0)  # models refined before drawing
    steps: int = eqx.field(static=True, default=4)  # Gauss-Newton steps
    quadrature: bool = eqx.field(static=True, default=False)  # weigh survivors by quadrature
    side_by_side: int = eqx.field(static=True, default=1)  # stars at once; 1 is best on a CPU core


class Draws(NamedTuple):
    """Equal-weight draws, with the optimum of the model that each comes from."""

    model: Int[Array, " draw"]
    theta: Theta  # each (draw,)
    log_post: Float[Array, " draw"]  # log posterior density of the draw [with the star constant]
    log_model: Float[Array, " draw"]  # log posterior mass of its model
    mode: Theta
    cov_sar: Float[Array, "draw 3 3"]  # of (scale = dist^-2, A_V, R_V)
    model_ess: Float[Array, " draw"]  # effective draws from the same model


class StarPosterior(NamedTuple):
    """The posterior of one star (or, with a leading axis, of many)."""

    draws: Draws
    quantiles: Float[Array, "parameter level"]
    mean: Float[Array, " parameter"]
    std: Float[Array, " parameter"]
    log_evidence: Scalar  # without the star's constant
    log_evidence_err: Scalar
    ess: Scalar
    pareto_k: Scalar
    n_samples: Scalar
    chi2_min: Scalar
    captured: Scalar  # share of the screened mass in models that could be drawn or were refined
    gap: Scalar  # log of the sum of all scores over the evidence: 0 for honest scores


def parameter_names(models: Models) -> tuple[str, ...]:
    """Order of the parameters in the summaries."""
    return ("dist", "av", "rv", *models.labels)


class Weighted(NamedTuple):
    """The weighted draws before resampling."""

    model: Int[Array, " sample"]
    theta: Theta
    log_weight: Float[Array, " sample"]
    log_target: Float[Array, " sample"]
    log_z: Float[Array, " sample"]
    mode: Theta
    cov_sar: Float[Array, "sample 3 3"]
    chi2: Float[Array, " sample"]


def _sample(
    star: Stars,
    models: Models,
    prior: StarPrior,
    drawn: ModelDraws,
    key: PRNGKeyArray,
    settings: Settings,
) -> Weighted:
    """Refines models that were drawn, draws parameters and weighs them exactly."""
    size, dtype = settings.n_samples, drawn.log_q.dtype
    key_uniform, key_normal = jax.random.split(key)
    uniform = jax.random.uniform(key_uniform, (size, 2), dtype=dtype)
    normal = jax.random.normal(key_normal, (size, 2), dtype=dtype)

    def one(model: Models, uniform: Array, normal: Array) -> tuple:
        point = refine(start(star, model, prior), star, model, prior, steps=settings.steps)
        gauss = laplace(point, prior)
        theta = draw_theta(gauss, uniform, normal)
        log_p = log_target(theta, star, model, prior)
        log_q = log_proposal(theta, gauss)
        return theta, log_p, log_q, gauss.log_z, point.theta, covariance_sar(point), point.chi2

    theta, log_p, log_q, log_z, mode, cov, chi2 = over_models(
        one, models[drawn.model], uniform, normal
    )
    log_weight = log_p - log_q - drawn.log_q
    log_weight = jnp.where(jnp.isfinite(log_weight), log_weight, -jnp.inf)
    return Weighted(drawn.model, theta, log_weight, log_p, log_z, mode, cov, chi2)


def _moments(values: Float[Array, " sample"], weights: Float[Array, " sample"]) -> tuple:
    """Weighted mean and deviation, summed about the heaviest draw to spare the digits."""
    centre, total = values[jnp.argmax(weights)], jnp.sum(weights)
    shift = jnp.sum(weights * (values - centre)) / total
    variance = jnp.sum(weights * (values - centre - shift) ** 2) / total
    return centre + shift, jnp.sqrt(variance)


def _summary(sample: Weighted, models: Models) -> tuple:
    """Quantiles (parameter, level), means and deviations of the weighted draws."""
    weights = jax.nn.softmax(sample.log_weight)
    values = jnp.stack(
        [jnp.exp(sample.theta.eta), sample.theta.av]
        + [sample.theta.rv]
        + [label[sample.model] for label in models.labels.values()]
    )
    # draws that cannot occur need not be numbers
    heaviest = values[:, jnp.argmax(weights)][:, None]
    values = jnp.where((weights > 0)[None] & jnp.isfinite(values), values, heaviest)
    levels = jnp.asarray(QUANTILES, dtype=values.dtype)
    quantiles = jax.vmap(lambda x: quantile_by_integers(x, levels, weights))(values)
    mean, std = jax.vmap(_moments, in_axes=(0, None))(values, weights)
    return quantiles, mean, std


def _model_ess(sample: Weighted, index: Int[Array, " draw"]) -> Float[Array, " draw"]:
    """Effective number of weighted draws that come from the model of each of the draws."""
    size = sample.model.shape[0]
    _, group = jnp.unique(sample.model, size=size, fill_value=-1, return_inverse=True)
    log_weight = sample.log_weight - jnp.max(sample.log_weight)
    total = jax.ops.segment_sum(jnp.exp(log_weight), group, num_segments=size)
    square = jax.ops.segment_sum(jnp.exp(2.0 * log_weight), group, num_segments=size)
    ratio = total**2 / jnp.where(square > 0, square, 1.0)
    return ratio[group[index]]


def _resample(sample: Weighted, key: PRNGKeyArray, size: int) -> Draws:
    """Equal-weight draws by systematic resampling of the weighted ones."""
    key_u, key_order = jax.random.split(key)
    u = jax.random.uniform(key_u, (), dtype=sample.log_weight.dtype)
    index = systematic_indices(sample.log_weight, u, size)
    # in random order, so that the first few draws stand for all of them
    index = jax.random.permutation(key_order, index)
    return Draws(
        model=sample.model[index],
        theta=Theta(*(x[index] for x in sample.theta)),
        log_post=sample.log_target[index],
        log_model=sample.log_z[index],
        mode=Theta(*(x[index] for x in sample.mode)),
        cov_sar=sample.cov_sar[index],
        model_ess=_model_ess(sample, index),
    )


def refine_survivors(
    star: Stars,
    models: Models,
    prior: StarPrior,
    scores: Float[Array, " model"],
    settings: Settings,
    row: Callable[[Array], Array] = lambda index: index,
) -> tuple[Float[Array, " model"], Scalar]:
    """Replaces the scores of the best `survivors` models by weights at their optimum.

    `row` says which model a score is of. Also returns the share of the screened mass that they
    hold.
    """
    size = min(settings.survivors, scores.shape[0])
    best, index = jax.lax.top_k(scores, size)

    def weigh(model: Models) -> Scalar:
        point = refine(start(star, model, prior), star, model, prior, steps=settings.steps)
        gauss = laplace(point, prior)
        if not settings.quadrature:
            return gauss.log_z
        return quadrature_log_z(gauss, star, model, prior)

    padded = jnp.pad(row(index), (0, -size % CHUNK))
    chunks = padded.reshape(-1, min(CHUNK, padded.shape[0]))
    log_z = jax.lax.map(lambda chunk: over_models(weigh, models[chunk]), chunks).ravel()[:size]
    log_z = jnp.where(jnp.isfinite(log_z) & jnp.isfinite(best), log_z, -jnp.inf)
    scores = scores.at[index].set(log_z)
    captured = jnp.exp(jax.nn.logsumexp(log_z) - jax.nn.logsumexp(scores))
    return scores, captured


class Sampled(NamedTuple):
    """The weighted draws of a star and what follows from them."""

    weighted: Weighted
    quantiles: Float[Array, "parameter level"]
    mean: Float[Array, " parameter"]
    std: Float[Array, " parameter"]
    chi2_min: Scalar
    captured: Scalar
    log_total: Scalar  # log of the sum of all scores


def sample_star(
    star: Stars, grid: TiledModels, prior: StarPrior, key: PRNGKeyArray, settings: Settings
) -> Sampled:
    """Weighted draws from the posterior of one star."""
    key_tile, key_model, key = jax.random.split(key, 3)
    models, size = grid.models, settings.n_samples
    if settings.tiles:
        u = jax.random.uniform(key_tile, (), dtype=models.log_prior.dtype)
        found = shortlist(
            star, grid, prior, u, most=settings.tiles, size=size, closely=settings.closely
        )
        if settings.survivors:
            scores, _ = refine_survivors(
                star, models, prior, found.scores.ravel(), settings, found.row
            )
            found = with_scores(found, scores.reshape(found.scores.shape))
        drawn = draw_from_tiles(found, key_model, size=size)
        total, captured = found.log_total, found.captured
    else:
        score = screen(star, models, prior)
        scores, captured = refine_survivors(star, models, prior, score.log_z, settings)
        drawn = draw_models(scores, key_model, size=size)
        total = jax.nn.logsumexp(scores)
    weighted = _sample(star, models, prior, drawn, key, settings)
    quantiles, mean, std = _summary(weighted, models)
    return Sampled(weighted, quantiles, mean, std, jnp.min(weighted.chi2), captured, total)


@eqx.filter_jit
def _sample_stars(
    stars: Stars,
    grid: TiledModels,
    prior: StarPrior,
    av: Any,
    keys: Key[Array, " star"],
    settings: Settings,
) -> Sampled:
    def fit(inputs: tuple) -> Sampled:
        star, av, key = inputs
        return sample_star(star, grid, StarPrior(prior.distance, av, prior.rv), key, settings)

    return _over_stars(fit, (stars, av, keys), settings)


def _over_stars(one: Callable, inputs: tuple, settings: Settings) -> Any:
    """Maps over stars; zeros for one without photometry: padding is such a star."""
    once = jax.jit(one)  # traced once, though looked at twice

    def one_seen(inputs: tuple) -> Any:
        return where_seen(inputs[0], once, inputs)

    if settings.side_by_side == 1:
        return jax.lax.map(one_seen, inputs)
    return jax.lax.map(one_seen, inputs, batch_size=settings.side_by_side)


@eqx.filter_jit
def _conclude(
    stars: Stars, sampled: Sampled, keys: Key[Array, " star"], settings: Settings
) -> StarPosterior:
    def one(inputs: tuple) -> StarPosterior:
        star, sampled, key = inputs
        log_weight = sampled.weighted.log_weight
        size = log_weight.shape[0]
        seen = jnp.any(star.weight > 0) & jnp.any(jnp.isfinite(sampled.weighted.log_z))
        ess = effective_size(log_weight)
        log_evidence = jax.nn.logsumexp(log_weight) - math.log(size)
        return StarPosterior(
            draws=_resample(sampled.weighted, key, settings.n_draws),
            quantiles=sampled.quantiles,
            mean=sampled.mean,
            std=sampled.std,
            log_evidence=log_evidence,
            log_evidence_err=jnp.sqrt(jnp.maximum(1.0 / ess - 1.0 / size, 0.0)),
            ess=ess,
            pareto_k=pareto_k(log_weight),
            n_samples=jnp.where(seen, size, 0),
            chi2_min=sampled.chi2_min,
            captured=sampled.captured,
            gap=sampled.log_total - log_evidence,
        )

    return _over_stars(one, (stars, sampled, keys), settings)


def fit_stars(
    stars: Stars,
    grid: TiledModels,
    prior: StarPrior,
    av: Any,
    keys: Key[Array, " star"],
    settings: Settings,
) -> StarPosterior:
    """The posteriors of a batch of stars.

    `av` is the A_V prior of each star, a pytree with a leading axis (that of `prior` is not
    used); `keys` one random key per star. A star without photometry has `n_samples` 0 and
    meaningless finite numbers. Returns before the work is done.
    """
    keys = jax.vmap(jax.random.split)(keys)
    sampled = _sample_stars(
        stars, grid, prior, av, keys[:, 0], dataclasses.replace(settings, n_draws=0)
    )
    return _conclude(stars, sampled, keys[:, 1], settings)


def survivor_margin(n_models: int) -> float:
    """Nats below the best score beyond which all models together hold less than 1e-4.

    Two nats more stand for the error of a score.
    """
    return math.log(n_models / 1e-4) + 2.0


@eqx.filter_jit
def _survivors(stars: Stars, models: Models, prior: StarPrior, av: Any) -> Int[Array, " star"]:
    margin = survivor_margin(models.log_prior.shape[0])

    def one(inputs: tuple) -> Array:
        star, av = inputs
        scores = screen(star, models, StarPrior(prior.distance, av, prior.rv)).log_z
        count = jnp.sum(scores > jnp.max(scores) - margin)
        return jnp.where(jnp.any(star.weight > 0), count, 0)

    return jax.lax.map(one, (stars, av))


def count_survivors(stars: Stars, models: Models, prior: StarPrior, av: Any) -> np.ndarray:
    """How many models the reference path must refine for each star, as a power of two.

    Every model is kept that could, with all the models below it, hold more than 1e-4 of the
    posterior mass of the star.
    """
    needed = np.maximum(np.asarray(_survivors(stars, models, prior, av)), CHUNK)
    return np.minimum(2 ** np.ceil(np.log2(needed)).astype(int), models.log_prior.shape[0])


@eqx.filter_jit
def model_log_weights(
    star: Stars, models: Models, prior: StarPrior, settings: Settings
) -> Float[Array, " model"]:
    """Log posterior mass of every model of the grid for one star, normalised to one."""
    scores = screen(star, models, prior).log_z
    scores, _ = refine_survivors(star, models, prior, scores, settings)
    return jax.nn.log_softmax(scores)
