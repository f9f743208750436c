"""One star in continuous parameters: a problem of `brutax.infer` on evolutionary tracks."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jaxtyping import Array, Float

from brutax import infer
from brutax.infer import AbstractMethod, AbstractOutputs, Posterior, Problem, Table
from brutax.models import EEPTracks, StarEvolTrack
from brutax.models.corrections import CorrectionParams, as_params
from brutax.models.evolution.single import (
    TOLERANCE,
    Stage,
    binary_magnitudes,
    may_have_companion,
    stage_at_age,
)
from brutax.models.stars import Stars
from brutax.models.state import StarState
from brutax.priors import (
    AbstractPrior,
    AgeWeight,
    ExponentialDiskDistance,
    GalacticStructure,
    KroupaIMF,
    Point,
    UniformAv,
)
from brutax.star.density import prior as make_prior
from brutax.utils import ArrayLike, inv_magnitude
from brutax.utils._namespace import as_float
from brutax.utils.photometry import LN_2PI, LN_PER_MAG

JOINT = ("mini", "eep", "feh", "dist")  # what the prior of stars in the Galaxy describes
DERIVED = ("loga", "logl", "logt", "logg", "agewt")  # known where these are
BOUNDS = {  # what is drawn from, of which priors are ratios
    "mini": dist.LogUniform(0.1, 20.0),
    "eep": dist.Uniform(202.0, 808.0),
    "feh": dist.Uniform(-4.0, 0.5),
    "dist": dist.LogUniform(0.005, 50.0),
}
MOST = 30.0  # ln of a model flux over the star's: beyond, squares would overflow
PAIR_EEP_MAX, PAIR_MINI_MIN = 480.0, 0.1  # of stars that may have companions


class Towards(AbstractPrior):
    """A prior in a direction of the sky, or of the whole of it where that is not known."""

    prior: AbstractPrior
    ell: Float[Array, ""] = eqx.field(converter=as_float)  # Galactic [deg]
    b: Float[Array, ""] = eqx.field(converter=as_float)

    def log_prob(self, point: Point) -> Any:
        return self.prior.log_prob(point._replace(ell=self.ell, b=self.b))


class Oldest(AbstractPrior):
    """1 for ages that the Universe has, 0 for others: not a density."""

    log10_age: Float[Array, ""] = eqx.field(converter=as_float, default=10.14)  # [yr]

    def log_prob(self, point: Point) -> Any:
        return jnp.where(as_float(point.loga) <= self.log10_age, 0.0, -jnp.inf)


class StarData(eqx.Module):
    """What is known of a star, and the models it is compared with."""

    model: StarEvolTrack
    star: Stars
    corr: CorrectionParams | None


class Look(NamedTuple):
    """Apparent magnitudes of a star, of its companion, and of both."""

    one: Float[Array, " band"]
    other: Float[Array, " band"]  # NaN where there is none
    both: Float[Array, " band"]
    valid: Array  # False off the tracks and where there are no model atmospheres


def problem(
    track: StarEvolTrack,
    flux: Any,
    flux_err: Any,
    *,
    parallax: Any = None,
    parallax_err: Any = None,
    coords: Any = None,
    units: str = "maggies",
    stars: AbstractPrior | None = None,
    av: Any = None,
    rv: Any = None,
    smf: Any = None,
    bounds: Mapping[str, Any] | None = None,
    apply_corr: bool = True,
    corr_params: Any = None,
) -> Problem:
    """The posterior of one star, for `brutax.infer.fit` and `brutax.compat.socca.fitter`.

        star.fit(track, mag, mag_err, units="mag", parallax=1.4, parallax_err=0.05)

    Free are initial mass `mini` [Msun], stage `eep`, initial [Fe/H] `feh`, distance `dist` [kpc],
    `av` [mag] and `rv`; log10 age [yr], L, Teff, g and d(age)/d(EEP) [yr] follow from them and are
    among the samples. `flux`, `flux_err`: (band,) of `track`, NaN where unobserved, in maggies, or
    magnitudes with `units="mag"`; `parallax` and its error [mas]; `coords`: Galactic (l, b) [deg].

    `stars` is the joint prior of `mini`, `eep`, `feh` and `dist`; by default
    `KroupaIMF() * AgeWeight()` with `GalacticStructure()` towards `coords`, or without them
    `ExponentialDiskDistance()`, flat in [Fe/H] and age. `av` and `rv` are brutax priors (such as
    `dust_profile` of a map), distributions or numbers; by default `UniformAv(0, 6)` and
    3.32 +- 0.18. `smf`, the mass of an unresolved companion of the same age over `mini`, is 0
    (none), or a prior or number. `bounds` are limits, or distributions to draw from, of the four;
    they limit the prior. Off the tracks the likelihood is 0.

    Raises `ValueError` for photometry without a valid band, or of other bands than the track's.
    """
    if not isinstance(track, StarEvolTrack):
        raise TypeError(f"track must be a StarEvolTrack, not {type(track).__name__}")
    star = _star(track, flux, flux_err, parallax, parallax_err, coords, units)
    unknown = set(bounds or {}) - set(BOUNDS)
    if unknown:
        raise ValueError(f"bounds are of {', '.join(BOUNDS)}, found {', '.join(sorted(unknown))}")
    corr = as_params(corr_params) if apply_corr else None
    if stars is None:
        known = coords is not None
        where = GalacticStructure() if known else ExponentialDiskDistance() * Oldest()
        stars = KroupaIMF() * AgeWeight() * where
    entries: dict[Any, Any] = {JOINT: Towards(stars, star.ell, star.b)}
    entries["av"] = UniformAv(0.0, 6.0) if av is None else av
    entries["rv"] = dist.TruncatedNormal(3.32, 0.18, low=1.0, high=8.0) if rv is None else rv
    if smf is not None:
        entries["smf"] = smf
    for name in DERIVED:
        entries[name] = _Derived(track.tracks, corr, name)
    predict = StarOutputs(
        bands=track.filters,
        systems=track.photometry.systems,
        components=("primary", "companion") if smf is not None else (),
    )
    data = StarData(track, star, corr)
    limits = {**BOUNDS, **(bounds or {})}
    return Problem(make_prior(entries, limits), log_likelihood, data, predict)


def fit(
    track: StarEvolTrack,
    flux: ArrayLike,
    flux_err: ArrayLike,
    *,
    method: str | AbstractMethod = "nuts",
    options: Mapping[str, Any] | None = None,
    **given: Any,
) -> Posterior:
    """The posterior of one star: `infer.fit(problem(track, flux, flux_err, **given), method)`.

    `options` are those of `brutax.infer.fit`, such as `num_samples` of the method; `given` the
    keywords of `problem`. Raises what these raise.
    """
    return infer.fit(problem(track, flux, flux_err, **given), method, **(options or {}))


class _Derived(eqx.Module):
    """A property of the star as a function of its parameters."""

    tracks: EEPTracks
    corr: CorrectionParams | None
    name: str = eqx.field(static=True)

    def __call__(self, p: Mapping[str, Any]) -> Float[Array, ""]:
        state = _state(self.tracks, p["mini"], p["eep"], p["feh"], self.corr)
        return getattr(state, self.name)


@eqx.filter_jit  # one program for all properties
def _state(tracks: EEPTracks, mini: Any, eep: Any, feh: Any, corr: Any) -> StarState:
    return tracks.evaluate(mini, eep, feh, corr_params=corr)


def _star(
    track: StarEvolTrack, flux: Any, err: Any, plx: Any, plx_err: Any, coords: Any, units: str
) -> Stars:
    """Checked data of one star."""
    flux, err = np.asarray(flux, np.float64), np.asarray(err, np.float64)
    count = len(track.filters)
    if flux.shape != (count,) or err.shape != (count,):
        raise ValueError(
            f"flux {flux.shape} and flux_err {err.shape} must both be ({count},), of the bands "
            f"{', '.join(track.filters)}"
        )
    if units == "mag":
        flux, err = inv_magnitude(flux, err)
    elif units != "maggies":
        raise ValueError(f"units are 'maggies' or 'mag', found {units!r}")
    if (plx is None) != (plx_err is None):
        raise ValueError("give both parallax and parallax_err, or neither")
    measured = [None if x is None else np.asarray(x, np.float64) for x in (plx, plx_err, coords)]
    star = Stars.from_fluxes(flux, err, *measured)
    if not bool(jnp.any(star.weight > 0)):
        raise ValueError("no band is valid (finite flux, positive error)")
    return star


def _look(p: Mapping[str, Any], data: StarData, av: Any) -> Look:
    model, pair = data.model, p.get("smf")
    modulus = 5.0 * jnp.log10(p["dist"]) + 10.0  # kpc
    labels = (p["mini"], p["eep"], p["feh"], jnp.zeros_like(p["feh"]))
    if pair is None:
        state = model.tracks.evaluate(*labels, corr_params=data.corr)
        seen = model.photometry(state, p["feh"], av, p["rv"])
        mag = seen.mag + modulus
        return Look(mag, jnp.full_like(mag, jnp.nan), mag, state.valid & seen.valid)
    mass = pair * p["mini"]
    plain = model.tracks.evaluate(*labels)
    found = stage_at_age(model.tracks, mass, plain.loga, p["feh"], labels[3], TOLERANCE)
    may = may_have_companion(p["mini"], p["eep"], pair, PAIR_MINI_MIN, PAIR_EEP_MAX)
    both = binary_magnitudes(
        model.tracks, model.photometry, labels, pair, Stage(found.eep, found.found & may),
        av, p["rv"], data.corr,
    )  # fmt: skip
    paired = both.paired & both.secondary.valid & both.secondary_mag.valid
    one, other = both.primary_mag.mag + modulus, both.secondary_mag.mag + modulus
    return Look(
        one,
        jnp.where(paired, other, jnp.nan),
        jnp.where(paired, both.together.mag + modulus, one),
        both.primary.valid & both.primary_mag.valid,
    )


def log_likelihood(params: Mapping[str, Any], data: StarData) -> Float[Array, ""]:
    """ln of the density of a star's fluxes [maggies] and parallax [mas]; -inf off the tracks."""
    star, look = data.star, _look(params, data, params["av"])
    flux = jnp.exp(jnp.minimum(-LN_PER_MAG * (look.both - star.unit_mag), MOST))
    chi2 = jnp.sum((star.weight * (star.flux - flux)) ** 2)
    seen = star.weight > 0
    each = jnp.log(jnp.where(seen, star.weight, 1.0)) + LN_PER_MAG * star.unit_mag - 0.5 * LN_2PI
    total = -0.5 * chi2 + jnp.sum(jnp.where(seen, each, 0.0))
    known = star.parallax_weight > 0
    pull = star.parallax_weight * (star.parallax - 1.0 / params["dist"])
    norm = jnp.log(jnp.where(known, star.parallax_weight, 1.0)) - 0.5 * LN_2PI
    total = total - 0.5 * pull**2 + jnp.where(known, norm, 0.0)
    return jnp.where(look.valid, total, -jnp.inf)


