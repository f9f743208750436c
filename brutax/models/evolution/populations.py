"""Stellar populations: isochrones in photometric bands, with unresolved companions."""

import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.models.corrections import CorrectionParams, as_params
from brutax.models.evolution.isochrones import Isochrone
from brutax.models.photometry.photometry import AbstractPhotometry, open_photometry
from brutax.utils._namespace import ArrayLike, Numeric, as_float
from brutax.utils.linalg import safe_divide
from brutax.utils.photometry import add_mag

logger = logging.getLogger("brutax")


class Companions(NamedTuple):
    """Secondaries of an isochrone's stars."""

    columns: Float[Array, "smf eep prediction"]
    exists: Bool[Array, "smf eep"]


class Population(NamedTuple):
    """Photometry of an isochrone, for some mass ratios."""

    mag: Float[Array, "smf eep band"]  # apparent magnitudes of a star and its companion
    valid: Bool[Array, " eep"]  # False where there is no star, no atmosphere, or too little mass
    exists: Bool[Array, " eep"]  # False where no star of this age is at this EEP
    mini: Float[Array, " eep"]  # initial mass of the primary [Msun]
    columns: Float[Array, "eep prediction"]
    companions: Companions


class StellarPop(eqx.Module):
    """Photometry of coeval stars: `StellarPop(Isochrone(), filters).get_seds(...)`.

    `filters` are bands of the models inside brutax (None: all), or of brutus' networks in
    `nnfile`; `law` is the extinction curve of the former. Raises `TypeError` unless `isochrone`
    is an `Isochrone`, `ValueError` for unknown bands.
    """

    isochrone: Isochrone
    photometry: AbstractPhotometry

    def __init__(
        self,
        isochrone: Isochrone,
        filters: Sequence[Any] | None = None,
        nnfile: str | os.PathLike | None = None,
        verbose: bool = True,
        *,
        law: str = "F99",
    ):
        if not isinstance(isochrone, Isochrone):
            raise TypeError(f"isochrone must be an Isochrone, not {type(isochrone).__name__}")
        self.isochrone = isochrone
        self.photometry = open_photometry(filters, nnfile, law=law)
        if verbose:
            logger.info("isochrones in %s", ", ".join(self.filters))

    @property
    def filters(self) -> tuple[str, ...]:
        """The bands."""
        return self.photometry.bands

    def population(
        self,
        feh: Numeric,
        loga: Numeric,
        eep: Numeric,
        smf: Numeric,
        av: Numeric = 0.0,
        rv: Numeric = 3.3,
        distance_pc: Any = 1000.0,
        afe: Numeric = 0.0,
        *,
        mini_bound: Numeric = 0.08,
        eep_binary_max: float = 480.0,
        corr_params: CorrectionParams | None = None,
    ) -> Population:
        """An isochrone at EEPs (eep,) for mass ratios (smf,), for use inside programs.

        Differentiable in everything but `eep_binary_max`. A secondary of mass `smf * mini` lies
        on the same isochrone: its magnitudes are interpolated in mass (cubic Hermite, slopes
        from three points) between the isochrone's stars at every EEP up to `eep_binary_max`, and
        fluxes add. Primaries beyond that EEP, mass ratios that are not in (0, 1] and companions
        lighter than `mini_bound` [Msun] (or than the models) add nothing.
        """
        feh, loga, smf, av, rv = (as_float(x) for x in (feh, loga, smf, av, rv))
        eep, bound = as_float(eep), as_float(mini_bound)
        stages = self.isochrone.stages(eep_binary_max)
        every = jnp.concatenate([eep, stages])
        points = self.isochrone.points(feh, loga, every, afe, corr_params)
        seen = jax.vmap(lambda star: self.photometry(star, feh, av, rv))(points.star)
        modulus = 5.0 * jnp.log10(as_float(distance_pc)) - 5.0
        mag = seen.mag + modulus
        valid = points.valid & seen.valid & (points.mini >= bound)
        columns = self.isochrone.columns(points)

        count, bands = eep.shape[0], mag.shape[1]
        both_columns = jnp.concatenate([mag, columns], axis=1)
        may = valid[count:] & (stages <= eep_binary_max)
        table = _mass_table(points.mini[count:], both_columns[count:], may)
        mini, own, first = points.mini[:count], mag[:count], columns[:count]
        at = jax.vmap(lambda q: jax.vmap(table)(q * mini))(smf)
        twin = (smf == 1.0)[:, None]
        exists = (at.valid | twin) & ((smf > 0.0) & (smf <= 1.0))[:, None]
        exists &= (valid[:count] & (eep <= eep_binary_max))[None, :]
        exists &= smf[:, None] * mini[None, :] >= bound
        other = jnp.where(twin[..., None], own[None], at.value[..., :bands])
        second = jnp.where(twin[..., None], first[None], at.value[..., bands:])
        # where there is no companion one so faint that it adds nothing, with a finite gradient
        other = jnp.where(exists[..., None], other, own[None] + 50.0)
        pair = jnp.where(exists[..., None], add_mag(own[None], other), own[None])
        return Population(
            pair, valid[:count], points.valid[:count], mini, first, Companions(second, exists)
        )

    def get_seds_smf_grid(
        self,
        smf_values: ArrayLike,
        feh: Numeric = 0.0,
        afe: Numeric = 0.0,
        loga: Numeric = 8.5,
        eep: Numeric | None = None,
        av: Numeric = 0.0,
        rv: Numeric = 3.3,
        dist: Numeric = 1000.0,
        mini_bound: Numeric = 0.5,
        eep_binary_max: float = 480.0,
        apply_corr: bool = True,
        corr_params: ArrayLike | None = None,
        return_dict: bool = True,
    ) -> list[tuple[np.ndarray, Any, Any]]:
        """One triple of `get_seds` per mass ratio, the whole table in one call."""
        numbers = {"feh": feh, "afe": afe, "loga": loga, "av": av, "rv": rv, "dist": dist}
        if bad := [name for name, x in numbers.items() if not np.isfinite(x)]:
            raise ValueError(f"{', '.join(bad)} must be finite numbers")
        if not dist > 0:
            raise ValueError(f"dist is {dist} pc; it must be positive")
        stages = np.atleast_1d(np.asarray(self.isochrone.eep_u if eep is None else eep, np.float64))
        params = as_params(corr_params) if apply_corr else None
        ratios = np.atleast_1d(np.asarray(smf_values, np.float64))
        numbers = {name: as_float(x) for name, x in numbers.items()}
        numbers["distance_pc"] = numbers.pop("dist")
        out = jax.device_get(
            _population(
                self, numbers, as_float(stages), as_float(ratios), as_float(mini_bound),
                float(eep_binary_max), params,
            )
        )  # fmt: skip
        mag = np.where(out.valid[:, None], out.mag, np.nan)
        exists = out.companions.exists[..., None]
        second = np.where(exists, out.companions.columns, np.nan)
        first = np.where(out.exists[:, None], out.columns, np.nan)
        return [
            (mag[k], *(self._labelled(x, return_dict) for x in (first, second[k])))
            for k in range(ratios.size)
        ]

    def get_seds(
        self,
        feh: Numeric = 0.0,
        afe: Numeric = 0.0,
        loga: Numeric = 8.5,
        eep: Numeric | None = None,
        av: Numeric = 0.0,
        rv: Numeric = 3.3,
        binary_fraction: Numeric = 0.0,
        dist: Numeric = 1000.0,
        mini_bound: Numeric = 0.5,
        eep_binary_max: float = 480.0,
        apply_corr: bool = True,
        corr_params: ArrayLike | None = None,
        return_dict: bool = True,
    ) -> tuple[np.ndarray, Any, Any]:
        """Magnitudes (eep, band) of an isochrone at `dist` [pc] behind dust, and its stars.

        `loga` is log10 age [yr]; `eep` defaults to those of the isochrone. `binary_fraction` is
        the mass ratio of an unresolved companion (0: none; 1: a twin), not a share of binaries.
        Primaries and companions lighter than `mini_bound` [Msun], and companions of stars
        beyond EEP `eep_binary_max`, are left out: the former are NaN, the latter add nothing.

        Returns `(sed, params, params2)`: the second and third hold the isochrone's predictions
        of primaries and companions, {name: (eep,)}, or (eep, prediction) without `return_dict`;
        NaN where there is none. Raises `ValueError` for numbers that are not finite.
        """
        return self.get_seds_smf_grid(
            [binary_fraction], feh, afe, loga, eep, av, rv, dist, mini_bound, eep_binary_max,
            apply_corr, corr_params, return_dict,
        )[0]  # fmt: skip

    def _labelled(self, table: np.ndarray, return_dict: bool) -> Any:
        return dict(zip(self.isochrone.predictions, table.T)) if return_dict else table


