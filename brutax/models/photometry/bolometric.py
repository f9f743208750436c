"""The bolometric corrections inside brutax: smooth functions fitted to the MIST v1.2 tables.

`training/fit_bolometric.py` makes the file. `M_band = 4.74 - 2.5 log10 L - BC_band`, extinction
included in BC. Without dust BC is a spline in (log10 Teff, log g, [Fe/H]); the extinction is

    A_band = A_V (k0 + k1 A_V + k2 A_V²) p_band(3.1 / R_V),

with `k` splines in the same variables fitted to the tables (Cardelli, Clayton & Mathis 1989 at
R_V = 3.1), and `p` the ratio of a law at R_V to that one at the band's effective wavelength.
"""

import difflib
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.data._builtin import builtin
from brutax.data.filters import full_names
from brutax.models.photometry.passbands import ANCHORS, Passband, predict_bands
from brutax.models.spline import TensorSpline
from brutax.utils._namespace import as_float

M_BOL_SUN = 4.74  # zero point of bolometric magnitudes, IAU 2015 B2
LAWS = ("CCM89", "F99", "F19", "G23")


class Bolometric(eqx.Module):
    """Bolometric corrections and extinction of stars in some bands."""

    bare: TensorSpline  # (log10 Teff, log g, [Fe/H]) -> BC without dust, per band
    dust: TensorSpline  # -> k0, k1, k2 of every band
    law_ratio: Float[Array, "band power"]  # polynomial in 3.1 / R_V
    logt_nodes: Float[Array, " teff"]
    logg_low: Float[Array, " teff"]  # gravities between which there are atmospheres
    logg_high: Float[Array, " teff"]
    bands: tuple[str, ...] = eqx.field(static=True)
    systems: tuple[str, ...] = eqx.field(static=True)
    law: str = eqx.field(static=True)

    def __call__(
        self,
        logt: Float[Array, ""],
        logg: Float[Array, ""],
        feh: Float[Array, ""],
        av: Float[Array, ""],
        rv: Float[Array, ""],
    ) -> Float[Array, " band"]:
        """Bolometric corrections of one star behind dust of A_V [mag] and R_V.

        Fitted over A_V 0 to 6 and R_V 2.3 to 5.6; beyond, the polynomials go on.
        """
        at = self.inside(logt, logg, feh)
        powers = jnp.stack([jnp.ones_like(av), av, av**2])
        ratio = self._dust(at) @ powers
        return self.bare(*at) - av * ratio * self.law_at(rv)

    def magnitudes(
        self,
        logl: Float[Array, ""],
        logt: Float[Array, ""],
        logg: Float[Array, ""],
        feh: Float[Array, ""],
        av: Float[Array, ""],
        rv: Float[Array, ""],
    ) -> Float[Array, " band"]:
        """Absolute magnitudes of a star of log10 luminosity [Lsun]."""
        return M_BOL_SUN - 2.5 * logl - self(logt, logg, feh, av, rv)

    def valid(
        self, logt: Float[Array, ""], logg: Float[Array, ""], feh: Float[Array, ""]
    ) -> Bool[Array, ""]:
        """Whether there are model atmospheres for a star."""
        low = jnp.interp(logt, self.logt_nodes, self.logg_low)
        high = jnp.interp(logt, self.logt_nodes, self.logg_high)
        metals = self.bare.knots[2]
        ok = (logt >= self.logt_nodes[0]) & (logt <= self.logt_nodes[-1])
        return ok & (logg >= low) & (logg <= high) & (feh >= metals[0]) & (feh <= metals[-1])

    def inside(self, *point: Array) -> tuple[Array, ...]:
        """log10 Teff, log g and [Fe/H], or the first of them, clipped to the models."""
        return tuple(jnp.clip(x, k[0], k[-1]) for x, k in zip(point, self.bare.knots))

    def _dust(self, at: tuple[Array, ...]) -> Float[Array, "band power"]:
        return self.dust(*at).reshape(len(self.bands), 3)

    def law_at(self, rv: Float[Array, ""]) -> Float[Array, " band"]:
        """The ratio of the law at R_V to that at 3.1, per band."""
        x = 3.1 / rv
        return self.law_ratio @ x ** jnp.arange(self.law_ratio.shape[1], dtype=x.dtype)


_SURVEYS = ("Gaia", "SDSS", "PS", "2MASS", "WISE", "UKIDSS", "Bessell", "Tycho", "Kepler", "TESS")


