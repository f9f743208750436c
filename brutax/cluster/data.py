"""The stars of a cluster: checked and centred on the host, in blocks of similar brightness."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from brutax.cluster.segments import BLOCK
from brutax.utils._namespace import as_float
from brutax.utils.photometry import LN_2PI, LN_PER_MAG

LEAST_FIELD = 1e-6  # the least weight of the field: a star costs at most -ln of it
NEGLIGIBLE = 7.0  # nats below the least field, of what is left out
MOST_CHI2 = 300.0  # the most of chi-square up to which members are looked for
SIGMAS = 3.0  # beyond the extreme stars to which the field reaches
NEIGHBOURS, ALONE = 3, 3.0  # further from its third neighbour than thrice the median: alone
FAINT = 3.0  # errors: the least flux at which a magnitude's density is evaluated


class ClusterStars(eqx.Module):
    """Stars as `ClusterModel` sees them; make them with `make_stars`.

    Photometry is in blocks, everything else in the order of the catalogue. Densities of data are
    in units of the errors: `log_norm` (a constant) turns their sum into one per maggie, mas, ...
    """

    flux: Float[Array, "block band star"]  # divided by its error; 0 where unobserved
    inverse: Float[Array, "block band star"]  # unit over error; 0 where unobserved
    bright: Float[Array, "block band star"]  # flux over unit, 0 where not positive
    chi2: Float[Array, "block star"]  # beyond which a segment cannot matter; 0 for padding
    slot: Int[Array, " star"]  # where a star is in the blocks, as one row
    lit: Bool[Array, " star"]  # False for stars without a valid band
    bands: Float[Array, " star"]  # number of valid ones
    field: Float[Array, " star"]  # ln density of the photometry in the field
    field_range: Float[Array, "2 band"]  # magnitudes that it is uniform in; NaN where it is not
    prob: Float[Array, " star"]  # membership before photometry
    parallax: Float[Array, " star"]  # [mas]; 0 where there is none
    parallax_weight: Float[Array, " star"]  # 1 / error; 0 where there is none
    field_parallax: Float[Array, " star"]  # ln density in the field
    pm: Float[Array, "star 2"]  # [mas / yr], less `pm_centre`
    pm_variance: Float[Array, "star 2"]
    pm_seen: Bool[Array, " star"]
    field_pm: Float[Array, " star"]  # ln density in the field
    log_unit: Float[Array, " band"]  # ln of the unit of flux [maggies]
    pm_centre: Float[Array, " 2"]  # [mas / yr]
    log_norm: Float[Array, ""]

    def __len__(self) -> int:
        return self.slot.shape[0]


def make_stars(
    flux: Any,
    err: Any,
    *,
    mask: Any = None,
    parallax: Any = None,
    parallax_err: Any = None,
    pm: Any = None,
    pm_err: Any = None,
    prob: Any = 1.0,
    field: Any = None,
    field_pm: tuple[Any, Any] | None = None,
) -> ClusterStars:
    """Checks the data of a cluster and sorts its stars into blocks.

    `flux`, `err`: (star, band) [maggies]; bands with a non-finite flux or error, an error <= 0, or
    where `mask` (star, band) or (band,) is 0 do not count. `parallax`, `parallax_err`: (star,)
    [mas]. `pm`, `pm_err`: (star, 2) [mas / yr], right ascension (times cos dec) and declination.
    `prob`: number or (star,), membership known before. `field`: ln density of every star's fluxes
    among field stars (star,) [per maggie and band], or a function of (flux, err, observed) that
    returns it; by default uniform in the magnitudes that the sample covers, band by band.
    `field_pm` is the mean and standard deviation, (2,) each, of proper motions in the field
    (default: of the sample).

    Raises `ValueError` for shapes that do not go together, probabilities outside 0 to 1 and
    tables without a star that has a valid band.
    """
    flux, err = np.asarray(flux, np.float64), np.asarray(err, np.float64)
    if flux.ndim != 2 or flux.shape != err.shape:
        raise ValueError(f"flux {flux.shape} and err {err.shape} must both be (star, band)")
    count, bands = flux.shape
    seen = np.isfinite(flux) & np.isfinite(err) & (err > 0)
    if mask is not None:
        mask = np.asarray(mask)
        if mask.shape not in (flux.shape, (bands,)):
            raise ValueError(f"mask {mask.shape} fits neither flux {flux.shape} nor its bands")
        seen &= np.broadcast_to(mask != 0, flux.shape)
    lit = seen.any(axis=1)
    if not lit.any():
        raise ValueError("no star has a valid band (finite flux, positive error)")
    prob = np.broadcast_to(np.asarray(prob, np.float64), _shape(prob, count, "prob"))
    if not np.all((prob >= 0) & (prob <= 1)):
        raise ValueError("prob must lie between 0 and 1")
    flux, err = np.where(seen, flux, 0.0), np.where(seen, err, 1.0)
    good = seen & (flux > 0)
    unit = np.array([np.median(f[g]) if g.any() else 1.0 for f, g in zip(flux.T, good.T)])
    log_field, field_range = _field(field, flux, err, seen)
    log_norm = -np.sum(np.where(seen, np.log(err), 0.0), axis=1)
    plx, weight, field_plx, plx_norm = _parallax(parallax, parallax_err, lit)
    motion = _motion(pm, pm_err, lit, field_pm)
    peak = plx_norm + np.where(motion["seen"], -0.5 * motion["variance_log"] - LN_2PI, 0.0)
    rest = log_field + field_plx + motion["field"] + np.log(LEAST_FIELD) - NEGLIGIBLE
    chi2 = 2.0 * (peak - 0.5 * LN_2PI * seen.sum(axis=1) - rest)
    chi2 = np.clip(chi2, 16.0, MOST_CHI2)

    slot = np.zeros(count, np.int32)
    order = np.flatnonzero(lit)[_order(flux[lit], unit, good[lit])]
    slot[order] = np.arange(order.size)
    blocks = -(-order.size // BLOCK)

    def blocked(x: np.ndarray) -> np.ndarray:
        out = np.zeros((blocks * BLOCK, *x.shape[1:]))
        out[: order.size] = x[order]
        return np.moveaxis(out.reshape(blocks, BLOCK, *x.shape[1:]), 1, -1)

    return ClusterStars(
        flux=as_float(blocked(np.where(seen, flux / err, 0.0))),
        inverse=as_float(blocked(np.where(seen, unit / err, 0.0))),
        bright=as_float(blocked(np.where(good, flux / unit, 0.0))),
        chi2=as_float(blocked(chi2)),
        slot=jnp.asarray(slot),
        lit=jnp.asarray(lit),
        bands=as_float(seen.sum(axis=1)),
        field=as_float(log_field),
        field_range=as_float(field_range),
        prob=as_float(prob),
        parallax=as_float(plx),
        parallax_weight=as_float(weight),
        field_parallax=as_float(field_plx),
        pm=as_float(motion["pm"]),
        pm_variance=as_float(motion["variance"]),
        pm_seen=jnp.asarray(motion["seen"]),
        field_pm=as_float(motion["field"]),
        log_unit=as_float(np.log(unit)),
        pm_centre=as_float(motion["centre"]),
        log_norm=as_float(np.sum(log_norm[lit])),
    )


def _shape(x: Any, count: int, name: str) -> tuple[int]:
    if np.shape(x) not in ((), (count,)):
        raise ValueError(f"{name} has the shape {np.shape(x)} for {count} stars")
    return (count,)


def _order(flux: np.ndarray, unit: np.ndarray, good: np.ndarray) -> np.ndarray:
    """By mean ln flux over units, those last that have no neighbours: a block shares its segments.

    Stars off the sequences of the cluster would make the blocks of others wide.
    """
    from scipy.spatial import KDTree

    log_flux = np.log(np.where(good, flux / unit, 1.0))
    bright = np.sum(log_flux, axis=1) / np.maximum(good.sum(axis=1), 1)
    alone = np.zeros(len(flux), bool)
    if len(flux) >= 4 * BLOCK:
        colour = np.where(good, log_flux - bright[:, None], np.nan)
        usual = [np.nanmedian(c) if g.any() else 0.0 for c, g in zip(colour.T, good.T)]
        place = np.where(good, log_flux, bright[:, None] + np.array(usual))
        near = KDTree(place).query(place, k=NEIGHBOURS + 1, p=np.inf)[0][:, -1]
        alone = near > ALONE * np.median(near)
    return np.lexsort((bright, alone))


def _field(
    field: Any, flux: np.ndarray, err: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ln density in the field, in units of the errors, and the range of a uniform one."""
    per_error = np.sum(np.where(seen, np.log(err), 0.0), axis=1)
    if field is None:
        uniform, limits = _uniform_magnitudes(flux, err, seen)
        return per_error + uniform, limits
    if isinstance(field, Callable):
        field = field(flux, err, seen)
    field = np.asarray(field, np.float64)
    if field.shape != flux.shape[:1]:
        raise ValueError(f"field has the shape {field.shape} for {flux.shape[0]} stars")
    if not np.all(np.isfinite(field)):
        raise ValueError("field: the ln density of every star must be finite")
    unknown = np.full((2, flux.shape[1]), np.nan)
    return np.where(seen.any(axis=1), per_error + field, 0.0), unknown


