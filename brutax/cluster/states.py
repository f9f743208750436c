"""What the stars of an isochrone are like, and look like, at places whose cells are known."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.cluster.ages import Ages
from brutax.cluster.splines import Cells, Cubics, Place, blocks, crossed, four
from brutax.models import StarState, StellarPop, TrackModel
from brutax.models.photometry.bolometric import M_BOL_SUN, Bolometric
from brutax.models.photometry.photometry import (
    AbstractPhotometry,
    BandMagnitudes,
    BolometricPhotometry,
)
from brutax.models.spline import DEGREE, TensorSpline, design_matrix, local_basis
from brutax.utils._namespace import as_float

OUTPUTS = 4  # of the tables of late stages, the last of them empty
SLACK = 1e-4  # of a cell in mass, for rounding at the ends of the models


class Early(NamedTuple):
    """Stars in early stages."""

    logl: Float[Array, " point"]  # log10 L [Lsun]
    logt: Float[Array, " point"]  # log10 Teff [K]


class Late(NamedTuple):
    """Stars at given stages."""

    logl: Float[Array, " point"]
    logt: Float[Array, " point"]
    log_agewt: Float[Array, " point"]  # log10 d(age)/d(EEP) [yr]


class States(eqx.Module):
    """The tracks, laid out for early stages and for those of `ages`."""

    early: Float[Array, "mass stage metal_output"]  # coefficients of log L, log Teff
    late: Float[Array, "stage metal mass_output"]  # of log L, log Teff, log of the age's pace

    def __init__(self, tracks: TrackModel, ages: Ages):
        coef = np.asarray(tracks.fine.coef, np.float64)
        first = int(ages.eep.first[ages.begin])
        early = coef[:, first : first + ages.by_metal[0].shape[2], :, 1:3]
        self.early = as_float(early.reshape(*early.shape[:2], -1))
        at = design_matrix(np.asarray(tracks.fine.knots[1], np.float64), np.asarray(ages.stages))
        late = np.tensordot(at, coef[..., 1:], axes=(1, 1)).swapaxes(1, 2)
        late = np.pad(late, [(0, 0)] * 3 + [(0, OUTPUTS - late.shape[3])])  # rows of 16 numbers
        self.late = as_float(late.reshape(*late.shape[:2], -1))

    def of_masses(self, ages: Ages, mass: Place, stage: Place, feh: Array) -> Early:
        """Stars in early stages."""
        local = local_basis(ages.metals, feh)
        outputs = 2 * (DEGREE + 1)
        some = jax.lax.dynamic_slice_in_dim(self.early, 2 * local.first, outputs, 2)
        m, e = ages.mass.basis(mass), ages.eep.basis(stage)
        found = blocks(some, m.first, e.first - ages.eep.first[ages.begin])
        weight = crossed(m.weight, e.weight)
        found = jnp.einsum("xk,xko->xo", weight, found, precision="highest")
        found = found.reshape(-1, DEGREE + 1, 2)
        return Early(*jnp.einsum("xco,c->ox", found, local.weight, precision="highest"))

    def of_stages(self, ages: Ages, mass: Place, feh: Array) -> Late:
        """Stars of some masses at the stages of `ages`."""
        local, m = local_basis(ages.metals, feh), ages.mass.basis(mass)
        stages, metals, masses = self.late.shape
        row = jnp.arange(stages, dtype=m.first.dtype)[:, None] * metals
        row = row + four(local.first[None])
        start = (row * masses + OUTPUTS * m.first[:, None]).ravel()
        width = OUTPUTS * (DEGREE + 1)
        found = jax.vmap(lambda k: jax.lax.dynamic_slice(self.late.ravel(), (k,), (width,)))(start)
        found = found.reshape(stages, 16, OUTPUTS)
        weight = (local.weight[None, :, None] * m.weight[:, None, :]).reshape(-1, 16)
        return Late(*jnp.einsum("xk,xko->ox", weight, found, precision="highest")[:3])


def covered(
    ages: Ages, feh: Array, mass: Place, eep: Float[Array, " point"]
) -> Bool[Array, " point"]:
    """Where there are tracks on both sides of a mass."""
    reach = ages.reached(jax.lax.stop_gradient(feh))
    low = jnp.where(mass.share < 1.0, reach[mass.cell], jnp.inf)
    high = jnp.where(mass.share > 0.0, reach[mass.cell + 1], jnp.inf)
    inside = (mass.share >= -SLACK) & (mass.share <= 1.0 + SLACK)
    return inside & (eep <= jnp.minimum(low, high))


class Colours(eqx.Module):
    """The photometry of many stars of one [Fe/H] behind the same dust.

    The splines of the models inside brutax are first contracted along what stars share; what
    they are looked up by, and the range of the model atmospheres, are laid out in cells.
    """

    photometry: AbstractPhotometry
    bare: tuple[Cubics, Cubics] | None
    dust: tuple[Cubics, Cubics] | None
    atmospheres: Cells | None

    def __init__(self, pop: StellarPop):
        self.photometry = pop.photometry
        photometry = pop.photometry
        self.bare = self.dust = self.atmospheres = None
        if isinstance(photometry, BolometricPhotometry):
            source = photometry.source
            self.bare, self.dust = _axes(source.bare), _axes(source.dust)
            self.atmospheres = Cells(np.asarray(source.logt_nodes))

    def __call__(self, star: StarState, feh: Array, av: Array, rv: Array) -> BandMagnitudes:
        """Absolute magnitudes (point, band) of stars of initial [Fe/H] behind A_V [mag], R_V."""
        photometry = self.photometry
        given = isinstance(photometry, BolometricPhotometry)
        if not given or self.bare is None or self.dust is None:
            return jax.vmap(lambda one: photometry(one, feh, av, rv))(star)
        source = photometry.source
        metal = jnp.clip(feh, source.bare.knots[2][0], source.bare.knots[2][-1])
        at = source.inside(star.logt, star.logg)
        shift = _looked_up(_bare, source, self.bare, (metal,), at)
        red = _looked_up(_dust, source, self.dust, (metal, av), at)
        mag = M_BOL_SUN - 2.5 * star.logl[:, None] - shift + source.law_at(rv)[None, :] * red
        return BandMagnitudes(mag, self._valid(source, star, feh))

    def _valid(self, source: Bolometric, star: StarState, feh: Array) -> Bool[Array, " point"]:
        assert self.atmospheres is not None
        logt, logg = jax.lax.stop_gradient((star.logt, star.logg))
        at = self.atmospheres.place(logt)

        def edge(values: Array) -> Array:
            return values[at.cell] + at.share * (values[at.cell + 1] - values[at.cell])

        metals = source.bare.knots[2]
        ok = (at.share >= 0.0) & (at.share <= 1.0)
        ok = ok & (logg >= edge(source.logg_low)) & (logg <= edge(source.logg_high))
        return ok & (feh >= metals[0]) & (feh <= metals[-1])


def _axes(spline: TensorSpline) -> tuple[Cubics, Cubics]:
    return Cubics(np.asarray(spline.knots[0])), Cubics(np.asarray(spline.knots[1]))


def _bare(source: Bolometric, metal: Array) -> Float[Array, "teff logg band"]:
    """Bolometric corrections at one [Fe/H], of stars without dust."""
    return _at_metal(source.bare, metal)


def _dust(source: Bolometric, metal: Array, av: Array) -> Float[Array, "teff logg band"]:
    """What dust adds to them."""
    some = _at_metal(source.dust, metal)
    some = some.reshape(*some.shape[:2], len(source.bands), 3)
    powers = jnp.stack([av, av**2, av**3])
    return jnp.matmul(some, powers, precision="highest")


def _at_metal(spline: TensorSpline, feh: Array) -> Float[Array, "teff logg output"]:
    local = local_basis(spline.knots[2], feh)
    some = jax.lax.dynamic_slice_in_dim(spline.coef, local.first, DEGREE + 1, 2)
    return jnp.einsum("tgko,k->tgo", some, local.weight, precision="highest")


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _looked_up(
    of: Callable[..., Array],
    source: Bolometric,
    axes: tuple[Cubics, Cubics],
    params: tuple[Array, ...],
    at: tuple[Float[Array, " point"], ...],
) -> Float[Array, "point output"]:
    """The spline with coefficients `of(source, *params)` at points.

    Differentiable in `params` and points. The derivatives of coefficients are tables of their
    own, looked up with them where they are asked for: the transpose of a look-up in a table that
    varies would be slow.
    """
    x, y = (axis.basis(axis.cells.place(at)) for axis, at in zip(axes, at))
    weight = crossed(x.weight, y.weight)
    found = blocks(of(source, *params), x.first, y.first)
    return jnp.einsum("xk,xko->xo", weight, found, precision="highest")


@_looked_up.defjvp
def _(of: Callable[..., Array], primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    source, axes, params, at = primals
    places = [axis.cells.place(x) for axis, x in zip(axes, at)]
    x, y = (axis.basis(place) for axis, place in zip(axes, places))
    weight = crossed(x.weight, y.weight)

    def over(weight: Array, found: Array) -> Array:
        return jnp.einsum("xk,xko->xo", weight, found, precision="highest")

    found = blocks(of(source, *params), x.first, y.first)
    move = tangents[3][0][:, None] * over(crossed(axes[0].slopes(places[0]), y.weight), found)
    move += tangents[3][1][:, None] * over(crossed(x.weight, axes[1].slopes(places[1])), found)
    for k, d in enumerate(tangents[2]):
        unit = tuple(jnp.full_like(p, float(j == k)) for j, p in enumerate(params))
        table = jax.jvp(lambda *p: of(source, *p), params, unit)[1]
        move += d * over(weight, blocks(table, x.first, y.first))
    return over(weight, found), move
