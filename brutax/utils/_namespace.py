"""One source for NumPy and JAX: functions compute in the library their arguments come from."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import jax.scipy.special as jax_special
import numpy as np
import scipy.special as scipy_special

# numbers in any form that NumPy and JAX understand: scalars, arrays, nested sequences of them
ArrayLike = jax.Array | np.ndarray | np.generic | float | int | bool | Sequence
# what arithmetic is done with, once `floats` has converted it
Numeric = jax.Array | np.ndarray | np.floating | np.integer | float | int


def namespace(*arrays: object) -> ModuleType:
    """`jax.numpy` if any leaf of the arguments is a JAX array (or tracer), else `numpy`.

    NumPy in, NumPy (float64) out; JAX in, JAX out and differentiable.
    """
    leaves = jax.tree.leaves(arrays)
    return jnp if any(isinstance(leaf, jax.Array) for leaf in leaves) else np


def special(xp: ModuleType) -> ModuleType:
    """The special functions that go with a namespace of `namespace`."""
    return jax_special if xp is jnp else scipy_special


def floats(*arrays: object) -> tuple:
    """`(xp, *arrays)`: the namespace of the arguments, and they as its default floats."""
    xp = namespace(*arrays)
    return xp, *(xp.asarray(array, dtype=float) for array in arrays)


def as_float(x: Any) -> jax.Array:
    """A number or array as a leaf of a pytree: float32, or float64 where JAX has it enabled."""
    if isinstance(x, np.ndarray | np.generic | float | int):  # needs no program
        with np.errstate(over="ignore"):
            x = np.asarray(x, jax.dtypes.canonicalize_dtype(float))
    return jnp.asarray(x, dtype=float)


def require(ok: Any, message: str) -> None:
    """Raises a `ValueError` unless all of `ok`; values that are being traced are not checked."""
    if not isinstance(ok, jax.core.Tracer) and not np.all(np.asarray(ok)):
        raise ValueError(message)