class StarOutputs(AbstractOutputs):
    """Spectral energy distributions of a star at its distance, in the bands of its track.

    "reddened" as observed, "intrinsic" without dust: magnitudes, in the "system" of every band, and
    fluxes [maggies]. With a companion of primary, companion, or both (NaN where there is none).
    """

    names: tuple[str, ...] = eqx.field(static=True, default=("reddened", "intrinsic"))
    components: tuple[str, ...] = eqx.field(static=True, default=())
    bands: tuple[str, ...] = eqx.field(static=True, default=())
    systems: tuple[str, ...] = eqx.field(static=True, default=())

    def describe(self, name: str, component: tuple[str, ...]) -> Table:
        fixed = {"band": np.array(self.bands), "system": np.array(self.systems)}
        return Table({"band": "", "system": "", "mag": "mag", "flux": ""}, fixed)

    def __call__(
        self, params: Any, data: Any, *, what: tuple[str, ...], component: tuple[str, ...]
    ) -> dict[str, Any]:
        out = {}
        for name in what:
            av = params["av"] if name == "reddened" else jnp.zeros_like(params["av"])
            look = _look(params, data, av)
            alone = {"primary": look.one, "companion": look.other}
            mag = alone[component[0]] if len(component) == 1 else look.both
            mag = jnp.where(look.valid, mag, jnp.nan)
            out[name] = {"mag": mag, "flux": jnp.exp(-LN_PER_MAG * mag)}
        return out
