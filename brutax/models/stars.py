"""Photometry, parallax and position of stars: the one pytree of data."""

import enum

import equinox as eqx
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from brutax.utils import as_float


class Status(enum.IntFlag):
    """What is unusual about a star or its fit; flags add up. 0 means nothing is."""

    OK = 0
    NO_PHOTOMETRY = 1  # no band with a finite flux and a positive error: not fitted
    FEW_BANDS = 2  # fewer than four bands: distance, A_V and R_V are not all constrained
    BAD_PARALLAX = 4  # parallax without a positive finite error (or the reverse): not used
    NO_COORDINATES = 8  # no valid position: a distance prior without direction is used
    NEGATIVE_FLUX = 16  # at least one band with flux <= 0; kept as data
    BAD_BANDS = 32  # bands dropped for a non-finite flux or a non-positive or infinite error
    LOW_ESS = 64  # fewer effective draws than promised
    POOR_FIT = 128  # no model fits: the chi-square of the best has p < 1e-3
    EXTENDED = 256  # needed more than the first round of draws (information, not a defect)
    NO_MODELS = 512  # no model of the grid has a finite posterior: not fitted


# Smaller errors than these mean none, for single precision cannot tell them from these: bounds of a
# flux or a parallax divided by its error, of the inverse error of a flux in units of the brightest
# band, and of the inverse error of a parallax [1/mas]
MOST_SNR = 1e8
MOST_WEIGHT = 1e30
MOST_PLX_WEIGHT = 1e6


class Stars(eqx.Module):
    """Whitened data of one star, or of a table of them.

    Fluxes are in units of the star's own brightest band, so everything on the device is of
    order one whatever the system of units; the unit itself is kept as a magnitude.
    """

    flux: Float[Array, "*star band"] = eqx.field(converter=as_float)  # of `unit`; 0 if unobserved
    weight: Float[Array, "*star band"] = eqx.field(converter=as_float)  # unit / error, or exactly 0
    unit_mag: Float[Array, "*star"] = eqx.field(converter=as_float)  # -2.5 log10(unit) [mag]
    parallax: Float[Array, "*star"] = eqx.field(converter=as_float)  # [mas]; 0 if absent
    parallax_weight: Float[Array, "*star"] = eqx.field(converter=as_float)  # 1/error [1/mas] or 0
    ell: Float[Array, "*star"] = eqx.field(converter=as_float)  # Galactic longitude [deg] or NaN
    b: Float[Array, "*star"] = eqx.field(converter=as_float)  # Galactic latitude [deg] or NaN

    @classmethod
    def from_fluxes(
        cls,
        flux: ArrayLike,
        flux_err: ArrayLike,
        parallax: ArrayLike | None = None,
        parallax_err: ArrayLike | None = None,
        coords: ArrayLike | None = None,
    ) -> "Stars":
        """Scales and whitens photometry [maggies] in float64 on the host.

        `flux`, `flux_err`: (star, band), NaN where unobserved. `parallax`, `parallax_err`:
        (star,) [mas], NaN where absent. `coords`: (star, 2) Galactic (l, b) [deg], NaN where
        absent. A band counts if its flux is finite and its error finite and positive.
        """
        flux, err = np.asarray(flux, np.float64), np.asarray(flux_err, np.float64)
        if flux.shape != err.shape:
            raise ValueError(f"flux {flux.shape} and flux_err {err.shape} differ in shape")
        lead = flux.shape[:-1]
        seen = np.isfinite(flux) & np.isfinite(err) & (err > 0)
        unit = np.max(np.where(seen, np.abs(flux), 0.0), axis=-1, keepdims=True, initial=0.0)
        unit = np.where(unit > 0, unit, 1.0)
        with np.errstate(over="ignore"):
            weight = np.where(seen, unit / np.where(seen, err, 1.0), 0.0)
        scaled = np.where(seen, np.where(seen, flux, 0.0) / unit, 0.0)
        weight = np.minimum(weight, MOST_SNR / np.maximum(np.abs(scaled), MOST_SNR / MOST_WEIGHT))
        plx = np.full(lead, np.nan) if parallax is None else np.asarray(parallax, np.float64)
        perr = (
            np.full(lead, np.nan) if parallax_err is None else np.asarray(parallax_err, np.float64)
        )
        good = np.isfinite(plx) & np.isfinite(perr) & (perr > 0)
        with np.errstate(over="ignore"):
            plx_weight = np.where(good, 1.0 / np.where(good, perr, 1.0), 0.0)
        most = MOST_SNR / np.maximum(np.abs(np.where(good, plx, 0.0)), MOST_SNR / MOST_PLX_WEIGHT)
        plx_weight = np.minimum(plx_weight, most)
        sky = np.full((*lead, 2), np.nan) if coords is None else np.asarray(coords, np.float64)
        return cls(
            flux=scaled,
            weight=weight,
            unit_mag=-2.5 * np.log10(unit[..., 0]),
            parallax=np.where(good, plx, 0.0),
            parallax_weight=plx_weight,
            ell=sky[..., 0],
            b=sky[..., 1],
        )
