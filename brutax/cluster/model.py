"""The likelihood of a star cluster, smooth in its parameters."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.cluster.data import LEAST_FIELD, ClusterStars
from brutax.cluster.isochrone import Layout, Tables, isochrone_curve
from brutax.cluster.pairs import Lattice, lattice
from brutax.cluster.segments import SEGMENTS, Blocks, Reach, log_density
from brutax.models import StellarPop
from brutax.models.corrections import CorrectionParams
from brutax.priors import KroupaIMF
from brutax.utils._namespace import as_float
from brutax.utils.photometry import LN_2PI, LN_PER_MAG

# parameters at which everything is finite, in place of impossible ones (whose ln L is -inf)
SAFE = {"feh": 0.0, "loga": 9.0, "av": 0.1, "rv": 3.1, "distance_pc": 1000.0}


class ClusterParams(NamedTuple):
    """What a cluster is like: six numbers, and options that are None where not wanted.

    Options change the compiled program by being there or not, never by their values.
    """

    feh: Any  # [Fe/H]
    loga: Any  # log10 age [yr]
    av: Any  # A_V [mag]
    rv: Any  # R_V
    distance_pc: Any
    field_fraction: Any  # of the stars that are no members
    binary_fraction: Any = None  # None: all have companions, of any mass ratio
    ratio_slope: Any = None  # mass ratios go as q^slope; None: 0
    av_spread: Any = None  # standard deviation of A_V from star to star [mag]
    scatter: Any = None  # intrinsic scatter of every band's magnitude [mag]
    zero_points: Any = None  # (band,) added to model magnitudes [mag]
    corr: Any = None  # CorrectionParams, or four numbers; None: no empirical corrections
    parallax_offset: Any = None  # added to the cluster's parallax [mas]
    pm: Any = None  # (2,) mean proper motion [mas / yr]
    pm_dispersion: Any = None  # of members, in each direction [mas / yr]


class PerStar(NamedTuple):
    """What the likelihood says of every star; in units of the errors (`ClusterStars`)."""

    log_like: Float[Array, " star"]  # 0 for stars without a valid band
    member: Float[Array, " star"]  # probability of being one; the prior's without a valid band


class ClusterModel(eqx.Module):
    """A coeval cluster with companions and field stars: `model.log_likelihood(params)`.

        ln L = sum over stars of ln[w L_c + (1 - w) L_o],   w = prob (1 - field_fraction),

    L_c the density of a star's data over (mass, mass ratio), by quadrature along the segments of
    isochrones, and L_o that in the field (`make_stars`). As the field's does not depend on mass,
    mixing before the integral (Speagle et al. 2025, arXiv:2503.02227) and after it are the same.
    1 - w is at least 1e-6. `imf` None measures members evenly in initial mass.

    Out of range of the models, and for impossible parameters, the likelihood is -inf with zero
    gradients. It is differentiable once, in reverse (`jax.grad`); `jax.vmap` and `jax.jit` work.
    Raises `ValueError` for bands that do not go together, layouts that do not fit and isochrones
    other than those inside brutax.
    """

    pop: StellarPop
    stars: ClusterStars
    tables: Tables
    imf: KroupaIMF | None
    layout: Layout = eqx.field(static=True)

    def __init__(
        self,
        pop: StellarPop,
        stars: ClusterStars,
        *,
        imf: KroupaIMF | None = None,
        layout: Layout | None = None,
    ):
        if stars.log_unit.shape[-1] != len(pop.filters):
            raise ValueError(
                f"stars have {stars.log_unit.shape[-1]} bands, the population {len(pop.filters)}: "
                f"{', '.join(pop.filters)}"
            )
        layout = layout or Layout()
        if layout.pairs % SEGMENTS or layout.segments % SEGMENTS or layout.last >= layout.main:
            raise ValueError(f"segments of {layout} must be multiples of {SEGMENTS}")
        # raises for isochrones of a file
        self.pop, self.stars, self.tables = pop, stars, Tables(pop, layout)
        self.imf, self.layout = imf, layout

    def log_likelihood(self, params: ClusterParams) -> Float[Array, ""]:
        """ln L, less the constant `stars.log_norm`."""
        like, possible = self._per_star(params)
        return jnp.where(possible, jnp.sum(like.log_like), -jnp.inf)

    def per_star(self, params: ClusterParams) -> PerStar:
        """The likelihood of every star and its probability of being a member."""
        like, possible = self._per_star(params)
        return PerStar(jnp.where(possible, like.log_like, -jnp.inf), like.member)

    def lattice(self, params: ClusterParams) -> Lattice:
        """The isochrone and all segments, in the stars' units of flux; for possible parameters."""
        p = _floats(params)
        curve = isochrone_curve(
            self.tables, self.layout, self.imf, p.feh, p.loga, p.av, p.rv, p.corr
        )
        scale = -2.0 * (jnp.log(p.distance_pc) - np.log(10.0)) - self.stars.log_unit
        if p.zero_points is not None:
            scale = scale - LN_PER_MAG * p.zero_points
        slope = 0.0 if p.ratio_slope is None else p.ratio_slope
        return lattice(curve, self.layout, scale, p.binary_fraction, slope)

    def magnitudes(self, params: ClusterParams) -> Float[Array, "vertex band"]:
        """Apparent magnitudes of single stars along the isochrone, NaN where there are none."""
        p = _floats(params)
        curve = self.lattice(p).curve
        mag = -curve.log_flux / LN_PER_MAG + 5.0 * jnp.log10(p.distance_pc / 10.0)
        if p.zero_points is not None:
            mag = mag + p.zero_points
        there = curve.measure > 0
        return jnp.where(jnp.append(there[0], there)[:, None], mag, jnp.nan)

    def _per_star(self, params: ClusterParams) -> tuple[PerStar, Bool[Array, ""]]:
        params = _floats(params)
        possible = _possible(params, self.tables)
        safe = jax.tree.map(
            lambda x, y: jnp.where(possible, x, y), params, _safe(params)
        )  # gradients stop here where parameters are impossible
        grid = self.lattice(safe)
        blocks, reach, log_scale = self.whitened(safe)
        vary = safe.scatter is not None or safe.av_spread is not None
        density: Any = log_density(grid.tiles, blocks, reach, vary)
        inside = density + log_scale
        stars = self.stars
        inside = inside.ravel()[stars.slot] - 0.5 * LN_2PI * stars.bands
        inside = inside + self._astrometry(safe)
        outside = stars.field + stars.field_parallax + stars.field_pm
        weight = (1.0 - LEAST_FIELD) * stars.prob * (1.0 - safe.field_fraction)
        outside = outside + jnp.log1p(-weight)
        some = weight > 0  # or the logarithm's slope is infinite
        inside = jnp.where(some, inside + jnp.log(jnp.where(some, weight, 1.0)), -jnp.inf)
        total = jnp.logaddexp(inside, outside)
        member = jnp.where(stars.lit, jnp.exp(inside - total), weight)
        total = jnp.where(stars.lit, total, 0.0)
        return PerStar(total, member), possible & grid.curve.exists

    def whitened(self, p: ClusterParams) -> tuple[Blocks, Reach, Array]:
        """Stars with all their errors, how far they reach, and ln of the change of scale."""
        stars = self.stars
        flux, inverse = stars.flux, stars.inverse
        log_scale = jnp.zeros_like(stars.chi2)
        if p.scatter is not None:
            more = 1.0 + (LN_PER_MAG * p.scatter * stars.bright * inverse) ** 2
            flux, inverse = flux / jnp.sqrt(more), inverse / jnp.sqrt(more)
            log_scale = log_scale - 0.5 * jnp.sum(jnp.log(more), axis=1)
        common = common_flux = None
        wide, apart = jnp.ones_like(flux), stars.chi2
        if p.av_spread is not None:
            reddening = self.reddening(p)[None, :, None]
            pull = LN_PER_MAG * reddening * stars.bright * inverse  # flux per A_V, whitened
            variance = p.av_spread**2
            more = 1.0 + variance * jnp.sum(pull**2, axis=1)
            share = p.av_spread / jnp.sqrt(more)
            common = share[:, None, :] * pull * inverse
            common_flux = share * jnp.sum(pull * flux, axis=1)
            log_scale = log_scale - 0.5 * jnp.log(more)
            wide, apart = jnp.sqrt(1.0 + variance * pull**2), apart * more
        blocks = Blocks(flux, inverse, common, common_flux)
        reach = _reach(blocks, stars.chi2, wide, apart)
        return blocks, jax.lax.stop_gradient(reach), log_scale

    def reddening(self, p: ClusterParams) -> Float[Array, " band"]:
        """Magnitudes per A_V of a star in the middle of the isochrone's main sequence."""

        def mag(av: Array) -> Array:
            star = self.pop.isochrone.tracks.evaluate(
                jnp.ones_like(av), jnp.full_like(av, 300.0), p.feh
            )
            return self.pop.photometry(star, p.feh, av, p.rv).mag

        return jax.jvp(mag, (p.av,), (jnp.ones_like(p.av),))[1]

    def _astrometry(self, p: ClusterParams) -> Float[Array, " star"]:
        """ln densities of parallaxes and proper motions in the cluster."""
        stars = self.stars
        model = 1000.0 / p.distance_pc
        if p.parallax_offset is not None:
            model = model + p.parallax_offset
        pull = stars.parallax_weight * (stars.parallax - model)
        out = -0.5 * pull**2 - jnp.where(stars.parallax_weight > 0, 0.5 * LN_2PI, 0.0)
        if p.pm is None:
            return out + stars.field_pm  # says nothing
        spread = jnp.zeros_like(p.feh) if p.pm_dispersion is None else p.pm_dispersion
        variance = stars.pm_variance + spread**2
        off = stars.pm - (p.pm - stars.pm_centre)[None, :]
        density = -0.5 * jnp.sum(off**2 / variance + jnp.log(variance), axis=1) - LN_2PI
        return out + jnp.where(stars.pm_seen, density, 0.0)


