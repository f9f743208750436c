"""A star of the models: what tracks and isochrones return, and photometry takes."""

from typing import Any, NamedTuple

from brutax.models.corrections import empirical_correction
from brutax.utils._namespace import Numeric


class StarState(NamedTuple):
    """A star of the models; every field has the shape of the labels asked for."""

    loga: Any  # log10 age [yr]
    logl: Any  # log10 L [Lsun]
    logt: Any  # log10 Teff [K]
    logg: Any  # log10 g [cgs]
    feh_surf: Any  # surface [Fe/H]
    afe_surf: Any  # surface [alpha/Fe]
    agewt: Any  # d(age)/d(EEP) [yr]
    valid: Any  # False where no track goes; the numbers beside it are finite and mean nothing


def corrected(
    state: StarState, mini: Numeric, eep: Numeric, feh: Numeric, params: Any
) -> StarState:
    """A star with the empirical corrections of `brutax.models.corrections`; None for none."""
    if params is None:
        return state
    shift = empirical_correction(mini, eep, feh, params)
    return state._replace(
        logt=state.logt + shift.dlogt,
        logl=state.logl + 2.0 * shift.dlogr,
        logg=state.logg - 2.0 * shift.dlogr,
    )
