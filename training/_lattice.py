"""Least-squares tensor-product splines on a lattice of which some nodes carry no weight."""

from collections.abc import Sequence

import numpy as np

from brutax.models.spline import DEGREE, design_matrix


def fit_lattice(
    axes: Sequence[np.ndarray],
    knots: Sequence[np.ndarray],
    value: np.ndarray,
    seen: np.ndarray,
    roughness: Sequence[float],
    start: np.ndarray,
    steps: int = 200,
) -> np.ndarray:
    """Coefficients (basis, ..., output) of the spline that is closest to `value` where `seen`.

    Minimises the sum of squares over seen nodes plus, along every axis, `roughness` times that of
    the third divided differences of the coefficients over their Greville points: what is not
    seen is continued smoothly. Solved by conjugate gradients from `start` (values everywhere),
    preconditioned with the separable problem in which every node is seen.
    """
    design = [design_matrix(k, x) for k, x in zip(knots, axes, strict=True)]
    rough = [weight * third_differences(k) for k, weight in zip(knots, roughness, strict=True)]
    weight = seen.astype(value.dtype)[..., None]
    target = np.where(seen[..., None], value, 0.0)
    inverse = []
    for matrix, penalty in zip(design, rough):
        gram = matrix.T @ matrix + penalty + 1e-9 * np.eye(matrix.shape[1])
        inverse.append(np.linalg.inv(gram).astype(value.dtype))
    design = [matrix.astype(value.dtype) for matrix in design]
    rough = [matrix.astype(value.dtype) for matrix in rough]

    def normal(coef: np.ndarray) -> np.ndarray:
        out = apply([m.T for m in design], weight * apply(design, coef))
        for axis, penalty in enumerate(rough):
            out += along(penalty, coef, axis)
        return out

    residual = apply([m.T for m in design], weight * target)
    coef = apply(inverse, apply([m.T for m in design], start))
    residual -= normal(coef)
    axes_of = tuple(range(residual.ndim - 1))
    ready = apply(inverse, residual)
    direction = ready.copy()
    size = np.sum(residual * ready, axis=axes_of)
    first = size
    for _ in range(steps):
        image = normal(direction)
        length = size / np.maximum(np.sum(direction * image, axis=axes_of), 1e-300)
        coef += length * direction
        residual -= length * image
        ready = apply(inverse, residual)
        new = np.sum(residual * ready, axis=axes_of)
        if np.all(new < 1e-12 * first):
            break
        direction = ready + (new / np.maximum(size, 1e-300)) * direction
        size = new
    return coef


def apply(matrices: Sequence[np.ndarray], table: np.ndarray) -> np.ndarray:
    """One matrix along each axis but the last."""
    for axis, matrix in enumerate(matrices):
        table = along(matrix, table, axis)
    return table


def along(matrix: np.ndarray, table: np.ndarray, axis: int) -> np.ndarray:
    """A matrix applied along an axis."""
    shape = table.shape
    if axis == 0:
        return (matrix @ table.reshape(shape[0], -1)).reshape(-1, *shape[1:])
    lead = int(np.prod(shape[:axis]))
    out = matrix @ table.reshape(lead, shape[axis], -1)  # broadcasts over the axes before
    return out.reshape(*shape[:axis], matrix.shape[0], *shape[axis + 1 :])


def third_differences(knots: np.ndarray) -> np.ndarray:
    """The quadratic form of third divided differences of coefficients, scaled to unit steps."""
    points = np.array(
        [knots[k + 1 : k + 1 + DEGREE].mean() for k in range(len(knots) - DEGREE - 1)]
    )
    rows = np.zeros((len(points) - 3, len(points)))
    for k in range(len(rows)):
        x = points[k : k + 4]
        gaps = x[:, None] - x[None, :] + np.eye(4)
        row = 1.0 / np.prod(gaps, axis=1) if np.all(np.abs(gaps) > 1e-12) else np.zeros(4)
        rows[k, k : k + 4] = row / max(np.abs(row).max(), 1e-300)
    return rows.T @ rows


def filled(
    axes: Sequence[np.ndarray], value: np.ndarray, seen: np.ndarray, order: Sequence[int]
) -> np.ndarray:
    """First guesses of what is not seen: linear along the axes in turn, constant beyond."""
    out = np.where(seen[..., None], value, np.nan)
    for axis in order:
        moved = np.moveaxis(out, axis, -1)
        flat = moved.reshape(-1, moved.shape[-1])
        for row in np.flatnonzero(np.isnan(flat).any(1) & np.isfinite(flat).any(1)):
            good = np.isfinite(flat[row])
            flat[row] = np.interp(axes[axis], axes[axis][good], flat[row][good])
        out = np.moveaxis(flat.reshape(moved.shape), -1, axis)
    return out