def _uniform_magnitudes(
    flux: np.ndarray, err: np.ndarray, seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """ln density [per maggie] of magnitudes that are uniform over the sample, and their range."""
    out, limits = np.zeros(flux.shape[0]), np.full((2, flux.shape[1]), np.nan)
    for band in range(flux.shape[1]):
        some = seen[:, band]
        if not some.any():
            continue
        f, e = flux[some, band], err[some, band]
        f = np.maximum(f, FAINT * e)  # a magnitude says nothing of fainter fluxes
        mag, width = -np.log(f) / LN_PER_MAG, SIGMAS * e / f / LN_PER_MAG
        limits[:, band] = np.min(mag - width), np.max(mag + width)
        out[some] -= np.log(LN_PER_MAG * f * (limits[1, band] - limits[0, band]))
    return out, limits


def _parallax(parallax: Any, error: Any, lit: np.ndarray) -> tuple[np.ndarray, ...]:
    """Value, 1 / error, ln density in the field, largest ln density in the cluster."""
    count = lit.size
    none = np.zeros(count)
    if (parallax is None) != (error is None):
        raise ValueError("give both parallax and parallax_err, or neither")
    if parallax is None:
        return none, none, none, none
    plx = np.broadcast_to(np.asarray(parallax, np.float64), _shape(parallax, count, "parallax"))
    err = np.broadcast_to(np.asarray(error, np.float64), _shape(error, count, "parallax_err"))
    good = lit & np.isfinite(plx) & np.isfinite(err) & (err > 0)
    if not good.any():
        return none, none, none, none
    plx, err = np.where(good, plx, 0.0), np.where(good, err, 1.0)
    span = np.max((plx + SIGMAS * err)[good]) - np.min((plx - SIGMAS * err)[good])
    field = np.where(good, np.log(err / span), 0.0)  # both in units of the error
    return plx, np.where(good, 1.0 / err, 0.0), field, np.where(good, -0.5 * LN_2PI, 0.0)


def _motion(
    pm: Any, error: Any, lit: np.ndarray, field: tuple[Any, Any] | None
) -> dict[str, np.ndarray]:
    """Proper motions, their variances, and the density of the field's."""
    count = lit.size
    if (pm is None) != (error is None):
        raise ValueError("give both pm and pm_err, or neither")
    blank = np.zeros((count, 2))
    out = {"pm": blank, "variance": blank + 1.0, "seen": np.zeros(count, bool)}
    out |= {"field": np.zeros(count), "centre": np.zeros(2), "variance_log": np.zeros(count)}
    if pm is None:
        return out
    pm, err = np.asarray(pm, np.float64), np.asarray(error, np.float64)
    if pm.shape != (count, 2) or err.shape != (count, 2):
        raise ValueError(f"pm {pm.shape} and pm_err {err.shape} must both be ({count}, 2)")
    good = lit & (np.isfinite(pm) & np.isfinite(err) & (err > 0)).all(axis=1)
    if not good.any():
        return out
    if field is None:
        field = np.mean(pm[good], axis=0), np.std(pm[good], axis=0) + 1e-3
    mean, std = (np.asarray(x, np.float64) for x in field)
    centre = np.median(pm[good], axis=0)
    variance = np.where(good[:, None], err**2, 1.0)
    wide = variance + std**2
    pull = np.where(good[:, None], pm - mean, 0.0) ** 2 / wide
    density = -0.5 * np.sum(pull + np.log(wide), axis=1) - LN_2PI
    return out | {
        "pm": np.where(good[:, None], pm - centre, 0.0),
        "variance": variance,
        "seen": good,
        "field": np.where(good, density, 0.0),
        "centre": centre,
        "variance_log": np.sum(np.log(variance), axis=1),
    }