@eqx.filter_jit
def _population(
    pop: StellarPop,
    numbers: dict,
    eep: Numeric,
    smf: Numeric,
    bound: Numeric,
    eep_max: float,
    params: Any,
) -> Population:
    return pop.population(
        eep=eep, smf=smf, mini_bound=bound, eep_binary_max=eep_max, corr_params=params, **numbers
    )


class _Found(NamedTuple):
    value: Float[Array, " column"]
    valid: Bool[Array, ""]


class _MassTable(eqx.Module):
    """The stars of an isochrone as a smooth function of mass (cubic Hermite)."""

    mini: Float[Array, " star"]  # never falls
    value: Float[Array, "star column"]
    slope: Float[Array, "star column"]
    valid: Bool[Array, " star"]

    def __call__(self, mini: Float[Array, ""]) -> _Found:
        """The columns at a mass [Msun]; where not `valid` they are finite and mean nothing."""
        low = jnp.searchsorted(self.mini, mini, side="right") - 1
        low = jnp.clip(low, 0, self.mini.shape[0] - 2)
        high = low + 1
        width = self.mini[high] - self.mini[low]
        t = jnp.clip(safe_divide(mini - self.mini[low], width), 0.0, 1.0)
        rise = t * t * (3.0 - 2.0 * t)
        bend = (t * (1.0 - t) ** 2 * self.slope[low] - t * t * (1.0 - t) * self.slope[high]) * width
        inside = (mini >= self.mini[low]) & (mini <= self.mini[high])
        value = self.value[low] + rise * (self.value[high] - self.value[low]) + bend
        return _Found(value, inside & self.valid[low] & self.valid[high] & (width > 0))


def _mass_table(
    mini: Float[Array, " star"], value: Float[Array, "star column"], valid: Bool[Array, " star"]
) -> _MassTable:
    """Slopes are those of parabolas through three stars, of lines at the ends."""
    mini = jax.lax.cummax(jnp.where(valid, mini, 0.0))
    width = jnp.diff(mini)
    good = valid[:-1] & valid[1:] & (width > 0)
    line = safe_divide(jnp.diff(value, axis=0), jnp.where(good, width, 0.0)[:, None])
    width, none = jnp.where(good, width, 0.0), jnp.zeros_like(width[:1])
    left, right = jnp.concatenate([none, width]), jnp.concatenate([width, none])
    before = jnp.concatenate([line[:1], line])
    after = jnp.concatenate([line, line[-1:]])
    both = safe_divide(right[:, None] * before + left[:, None] * after, (left + right)[:, None])
    one_sided = jnp.where((left > 0)[:, None], before, after)
    slope = jnp.where(((left > 0) & (right > 0))[:, None], both, one_sided)
    return _MassTable(mini, value, slope, valid)
