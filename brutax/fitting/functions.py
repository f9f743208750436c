"""A user's own priors: functions of brutus' call forms, and dust maps, made into pytrees.

A function written with JAX operations is traced and differentiated like our own priors. One
that needs NumPy is called on the host: its values enter the weights exactly, while the
proposals do not know its slope, so that it costs effective draws but no exactness.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from brutax.dust import Bayestar, DustMap
from brutax.fitting.options import Priors
from brutax.priors import AbstractPrior, DustProfileAv, Point, dust_profile
from brutax.utils import as_float

# labels that a Galactic prior is given where the grid has them, and values to try it on
TYPICAL = {"mini": 1.0, "eep": 350.0, "feh": -0.2, "loga": 9.7}


def _structured(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    size = len(next(iter(columns.values()))) if columns else 0
    table = np.zeros(size, [(name, "f8") for name in columns])
    for name, column in columns.items():
        table[name] = column
    return table


def call(
    function: Callable[..., Any], main: Any, sky: tuple[Any, Any], columns: dict[str, Any]
) -> Any:
    """`function(main, (l, b), columns)` traced if it can be, else called back on the host.

    On the host, `main` and the columns are 1-D float64 arrays and (l, b) two floats.
    """
    try:
        return jnp.asarray(function(main, sky, columns), dtype=main.dtype)
    except Exception:  # it cannot be traced; `check_distance` has seen that it works on arrays
        pass
    names = tuple(columns)

    def host(main: Any, ell: Any, b: Any, *values: Any) -> np.ndarray:
        shape = np.shape(main)
        flat = [np.broadcast_to(x, shape).ravel().astype(np.float64) for x in (main, *values)]
        where = (float(np.ravel(ell)[0]), float(np.ravel(b)[0]))
        out = function(flat[0], where, dict(zip(names, flat[1:], strict=True)))
        return np.asarray(out, np.asarray(main).dtype).reshape(shape)

    @jax.custom_jvp
    def opaque(main: Any, ell: Any, b: Any, *values: Any) -> Any:
        shape = jax.ShapeDtypeStruct(jnp.shape(main), main.dtype)
        return jax.pure_callback(host, shape, main, ell, b, *values, vmap_method="broadcast_all")

    @opaque.defjvp
    def flat(primals: tuple, tangents: tuple) -> tuple:
        del tangents
        out = opaque(*primals)
        return out, jnp.zeros_like(out)

    return opaque(main, *sky, *columns.values())


def check_distance(function: Callable[..., Any], names: tuple[str, ...]) -> None:
    """Tries a Galactic prior on the host; raises `ValueError` if it fails or is misshapen."""
    dists = np.array([0.5, 1.0, 2.0])
    labels = _structured({name: np.full(3, TYPICAL[name]) for name in names}) if names else None
    try:
        value = np.asarray(function(dists, (90.0, 20.0), labels=labels), np.float64)
    except Exception as error:
        raise ValueError(
            f"lngalprior must be f(dists, coord, labels=...); on three distances it raised "
            f"{type(error).__name__}: {error}"
        ) from error
    if value.shape != dists.shape:
        raise ValueError(f"lngalprior returned shape {value.shape} for distances of shape (3,)")


class CustomDistance(AbstractPrior):
    """A Galactic prior given as `f(dists, coord, labels=table)`: ln density per kpc.

    `dists` [kpc]; `coord` = (l, b) [deg]; `labels` has fields `feh`, `loga`, `mini`, `eep`, as far
    as the grid has them.
    """

    function: Callable[..., Any] = eqx.field(static=True)

    def log_prob(self, point: Point) -> Any:
        columns = {n: getattr(point, n) for n in TYPICAL if getattr(point, n) is not None}

        def evaluate(dists: Any, sky: tuple, columns: dict[str, Any]) -> Any:
            on_host = isinstance(dists, np.ndarray)
            labels = _structured(columns) if on_host and columns else columns or None
            return self.function(dists, sky, labels=labels)

        return call(evaluate, point.dist, (point.ell, point.b), columns)


class CustomAv(AbstractPrior):
    """A dust prior given as `f(avs, dustmap, coord, distance=dists)`, within [low, high]."""

    function: Callable[..., Any] = eqx.field(static=True)
    dustmap: Any = eqx.field(static=True)
    low: Any = eqx.field(converter=as_float)
    high: Any = eqx.field(converter=as_float)

    def moments(self, dist: Any) -> tuple[Any, Any]:
        """No Gaussian part is known: half of the range, with no weight."""
        middle = 0.5 * (self.low + self.high)
        return jnp.broadcast_to(middle, jnp.shape(dist)), jnp.zeros_like(dist)

    def log_prob(self, point: Point) -> Any:
        def evaluate(avs: Any, sky: tuple, columns: dict[str, Any]) -> Any:
            return self.function(avs, self.dustmap, sky, distance=columns["distance"])

        value = call(evaluate, point.av, (point.ell, point.b), {"distance": point.dist})
        return jnp.where((point.av >= self.low) & (point.av <= self.high), value, -jnp.inf)


def trial_values(prior: Any, names: Collection[str], coords: np.ndarray) -> list[np.ndarray]:
    """What the functions in a prior return at fixed points: tells one function from another."""
    dists = np.geomspace(0.01, 50.0, 25)
    known = coords[np.isfinite(coords).all(axis=1)]
    skies = [(90.0, 20.0), *[tuple(sky) for sky in known[:3].tolist()]]
    found: list[np.ndarray] = []

    def visit(node: Any) -> None:
        if isinstance(node, CustomDistance):
            spread = {"mini": 0.5, "eep": 100.0, "feh": 0.5, "loga": 0.3}
            wave = np.sin(np.arange(25.0))
            columns = {n: TYPICAL[n] + spread[n] * wave for n in TYPICAL if n in names}
            labels = _structured(columns) if columns else None
            found.extend(np.asarray(node.function(dists, sky, labels=labels)) for sky in skies)
        elif isinstance(node, CustomAv):
            avs = np.linspace(float(node.low), float(node.high), 25)
            found.extend(
                np.asarray(node.function(avs, node.dustmap, sky, distance=dists)) for sky in skies
            )
        elif isinstance(node, eqx.Module):
            for value in vars(node).values():
                visit(value)
        elif isinstance(node, tuple | list):
            for value in node:
                visit(value)

    visit(prior)
    return found


def dust_priors(
    priors: Priors, coords: np.ndarray, low: float, high: float
) -> tuple[AbstractPrior, AbstractPrior | None]:
    """The A_V prior from a dust map: one star's (a template), and all stars' stacked.

    A file name stands for `brutax.dust.Bayestar`. Raises `ValueError` if the map has no `query`,
    or `av_gauss` is given too.
    """
    dustmap = priors.dustfile
    if isinstance(dustmap, str | Path):
        dustmap = Bayestar(dustmap)
    if not hasattr(dustmap, "query"):
        raise ValueError(f"dustfile: {type(dustmap).__name__} has no method query")
    if priors.av_gauss is not None:
        raise ValueError(
            "av_gauss and dustfile are both priors on A_V (brutus documents that the first "
            "replaces the second, and multiplies them); give one"
        )
    if not np.isfinite(coords).all(axis=1).any():
        raise ValueError("dustfile needs data_coords: no star has a position")
    if priors.lndustprior is not None:
        return CustomAv(priors.lndustprior, dustmap, low, high), None
    if priors.dust_floor < 0:
        raise ValueError(f"dust_floor must not be negative, got {priors.dust_floor}")
    if isinstance(dustmap, DustMap):  # all stars at once
        dist, mean, std = dustmap.query(coords)
        std = np.where(std > 0, np.hypot(std, priors.dust_floor), np.nan)
        ln_dist = np.broadcast_to(np.log(dist), mean.shape)
        stacked = DustProfileAv(ln_dist, mean, std, low, high)
        bounds = (np.full(len(coords), x) for x in (low, high))
        stacked = eqx.tree_at(lambda p: (p.low, p.high), stacked, tuple(map(as_float, bounds)))
        return jax.tree.map(lambda leaf: leaf[0], stacked), stacked
    floor = priors.dust_floor
    profiles = [dust_profile(dustmap, ell, b, low, high, floor) for ell, b in coords]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *profiles)
    return profiles[0], stacked
