"""Fitted smooth forms other than splines, and how all are evaluated: for `compare_forms.py`."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from _lattice import apply
from jaxtyping import Array, Float
from numpy.polynomial.chebyshev import chebvander
from scipy.sparse.linalg import LinearOperator, cg

WIDTH, DEPTH, BATCH, RATE = 128, 4, 4096, 2e-3
RIDGE = 1e-6
BLOCK = 5000  # points evaluated at a time


class Form(NamedTuple):
    """A fitted form: one function, or one per piece of the second axis."""

    parts: list[Any]
    edges: tuple[int, ...]
    coefficients: int  # as stored


class Series(eqx.Module):
    """A tensor Chebyshev series on a box."""

    box: Float[Array, "2 axis"]
    coef: Float[Array, "a b c output"]

    def __call__(self, *x: Float[Array, ""]) -> Float[Array, " output"]:
        out = self.coef
        for value, low, high in zip(x, *self.box):
            scaled = 2.0 * (value - low) / (high - low) - 1.0
            terms = [jnp.ones_like(scaled), scaled]
            while len(terms) < out.shape[0]:
                terms.append(2.0 * scaled * terms[-1] - terms[-2])
            out = jnp.tensordot(jnp.stack(terms), out, axes=1)
        return out


def train_network(x: np.ndarray, y: np.ndarray, steps: int) -> eqx.nn.MLP:
    """A perceptron from points (point, axis) to values (point, output).

    Adam with cosine decay on the mean absolute deviation, in random batches for a fixed number of
    steps; the scales of inputs and outputs end up in the first and last layer.
    """
    low, half = x.min(axis=0), 0.5 * np.ptp(x, axis=0)
    centre, scale = y.mean(axis=0), y.std(axis=0)
    inputs, want = jnp.asarray((x - low) / half - 1.0, float), jnp.asarray((y - centre) / scale)
    mlp = eqx.nn.MLP(3, y.shape[1], WIDTH, DEPTH, jax.nn.silu, key=jax.random.key(0))
    weights, rest = eqx.partition(mlp, eqx.is_array)
    adam = optax.adam(optax.cosine_decay_schedule(RATE, steps))

    def loss(weights, batch):
        out = jax.vmap(eqx.combine(weights, rest))(inputs[batch])
        return jnp.mean(jnp.abs(out - want[batch]))

    def step(carry, key):
        weights, state = carry
        slope = jax.grad(loss)(weights, jax.random.randint(key, (BATCH,), 0, len(inputs)))
        change, state = adam.update(slope, state)
        return (optax.apply_updates(weights, change), state), None

    keys = jax.random.split(jax.random.key(1), steps)
    weights = jax.jit(lambda w: jax.lax.scan(step, (w, adam.init(w)), keys)[0][0])(weights)
    first, last = weights.layers[0], weights.layers[-1]
    units = (first.weight / half, first.bias - first.weight @ (low / half + 1.0))
    units += (last.weight * scale[:, None], last.bias * scale + centre)

    def ends(mlp):
        return [x for k in (0, -1) for x in (mlp.layers[k].weight, mlp.layers[k].bias)]

    weights = eqx.tree_at(ends, weights, [jnp.asarray(one, float) for one in units])
    return eqx.combine(jax.block_until_ready(weights), rest)


def fit_series(
    axes: Sequence[np.ndarray], value: np.ndarray, seen: np.ndarray, degrees: Sequence[int]
) -> Series:
    """The series closest to values (*axes, output) at seen nodes.

    Least squares by conjugate gradients, in a basis that is orthonormal over all nodes.
    """
    box = np.array([[x[0] for x in axes], [x[-1] for x in axes]])
    scaled = [2.0 * (x - low) / (high - low) - 1.0 for x, low, high in zip(axes, *box)]
    pairs = [np.linalg.qr(chebvander(x, degree)) for x, degree in zip(scaled, degrees)]
    there, back = [q for q, _ in pairs], [q.T for q, _ in pairs]
    weight = seen[..., None].astype(float)
    right = apply(back, np.where(seen[..., None], value, 0.0))

    def normal(flat: np.ndarray) -> np.ndarray:
        coef = flat.reshape(*right.shape[:3], 1)
        return (apply(back, weight * apply(there, coef)) + RIDGE * coef).ravel()

    matrix = LinearOperator((right[..., 0].size,) * 2, normal)
    each = [right[..., k].ravel() for k in range(right.shape[-1])]
    coef = np.stack([cg(matrix, one, rtol=1e-7, maxiter=300)[0] for one in each], axis=-1)
    coef = apply([np.linalg.inv(r) for _, r in pairs], coef.reshape(right.shape))
    return Series(jnp.asarray(box, float), jnp.asarray(coef, float))


@eqx.filter_jit
def look(part: Any, points: Array, slope: bool = False) -> Array:
    """Values at points (point, axis), or slopes along the axes."""

    def value(x):
        return part(x) if isinstance(part, eqx.nn.MLP) else part(*x)

    return jax.lax.map(jax.jacfwd(value) if slope else value, points, batch_size=BLOCK)


def exactly(form: Form, points: np.ndarray, slope: bool = False) -> np.ndarray:
    """The same in float64, to see the form and not its rounding."""
    which, out = np.searchsorted(form.edges, points[:, 1], side="right"), None
    with jax.enable_x64(True):
        for k, part in enumerate(form.parts):
            wide = jax.tree.map(lambda w: w.astype(float) if eqx.is_array(w) else w, part)
            found = np.asarray(look(wide, jnp.asarray(points[which == k]), slope))
            out = np.empty((len(points), *found.shape[1:])) if out is None else out
            out[which == k] = found
    return out
