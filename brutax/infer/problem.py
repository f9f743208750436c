"""A posterior to explore: prior, likelihood and data."""

import copy
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from brutax.infer.outputs import AbstractOutputs, Image, Table
from brutax.infer.prior import Prior
from brutax.utils.durable import digest

N_PROBES = 8  # prior draws at which a problem is checked and recognised
BATCH = 1024  # points side by side where there are many


class Density(NamedTuple):
    """The posterior density at one point."""

    params: dict[str, Any]
    log_likelihood: Any
    log_prior: Any  # per unit of the parameters
    log_target: Any  # likelihood x prior, per unit of the flat vector


class Check(NamedTuple):
    """What was found at prior draws: log-likelihood and log-prior (draw,)."""

    log_likelihood: np.ndarray
    log_prior: np.ndarray
    without_icdf: tuple[str, ...]  # parameters that methods on the unit cube cannot take
    dtype: str
    seconds: tuple[float, float]  # per call, one by one and side by side; NaN if not timed


class Points(NamedTuple):
    """Many points: all parameters (point, *shape), log-likelihood and log-prior (point,)."""

    params: dict[str, np.ndarray]
    log_likelihood: np.ndarray
    log_prior: np.ndarray


class Problem:
    """A prior, `log_likelihood(params, data)` in pure JAX, and data.

        log_likelihood = lambda params, data: -0.5 * (params["a"] - data) ** 2
        problem = infer.Problem({"a": dist.Normal(0, 1)}, log_likelihood, 0.3)

    `prior` is a dictionary (see `brutax.infer.prior`) or an `infer.Prior`.

    `params` is a dictionary of all parameters, free, tied and constant; `data` any pytree of
    arrays, given to compiled programs as an argument. `predict(params, data)` returns what a
    model looks like, an array or a dictionary of arrays; where `components` are named it takes
    `component=`, a tuple of names. One of `brutax.infer.AbstractOutputs` in its place also says
    what its outputs are. `null(data)` is the log-likelihood without any model.
    With `in_turn` chains and searches go one after the other: where a likelihood does not gain from
    `jax.vmap`.
    """

    def __init__(
        self,
        prior: Any,
        log_likelihood: Callable[[dict[str, Any], Any], Any],
        data: PyTree = None,
        predict: Callable[..., Any] | None = None,
        *,
        bounds: Mapping[str, Any] | None = None,
        components: tuple[str, ...] = (),
        null: Callable[[Any], Any] | None = None,
        in_turn: bool = False,
    ) -> None:
        self.prior = prior if isinstance(prior, Prior) else Prior(prior, bounds)
        self.log_likelihood = log_likelihood
        self.data = jax.tree.map(jnp.asarray, data)
        if isinstance(predict, AbstractOutputs):
            components = predict.components
        self.predict, self.components, self.null = predict, tuple(components), null
        self.in_turn = in_turn
        self._free = jax.jit(
            jax.vmap(lambda z: {k: self.prior.from_real(z)[0][k] for k in self.prior.free})
        )
        self._table = jax.jit(
            lambda z, data: jax.lax.map(
                lambda z: self.density(z, data), z, batch_size=min(BATCH, len(z))
            )
        )

    def with_data(self, data: PyTree) -> "Problem":
        """The same problem with other data, which shares its compiled programs."""
        other = copy.copy(self)
        other.data = jax.tree.map(jnp.asarray, data)
        return other

    def complete(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters from the free ones: ties and constants are added."""
        return self.prior.from_real(self.prior.to_real(params))[0]

    def free_params(self, z: Array) -> dict[str, Any]:
        """Free parameters at flat vectors (point, size), each (point, *shape)."""
        found = self._free(z)
        return {name: found[name] for name in self.prior.free}  # JAX sorts names

    def split(self, data: PyTree) -> "list[Problem]":
        """One problem per item of the leading axis of `data`."""
        n = {np.shape(leaf)[:1] for leaf in jax.tree.leaves(data)}
        if len(n) != 1 or () in n or (0,) in n:
            raise ValueError(f"data need one leading axis of items, found lengths {sorted(n)}")
        return [self.with_data(jax.tree.map(lambda x: x[k], data)) for k in range(*n.pop())]  # noqa: B023

    def evaluate(self, z: Array) -> Points:
        """Parameters and densities at flat vectors (point, size)."""
        out = self._table(z, self.data)
        params = {name: np.asarray(out.params[name]) for name in self.prior.names}
        return Points(params, np.asarray(out.log_likelihood), np.asarray(out.log_prior))

    def density(self, z: Array, data: PyTree) -> Density:
        """The posterior density at a flat vector z."""
        params, log_base, log_jacobian = self.prior.from_real(z)
        factor = self.prior.log_factor(params)
        log_like = self.log_likelihood(params, data)
        target = log_like + factor + log_base + log_jacobian
        return Density(params, log_like, log_base + factor, target)

    def sample_real(self, key: PRNGKeyArray) -> Any:
        """A draw from the base measure as a flat vector z."""
        return self.prior.to_real(self.prior.sample(key))

    def output_names(self) -> tuple[str, ...]:
        """Names of what `predict` returns."""
        predict = self._predict()
        if isinstance(predict, AbstractOutputs):
            return predict.names
        order: list[str] = []  # JAX would sort the names

        def names(key: PRNGKeyArray) -> None:
            params = self.prior.from_real(self.sample_real(key))[0]
            out = predict(params, self.data)
            order[:] = out.keys() if isinstance(out, Mapping) else ["model"]

        jax.eval_shape(names, jax.random.key(0))
        return tuple(order)

    def outputs(
        self, what: Sequence[str], component: tuple[str, ...] | None, options: Mapping[str, Any]
    ) -> Callable[[Mapping[str, Any]], dict[str, Any]]:
        """The function from free parameters to the outputs in `what`.

        `component` None is all of them; `options` go to `predict`.
        """
        predict = self._predict()
        given = dict(options)
        if isinstance(predict, AbstractOutputs):
            self.describe(what, component)
            given |= {"what": tuple(what), "component": component or predict.components}
        elif component is not None:
            if not self.components:
                raise ValueError("this problem names no components: Problem(..., components=...)")
            given["component"] = component
        accepted = inspect.signature(predict).parameters
        for name in given:
            if name not in accepted:
                raise TypeError(f"the problem's predict takes no '{name}'")

        def function(params: Mapping[str, Any]) -> dict[str, Any]:
            out = predict(self.complete(params), self.data, **given)
            out = out if isinstance(out, Mapping) else {"model": out}
            return {name: out[name] for name in what}

        return function

    def describe(
        self, what: Sequence[str], component: tuple[str, ...] | None
    ) -> dict[str, Table | Image | None]:
        """What outputs are, by name; None where `predict` does not say."""
        predict = self._predict()
        if not isinstance(predict, AbstractOutputs):
            return dict.fromkeys(what)
        return {name: predict.describe(name, component or predict.components) for name in what}

    def _predict(self) -> Callable[..., Any]:
        if self.predict is None:
            raise ValueError("this problem has no predict=: Problem(..., predict=...)")
        return self.predict

    def data_digest(self) -> str:
        leaves, structure = jax.tree.flatten(self.data)
        return digest(str(structure), *(np.asarray(leaf) for leaf in leaves))

    def check(self, *, gradient: bool = True, timed: bool = False) -> Check:
        """Looks at likelihood and `gradient` at prior draws; raises ValueError where they fail."""
        keys = jax.random.split(jax.random.key(0), N_PROBES)
        z = jax.vmap(self.sample_real)(keys)
        out, grad = _probe(z, self.data, self, gradient)
        log_like = np.asarray(out.log_likelihood)
        if log_like.shape != (N_PROBES,):
            raise ValueError(
                f"log_likelihood must return one number, found shape {log_like.shape[1:]}"
            )
        if np.any(np.isnan(log_like)) or np.any(log_like == np.inf):
            raise ValueError(f"log_likelihood at prior draws is NaN or +inf: {log_like}")
        if not np.any(np.isfinite(log_like)):
            raise ValueError(f"log_likelihood is -inf at all of {N_PROBES} prior draws")
        seen = np.isfinite(log_like) & np.isfinite(np.asarray(out.log_prior))
        bad = [
            name
            for name, free in self.prior.free.items()
            if gradient and not np.all(np.isfinite(np.asarray(grad)[seen, free.start : free.stop]))
        ]
        if bad:
            raise ValueError(
                f"the gradient with respect to {', '.join(bad)} is not finite where the "
                "log-likelihood is (make the input safe before jnp.where, not the output)"
            )
        return Check(
            log_like,
            np.asarray(out.log_prior),
            self.prior.without_icdf,
            str(z.dtype),
            self._seconds(z) if timed else (np.nan, np.nan),
        )

    def _seconds(self, z: Array) -> tuple[float, float]:
        """Time per call of the density, alone and `N_PROBES` side by side."""
        found = []
        for points in (z[:1], z):
            jax.block_until_ready(self._table(points, self.data))
            begin = time.perf_counter()
            for _ in range(3):
                jax.block_until_ready(self._table(points, self.data))
            found.append((time.perf_counter() - begin) / 3 / len(points))
        return found[0], found[1]


def _probe(z: Array, data: PyTree, problem: Problem, gradient: bool) -> tuple[Density, Any]:
    if not gradient:
        return jax.jit(jax.vmap(lambda z: problem.density(z, data)))(z), z

    def target(z: Array) -> tuple[Any, Density]:
        out = problem.density(z, data)
        return jnp.sum(out.log_target), out

    grad, out = jax.jit(jax.vmap(jax.grad(target, has_aux=True)))(z)
    return out, grad
