"""Splines by their cells: between two knots each is a cubic of the place there."""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from brutax.models.spline import DEGREE, design_matrix
from brutax.utils._namespace import as_float

MOST_GUIDES = 4096  # even steps of the table by which cells are found


class Place(NamedTuple):
    """Where points are along an axis."""

    cell: Int[Array, " point"]
    share: Float[Array, " point"]  # of the cell, from 0 to 1; beyond in the first and last


class Cells(eqx.Module):
    """The cells between rising nodes, found without a search.

    A table of even steps, none of which holds more than a few nodes, says where to begin.
    """

    nodes: Float[Array, " node"]
    guide: Int[Array, " step"]  # the cell that a step begins in
    per_unit: Float[Array, ""]  # steps
    most: int = eqx.field(static=True)  # nodes in one step

    def __init__(self, nodes: np.ndarray):
        nodes = np.asarray(nodes, np.float64)
        span, gap = nodes[-1] - nodes[0], np.min(np.diff(nodes))
        count = int(min(np.ceil(span / gap), MOST_GUIDES))
        step = span / count
        edge = nodes[0] + step * (np.arange(count + 1) - 0.01)  # rounding may miss by a hair
        cell = np.clip(np.searchsorted(nodes, edge, side="right") - 1, 0, nodes.size - 2)
        after = nodes[0] + step * (np.arange(count) + 1.01)
        last = np.clip(np.searchsorted(nodes, after, side="right") - 1, 0, nodes.size - 2)
        self.nodes = as_float(nodes)
        self.guide = jnp.asarray(cell[:-1], jnp.int32)
        self.per_unit = as_float(1.0 / step)
        self.most = int(np.max(last - cell[:-1]))

    @property
    def width(self) -> Float[Array, " cell"]:
        """Widths of the cells."""
        return jnp.diff(self.nodes)

    def find(self, x: Float[Array, " point"]) -> Int[Array, " point"]:
        """The cell of every point."""
        x = lax.stop_gradient(x)
        step = jnp.clip((x - self.nodes[0]) * self.per_unit, 0, self.guide.shape[0] - 1)
        cell = self.guide[step.astype(jnp.int32)]
        last = self.nodes.shape[0] - 2
        for _ in range(self.most):
            cell = jnp.minimum(cell + (x >= self.nodes[cell + 1]).astype(jnp.int32), last)
        return cell

    def place(self, x: Float[Array, " point"], cell: Int[Array, " point"] | None = None) -> Place:
        """Where points are, in `cell` if that is known."""
        cell = self.find(x) if cell is None else cell
        low = self.nodes[cell]
        return Place(cell, (x - low) / (self.nodes[cell + 1] - low))


class Basis(NamedTuple):
    """The four functions that do not vanish at every point."""

    first: Int[Array, " point"]
    weight: Float[Array, "point 4"]


class Cubics(eqx.Module):
    """The cubic B-splines along an axis."""

    cells: Cells  # between the knots, each counted once
    first: Int[Array, " cell"]  # the first of the four functions of a cell
    powers: Float[Array, "cell 4 4"]  # these functions, by powers of the place in the cell

    def __init__(self, knots: np.ndarray):
        knots = np.asarray(knots, np.float64)
        span = np.flatnonzero(np.diff(knots) > 0)
        low, width = knots[span, None], np.diff(knots)[span, None]
        place = (np.arange(DEGREE + 1) + 0.5) / (DEGREE + 1)  # where the functions are looked up
        basis = design_matrix(knots, (low + width * place).ravel()).reshape(len(span), 4, -1)
        own = np.take_along_axis(basis, (span - DEGREE)[:, None, None] + np.arange(4), axis=2)
        powers = np.linalg.solve(np.vander(place, increasing=True), own)
        self.cells = Cells(knots[np.append(span, span[-1] + 1)])
        self.first = jnp.asarray(span - DEGREE, jnp.int32)
        self.powers = as_float(np.swapaxes(powers, 1, 2))

    def basis(self, at: Place) -> Basis:
        """The functions at points."""
        p, t = self.powers[at.cell], at.share[:, None]
        weight = p[:, :, 0] + t * (p[:, :, 1] + t * (p[:, :, 2] + t * p[:, :, 3]))
        return Basis(self.first[at.cell], weight)

    def slopes(self, at: Place) -> Float[Array, "point 4"]:
        """Their derivatives."""
        p, t = self.powers[at.cell], at.share[:, None]
        slope = p[:, :, 1] + t * (2.0 * p[:, :, 2] + t * (3.0 * p[:, :, 3]))
        return slope / self.cells.width[at.cell][:, None]

    def inside(
        self, cell: Int[Array, " point"], local: Float[Array, "point basis"]
    ) -> Float[Array, "power point"]:
        """The cubics of some cells from the coefficients of their four functions."""
        return jnp.einsum("xkp,xk->px", self.powers[cell], local, precision="highest")


def four(first: Int[Array, " x"]) -> Int[Array, "x 4"]:
    """The four functions of every point."""
    return first[:, None] + jnp.arange(DEGREE + 1, dtype=first.dtype)[None, :]


def taken(coef: Float[Array, "basis other"], at: Basis) -> Float[Array, "x other"]:
    """Splines with coefficients along the first axis, at points."""
    return jnp.einsum("xk,xko->xo", at.weight, coef[four(at.first)], precision="highest")


def blocks(
    coef: Float[Array, "first second other"], first: Int[Array, " x"], second: Int[Array, " x"]
) -> Float[Array, "x 16 other"]:
    """The coefficients of four times four functions at every point, rows copied as they lie."""
    rows = four(first)[:, :, None] * coef.shape[1] + four(second)[:, None, :]
    flat = coef.reshape(-1, coef.shape[2])
    found = flat.at[rows.ravel()].get(mode="promise_in_bounds")
    return found.reshape(first.shape[0], 16, coef.shape[2])


def crossed(x: Float[Array, "x 4"], y: Float[Array, "x 4"]) -> Float[Array, "x 16"]:
    """Weights of such blocks."""
    return (x[:, :, None] * y[:, None, :]).reshape(-1, 16)
