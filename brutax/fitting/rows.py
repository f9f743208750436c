"""From what the solver returns to rows of the posterior file (`brutax.catalog.schema`)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.special import gammaincc

from brutax.catalog import Catalog
from brutax.catalog.schema import BY_NAME
from brutax.models import Status
from brutax.solver import StarPosterior
from brutax.utils.diagnostics import GOOD_K

# |ln sum of scores - ln evidence| [nats] up to which scores have drawn models from the right places
GOOD_GAP = 1.0
# effective draws per draw above which weights are nearly equal, so that their Pareto index is that
# of a few draws of next to no weight
EVEN_ESS = 0.8
# p-value of chi-square below which a star is flagged POOR_FIT: one in a thousand by chance
POOR_P = 1e-3
# effective draws that a star is promised, where as many weighted ones are made
PROMISED_ESS = 200.0
LARGEST_K = 99.0  # stands for an infinite Pareto index in files


class Observed(NamedTuple):
    """What rows need to know of the catalogue, once for all stars."""

    constant: Float64[np.ndarray, " star"]  # `log_constant`
    has_parallax: Bool[np.ndarray, " star"]
    n_bands: Int[np.ndarray, " star"]  # bands used, plus one with a parallax


def observed(catalog: Catalog) -> Observed:
    """The constants of the likelihoods of a catalogue, and its counts of data."""
    has_parallax = _has_parallax(catalog)
    return Observed(log_constant(catalog), has_parallax, np.asarray(catalog.n_bands) + has_parallax)


def log_constant(catalog: Catalog) -> Float64[np.ndarray, " star"]:
    """The part of the log-likelihood that no model changes: -1/2 sum ln(2 pi sigma^2)."""
    used = np.isfinite(catalog.flux) & np.isfinite(catalog.flux_err) & (catalog.flux_err > 0)
    terms = np.log(2.0 * np.pi * np.where(used, catalog.flux_err, 1.0) ** 2)
    constant = -0.5 * np.sum(np.where(used, terms, 0.0), axis=1)
    plx = _has_parallax(catalog)
    error = np.where(plx, catalog.parallax_err, 1.0)
    return constant - np.where(plx, 0.5 * np.log(2.0 * np.pi * error**2), 0.0)


def _has_parallax(catalog: Catalog) -> Bool[np.ndarray, " star"]:
    error = catalog.parallax_err
    return np.isfinite(catalog.parallax) & np.isfinite(error) & (error > 0)


def trusted(posterior: StarPosterior) -> Bool[np.ndarray, " star"]:
    """Whether weights are bounded or nearly equal, and scores add up to about the evidence.

    Scores that promise far more than the draws deliver have drawn models from the wrong place. The
    Pareto index looks at the largest weights alone: where nearly all are equal, it is that of a
    few draws that carry next to nothing.
    """
    k, gap = np.asarray(posterior.pareto_k), np.asarray(posterior.gap)
    even = np.asarray(posterior.ess) >= EVEN_ESS * np.asarray(posterior.n_samples)
    with np.errstate(invalid="ignore"):
        return ((k <= GOOD_K) | even) & (np.abs(gap) <= GOOD_GAP)


class Finished(NamedTuple):
    """Some stars after their last round, as NumPy arrays, and what was concluded about them."""

    post: StarPosterior
    order: Int[np.ndarray, " model"]  # row of the grid of each model of the solver
    constant: Float64[np.ndarray, " star"]
    n_bands: Int[np.ndarray, " star"]
    chi2: np.ndarray
    p_value: np.ndarray
    evidence: np.ndarray
    status: np.ndarray


def _scale(x: Finished) -> np.ndarray:
    with np.errstate(over="ignore"):
        return np.exp(-2.0 * x.post.draws.mode.eta)


def _even_weights(x: Finished) -> np.ndarray:
    shape = x.post.draws.theta.av.shape
    return np.broadcast_to(np.float32(1.0 / shape[1]), shape)


# the values of every column, under the names of the schema
VALUES: Mapping[str, Callable[[Finished], np.ndarray]] = {
    "model_idx": lambda x: x.order[x.post.draws.model],
    "ml_scale": _scale,
    "ml_av": lambda x: x.post.draws.mode.av,
    "ml_rv": lambda x: x.post.draws.mode.rv,
    "ml_cov_sar": lambda x: x.post.draws.cov_sar,
    "obj_log_post": lambda x: x.post.draws.log_model + x.constant[:, None],
    "obj_log_evid": lambda x: x.evidence,
    "obj_chi2min": lambda x: x.chi2,
    "obj_Nbands": lambda x: x.n_bands,
    "mc_ess": lambda x: x.post.draws.model_ess,
    "samps_dist": lambda x: np.exp(x.post.draws.theta.eta),
    "samps_red": lambda x: x.post.draws.theta.av,
    "samps_dred": lambda x: x.post.draws.theta.rv,
    "samps_logp": lambda x: x.post.draws.log_post + x.constant[:, None],
    "samps_weight": _even_weights,
    "status": lambda x: x.status,
    "obj_log_evid_err": lambda x: x.post.log_evidence_err,
    "obj_ess": lambda x: x.post.ess,
    "obj_khat": lambda x: np.nan_to_num(x.post.pareto_k, posinf=LARGEST_K),
    "obj_nsamp": lambda x: x.post.n_samples,
    "obj_captured": lambda x: x.post.captured,
    "obj_pvalue": lambda x: x.p_value,
    "summary_quantiles": lambda x: x.post.quantiles,
    "summary_mean": lambda x: x.post.mean,
    "summary_std": lambda x: x.post.std,
}
# columns that say something of stars without a posterior, too: no fill values
ALWAYS = ("obj_Nbands", "status")


def file_rows(
    posterior: StarPosterior,
    rows: np.ndarray,
    catalog: Catalog,
    known: Observed,
    order: np.ndarray,
    weighted_draws: int,
    dim_prior: bool,
) -> dict[str, np.ndarray]:
    """Arrays of the posterior file for some rows of a catalogue; everything is finite.

    `posterior` may be padded at its end. `weighted_draws` are those of the first round: more mean
    that it was extended. With `dim_prior` brutus' (N - 3)/2 ln N is added to ln evidences.
    """
    post: StarPosterior = jax.tree.map(lambda x: np.asarray(x)[: rows.size], posterior)
    constant, n_bands = known.constant[rows], known.n_bands[rows]
    good = np.isfinite(post.log_evidence) & (post.n_samples > 0)
    dof = np.maximum(n_bands - 3, 1)
    chi2 = np.where(np.isfinite(post.chi2_min), post.chi2_min, 0.0)
    p_value = gammaincc(0.5 * dof, 0.5 * chi2.astype(np.float64))
    evidence = np.asarray(post.log_evidence).astype(np.float64) + constant
    if dim_prior:
        evidence = evidence + 0.5 * (n_bands - 3) * np.log(np.maximum(n_bands, 1))
    unseen = np.asarray(catalog.n_bands)[rows] == 0
    enough = post.ess >= min(PROMISED_ESS, 0.5 * weighted_draws)
    flags = {
        Status.NO_MODELS: ~good & ~unseen,
        Status.LOW_ESS: good & ~(enough & trusted(post)),
        Status.POOR_FIT: good & (p_value < POOR_P),
        Status.EXTENDED: good & (post.n_samples > weighted_draws),
    }
    status = catalog.status[rows].astype(np.int32)
    for flag, raised in flags.items():
        status |= np.where(raised, flag, 0).astype(np.int32)
    finished = Finished(post, order, constant, n_bands, chi2, p_value, evidence, status)
    out = {}
    for name, values in VALUES.items():
        column, found = BY_NAME[name], values(finished)
        if name in ALWAYS:
            out[name] = found.astype(column.dtype)
        else:
            out[name] = _usable(found, good, column.fill)
    return out


def _usable(values: np.ndarray, good: np.ndarray, fill: float | int) -> np.ndarray:
    """Values as the file holds them, with `fill` where they are not numbers or a star is not good.

    Nothing is copied where there is nothing to do.
    """
    values = np.asarray(values)
    kind = np.int32 if values.dtype.kind in "iu" else np.float32
    known = np.isfinite(values)
    if not (good.all() and known.all()):
        values = np.where(good.reshape(-1, *[1] * (values.ndim - 1)) & known, values, fill)
    return values.astype(kind, copy=False)
