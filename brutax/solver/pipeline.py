"""From the data of a star to its posterior: screen, draw, refine, weigh, summarise."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray

from brutax.cache.programs import Stages
from brutax.models.stars import Stars
from brutax.priors import AbstractAvPrior
from brutax.solver.density import Scalar, Theta, log_target
from brutax.solver.gaussian import covariance_sar, laplace
from brutax.solver.importance import ModelDraws, draw_models, draw_theta, log_proposal
from brutax.solver.inputs import Models, StarPrior, over_models
from brutax.solver.magnitude_scores import settled
from brutax.solver.optimum import refine
from brutax.solver.quadrature import quadrature_log_z
from brutax.solver.scores import screen, start, where_observed
from brutax.solver.shortlist import draw_from_tiles, rank_by_models, shortlist, with_scores
from brutax.solver.tiles import TiledModels, score_tiles
from brutax.utils.diagnostics import effective_size, pareto_k
from brutax.utils.sampling import quantile_by_integers, systematic_indices

# levels of the quantiles of every parameter: the median, and central intervals of 68 % and 95 %
QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)
CHUNK = 1024  # models refined at once in the reference path, whose memory it bounds


class Settings(eqx.Module):
    """What chooses the program of a fit; each field is static, and another value another program.

    The solver only reads these; `brutax.fitting` decides about them, round by round.
    """

    n_samples: int = eqx.field(static=True, default=512)  # weighted draws
    n_draws: int = eqx.field(static=True, default=250)  # equal-weight draws kept
    tiles: int = eqx.field(static=True, default=512)  # most tiles opened; 0: score all models
    # score models in magnitudes, of `settled_stars`
    in_magnitudes: bool = eqx.field(static=True, default=False)
    closely: bool = eqx.field(static=True, default=False)  # tiles are ranked by all their models
    survivors: int = eqx.field(static=True, default=0)  # models refined before drawing
    steps: int = eqx.field(static=True, default=4)  # Gauss-Newton steps
    quadrature: bool = eqx.field(static=True, default=False)  # weigh survivors by quadrature
    side_by_side: int = eqx.field(static=True, default=1)  # stars at once; 1 is best on a CPU core


class Draws(NamedTuple):
    """Equal-weight draws of one star, with the optimum of the model that each comes from."""

    model: Int[Array, " draw"]
    theta: Theta  # (ln(d / kpc), A_V [mag], R_V), each (draw,)
    log_post: Float[Array, " draw"]  # log posterior density of the draw, less the star's constant
    log_model: Float[Array, " draw"]  # log posterior mass of its model, from its Gaussian
    mode: Theta  # the optimum of its model, each (draw,)
    cov_sar: Float[Array, "draw 3 3"]  # of (scale = dist^-2, A_V, R_V)
    model_ess: Float[Array, " draw"]  # effective draws from the same model


class StarPosterior(NamedTuple):
    """The posterior of one star (or, with a leading axis, of many).

    Parameters are in the order of `parameter_names`: distance [kpc], A_V [mag], R_V, and the labels
    of the models in their own units.
    """

    draws: Draws
    quantiles: Float[Array, "parameter level"]
    mean: Float[Array, " parameter"]
    std: Float[Array, " parameter"]
    log_evidence: Scalar  # without the star's constant
    log_evidence_err: Scalar
    ess: Scalar  # effective number of the weighted draws
    pareto_k: Scalar  # shape of the tail of their weights, see `utils.diagnostics`
    n_samples: Scalar  # number of weighted draws; 0 for a star that was not fitted
    chi2_min: Scalar  # smallest chi-square among the modes of the models drawn
    captured: Scalar  # fraction of the screened mass in models that could be drawn or were refined
    gap: Scalar  # ln of (sum of all scores / evidence): 0 where scores are accurate


def parameter_names(models: Models) -> tuple[str, ...]:
    """Names of the parameters of `StarPosterior`, in order: dist, av, rv, labels of the models."""
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
    """Weighted mean and standard deviation, summed about the draw of largest weight.

    Differences from it are small, so that float32 keeps their digits.
    """
    centre, total = values[jnp.argmax(weights)], jnp.sum(weights)
    shift = jnp.sum(weights * (values - centre)) / total
    variance = jnp.sum(weights * (values - centre - shift) ** 2) / total
    return centre + shift, jnp.sqrt(variance)


def _summary(sample: Weighted, models: Models) -> tuple:
    """Quantiles (parameter, level), means and standard deviations of the weighted draws."""
    weights = jax.nn.softmax(sample.log_weight)
    values = jnp.stack(
        [jnp.exp(sample.theta.eta), sample.theta.av]
        + [sample.theta.rv]
        + [label[sample.model] for label in models.labels.values()]
    )
    # draws without weight may be NaN
    heaviest = values[:, jnp.argmax(weights)][:, None]
    values = jnp.where((weights > 0)[None] & jnp.isfinite(values), values, heaviest)
    levels = jnp.asarray(QUANTILES, dtype=values.dtype)
    quantiles = jax.vmap(lambda x: quantile_by_integers(x, levels, weights))(values)
    mean, std = jax.vmap(_moments, in_axes=(0, None))(values, weights)
    return quantiles, mean, std


def _model_ess(sample: Weighted, index: Int[Array, " draw"]) -> Float[Array, " draw"]:
    """Effective number of weighted draws from the model of each of the draws."""
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
    # in random order, so that the first few draws are a fair sample of all
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

    `row` gives the model of each score. Also returns the fraction of the screened mass that the
    survivors hold.
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


class Chosen(NamedTuple):
    """The models drawn for a star."""

    drawn: ModelDraws
    captured: Scalar
    log_total: Scalar  # log of the sum of all scores


class Sampled(NamedTuple):
    """The weighted draws of a star and what follows from them."""

    weighted: Weighted
    quantiles: Float[Array, "parameter level"]
    mean: Float[Array, " parameter"]
    std: Float[Array, " parameter"]
    chi2_min: Scalar
    captured: Scalar
    log_total: Scalar


def rank_tiles(
    star: Stars, grid: TiledModels, prior: StarPrior, settings: Settings
) -> Float[Array, " tile"]:
    """Log of the posterior mass of each tile for a star; no tiles where all models are scored."""
    if not settings.tiles:
        return jnp.zeros(0)
    if settings.in_magnitudes and settings.closely:
        return rank_by_models(star, grid, prior)
    return score_tiles(star, grid.tiles, prior)


def choose_models(
    star: Stars,
    grid: TiledModels,
    prior: StarPrior,
    log_mass: Float[Array, " tile"],
    key: PRNGKeyArray,
    settings: Settings,
) -> Chosen:
    """Draws models for one star, by their scores."""
    key_tile, key_model, _ = jax.random.split(key, 3)
    models, size = grid.models, settings.n_samples
    if not settings.tiles:
        score = screen(star, models, prior)
        scores, captured = refine_survivors(star, models, prior, score.log_z, settings)
        drawn = draw_models(scores, key_model, size=size)
        return Chosen(drawn, captured, jax.nn.logsumexp(scores))
    u = jax.random.uniform(key_tile, (), dtype=models.log_prior.dtype)
    how = {"most": settings.tiles, "in_magnitudes": settings.in_magnitudes and not settings.closely}
    found = shortlist(star, grid, prior, log_mass, u, size=size, **how)
    if settings.survivors:
        scores, _ = refine_survivors(star, models, prior, found.scores.ravel(), settings, found.row)
        found = with_scores(found, scores.reshape(found.scores.shape))
    drawn = draw_from_tiles(found, key_model, size=size)
    return Chosen(drawn, found.captured, found.log_total)


def weigh_draws(
    star: Stars,
    grid: TiledModels,
    prior: StarPrior,
    chosen: Chosen,
    key: PRNGKeyArray,
    settings: Settings,
) -> Sampled:
    """Weighted draws from the posterior of one star, one from each of the models chosen."""
    _, _, key = jax.random.split(key, 3)
    weighted = _sample(star, grid.models, prior, chosen.drawn, key, settings)
    quantiles, mean, std = _summary(weighted, grid.models)
    chi2_min = jnp.min(weighted.chi2)
    return Sampled(weighted, quantiles, mean, std, chi2_min, chosen.captured, chosen.log_total)


def conclude(star: Stars, sampled: Sampled, key: PRNGKeyArray, settings: Settings) -> StarPosterior:
    """Equal-weight draws, evidence and diagnostics of one star."""
    log_weight = sampled.weighted.log_weight
    size = log_weight.shape[0]
    possible = jnp.isfinite(sampled.weighted.log_z) | jnp.isfinite(log_weight)
    fitted = jnp.any(star.weight > 0) & jnp.any(possible)
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
        n_samples=jnp.where(fitted, size, 0),
        chi2_min=sampled.chi2_min,
        captured=sampled.captured,
        gap=sampled.log_total - log_evidence,
    )


class Batch(NamedTuple):
    """The inputs of a stage of the fit of a batch of stars; None for what it does not use."""

    stars: Stars
    grid: TiledModels | None
    prior: StarPrior | None  # without A_V
    av: Any  # prior of A_V, with a leading axis
    keys: Key[Array, " star"] | None  # of stages that draw
    n_parameters: int | None = None  # of `parameter_names`, where `grid` does not say

    def models(self) -> TiledModels:
        """The grid of a stage that uses it."""
        assert self.grid is not None
        return self.grid

    def prior_with(self, av: AbstractAvPrior) -> StarPrior:
        """The priors of a star, with its own of A_V."""
        assert self.prior is not None
        return StarPrior(self.prior.distance, av, self.prior.rv)

    def map(self, one: Callable, settings: Settings, *others: Any) -> Any:
        """`one(star, prior, keys, *others)` of every star, `keys` a pair.

        Zeros for a star without photometry, at no cost. Stars that pad a batch are of this kind.
        """

        def unpacked(inputs: tuple) -> Any:
            star, av, key, *others = inputs
            prior = None if self.prior is None else self.prior_with(av)
            return one(star, prior, jax.random.split(key), *others)

        once = jax.jit(unpacked)  # conditions trace their branches twice; jit does it once

        def one_observed(inputs: tuple) -> Any:
            return where_observed(inputs[0], once, inputs)

        def beside_others(inputs: tuple) -> Any:
            observed = jnp.any(inputs[0].weight > 0)
            values = one_observed(inputs)
            return jax.tree.map(lambda x: jnp.where(observed, x, jnp.zeros_like(x)), values)

        inputs = (self.stars, self.av, self.keys, *others)
        if settings.side_by_side == 1:
            return jax.lax.map(one_observed, inputs)
        return jax.lax.map(beside_others, inputs, batch_size=settings.side_by_side)


def _rank_batch(_: None, batch: Batch, settings: Settings) -> Float[Array, "star tile"]:
    grid = batch.models()
    return batch.map(lambda star, prior, _: rank_tiles(star, grid, prior, settings), settings)


def _choose_batch(state: Array, batch: Batch, settings: Settings) -> Chosen:
    grid = batch.models()

    def one(star: Stars, prior: StarPrior, keys: Array, log_mass: Array) -> Chosen:
        return choose_models(star, grid, prior, log_mass, keys[0], settings)

    return batch.map(one, settings, state)


def _weigh_batch(state: Chosen, batch: Batch, settings: Settings) -> Sampled:
    grid = batch.models()

    def one(star: Stars, prior: StarPrior, keys: Array, chosen: Chosen) -> Sampled:
        return weigh_draws(star, grid, prior, chosen, keys[0], settings)

    return batch.map(one, settings, state)


def _conclude_batch(state: Sampled, batch: Batch, settings: Settings) -> StarPosterior:
    def one(star: Stars, _: None, keys: Array, sampled: Sampled) -> StarPosterior:
        return conclude(star, sampled, keys[1], settings)

    return batch.map(one, settings, state)


STAGES = Stages(_rank_batch, _choose_batch, _weigh_batch, _conclude_batch)


def fit_stars(
    stars: Stars,
    grid: TiledModels,
    prior: StarPrior,
    av: Any,
    keys: Key[Array, " star"],
    settings: Settings,
) -> StarPosterior:
    """The posteriors of a batch of stars, each field with a leading axis (star, ...).

    `av` is the A_V prior of each star, a pytree with a leading axis (that of `prior` is not
    used); `keys` (star,) one random key per star. A star without photometry has `n_samples` 0 and
    zeros elsewhere. As JAX does, this returns before the work is done. `brutax.fit` is the way to
    call it with checked data.
    """
    return STAGES(*plan(stars, grid, prior, av, keys, settings))


def plan(
    stars: Stars,
    grid: TiledModels,
    prior: StarPrior,
    av: Any,
    keys: Key[Array, " star"],
    settings: Settings,
) -> tuple[tuple[Batch, ...], tuple[Settings, ...]]:
    """The inputs of each stage of `fit_stars`, and its settings.

    Each gets only what it uses, so that its program serves all that differ in nothing else.
    """
    batch = Batch(stars, grid, StarPrior(prior.distance, None, prior.rv), av, keys)
    last = Batch(stars, None, None, None, keys, len(parameter_names(grid.models)))
    once = Settings(n_samples=0, n_draws=0, side_by_side=settings.side_by_side)
    closely = settings.in_magnitudes and settings.closely
    ranking = dataclasses.replace(
        once, tiles=min(settings.tiles, 1), in_magnitudes=closely, closely=closely
    )
    choosing = dataclasses.replace(settings, n_draws=0)
    weighing = dataclasses.replace(once, n_samples=settings.n_samples, steps=settings.steps)
    concluding = dataclasses.replace(once, n_samples=settings.n_samples, n_draws=settings.n_draws)
    return (batch, batch, batch, last), (ranking, choosing, weighing, concluding)


def _settle_batch(_: None, batch: Batch, side_by_side: int) -> Bool[Array, " star"]:
    tiles = batch.models().tiles
    share = jax.nn.softmax(tiles.log_prior)
    red, dred = (jnp.sum(share[None] * x, axis=1) for x in (tiles.red, tiles.dred))

    def one(inputs: tuple) -> Array:
        star, av = inputs
        prior = batch.prior_with(av)
        return settled(star, red, dred, prior)

    size = None if side_by_side == 1 else side_by_side
    return jax.lax.map(one, (batch.stars, batch.av), batch_size=size)


_settle = Stages(_settle_batch)


def settled_stars(
    stars: Stars, grid: TiledModels, prior: StarPrior, av: Any, side_by_side: int
) -> Bool[Array, " star"]:
    """Which stars of a batch `Settings.in_magnitudes` is accurate for, (star,), by photometry.

    `av` as in `fit_stars`; reddening is taken from the mean of the grid, by prior mass.
    `side_by_side` stars are computed at once. See `magnitude_scores.settled` for the conditions.
    """
    batch = Batch(stars, grid, StarPrior(prior.distance, None, prior.rv), av, None)
    return _settle((batch,), (side_by_side,))


def survivor_margin(n_models: int) -> float:
    """How far below the best score [nats] all models together hold less than 1e-4 of the mass.

    Two nats are added for the error of a score.
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
    """How many models the reference path must refine for each star (star,), as a power of two.

    Every model is kept that could, with all the models below it, hold more than 1e-4 of the
    posterior mass of the star. `av` is the A_V prior of each star, as in `fit_stars`.
    """
    needed = np.maximum(np.asarray(_survivors(stars, models, prior, av)), CHUNK)
    return np.minimum(2 ** np.ceil(np.log2(needed)).astype(int), models.log_prior.shape[0])


@eqx.filter_jit
def model_log_weights(
    star: Stars, models: Models, prior: StarPrior, settings: Settings
) -> Float[Array, " model"]:
    """Log posterior mass of every model of the grid for one star (model,), normalised to one.

    Models beyond the best `settings.survivors` keep their approximate score.
    """
    scores = screen(star, models, prior).log_z
    scores, _ = refine_survivors(star, models, prior, scores, settings)
    return jax.nn.log_softmax(scores)
