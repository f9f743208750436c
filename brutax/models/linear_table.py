"""A dense table of models between whose nodes values are interpolated linearly."""

import itertools
from typing import Any, NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from brutax.utils._namespace import as_float

ALONE = 1e-5  # a node without neighbours answers within this of it


class Point(NamedTuple):
    """The columns of a table at a point; where not `valid` they are finite and mean nothing."""

    value: Float[Array, " column"]
    valid: Bool[Array, ""]


class Table(eqx.Module):
    """Columns on a lattice that may have holes, interpolated linearly along every axis.

    A point is valid if it lies in the range of every axis and every corner with a share in it
    exists. An axis of one node answers within 1e-5 of it.
    """

    nodes: tuple[Float[Array, " _"], ...]  # increasing
    value: Float[Array, "*axes column"]  # 0 in holes
    exists: Bool[Array, "*axes"]

    def __init__(self, nodes, value: np.ndarray):
        full: Any = np.isfinite(value).all(axis=-1)
        self.nodes = tuple(as_float(axis) for axis in nodes)
        self.value = as_float(np.where(full[..., None], value, 0.0))
        self.exists = jnp.asarray(full)

    def __call__(self, *x: Float[Array, ""]) -> Point:
        """The columns at one point."""
        spots = [_bracket(nodes, one) for nodes, one in zip(self.nodes, x, strict=True)]
        valid = jnp.stack([spot.inside for spot in spots]).all()
        total = jnp.zeros_like(self.value, shape=self.value.shape[-1:])
        for corner in itertools.product((0, 1), repeat=len(spots)):
            weight = jnp.ones_like(spots[0].share)
            for up, spot in zip(corner, spots):
                weight = weight * (spot.share if up else 1.0 - spot.share)
            at = tuple(spot.high if up else spot.low for up, spot in zip(corner, spots))
            valid &= self.exists[at] | (weight <= 0)
            total = total + weight * self.value[at]
        return Point(total, valid)


class _Spot(NamedTuple):
    low: Array
    high: Array
    share: Float[Array, ""]  # of the higher node
    inside: Bool[Array, ""]


def _bracket(nodes: Float[Array, " node"], x: Float[Array, ""]) -> _Spot:
    count = nodes.shape[0]
    if count == 1:
        zero = jnp.zeros_like(x)
        low = jnp.zeros_like(x, dtype=int)
        return _Spot(low, low, zero, jnp.abs(x - nodes[0]) <= ALONE)
    low = jnp.clip(jnp.searchsorted(nodes, x, side="right") - 1, 0, count - 2)
    share = (x - nodes[low]) / (nodes[low + 1] - nodes[low])
    inside = (x >= nodes[0]) & (x <= nodes[-1])
    return _Spot(low, low + 1, jnp.clip(share, 0.0, 1.0), inside)
