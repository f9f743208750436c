"""Priors of a fit: `Priors`, and what the solver makes of them."""

from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from brutax.dust import DustMap
from brutax.fitting.functions import TYPICAL, FunctionAv, FunctionDistance, check_distance
from brutax.priors import (
    AbstractAvPrior,
    AbstractPrior,
    AbstractRvPrior,
    DustProfileAv,
    ExponentialDiskDistance,
    GalacticStructure,
    Point,
    TruncatedNormalRv,
    UniformAv,
    UniformRv,
    dust_profile,
)
from brutax.solver import StarPrior
from brutax.utils import ArrayLike, as_float

T = TypeVar("T", bound=AbstractPrior)
FLAT = "flat"
AV_RANGE = (0.0, 20.0)  # A_V [mag] of the flat prior, and of dust maps: that of brutus
RV_RANGE = (1.0, 8.0)  # R_V of the flat prior: that of brutus


class DustMapAv(eqx.Module):
    """The prior of A_V that a three-dimensional dust map is for each star, by its position.

    `dustmap` is a map of `brutax.dust`, or any object whose `query((l, b))` [deg] returns
    (distances [kpc], mean A_V, its standard deviation [mag]); `low`, `high` [mag] are the bounds of
    A_V, within which the normal distribution of the map is normalised. `floor` [mag] is added to
    the map's standard deviations in quadrature, for what its own errors leave out. Where the map
    has no answer A_V is uniform. Stars without a position get that too, if any star has one.

        brutax.Priors(av=brutax.fitting.DustMapAv(Bayestar("bayestar2019_v1.h5"), floor=0.05))

    Raises `ValueError` if the map has no `query`, the floor is negative, or bounds do not increase.
    """

    dustmap: Any = eqx.field(static=True)
    low: float = eqx.field(default=AV_RANGE[0])
    high: float = eqx.field(default=AV_RANGE[1])
    floor: float = eqx.field(default=0.0)

    def __check_init__(self) -> None:
        if not hasattr(self.dustmap, "query"):
            raise ValueError(f"dust map: {type(self.dustmap).__name__} has no method query")
        if self.floor < 0:
            raise ValueError(f"dust_floor must not be negative, got {self.floor}")
        if not self.low < self.high:
            raise ValueError(f"bounds of A_V must increase, got ({self.low}, {self.high})")

    def per_star(self, coords: np.ndarray) -> tuple[DustProfileAv, DustProfileAv]:
        """The prior of the first star, and those of all stacked; `coords` (star, 2) l, b [deg]."""
        if isinstance(self.dustmap, DustMap):  # all stars at once
            dist, mean, std = self.dustmap.query(coords)
            std = np.where(std > 0, np.hypot(std, self.floor), np.nan)
            ln_dist = np.broadcast_to(np.log(dist), mean.shape)
            stacked = DustProfileAv(ln_dist, mean, std, self.low, self.high)
            bounds = (np.full(len(coords), x) for x in (self.low, self.high))
            stacked = eqx.tree_at(lambda p: (p.low, p.high), stacked, tuple(map(as_float, bounds)))
            return jax.tree.map(lambda leaf: leaf[0], stacked), stacked
        profiles = [
            dust_profile(self.dustmap, ell, b, self.low, self.high, self.floor) for ell, b in coords
        ]
        return profiles[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *profiles)


class ModelPrior(eqx.Module):
    """The prior mass of every model of a grid: mass function, time spent there, size of its cell.

    `imf` is a prior of the initial mass `mini` [Msun]; None stands for `KroupaIMF()` where the
    grid has masses, else for the luminosity function of Pan-STARRS where it has M_r, else for a
    flat one. With `age_weight` models count by d(age)/d(EEP), with `cell_size` by the widths of
    their cells along the axes of the grid. `log_mass` (model,), if given, takes the place of the
    mass function: ln of prior masses up to a constant, -inf for models that are left out.
    """

    imf: AbstractPrior | None = None
    age_weight: bool = eqx.field(static=True, default=True)
    cell_size: bool = eqx.field(static=True, default=True)
    log_mass: np.ndarray | None = eqx.field(
        default=None, converter=lambda x: None if x is None else np.array(x, np.float64)
    )

    def __check_init__(self) -> None:
        if self.imf is not None and self.log_mass is not None:
            raise ValueError("imf and log_mass both say how many models of each mass: give one")


class WithoutLabels(AbstractPrior):
    """A distance prior from which the metallicity and age of the model are hidden."""

    prior: AbstractPrior

    def log_prob(self, point: Point) -> Array:
        """ln of the density at `point`, its `feh` and `loga` left out."""
        return self.prior.log_prob(point._replace(feh=None, loga=None))


class WhereDirectionKnown(AbstractPrior):
    """One distance prior where Galactic l, b of the star are known, another where they are not."""

    with_direction: AbstractPrior
    without: AbstractPrior

    def log_prob(self, point: Point) -> Array:
        """ln of the density per kpc."""
        known = jnp.isfinite(point.ell) & jnp.isfinite(point.b)
        sky = point._replace(ell=jnp.where(known, point.ell, 0.0), b=jnp.where(known, point.b, 0.0))
        return jnp.where(known, self.with_direction.log_prob(sky), self.without.log_prob(point))


