"""Tensor-product B-splines: the smooth form in which the shipped stellar models are fitted.

A function of a few variables is f(x, y, …) = Σ c_ij… B_i(x) B_j(y) …, with cubic B-splines B on
knots of any spacing (de Boor 1978, *A Practical Guide to Splines*). It is twice continuously
differentiable where knots are simple, costs 4 weights per variable, and reads only the few
coefficients next to the point, so that a table of models evaluates at the speed of memory.
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from brutax.utils._namespace import as_float

DEGREE = 3  # cubic


class Local(NamedTuple):
    """The basis functions that do not vanish at a point."""

    first: Int[Array, ""]  # index of the first of them
    weight: Float[Array, " 4"]


def local_basis(knots: Float[Array, " knot"], x: Float[Array, ""]) -> Local:
    """Values of the four cubic B-splines that are not zero at `x`.

    `knots` is the full knot vector (its ends repeated four times, as SciPy writes it); outside the
    first and last knot the nearest polynomial piece continues. De Boor's recurrence; repeated
    knots inside are allowed.
    """
    count = knots.shape[0] - DEGREE - 1
    span = jnp.clip(jnp.searchsorted(knots, x, side="right") - 1, DEGREE, count - 1)
    weights = [jnp.ones_like(x)]
    for degree in range(1, DEGREE + 1):
        raised = [jnp.zeros_like(x)] * (degree + 1)
        for k in range(degree):
            low, high = knots[span - degree + 1 + k], knots[span + 1 + k]
            share = weights[k] / (high - low)  # the span itself is never empty
            raised[k] = raised[k] + (high - x) * share
            raised[k + 1] = raised[k + 1] + (x - low) * share
        weights = raised
    return Local(span - DEGREE, jnp.stack(weights))


class TensorSpline(eqx.Module):
    """A cubic tensor-product spline with one or more outputs.

    Call it with one scalar per axis; map over points outside. `coef` has one axis per variable
    and a last axis of outputs.
    """

    knots: tuple[Float[Array, " _"], ...]
    coef: Float[Array, "*basis output"]

    def __init__(self, knots, coef):
        self.knots = tuple(as_float(knot) for knot in knots)
        self.coef = as_float(coef)

    def __check_init__(self):
        basis = tuple(knot.shape[0] - DEGREE - 1 for knot in self.knots)
        if self.coef.shape[:-1] != basis:
            raise ValueError(f"coefficients {self.coef.shape[:-1]} for basis functions {basis}")

    def __call__(self, *x: Float[Array, ""]) -> Float[Array, " output"]:
        """The outputs at one point."""
        local = [local_basis(knot, value) for knot, value in zip(self.knots, x, strict=True)]
        block = self._block([at.first for at in local])
        for at in local:
            block = jnp.tensordot(at.weight, block, axes=1)
        return block

    def with_slopes(
        self, *x: Float[Array, ""]
    ) -> tuple[Float[Array, " output"], tuple[Float[Array, " output"], ...]]:
        """The outputs at one point and their derivatives along every axis."""
        pairs = [
            jax.jvp(lambda y, knot=knot: local_basis(knot, y), (value,), (jnp.ones_like(value),))
            for knot, value in zip(self.knots, x, strict=True)
        ]
        block = self._block([at.first for at, _ in pairs])
        found = []
        for axis in range(len(pairs) + 1):  # the last is the value itself
            one = block
            for k, (at, slope) in enumerate(pairs):
                one = jnp.tensordot((slope if k == axis else at).weight, one, axes=1)
            found.append(one)
        return found[-1], tuple(found[:-1])

    def _block(self, first: list[Int[Array, ""]]) -> Float[Array, "*basis output"]:
        index = tuple(
            (at + jnp.arange(DEGREE + 1, dtype=at.dtype)).reshape(
                [-1 if a == axis else 1 for a in range(len(first))]
            )
            for axis, at in enumerate(first)
        )
        return self.coef[index]


def design_matrix(knots: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Every basis function at every point, (point, basis), in float64 on the host."""
    from scipy.interpolate import BSpline

    inside = np.clip(x, knots[DEGREE], knots[-DEGREE - 1])
    return BSpline.design_matrix(inside, knots, DEGREE).toarray()


def clamped_knots(breaks: np.ndarray) -> np.ndarray:
    """A full knot vector from break points (repeats allowed): the ends repeated four times."""
    breaks = np.asarray(breaks, float)
    if np.any(np.diff(breaks) < 0):
        raise ValueError("break points of a spline must increase")
    return np.concatenate([[breaks[0]] * DEGREE, breaks, [breaks[-1]] * DEGREE])
