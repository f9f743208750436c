"""Multilinear interpolation on a lattice of models that may have holes."""

import itertools
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array

from brutax.utils._namespace import namespace

MIN_SUPPORT = 0.5  # weight that existing corners must hold for a query to be answered
_SAME_NODE = 1e-9  # nodes closer than this fraction of an axis' range are one


class Lattice(NamedTuple):
    """The nodes of every axis, and which model sits at which node."""

    nodes: tuple[np.ndarray, ...]  # increasing
    keys: np.ndarray  # sorted flat positions of the nodes that hold a model
    rows: np.ndarray  # the model at each key


class Stencil(NamedTuple):
    """The corners of the cells around one query, or a table of them."""

    rows: tuple[Any, ...]  # model at each corner; 0 where there is none
    weights: tuple[Any, ...]  # sum to one over the corners; 0 where there is no model
    support: Any  # weight of the existing corners before they were made to sum to one
    inside: tuple[Any, ...]  # per axis: is the query within its range


def build_lattice(columns: Sequence[np.ndarray]) -> Lattice:
    """The lattice spanned by label columns (model,); of models at one node the first counts."""
    columns = [np.asarray(column, np.float64) for column in columns]
    nodes = tuple(_nodes(column) for column in columns)
    shape = tuple(len(axis) for axis in nodes)
    if np.prod([float(n) for n in shape]) >= 2.0**62:
        raise ValueError(f"a lattice of {shape} nodes is too large to index")
    where = [
        np.searchsorted(axis, column, side="right") - 1 for axis, column in zip(nodes, columns)
    ]
    keys, rows = np.unique(np.ravel_multi_index(where, shape), return_index=True)
    return Lattice(nodes, keys, rows)


def _nodes(column: np.ndarray) -> np.ndarray:
    """Unique values of a column; values that differ by round-off count once."""
    values = np.unique(column)
    gap = _SAME_NODE * (values[-1] - values[0])
    return values[np.concatenate([[True], np.diff(values) > gap])]


def find_corners(lattice: Lattice, point: Sequence[Any]) -> Stencil:
    """The corners around a query, one coordinate (of any one shape) per axis.

    Along each axis the weights are `1 - t` and `t`, `t` the position within the cell; a
    corner's weight is their product. Weights are linear in the query, and differentiable.
    """
    xp = namespace(*point)
    lower, fraction, inside = zip(*(_bracket(n, x, xp) for n, x in zip(lattice.nodes, point)))
    strides = np.cumprod([1, *(len(n) for n in lattice.nodes[:0:-1])])[::-1]
    if xp is not np and len(lattice.nodes[0]) * int(strides[0]) >= 2**31:
        raise ValueError("this lattice is too large for 32-bit indices; query it with NumPy")
    keys = xp.asarray(lattice.keys, dtype=int)
    rows, weights = [], []
    spread = [(0, 1) if len(n) > 1 else (0,) for n in lattice.nodes]
    for corner in itertools.product(*spread):
        weight, key = xp.ones_like(fraction[0]), xp.zeros_like(lower[0])
        for step, low, t, stride in zip(corner, lower, fraction, strides):
            weight = weight * (t if step else 1.0 - t)
            key = key + (low + step) * int(stride)
        at = xp.clip(xp.searchsorted(keys, key), 0, len(lattice.keys) - 1)
        exists = keys[at] == key
        rows.append(xp.where(exists, xp.asarray(lattice.rows, dtype=int)[at], 0))
        weights.append(xp.where(exists, weight, 0.0))
    support = sum(weights)
    total = xp.where(support > 0, support, 1.0)
    return Stencil(tuple(rows), tuple(w / total for w in weights), support, inside)


def _bracket(
    nodes: np.ndarray, x: Array | np.ndarray | np.floating, xp: ModuleType
) -> tuple[Any, Any, Any]:
    """Index of the node below `x`, position in [0, 1] within the cell, and "in range"."""
    x = xp.asarray(x, dtype=float)
    slack = 4.0 * float(np.finfo(x.dtype).eps) * float(np.max(np.abs(nodes)))
    inside = (x >= float(nodes[0]) - slack) & (x <= float(nodes[-1]) + slack)
    if len(nodes) == 1:
        return xp.zeros(x.shape, dtype=int), xp.zeros_like(x), inside
    nodes = xp.asarray(nodes, dtype=x.dtype)
    lower = xp.clip(xp.searchsorted(nodes, x, side="right") - 1, 0, len(nodes) - 2)
    lower = lower.astype(int)
    fraction = (x - nodes[lower]) / (nodes[lower + 1] - nodes[lower])
    return lower, xp.clip(xp.where(inside, fraction, 0.0), 0.0, 1.0), inside


def blend(stencil: Stencil, table: Any) -> Any:
    """Weighted mean of the rows of a table (model,) or (model, column) over the corners."""
    xp = namespace(stencil, table)
    total: Any = 0.0
    for row, weight in zip(stencil.rows, stencil.weights):
        value = xp.asarray(table)[row].astype(float)
        weight = weight[..., None] if value.ndim > row.ndim else weight
        total = total + weight * xp.where(weight > 0, value, 0.0)  # a hole may hold a NaN
    return total
