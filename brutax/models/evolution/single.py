"""Single stars and unresolved binaries on evolutionary tracks, in photometric bands."""

import logging
import os
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.models.corrections import CorrectionParams, as_params
from brutax.models.evolution.tracks import EEPTracks
from brutax.models.photometry.photometry import AbstractPhotometry, BandMagnitudes, open_photometry
from brutax.models.state import StarState
from brutax.utils._namespace import ArrayLike, Numeric, as_float
from brutax.utils.photometry import add_mag

logger = logging.getLogger("brutax")

TOLERANCE = 1e-2  # log10 age of a companion may differ by this [dex], as in brutus


class Stage(NamedTuple):
    """Where on its track a star has some age."""

    eep: Float[Array, "*age"]
    found: Bool[Array, "*age"]


def stage_at_age(
    tracks: EEPTracks,
    mini: Float[Array, ""],
    loga: Float[Array, "*age"],
    feh: Numeric,
    afe: Numeric,
    tol: Numeric = TOLERANCE,
) -> Stage:
    """The EEPs at which the track of one mass has ages of 10**`loga` yr.

    The age along a track grows; it is inverted linearly between the track's EEPs, and found
    where it comes within `tol` [dex].
    """
    eep = tracks.stages(jnp.inf)
    track = tracks.ages(mini[None], eep, feh, afe)
    valid, age = track.valid[0], track.loga[0]
    young = jnp.min(jnp.where(valid, age, jnp.inf))
    # a fitted age may fall by a hair where it hardly grows
    age = jax.lax.cummax(jnp.where(valid, age, -jnp.inf))
    age = jnp.where(jnp.isfinite(age), age, jnp.where(jnp.isfinite(young), young, 0.0))
    at = jnp.interp(loga, age, eep)
    reached = jnp.interp(at, eep, age)
    near = jnp.interp(at, eep, jnp.where(valid, 1.0, 0.0)) == 1.0
    return Stage(at, near & (jnp.abs(reached - loga) <= tol))


class Binary(NamedTuple):
    """A star, its companion, and what they look like together."""

    primary: StarState
    secondary: StarState
    eep2: Float[Array, ""]
    paired: Bool[Array, ""]  # False where there is no companion, or none of this age
    together: BandMagnitudes  # of both
    primary_mag: BandMagnitudes
    secondary_mag: BandMagnitudes


def binary_magnitudes(
    tracks: EEPTracks,
    photometry: AbstractPhotometry,
    labels: tuple[Any, Any, Any, Any],
    smf: Numeric,
    second: Stage,
    av: Float[Array, ""],
    rv: Float[Array, ""],
    corr_params: CorrectionParams | None = None,
) -> Binary:
    """One star (mini, eep, feh, afe) and its companion of mass `smf * mini` at a stage."""
    mini, eep, feh, afe = labels
    primary = tracks.evaluate(mini, eep, feh, afe, corr_params)
    secondary = tracks.evaluate(smf * mini, second.eep, feh, afe, corr_params)
    one, other = photometry(primary, feh, av, rv), photometry(secondary, feh, av, rv)
    paired = second.found
    mag = jnp.where(paired, add_mag(one.mag, other.mag), one.mag)
    both = BandMagnitudes(mag, one.valid & (other.valid | ~paired))
    return Binary(primary, secondary, second.eep, paired, both, one, other)


def may_have_companion(
    mini: Numeric, eep: Numeric, smf: Numeric, bound: Numeric, eep_binary_max: Numeric
) -> Any:
    """Whether a star may have a companion of mass `smf * mini`: limits by mass and EEP."""
    return (smf > 0.0) & (eep <= eep_binary_max) & (smf * mini >= bound)


