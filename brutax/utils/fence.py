"""A way to keep XLA from merging two computations."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool


def fenced(live: Bool[Array, ""], function: Callable, *args: Any) -> Any:
    """`function(*args)` where `live`, else zeros, as a computation of its own.

    XLA for CPUs fuses loops across `jax.jit` and optimisation barriers, and then computes the first
    again for each use of its result in the second; it does not fuse across a condition. `live`
    must not be a constant, which the compiler would remove.
    """
    shape = jax.eval_shape(function, *args)
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shape)
    return jax.lax.cond(live, function, lambda *_: nothing, *args)
