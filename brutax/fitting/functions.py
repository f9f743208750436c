"""A user's own priors given as functions of brutus' call forms, made into pytrees.

A function written with JAX operations is traced and differentiated like our own priors. One that
needs NumPy is called on the host: its values enter the weights exactly, while proposals do not know
its slope, which costs effective draws but no exactness. Which of the two it is, is found out once,
by tracing it (`can_be_traced`), and logged.
"""

import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from brutax.priors import AbstractAvPrior, AbstractPrior, Point
from brutax.utils import as_float
from brutax.utils._namespace import Numeric

log = logging.getLogger("brutax")

# labels that a Galactic prior is given where the grid has them, and values to try it on:
# initial mass [Msun], EEP, [Fe/H], log10 of the age [yr] of a star like the Sun
TYPICAL = {"mini": 1.0, "eep": 350.0, "feh": -0.2, "loga": 9.7}

# errors with which JAX refuses operations of NumPy on values that are being traced
NOT_TRACEABLE = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
)


def _structured(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Columns of one length as a structured array of float64."""
    size = len(next(iter(columns.values()))) if columns else 0
    table = np.zeros(size, [(name, "f8") for name in columns])
    for name, column in columns.items():
        table[name] = column
    return table


def call(
    function: Callable[..., Any],
    main: Array,
    sky: tuple[Array, Array],
    columns: dict[str, Array],
) -> Array:
    """`function(main, (l, b), columns)` traced if it can be, else called back on the host.

    On the host, `main` and the columns are 1-D float64 arrays and (l, b) two floats. A function
    that fails while it is traced for another reason than that it needs NumPy raises `ValueError`
    with its own error: it would have no gradient, and no one would notice.
    """
    try:
        return jnp.asarray(function(main, sky, columns), dtype=main.dtype)
    except NOT_TRACEABLE:
        log.debug("a prior needs NumPy: it is called on the host, and has no gradient")
    except Exception as error:
        if not _works_on_arrays(function, main, columns):
            raise ValueError(
                f"a prior raised {type(error).__name__} when it was called: {error}"
            ) from error
        log.warning(
            "a prior works on NumPy arrays but not on JAX's (%s: %s): it is called on the host, "
            "slowly and without a gradient; write it with jax.numpy",
            type(error).__name__,
            error,
        )
    return _on_host(function, main, sky, columns)


def _works_on_arrays(function: Callable[..., Any], main: Array, columns: dict[str, Array]) -> bool:
    """Whether a function takes NumPy arrays of these names."""
    typical = TYPICAL | {"distance": 1.0}
    tried = {name: np.full(3, typical.get(name, 1.0)) for name in columns}
    del main
    try:
        value = np.asarray(function(np.array([0.5, 1.0, 2.0]), (90.0, 20.0), tried), np.float64)
    except Exception:
        return False
    return value.shape == (3,)


def _on_host(
    function: Callable[..., Any],
    main: Array,
    sky: tuple[Array, Array],
    columns: dict[str, Array],
) -> Array:
    """The function by a callback, with a derivative of zero."""
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


class FunctionDistance(AbstractPrior):
    """A Galactic prior given as `f(dists, coord, labels=table)`: ln density per kpc.

    `dists` [kpc]; `coord` = (l, b) [deg]; `labels` has fields `feh`, `loga`, `mini`, `eep`, as far
    as the grid has them.
    """

    function: Callable[..., Any] = eqx.field(static=True)

    def log_prob(self, point: Point) -> Array:
        """ln of the density per kpc at `point.dist`."""
        columns = {n: getattr(point, n) for n in TYPICAL if getattr(point, n) is not None}

        def evaluate(dists: Any, sky: tuple, columns: dict[str, Any]) -> Any:
            on_host = isinstance(dists, np.ndarray)
            labels = _structured(columns) if on_host and columns else columns or None
            return self.function(dists, sky, labels=labels)

        return call(evaluate, point.dist, (point.ell, point.b), columns)


class FunctionAv(AbstractAvPrior):
    """A dust prior given as `f(avs, dustmap, coord, distance=dists)`, within [low, high] [mag]."""

    function: Callable[..., Any] = eqx.field(static=True)
    dustmap: Any = eqx.field(static=True)
    low: Array = eqx.field(converter=as_float)
    high: Array = eqx.field(converter=as_float)

    def moments(self, dist: Numeric) -> tuple[Array, Array]:
        """No Gaussian part is known: half of the range, with no weight."""
        middle = 0.5 * (self.low + self.high)
        return jnp.broadcast_to(middle, jnp.shape(dist)), jnp.zeros_like(dist)

    def log_prob(self, point: Point) -> Array:
        """ln of what the function returns, -inf outside the bounds."""

        def evaluate(avs: Any, sky: tuple, columns: dict[str, Any]) -> Any:
            return self.function(avs, self.dustmap, sky, distance=columns["distance"])

        value = call(evaluate, point.av, (point.ell, point.b), {"distance": point.dist})
        return jnp.where((point.av >= self.low) & (point.av <= self.high), value, -jnp.inf)


def trial_values(prior: Any, names: Collection[str], coords: np.ndarray) -> list[np.ndarray]:
    """What the functions in a prior return at fixed points: distinguishes one from another."""
    dists = np.geomspace(0.01, 50.0, 25)
    known = coords[np.isfinite(coords).all(axis=1)]
    skies = [(90.0, 20.0), *[tuple(sky) for sky in known[:3].tolist()]]
    found: list[np.ndarray] = []

    def visit(node: Any) -> None:
        if isinstance(node, FunctionDistance):
            spread = {"mini": 0.5, "eep": 100.0, "feh": 0.5, "loga": 0.3}
            wave = np.sin(np.arange(25.0))
            columns = {n: TYPICAL[n] + spread[n] * wave for n in TYPICAL if n in names}
            labels = _structured(columns) if columns else None
            found.extend(np.asarray(node.function(dists, sky, labels=labels)) for sky in skies)
        elif isinstance(node, FunctionAv):
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
