"""From the state of a star to its magnitudes behind dust, and to a grid's coefficients."""

import abc
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.models.photometry.bolometric import M_BOL_SUN, Bolometric, load_bolometric
from brutax.models.photometry.networks import Networks, read_networks
from brutax.models.state import StarState
from brutax.utils._namespace import ArrayLike, as_float


class BandMagnitudes(NamedTuple):
    """Absolute magnitudes of a star, behind dust where there is some."""

    mag: Float[Array, " band"]
    valid: Bool[Array, ""]  # False where there are no model atmospheres


class AbstractPhotometry(eqx.Module):
    """Magnitudes of stars in some bands: what stars, populations and grids ask for.

    photometry = open_photometry(["PS_g", "PS_r"])
    photometry(state, feh=0.0, av=0.3, rv=3.1).mag
    """

    @property
    @abc.abstractmethod
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""

    @property
    @abc.abstractmethod
    def systems(self) -> tuple[str, ...]:
        """ "AB" or "Vega" for each band."""

    @property
    @abc.abstractmethod
    def law(self) -> str:
        """The extinction curve."""

    @abc.abstractmethod
    def __call__(
        self, star: StarState, feh: Float[Array, ""], av: Float[Array, ""], rv: Float[Array, ""]
    ) -> BandMagnitudes:
        """Absolute magnitudes of one star of initial [Fe/H] behind dust of A_V [mag] and R_V."""


class BolometricPhotometry(AbstractPhotometry):
    """Magnitudes from the bolometric corrections inside brutax.

    They take the initial [Fe/H], as their tables are labelled.
    """

    source: Bolometric

    @property
    def bands(self) -> tuple[str, ...]:
        return self.source.bands

    @property
    def systems(self) -> tuple[str, ...]:
        return self.source.systems

    @property
    def law(self) -> str:
        return self.source.law

    def __call__(
        self, star: StarState, feh: Float[Array, ""], av: Float[Array, ""], rv: Float[Array, ""]
    ) -> BandMagnitudes:
        mag = self.source.magnitudes(star.logl, star.logt, star.logg, feh, av, rv)
        return BandMagnitudes(mag, self.source.valid(star.logt, star.logg, feh))


class NetworkPhotometry(AbstractPhotometry):
    """Magnitudes from the networks of brutus, which take the surface abundances; AB throughout."""

    source: Networks

    @property
    def bands(self) -> tuple[str, ...]:
        return self.source.bands

    @property
    def systems(self) -> tuple[str, ...]:
        return ("AB",) * len(self.bands)

    @property
    def law(self) -> str:
        return "FM09"  # Fitzpatrick & Massa (2009), part of what the networks were trained on

    def __call__(
        self, star: StarState, feh: Float[Array, ""], av: Float[Array, ""], rv: Float[Array, ""]
    ) -> BandMagnitudes:
        x = self.source.inputs(star, av, rv)
        mag = M_BOL_SUN - 2.5 * star.logl - self.source(x)
        return BandMagnitudes(mag, self.source.valid(x))


def open_photometry(
    filters: Sequence[Any] | None,
    nnfile: str | os.PathLike | None = None,
    *,
    law: str = "F99",
) -> AbstractPhotometry:
    """Photometry in some bands (None: all there are).

    From the models inside brutax, with an extinction `law`, or brutus' networks in `nnfile`.
    Raises `ValueError` for bands that the models lack, naming those that come close.
    """
    if nnfile is None:
        return BolometricPhotometry(load_bolometric(filters, law=law))
    return NetworkPhotometry(read_networks(filters, nnfile))


class DustLines(NamedTuple):
    """Dust for which straight lines are fitted, and the linear maps that fit them."""

    av: Float[Array, " av"]
    rv: Float[Array, " rv"]
    in_av: Float[Array, " av"]  # magnitudes at the A_V to the slope of a line
    in_rv: Float[Array, "2 rv"]  # slopes at the R_V to a line's value at R_V = 0 and its slope


def dust_lines(
    av_grid: ArrayLike | None = None,
    av_wt: ArrayLike | None = None,
    rv_grid: ArrayLike | None = None,
    rv_wt: ArrayLike | None = None,
) -> DustLines:
    """Lines by least squares over nodes of A_V [mag] and R_V, weights multiplying residuals.

    The defaults are brutus': 0 to 1.5 mag with 1 / (1e-5 + A_V), lines that start at the star
    without dust; 2.4 to 4.2 with exp(-|R_V - 3.3| / 0.5). Raises `ValueError` for less than two
    nodes, and weights that do not go with them.
    """
    av = np.array([0.0, 0.3, 0.6, 0.9, 1.2, 1.5 - 1e-5]) if av_grid is None else _floats(av_grid)
    rv = np.linspace(2.4, 4.2, 7) if rv_grid is None else _floats(rv_grid)
    av_weight = 1.0 / (1e-5 + av) if av_wt is None else _floats(av_wt)
    rv_weight = np.exp(-np.abs(rv - 3.3) / 0.5) if rv_wt is None else _floats(rv_wt)
    in_av, in_rv = _line(av, av_weight)[1], _line(rv, rv_weight)
    return DustLines(*(as_float(x) for x in (av, rv, in_av, in_rv)))


def _floats(x: ArrayLike) -> np.ndarray:
    return np.asarray(x, np.float64)


def _line(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The matrix (2, node) that takes values at nodes to intercept and slope."""
    ok = x.ndim == 1 and x.size > 1 and x.shape == weight.shape
    if not (ok and np.isfinite(x).all() and np.ptp(x) > 0 and np.all(weight >= 0)):
        raise ValueError(f"dust nodes {x} with weights {weight}: give two or more, not negative")
    weight = (weight / weight.max()) ** 2
    mean = np.sum(weight * x) / np.sum(weight)
    tilt = weight * (x - mean)
    slope = tilt / np.sum(tilt * (x - mean))
    return np.stack([weight / np.sum(weight) - mean * slope, slope])


class Coefficients(NamedTuple):
    """The photometry of a model of a grid: mag + A_V (red + R_V dred)."""

    mag: Float[Array, "*star band"]  # without dust
    red: Float[Array, "*star band"]
    dred: Float[Array, "*star band"]
    valid: Bool[Array, "*star"]


def coefficients(look: Callable[[Array, Array], BandMagnitudes], dust: DustLines) -> Coefficients:
    """Straight lines in A_V, then in R_V, through magnitudes `look(av, rv)`, as in brutus.

    At each R_V a weighted line of magnitude against A_V gives a slope; a weighted line of the
    slopes against R_V gives `red` (at R_V = 0) and `dred`.
    """
    without = look(jnp.zeros_like(dust.av[0]), jnp.full_like(dust.rv[0], 3.3))
    behind = jax.vmap(lambda rv: jax.vmap(lambda av: look(av, rv))(dust.av))(dust.rv)
    with jax.default_matmul_precision("highest"):
        excess = behind.mag - without.mag[None, None, :]  # small numbers keep their digits
        red, dred = jnp.einsum("kr,a,rab->kb", dust.in_rv, dust.in_av, excess)
    return Coefficients(without.mag, red, dred, without.valid & behind.valid.all())
