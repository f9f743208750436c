"""Empirical corrections to the effective temperatures and radii of low-mass stars.

Models of stars below a solar mass are too hot and too small against clusters and binaries. The
correction of Speagle et al. (2025, arXiv:2503.02227) shifts both along the main sequence, by an
amount that grows with the distance from a solar mass and with metallicity, and fades at the
turn-off.
"""

from typing import Any, NamedTuple

import numpy as np

from brutax.utils._namespace import ArrayLike, Numeric, namespace, special

EEP_TAMS = 454.0  # end of the main sequence, where the correction has faded by half


class CorrectionParams(NamedTuple):
    """Strengths of the empirical corrections."""

    dtdm: Any = 0.09  # relative change of Teff per Msun below one
    drdm: Any = -0.09  # relative change of the radius per Msun below one
    msto_smooth: Any = 30.0  # EEPs over which the correction fades at the turn-off
    feh_scale: Any = 0.5  # strength goes as exp(feh_scale [Fe/H])


class Correction(NamedTuple):
    """Shifts to add to log10 Teff and log10 radius [dex]."""

    dlogt: Any
    dlogr: Any


def as_params(corr_params: ArrayLike | None) -> CorrectionParams:
    """Four numbers (dtdm, drdm, msto_smooth, feh_scale), or the defaults for None.

    Raises `ValueError` for another count of numbers.
    """
    if corr_params is None:
        return CorrectionParams()
    numbers: Any = corr_params
    if len(numbers) != 4:
        raise ValueError(
            f"corr_params has {len(numbers)} numbers; it is (dtdm, drdm, msto_smooth, feh_scale)"
        )
    return CorrectionParams(*numbers)


def empirical_correction(
    mini: Numeric, eep: Numeric, feh: Numeric, params: CorrectionParams | None = None
) -> Correction:
    """Shifts of log10 Teff and log10 R for an initial mass [Msun], EEP and initial [Fe/H].

    `log10(1 + (mini - 1) d) sigmoid((454 - eep) / width) exp(feh_scale [Fe/H])` below a solar
    mass, with `d` the strength of either, and zero above. The luminosity follows the radius
    alone (`logl += 2 dlogr`, `logg -= 2 dlogr`), as in brutus.
    """
    params = params or CorrectionParams()
    xp = namespace(mini, eep, feh, *params)
    below = xp.minimum(mini - 1.0, 0.0)
    fade = special(xp).expit((EEP_TAMS - eep) / params.msto_smooth)
    strength = fade * xp.exp(params.feh_scale * feh)
    shift = [xp.log10(xp.maximum(1.0 + below * d, 1e-10)) for d in (params.dtdm, params.drdm)]
    return Correction(shift[0] * strength, shift[1] * strength)


def get_corrections(labels: ArrayLike, corr_params: ArrayLike | None = None) -> np.ndarray:
    """The shifts (dlogt, dlogr) of models with labels (mini, eep, feh, ...), (..., 2) [dex].

    `labels` is (4,) or (model, 4), in the order of `EEPTracks.labels`.
    """
    rows = np.asarray(labels, np.float64)
    mini, eep, feh = (rows[..., k] for k in range(3))
    shift = empirical_correction(mini, eep, feh, as_params(corr_params))
    return np.stack([shift.dlogt, shift.dlogr], axis=-1)
