"""Photometric offsets: factors between observed and predicted fluxes, band by band.

After Speagle et al. (2025, arXiv:2503.02227), in the call form of brutus 1.2.0. For every star and
posterior draw the ratio is that of the model's flux in a band and the observed one. Draws of stars
that were fitted with that band are weighted as if it had been left out, by their chi-squares. Stars
and draws are resampled together (bootstrap), and the offset is the median over samples of the
median ratio.
"""

import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from brutax.models import reddened_mag
from brutax.utils.math import log_chisquare_density
from brutax.utils.photometry import LN_PER_MAG

log = logging.getLogger("brutax")

METHODS = ("bootstrap_std", "bootstrap_iqr")
IQR_PER_SIGMA = 1.349  # interquartile range of a normal distribution, in standard deviations


@dataclass(frozen=True)
class PhotometricOffsetsConfig:
    """Settings of `photometric_offsets`, with brutus' names and defaults.

    A star is used for a band that was fitted if it has at least `min_bands_used` others, and for a
    band that was not if it has at least `min_bands_unused`. `n_bootstrap` is the number of
    resampled samples; their spread is the error, by `uncertainty_method`: 'bootstrap_iqr'
    (interquartile range / 1.349) or 'bootstrap_std'. Progress is logged after every
    `progress_interval` bands (0: never). `use_vectorized_bootstrap` is accepted and has no effect.
    Raises `ValueError` for values out of range.
    """

    min_bands_used: int = 4
    min_bands_unused: int = 3
    n_bootstrap: int = 300
    uncertainty_method: str = "bootstrap_iqr"
    progress_interval: int = 10
    use_vectorized_bootstrap: bool = True
    random_seed: int | None = None
    validate_inputs: bool = True

    def __post_init__(self) -> None:
        for name in ("min_bands_used", "min_bands_unused", "n_bootstrap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, found {getattr(self, name)}")
        if self.progress_interval < 0:
            raise ValueError(f"progress_interval must be >= 0, found {self.progress_interval}")
        if self.uncertainty_method not in METHODS:
            raise ValueError(
                f"uncertainty_method must be one of {', '.join(METHODS)}, "
                f"found {self.uncertainty_method!r}"
            )


class _Sample(NamedTuple):
    """Stars and their draws, on the device."""

    models: Float[Array, "model band 3"]
    phot: Float[Array, "star band"]
    err: Float[Array, "star band"]
    mask: Bool[Array, "star band"]
    idxs: Int[Array, "star draw"]
    av: Float[Array, "star draw"]
    rv: Float[Array, "star draw"]
    dist: Float[Array, "star draw"]
    weights: Float[Array, "star draw"]
    old: Float[Array, " band"]

    def flux(self, band: Any) -> Float[Array, "star draw"]:
        """Predicted fluxes of all draws in a band."""
        coeffs = self.models[:, band][self.idxs]
        mag, red, dred = jnp.moveaxis(coeffs, -1, 0)
        mag = reddened_mag(mag, red, dred, self.av, self.rv)
        return jnp.exp(-LN_PER_MAG * mag) / self.dist**2

    def chi2(self, band: Any) -> Float[Array, "star draw"]:
        """Chi-square of a band, 0 where it was not observed."""
        valid = self.mask[:, band]
        err = jnp.where(valid, self.err[:, band], 1.0) * self.old[band]
        phot = jnp.where(valid, self.phot[:, band], 0.0) * self.old[band]
        resid = (phot[:, None] - self.flux(band)) / err[:, None]
        return jnp.where(valid[:, None], resid**2, 0.0)


@jax.jit
def _chi2_of_all(sample: _Sample) -> Float[Array, "star draw"]:
    def add(total: Array, band: Array) -> tuple[Array, None]:
        return total + sample.chi2(band), None

    start = jnp.zeros(sample.av.shape, sample.av.dtype)
    return jax.lax.scan(add, start, jnp.arange(sample.phot.shape[1]))[0]


