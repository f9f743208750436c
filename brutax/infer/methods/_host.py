"""What samplers outside JAX share: densities of batches of points, seeds, replay, extras."""

import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from brutax.infer.checkpoint import CheckpointError, Session
from brutax.infer.problem import Problem


def need(package: str, extra: str) -> Any:
    """An optional package, or an ImportError that names the extra."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f"this needs {package}: pip install 'brutax[{extra}]'") from error


def seed_words(key: PRNGKeyArray) -> list[int]:
    """A JAX key as seed of NumPy's generators."""
    return [int(word) for word in np.ravel(np.asarray(jax.random.key_data(key)))]


class Points:
    """Densities of a problem at batches of points, as float64 on the host.

    Batches are padded to powers of two, so that few sizes are compiled. NaN counts as impossible.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._like = jax.jit(jax.vmap(self._like_of_cube, in_axes=(0, None)))
        self._target = jax.jit(jax.vmap(self._target_of_real, in_axes=(0, None)))
        self._like_real = jax.jit(jax.vmap(self._like_of_real, in_axes=(0, None)))
        self._prior_real = jax.jit(jax.vmap(self._prior_of_real))
        self._to_real = jax.jit(jax.vmap(self._real_of_cube))
        self.evaluations = 0

    def _inside(self, u: Array) -> Any:
        eps = jnp.finfo(u.dtype).eps
        return jnp.clip(u, eps, 1.0 - eps)  # at 0 and 1 parameters may be infinite

    def _like_of_cube(self, u: Array, data: PyTree) -> Any:
        params = self._problem.prior.from_cube(self._inside(u))
        factor = self._problem.prior.log_factor(params)
        return self._problem.log_likelihood(params, data) + factor

    def _like_of_real(self, z: Array, data: PyTree) -> Any:
        params, _, _ = self._problem.prior.from_real(z)
        factor = self._problem.prior.log_factor(params)
        return self._problem.log_likelihood(params, data) + factor

    def _prior_of_real(self, z: Array) -> Any:
        _, log_base, log_jacobian = self._problem.prior.from_real(z)
        return log_base + log_jacobian

    def _target_of_real(self, z: Array, data: PyTree) -> Any:
        return self._problem.density(z, data).log_target

    def _real_of_cube(self, u: Array) -> Any:
        return self._problem.prior.to_real(self._problem.prior.from_cube(self._inside(u)))

    def _padded(self, function: Callable[..., Any], x: np.ndarray, *data: PyTree) -> np.ndarray:
        n = len(x)
        size = 1 << max(n - 1, 0).bit_length()
        x = np.concatenate([x, np.broadcast_to(x[:1], (size - n, *x.shape[1:]))])
        return np.asarray(function(jnp.asarray(x, float), *data), np.float64)[:n]

    def like(self, u: np.ndarray) -> np.ndarray:
        """Log-likelihood at points of the unit cube (point, size), with what brutax priors add."""
        self.evaluations += len(u)
        return _possible(self._padded(self._like, u, self._problem.data))

    def target(self, z: np.ndarray) -> np.ndarray:
        """Posterior density at flat vectors (point, size), per unit of these."""
        self.evaluations += len(z)
        return _possible(self._padded(self._target, z, self._problem.data))

    def like_real(self, z: np.ndarray) -> np.ndarray:
        """As `like`, at flat vectors."""
        self.evaluations += len(z)
        return _possible(self._padded(self._like_real, z, self._problem.data))

    def prior_real(self, z: np.ndarray) -> np.ndarray:
        """Density of the base measure at flat vectors, per unit of these."""
        return _possible(self._padded(self._prior_real, z))

    def to_real(self, u: np.ndarray) -> np.ndarray:
        """Flat vectors of points of the unit cube."""
        return self._padded(self._to_real, u)


def _possible(values: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(values), -np.inf, values)


class Replay:
    """Log-likelihoods that a seeded sampler asked for, kept in order.

    A sampler whose own state is not written continues by running again from its seed, with the
    answers it had before, up to where it was; every point must be the same bit for bit.
    """

    def __init__(self, session: Session, size: int) -> None:
        self._session = session
        saved = session.load() or {}
        self._points = saved.get("draws/points", np.empty((0, size)))
        self._values = saved.get("draws/values", np.empty(0))
        self.known = len(self._values)
        self.asked = 0  # points so far

    def __call__(self, function: Callable[..., Any], points: np.ndarray) -> np.ndarray:
        """`function` of points (point, size), or what it was."""
        first, last = self.asked, self.asked + len(points)
        split = int(np.clip(self.known - first, 0, len(points)))
        if split and not np.array_equal(points[:split], self._points[first : first + split]):
            raise CheckpointError(
                f"{self._session.path} cannot be continued: the sampler asks for other points than "
                "it did (another version of it, or another machine); delete the file to start anew"
            )
        if split < len(points):
            new = function(points[split:])
            self._reserve(last)
            self._points[first + split : last] = points[split:]
            self._values[first + split : last] = new
        self.asked = last
        return self._values[first:last].copy()

    def _reserve(self, n: int) -> None:
        if n > len(self._values):
            more = max(2 * len(self._values), n, 1024) - len(self._values)
            self._values = np.concatenate([self._values, np.empty(more)])
            self._points = np.concatenate([self._points, np.empty((more, self._points.shape[1]))])

    def tick(self, done: bool = False) -> None:
        """Saves when it is time, and stops when asked to."""
        self._session.tick((), self._pieces, done=done)

    def _pieces(self) -> dict[str, list[np.ndarray]]:
        n = max(self.asked, self.known)
        return {"points": [self._points[:n]], "values": [self._values[:n]]}