class Priors(eqx.Module):
    """The priors of a fit. Each entry is a pytree with numbers as leaves.

    `av`: extinction A_V [mag]. None and "flat" are uniform from 0 to 20 mag, (low, high) uniform
    between two bounds; an `AbstractAvPrior` (such as `TruncatedNormalAv`, or one of your own), a
    map of `brutax.dust`, or `DustMapAv(map, ...)`.

    `rv`: R_V. None is the normal distribution of Schlafly et al. (2016), 3.32 +- 0.18 between 1 and
    8; "flat" is uniform there, (low, high) uniform; or an `AbstractRvPrior`.

    `stars`: density of stars along the line of sight, per kpc, which may look at position, [Fe/H]
    and age. None is `GalacticStructure()`; or an `AbstractPrior`, or a function
    `f(dists, coord, labels=...)` as brutus takes them. Stars without a position get an exponential
    disk around the Sun (Bailer-Jones 2015).

    `models`: prior masses of the models of the grid. None is `ModelPrior()`; or an initial mass
    function (an `AbstractPrior` of `mini`).

        brutax.Priors()
        brutax.Priors(av=(0, 3), rv=TruncatedNormalRv(3.1, 0.1))
        brutax.Priors(av=Bayestar("bayestar2019_v1.h5"), models=KroupaIMF(alpha_high=2.7))

    Raises `TypeError` for what is none of these, `ValueError` for bounds that do not increase.
    """

    av: AbstractAvPrior | DustMapAv | FunctionAv
    rv: AbstractRvPrior
    stars: AbstractPrior
    models: ModelPrior

    def __init__(
        self,
        av: AbstractAvPrior | DustMapAv | FunctionAv | DustMap | str | ArrayLike | None = None,
        rv: AbstractRvPrior | str | ArrayLike | None = None,
        stars: AbstractPrior | Callable[..., Any] | None = None,
        models: ModelPrior | AbstractPrior | None = None,
    ) -> None:
        self.av = _as_av(av)
        self.rv = _as_rv(rv)
        self.stars = _as_stars(stars)
        self.models = _as_models(models)


def bounds(name: str, limits: Any) -> tuple[float, float]:
    """(low, high) as two finite increasing floats; raises `ValueError` that says `name`."""
    try:
        low, high = (float(x) for x in limits)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be (low, high), got {limits!r}") from None
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"{name} must be finite and increasing, got ({low}, {high})")
    return low, high


def _is_pair(given: Any) -> bool:
    return isinstance(given, Sequence | np.ndarray) and not isinstance(given, str)


def _as_av(given: Any) -> Any:
    if given is None or (isinstance(given, str) and given == FLAT):
        return UniformAv(*AV_RANGE)
    if isinstance(given, AbstractAvPrior | DustMapAv | FunctionAv):
        return given
    if isinstance(given, DustMap):
        return DustMapAv(given)
    if _is_pair(given):
        low, high = bounds("av", given)
        if low < 0:
            raise ValueError(f"av starts at {low}: negative extinction is not a model here")
        return UniformAv(low, high)
    raise TypeError(
        f"av must be None, 'flat', (low, high), a brutax.priors.AbstractAvPrior or a map of "
        f"brutax.dust, got {given!r}"
    )


def _as_rv(given: Any) -> AbstractRvPrior:
    if given is None:
        return TruncatedNormalRv()
    if isinstance(given, str) and given == FLAT:
        return UniformRv(*RV_RANGE)
    if isinstance(given, AbstractRvPrior):
        return given
    if _is_pair(given):
        return UniformRv(*bounds("rv", given))
    raise TypeError(
        f"rv must be None, 'flat', (low, high) or a brutax.priors.AbstractRvPrior, got {given!r}"
    )


def _as_stars(given: Any) -> AbstractPrior:
    if given is None:
        return GalacticStructure()
    if isinstance(given, AbstractPrior):
        return given
    if callable(given):
        return FunctionDistance(given)
    raise TypeError(
        f"stars must be None, a brutax.priors.AbstractPrior or a function f(dists, coord, "
        f"labels=...), got {type(given).__name__}"
    )


def _as_models(given: Any) -> ModelPrior:
    if given is None:
        return ModelPrior()
    if isinstance(given, ModelPrior):
        return given
    if isinstance(given, AbstractPrior):
        return ModelPrior(imf=given)
    raise TypeError(
        "models must be None, a ModelPrior or an initial mass function (brutax.priors), "
        f"got {type(given).__name__}"
    )


def star_priors(
    priors: Priors, coords: np.ndarray, names: Collection[str] = ()
) -> tuple[StarPrior, AbstractAvPrior | None]:
    """The priors of the stars, and the A_V prior of each where a dust map makes them differ.

    `coords`: (star, 2) Galactic l, b [deg], NaN where there are none; `names`: the labels that the
    grid has. The second is a pytree with a leading axis over stars, or None.
    """
    _check_functions(priors.stars, names)
    av, per_star = priors.av, None
    if isinstance(av, DustMapAv | FunctionAv) and not np.isfinite(coords).all(axis=1).any():
        raise ValueError("a dust map needs coordinates (data_coords): no star has a position")
    if isinstance(av, DustMapAv):
        av, per_star = av.per_star(coords)
    distance = WhereDirectionKnown(priors.stars, ExponentialDiskDistance())
    return StarPrior(distance, av, priors.rv), per_star


def _check_functions(prior: AbstractPrior, names: Collection[str]) -> None:
    """Tries a user's function on three distances, with the labels that it will get."""
    hidden: tuple[str, ...] = ()
    if isinstance(prior, WithoutLabels):
        prior, hidden = prior.prior, ("feh", "loga")
    if isinstance(prior, FunctionDistance):
        check_distance(prior.function, tuple(n for n in TYPICAL if n in names and n not in hidden))


def repeat(prior: T, size: int) -> T:
    """The same prior for each of many stars, as one pytree with a leading axis."""
    return jax.tree.map(
        lambda leaf: jnp.asarray(np.broadcast_to(np.asarray(leaf), (size, *np.shape(leaf)))),
        prior,
        is_leaf=eqx.is_array,
    )