@functools.partial(jax.jit, static_argnames=("fitted", "dim_prior"))
def _ratios(
    sample: _Sample, band: Any, chi2_full: Array, *, fitted: bool, dim_prior: bool
) -> tuple[Array, Array, Array]:
    """Of a band (star, draw): ratios of predicted and observed fluxes, and cumulative weights.

    Cumulative weights end at 1. The third value (star,) is the sum of the weights before they were
    normalised, 0 where no draw of the star has a weight.
    """
    flux = sample.flux(band)
    phot = jnp.where(sample.phot[:, band] > 0, sample.phot[:, band], 1.0)
    weight = jnp.ones_like(flux)
    if fitted:
        chi2 = sample.chi2(band)
        log_w = 0.5 * chi2
        if dim_prior:
            count = jnp.sum(sample.mask, axis=1, dtype=flux.dtype)[:, None]
            rest = jnp.maximum(chi2_full - chi2, 0.0)
            log_w = log_chisquare_density(rest, count - 2.0) - log_chisquare_density(
                chi2_full, count - 1.0
            )
        top = jnp.max(log_w, axis=1, keepdims=True)
        weight = jnp.exp(log_w - jnp.where(jnp.isfinite(top), top, 0.0))
    weight = weight * sample.weights
    total = jnp.sum(weight, axis=1)
    informative = jnp.isfinite(total) & (total > 0)
    weight = jnp.where(informative[:, None], weight, 1.0)
    reached = jnp.cumsum(weight, axis=1)
    return flux / phot[:, None], reached / reached[:, -1:], jnp.where(informative, total, 0.0)


@jax.jit
def _drawn(
    ratios: Float[Array, "star draw"],
    reached: Float[Array, "star draw"],
    stars: Int[Array, "replicate place"],
    u: Float[Array, "replicate place"],
) -> Float[Array, "replicate place"]:
    """Ratios of one draw per star: the first whose cumulative weight reaches u."""
    n_draws = ratios.shape[1]
    first, low = n_draws * stars, jnp.zeros_like(stars)
    for bit in reversed(range((n_draws - 1).bit_length())):  # binary search in each row
        probe = low + (1 << bit)
        at = first + jnp.minimum(probe, n_draws) - 1
        below = reached.ravel().at[at].get(mode="promise_in_bounds") < u
        low = jnp.where((probe < n_draws) & below, probe, low)
    return ratios.ravel().at[first + low].get(mode="promise_in_bounds")