def _reach(blocks: Blocks, chi2: Array, wide: Array, apart: Array) -> Reach:
    """The fluxes between which a block has stars that a segment matters to.

    No data of a band lie further from a segment than its chi-square: a lower bound for it.
    `apart` bounds the sum over bands.
    """
    seen = blocks.inverse > 0
    real = (chi2 > 0)[:, None, :]
    unit = jnp.where(seen, blocks.inverse, 1.0)
    away = jnp.sqrt(chi2)[:, None, :] * wide
    low = jnp.where(seen, (blocks.flux - away) / unit, -jnp.inf)
    high = jnp.where(seen, (blocks.flux + away) / unit, jnp.inf)
    low = jnp.min(jnp.where(real, low, jnp.inf), axis=2)
    high = jnp.max(jnp.where(real, high, -jnp.inf), axis=2)
    return Reach(low, high, chi2, jnp.where(chi2 > 0, apart, -1.0))


def _floats(params: ClusterParams) -> ClusterParams:
    return jax.tree.map(as_float, params._replace(corr=_corr(params.corr)))


def _corr(corr: Any) -> CorrectionParams | None:
    return None if corr is None else CorrectionParams(*corr)


def _safe(params: ClusterParams) -> ClusterParams:
    """Possible parameters with the same options."""
    out: dict[str, Any] = {
        name: jnp.full_like(getattr(params, name), x) for name, x in SAFE.items()
    }
    half = dict.fromkeys(("field_fraction", "binary_fraction"), 0.5)
    small = dict.fromkeys(("av_spread", "scatter", "pm_dispersion"), 0.01)
    zero = dict.fromkeys(("ratio_slope", "zero_points", "parallax_offset", "pm"), 0.0)
    for name, x in (half | small | zero).items():
        value = getattr(params, name)
        out[name] = None if value is None else jnp.full_like(value, x)
    corr = params.corr
    if corr is not None:
        corr = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.result_type(params.feh)), CorrectionParams()
        )
    return ClusterParams(**out, corr=corr)


def _possible(p: ClusterParams, tables: Tables) -> Bool[Array, ""]:
    """Whether parameters are finite and mean something."""
    metals = tables.ages.metal_nodes
    ok = jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(p)]))
    ok &= (p.feh >= metals[0]) & (p.feh <= metals[-1])
    ok &= (p.loga > 5.0) & (p.loga < 10.5) & (p.distance_pc > 0) & (p.rv > 0.5)
    ok &= (p.field_fraction >= 0) & (p.field_fraction <= 1)
    if p.binary_fraction is not None:
        ok &= (p.binary_fraction >= 0) & (p.binary_fraction <= 1)
    if p.ratio_slope is not None:
        ok &= p.ratio_slope > -1
    for spread in (p.av_spread, p.scatter, p.pm_dispersion):
        if spread is not None:
            ok &= spread >= 0
    if p.corr is not None:
        ok &= p.corr.msto_smooth > 0
    return ok