def available_bands() -> tuple[str, ...]:
    """The bands of the models inside brutax, by survey, from blue to red."""
    data = builtin("bolometric")
    bands, blue = _stored_bands(), data["wavelength"]

    def place(k: int) -> tuple[int, str, float]:
        survey = bands[k].split("_")[0]
        rank = _SURVEYS.index(survey) if survey in _SURVEYS else len(_SURVEYS)
        return rank, survey, float(blue[k])

    return tuple(bands[k] for k in sorted(range(len(bands)), key=place))


def _stored_bands() -> tuple[str, ...]:
    return tuple(str(band) for band in builtin("bolometric")["bands"])


def load_bolometric(bands: Sequence[Any] | None = None, *, law: str = "F99") -> Bolometric:
    """The bolometric corrections that come with brutax, of some bands (None: all).

    A band is a name, short ones like g, bp, ks being those of `brutax.data.filters.full_names`,
    or a `Passband`. `law` is the extinction curve: CCM89, F99, F19 or G23 (Cardelli et al. 1989;
    Fitzpatrick 1999; Fitzpatrick et al. 2019; Gordon et al. 2023). Raises `ValueError` for unknown
    bands and laws.
    """
    known = _stored_bands()
    asked = list(available_bands() if bands is None else bands)
    curves = [band for band in asked if isinstance(band, Passband)]
    full = iter(full_names([band for band in asked if not isinstance(band, Passband)]))
    wanted = tuple(band.name if isinstance(band, Passband) else next(full) for band in asked)
    own = {curve.name for curve in curves}
    for band in wanted:
        if band not in known and band not in own:
            close = difflib.get_close_matches(band, known, 4, 0.4)
            ends = [name for name in known if name.lower().endswith("_" + band.lower())]
            hint = f"did you mean {', '.join(ends or close)}? " if ends or close else ""
            every = ", ".join(available_bands())
            raise ValueError(f"band {band!r} is not in the models; {hint}There are {every}")
    if clash := [name for name in own if name in known]:
        raise ValueError(f"{clash[0]} is a band of the models: give its curve another name")
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"give one or more different bands, not {list(wanted)}")
    if law not in LAWS:
        raise ValueError(f"extinction law {law!r} is not one of {', '.join(LAWS)}")
    stored = tuple(band for band in wanted if band not in own)
    out = _stored(stored or known[:1], law)
    return _with_curves(out, curves, wanted, bool(stored)) if curves else out


def _stored(bands: tuple[str, ...], law: str) -> Bolometric:
    """Bands of the file."""
    data, known = builtin("bolometric"), _stored_bands()
    pick = [known.index(band) for band in bands]
    dust = data["dust"].reshape(*data["dust"].shape[:3], len(known), 3)[..., pick, :]
    coef = data["coef"] @ data["basis"][:, pick] + data["centre"][pick]  # splines sum to one
    return Bolometric(
        TensorSpline([data[f"knots_{k}"] for k in range(3)], coef),
        TensorSpline(
            [data[f"dust_knots_{k}"] for k in range(3)], dust.reshape(*dust.shape[:3], -1)
        ),
        as_float(data["law_ratio"][LAWS.index(law)][pick]),
        as_float(np.log10(data["teff"])),
        as_float(data["logg_low"]),
        as_float(data["logg_high"]),
        bands,
        tuple(str(data["system"][k]) for k in pick),
        law,
    )


def _with_curves(
    stored: Bolometric, curves: Sequence[Passband], wanted: tuple[str, ...], keep: bool
) -> Bolometric:
    """Bands of the file and of transmission curves, in the order of `wanted`."""
    anchors = _stored(tuple(ANCHORS), stored.law)
    new = predict_bands(curves, anchors.bare, stored.dust, anchors.bands, stored.law)
    names = (*(stored.bands if keep else ()), *(curve.name for curve in curves))
    systems = (*(stored.systems if keep else ()), *(curve.system for curve in curves))
    first = 0 if keep else len(stored.bands)
    order = [names.index(name) for name in wanted]
    dust = np.asarray(stored.dust.coef)
    dust = dust.reshape(*dust.shape[:3], -1, 3)

    def joined(old: Any, more: np.ndarray, axis: int) -> np.ndarray:
        both = np.concatenate([np.asarray(old), more], axis=axis)
        return np.take(np.take(both, range(first, both.shape[axis]), axis), order, axis)

    dust = joined(dust, new.dust, 3)
    return Bolometric(
        TensorSpline(stored.bare.knots, joined(stored.bare.coef, new.bare, 3)),
        TensorSpline(stored.dust.knots, dust.reshape(*dust.shape[:3], -1)),
        as_float(joined(stored.law_ratio, new.law_ratio, 0)),
        stored.logt_nodes,
        stored.logg_low,
        stored.logg_high,
        wanted,
        tuple(systems[k] for k in order),
        stored.law,
    )