def photometric_offsets(
    phot: Any,
    err: Any,
    mask: Any,
    models: Any,
    idxs: Any,
    reds: Any,
    dreds: Any,
    dists: Any,
    sel: Any = None,
    weights: Any = None,
    mask_fit: Any = None,
    old_offsets: Any = None,
    dim_prior: bool = True,
    prior_mean: Any = None,
    prior_std: Any = None,
    verbose: bool = True,
    config: PhotometricOffsetsConfig | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Offsets by which observed fluxes must be multiplied, their errors, and stars per band.

    Each is (band,). `phot`, `err`, `mask`: (star, band) fluxes in the unit of the models [maggies],
    errors, and 1 where observed. `models`: (model, band, 3) magnitude coefficients; `idxs`, `reds`
    (A_V), `dreds` (R_V), `dists` [kpc]: (star, draw). `sel` (star,) chooses stars, `weights` (star,
    draw) are those of the draws, `mask_fit` (band,) says which bands were fitted (default: all),
    with fluxes multiplied by `old_offsets`; what is returned are total offsets. With `dim_prior`
    the draws are taken to come from brutus' chi-square likelihood, else from the Gaussian one,
    which is that of `brutax.fit`. `prior_mean` and `prior_std` (band,): Gaussian priors.

    A band without a star has offset 1 and an infinite error, or its prior. Fluxes that are not
    positive and stars whose draws all have no weight are left out of a band.

    `rng`, or `config.random_seed`, chooses the resampling: with the same generator the values are
    those of brutus 1.2.0. Raises `ValueError` for shapes, values or options that contradict each
    other.
    """
    config = PhotometricOffsetsConfig() if config is None else config
    rng = np.random.default_rng(config.random_seed) if rng is None else rng
    sample, sel, fitted = _arrange(
        phot, err, mask, models, idxs, reds, dreds, dists, sel, weights, mask_fit, old_offsets,
        config.validate_inputs,
    )  # fmt: skip
    prior = _prior(prior_mean, prior_std, fitted.size)
    valid, phot = np.asarray(sample.mask), np.asarray(sample.phot)
    weighted = np.asarray(jnp.sum(sample.weights, axis=1)) > 0
    chi2 = _chi2_of_all(sample) if fitted.any() else jnp.zeros(sample.av.shape, sample.av.dtype)
    offsets, errors = np.ones(fitted.size), np.full(fitted.size, np.inf)
    used = np.zeros(fitted.size, int)

    def finish(band: int, drawn: Array) -> None:
        n = used[band]
        middle = [(n - 1) // 2, n // 2]
        medians = np.partition(np.asarray(drawn)[:, :n], middle, axis=1)[:, middle]
        medians = medians.astype(np.float64).mean(axis=1)
        offsets[band], errors[band] = _summary(medians, config.uncertainty_method)

    def start(band: int) -> tuple[Array, Array, Array]:
        return _ratios(sample, band, chi2, fitted=bool(fitted[band]), dim_prior=dim_prior)

    # the device is a band ahead: `ready` has its ratios, `waiting` its draws
    ready, waiting = start(0), []
    for band in range(fitted.size):
        ratios, reached, total = ready
        ready = start(min(band + 1, fitted.size - 1))
        others = valid.sum(axis=1) - (valid[:, band] if fitted[band] else 0)
        least = config.min_bands_used if fitted[band] else config.min_bands_unused
        good = valid[:, band] & sel & (others >= least) & weighted & (phot[:, band] > 0)
        stars = np.flatnonzero(good & (np.asarray(total) > 0))
        used[band] = stars.size
        if stars.size:
            drawn = _resampled(ratios, reached, stars, config.n_bootstrap, rng)
            waiting.append((band, drawn))
        while len(waiting) > 1:
            finish(*waiting.pop(0))
        if verbose and config.progress_interval and (band + 1) % config.progress_interval == 0:
            log.info("offsets of %d of %d bands", band + 1, fitted.size)
        if verbose and not stars.size:
            log.warning("no star says anything about the offset of band %d", band)
    for one in waiting:
        finish(*one)
    if prior is not None:
        offsets, errors = _combined(offsets, errors, *prior)
    return offsets, errors, used


def band_ratios(
    phot: Any,
    err: Any,
    mask: Any,
    models: Any,
    idxs: Any,
    reds: Any,
    dreds: Any,
    dists: Any,
    weights: Any = None,
    dim_prior: bool = True,
    offset: Any = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Of each band, ratios of predicted and observed fluxes and their weights, (star, draw).

    Arguments are those of `photometric_offsets`, with `offset` (band,) multiplying the observed
    fluxes. Weights are those of the draws had the band not been fitted, and add up to 1; they are
    0 for stars without the band, with fewer than four others, or without a positive flux.
    """
    sample, *_ = _arrange(
        phot, err, mask, models, idxs, reds, dreds, dists, None, weights, None, offset, True
    )
    valid = np.asarray(sample.mask)
    chi2 = _chi2_of_all(sample)
    for band in range(valid.shape[1]):
        ratios, reached, total = _ratios(sample, band, chi2, fitted=True, dim_prior=dim_prior)
        others = valid.sum(axis=1) - valid[:, band]
        good = valid[:, band] & (others >= PhotometricOffsetsConfig.min_bands_used)
        good = good & (np.asarray(total) > 0) & (np.asarray(sample.phot)[:, band] > 0)
        weight = np.diff(np.asarray(reached), axis=1, prepend=0.0) * good[:, None]
        yield np.asarray(ratios) / float(sample.old[band]), weight


def _resampled(
    ratios: Array, reached: Array, stars: np.ndarray, size: int, rng: np.random.Generator
) -> Array:
    """Ratios of resampled stars and draws (replicate, place), the first `stars.size` places."""
    n, width = stars.size, ratios.shape[0]
    chosen = (rng.random((size, n)) * n).astype(np.int32)  # as rng.choice does with its p
    u = rng.random((size, n), np.float64)
    index, level = np.empty((size, width), np.int32), np.empty((size, width), ratios.dtype)
    index[:, n:], level[:, n:] = 0, 0.0  # one program for all bands
    np.take(stars.astype(np.int32), chosen, out=index[:, :n], mode="clip")
    level[:, :n] = u
    return _drawn(ratios, reached, index, level)


def _summary(medians: np.ndarray, method: str) -> tuple[float, float]:
    if method == "bootstrap_std":
        return float(np.median(medians)), float(np.std(medians))
    low, middle, high = np.percentile(medians, (25, 50, 75))
    return float(middle), float((high - low) / IQR_PER_SIGMA)


def _combined(
    offsets: np.ndarray, errors: np.ndarray, mean: np.ndarray, std: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Product of two normal distributions, the first of which may be flat."""
    known = np.isfinite(errors)
    var = np.where(known, errors, 1.0) ** 2
    out = (offsets * std**2 + mean * var) / (var + std**2)
    error = np.sqrt(var) * std / np.sqrt(var + std**2)
    return np.where(known, out, mean), np.where(known, error, std)


def _prior(mean: Any, std: Any, n_bands: int) -> tuple[np.ndarray, np.ndarray] | None:
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError("give both of prior_mean and prior_std, or none")
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    for name, value in (("prior_mean", mean), ("prior_std", std)):
        if value.shape != (n_bands,):
            raise ValueError(f"{name} is {value.shape}; it has one value per band ({n_bands},)")
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError("prior_mean must be finite, prior_std finite and positive")
    return mean, std


def _arrange(
    phot: Any,
    err: Any,
    mask: Any,
    models: Any,
    idxs: Any,
    reds: Any,
    dreds: Any,
    dists: Any,
    sel: Any,
    weights: Any,
    mask_fit: Any,
    old_offsets: Any,
    validate: bool,
) -> tuple[_Sample, np.ndarray, np.ndarray]:
    """The sample on the device, the selection of stars, and the bands that were fitted."""
    phot = np.asarray(phot, np.float64)
    idxs = np.asarray(idxs)
    if phot.ndim != 2 or idxs.ndim != 2:
        raise ValueError(f"phot {phot.shape} is (star, band), idxs {idxs.shape} (star, draw)")
    (n_stars, n_bands), n_draws = phot.shape, idxs.shape[1]
    shapes = {
        "err": (err, (n_stars, n_bands)),
        "mask": (mask, (n_stars, n_bands)),
        "models": (models, (np.shape(models)[0] if np.ndim(models) else 0, n_bands, 3)),
        "idxs": (idxs, (n_stars, n_draws)),
        "reds": (reds, (n_stars, n_draws)),
        "dreds": (dreds, (n_stars, n_draws)),
        "dists": (dists, (n_stars, n_draws)),
        "sel": (np.ones(n_stars, bool) if sel is None else sel, (n_stars,)),
        "weights": (np.ones((n_stars, n_draws)) if weights is None else weights, idxs.shape),
        "mask_fit": (np.ones(n_bands, bool) if mask_fit is None else mask_fit, (n_bands,)),
        "old_offsets": (np.ones(n_bands) if old_offsets is None else old_offsets, (n_bands,)),
    }
    found = {}
    for name, (value, shape) in shapes.items():
        found[name] = np.asarray(value)
        if found[name].shape != shape:
            raise ValueError(f"{name} is {found[name].shape}; with this phot and idxs, {shape}")
    if validate:
        _check(phot, found)
    valid = found["mask"].astype(bool)
    kind = jax.dtypes.canonicalize_dtype(float)
    sample = _Sample(
        models=jnp.asarray(found["models"], kind),
        phot=jnp.asarray(np.where(valid, phot, 0.0), kind),
        err=jnp.asarray(np.where(valid, found["err"], 1.0), kind),
        mask=jnp.asarray(valid),
        idxs=jnp.asarray(idxs.astype(np.int32)),
        av=jnp.asarray(found["reds"], kind),
        rv=jnp.asarray(found["dreds"], kind),
        dist=jnp.asarray(found["dists"], kind),
        weights=jnp.asarray(found["weights"], kind),
        old=jnp.asarray(found["old_offsets"], kind),
    )
    return sample, found["sel"].astype(bool), found["mask_fit"].astype(bool)


def _check(phot: np.ndarray, found: dict[str, np.ndarray]) -> None:
    """Raises `ValueError` for values that cannot be meant."""
    mask, err, idxs = found["mask"], found["err"], found["idxs"]
    if not np.isin(mask, (0, 1)).all():
        raise ValueError("mask holds other values than 0 and 1")
    valid = mask.astype(bool)
    bad = valid & ~(np.isfinite(phot) & np.isfinite(err) & (err > 0))
    if bad.any():
        star, band = np.argwhere(bad)[0]
        raise ValueError(
            f"{bad.sum()} fluxes with mask 1 are not finite or have no positive error, the first "
            f"that of star {star} in band {band}: {phot[star, band]} +- {err[star, band]}"
        )
    n_models = len(found["models"])
    if not np.issubdtype(idxs.dtype, np.integer) or ((idxs < 0) | (idxs >= n_models)).any():
        raise ValueError(f"idxs must be whole numbers from 0 to {n_models - 1}")
    if not (found["dists"] > 0).all():
        raise ValueError("dists must be positive [kpc]")
    if not ((found["weights"] >= 0) & np.isfinite(found["weights"])).all():
        raise ValueError("weights must be finite and not negative")
    if not ((found["old_offsets"] > 0) & np.isfinite(found["old_offsets"])).all():
        raise ValueError("old_offsets multiply fluxes: they must be positive")