class StarEvolTrack(eqx.Module):
    """Photometry of stars on tracks: `StarEvolTrack(EEPTracks(), filters).get_seds(...)`.

    `filters` are bands of the models inside brutax (None: all), or of brutus' networks in
    `nnfile`; `law` is the extinction curve of the former. Raises `TypeError` unless `tracks`
    are `EEPTracks`, `ValueError` for unknown bands.
    """

    tracks: EEPTracks
    photometry: AbstractPhotometry

    def __init__(
        self,
        tracks: EEPTracks,
        filters: Sequence[Any] | None = None,
        nnfile: str | os.PathLike | None = None,
        verbose: bool = True,
        *,
        law: str = "F99",
    ):
        if not isinstance(tracks, EEPTracks):
            raise TypeError(f"tracks must be EEPTracks, not {type(tracks).__name__}")
        self.tracks = tracks
        self.photometry = open_photometry(filters, nnfile, law=law)
        if verbose:
            logger.info("stars in %s", ", ".join(self.filters))

    @property
    def filters(self) -> tuple[str, ...]:
        """The bands."""
        return self.photometry.bands

    def get_seds(
        self,
        mini: Numeric = 1.0,
        eep: Numeric = 350.0,
        feh: Numeric = 0.0,
        afe: Numeric = 0.0,
        av: Numeric = 0.0,
        rv: Numeric = 3.3,
        smf: Numeric = 0.0,
        dist: Numeric = 1000.0,
        loga_max: Numeric = 10.15,
        eep2: Numeric | None = None,
        mini_bound: Numeric = 0.08,
        eep_binary_max: Numeric = 480.0,
        apply_corr: bool = True,
        corr_params: ArrayLike | None = None,
        return_eep2: bool = False,
        return_dict: bool = True,
        combine_seds: bool = True,
        tol: Numeric = TOLERANCE,
    ) -> tuple[Any, ...]:
        """Magnitudes (band,) of one star at `dist` [pc] behind dust, and what it is.

        `smf` is the mass of an unresolved companion over `mini` [Msun], of the same age and
        composition; `eep2` states its EEP instead. There is none where `eep` is beyond
        `eep_binary_max`, or its mass below `mini_bound` and the models; where no star of that
        mass has the age within `tol` [dex], a `RuntimeWarning` says so. Magnitudes are NaN off
        the tracks and beyond an age of 10**`loga_max` yr.

        Returns `(sed, params, params2)`, and the companion's EEP with `return_eep2`: the
        predictions of the tracks {name: value}, or (prediction,) without `return_dict`; of no
        companion NaN. Without `combine_seds` the `sed` of a pair is `[primary, secondary]`.
        Raises `ValueError` for numbers that are not finite or an `smf` outside 0 to 1.
        """
        numbers = {"mini": mini, "eep": eep, "feh": feh, "afe": afe, "av": av, "rv": rv}
        numbers |= {"smf": smf, "dist": dist}
        if bad := [name for name, x in numbers.items() if not np.isfinite(x)]:
            raise ValueError(f"{', '.join(bad)} must be finite numbers")
        if not 0.0 <= smf <= 1.0 or dist <= 0:
            raise ValueError(f"smf {smf} must lie in 0 to 1, and dist {dist} pc be positive")
        params = as_params(corr_params) if apply_corr else None
        bound = max(mini_bound, self.tracks.mini_bound)
        wanted = bool(may_have_companion(mini, eep, smf, bound, eep_binary_max))
        given = np.nan if eep2 is None else eep2
        numbers = {name: as_float(x) for name, x in numbers.items()}
        out = jax.device_get(
            _binary(self, numbers, as_float(wanted), as_float(given), as_float(tol), params)
        )
        dark = np.full(len(self.filters), np.nan)
        exists = bool(out.primary.valid)
        alive = exists and bool(out.primary.loga <= loga_max)
        paired = bool(out.paired) and alive
        if wanted and alive and not paired:
            warnings.warn(
                f"no companion of {smf * mini:.3g} Msun has the age of the star, log10 age "
                f"{out.primary.loga:.3f}; the star is seen alone",
                RuntimeWarning,
                stacklevel=2,
            )
        modulus = 5.0 * np.log10(dist) - 5.0

        def shown(seen: BandMagnitudes) -> np.ndarray:
            return np.asarray(seen.mag, np.float64) + modulus if alive and seen.valid else dark

        sed: Any = shown(out.together)
        if smf > 0.0 and not combine_seds:
            sed = [shown(out.primary_mag), shown(out.secondary_mag) if paired else dark]
        first = self._labelled(out.primary, exists, return_dict)
        second = self._labelled(out.secondary, paired, return_dict)
        result = (sed, first, second)
        if not return_eep2:
            return result
        return (*result, float(out.eep2) if paired else None if smf == 0.0 else np.nan)

    def _labelled(self, star: StarState, there: bool, return_dict: bool) -> Any:
        names = self.tracks.predictions
        row = np.array([getattr(star, name) if there else np.nan for name in names], np.float64)
        return dict(zip(names, row)) if return_dict else row


@eqx.filter_jit
def _binary(
    model: StarEvolTrack,
    numbers: dict,
    wanted: Numeric,
    eep2: Numeric,
    tol: Numeric,
    params: Any,
) -> Binary:
    labels = tuple(numbers[name] for name in ("mini", "eep", "feh", "afe"))
    mini, eep, feh, afe = labels
    plain = model.tracks.evaluate(*labels)
    found = stage_at_age(model.tracks, numbers["smf"] * mini, plain.loga, feh, afe, tol)
    given = jnp.isfinite(eep2)
    second = Stage(
        jnp.where(given, eep2, found.eep), (found.found | given) & (wanted > 0) & plain.valid
    )
    out = binary_magnitudes(
        model.tracks, model.photometry, labels, numbers["smf"], second,
        numbers["av"], numbers["rv"], params,
    )  # fmt: skip
    return out._replace(paired=out.paired & (out.secondary.valid))
