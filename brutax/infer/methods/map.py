"""The maximum of the posterior density, by L-BFGS of optax from many starts at once.

The density is that in the parameters themselves; only the search runs over the flat vector z.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PRNGKeyArray, PyTree

from brutax.infer.checkpoint import Session, unpack
from brutax.infer.gaussian import climb, gaussian_at
from brutax.infer.loop import Draws, Step, begin, drive
from brutax.infer.method import AbstractMethod
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Density, Problem
from brutax.utils.diagnostics import GOOD_K, pareto_k

SAME = 0.01  # ln density within which two starts have found the same height
AGREE = 0.25  # share of the starts that must find the highest maximum
N_MEDIAN = 1001  # prior draws whose median is taken where there is no inverse CDF
CLIMB = 50  # iterations at most from one maximum to the other
LEAST_EFFECTIVE = 0.1  # effective draws per draw below which a normal distribution is no likeness

CURVATURES = ("hessian", "differences")


@dataclass(frozen=True)
class MAP(AbstractMethod):
    """Starts, iterations of each, and draws from the normal distribution at the maximum.

    The first start is `start`: "prior" (a draw, as all others), "median" of the prior, or values
    of the free parameters, a dictionary or in a row. With `num_draws` the posterior is
    approximated by a normal distribution in z, at the maximum there, and draws from it are
    weighted by the exact density: they, and the evidence, are right where the approximation is
    poor, only less well known. Its `curvature` is the Hessian, or from "differences" of gradients
    over half a standard deviation: for densities that can be differentiated once only, or that are
    not quite smooth.
    """

    name: ClassVar[str] = "map"
    needs_gradient: ClassVar[bool] = True
    side_by_side: ClassVar[bool] = True
    free: ClassVar[tuple[str, ...]] = ("chunk",)

    num_starts: int = 16
    num_steps: int = 200
    num_tries: int = 0  # prior draws of which the starts are the best; 0: as many as starts
    start: Any = "prior"
    num_draws: int = 0
    curvature: str = "hessian"
    chunk: int = 50  # iterations between visits of the host; changes no bit

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)

    def run_many(
        self, problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session
    ) -> list[Posterior]:
        return _run_many(problem, keys, data, session, self)


def height(out: Density) -> Any:
    """ln of the posterior density per unit of the parameters."""
    return out.log_likelihood + out.log_prior


def _depth(z: Array, data: PyTree, problem: Problem, target: Callable[..., Any]) -> Any:
    return -target(problem.density(z, data))


def _init(
    key: PRNGKeyArray,
    data: PyTree,
    problem: Problem,
    options: Any,
    first: Array | np.ndarray | None,
) -> Any:
    tries = max(options.num_starts, getattr(options, "num_tries", 0))
    z = jax.vmap(problem.sample_real)(jax.random.split(key, tries))
    if tries > options.num_starts:
        heights = jax.lax.map(lambda z: height(problem.density(z, data)), z)
        z = z[jax.lax.top_k(jnp.nan_to_num(heights, nan=-jnp.inf), options.num_starts)[1]]
    if first is not None:
        z = z.at[0].set(first)
    return z, jax.vmap(optax.lbfgs().init)(z), jnp.zeros((), jnp.int32)


def first_start(problem: Problem, given: Any) -> Any:
    """The flat vector that a search begins at, None for a draw from the prior."""
    prior = problem.prior
    if isinstance(given, str):
        if given == "prior":
            return None
        if given != "median":
            raise ValueError(f"start is 'prior', 'median' or values, found '{given}'")
        if not prior.without_icdf:
            return prior.to_real(prior.from_cube(jnp.full(prior.size, 0.5)))
        draws = jax.vmap(problem.sample_real)(jax.random.split(jax.random.key(0), N_MEDIAN))
        return jnp.median(draws, axis=0)
    if not isinstance(given, dict):
        row, given = np.ravel(np.asarray(given, float)), {}
        sizes = [int(np.prod(free.shape)) for free in prior.free.values()]
        if len(row) != sum(sizes):
            raise ValueError(f"{len(row)} values to start from, for {sum(sizes)} free parameters")
        for (name, free), part in zip(
            prior.free.items(), np.split(row, np.cumsum(sizes)[:-1]), strict=True
        ):
            given[name] = part.reshape(free.shape)
    missing = [name for name in prior.free if name not in given]
    if missing:
        raise ValueError(f"nothing to start {', '.join(missing)} from")
    z = np.asarray(prior.to_real(given))
    if not np.isfinite(z).all():
        raise ValueError(f"the start {given} is outside the prior, or at its edge")
    return z


def _advance(
    state: PyTree, data: PyTree, problem: Problem, options: Any, target: Callable[..., Any]
) -> Any:
    depth = functools.partial(_depth, data=data, problem=problem, target=target)
    search = optax.lbfgs()

    def move(z: Array, memory: PyTree) -> tuple[Any, Any]:
        value, grad = optax.value_and_grad_from_state(depth)(z, state=memory)
        update, memory = search.update(grad, memory, z, value=value, grad=grad, value_fn=depth)
        new: Any = optax.apply_updates(z, update)
        return jnp.where(jnp.isfinite(depth(new)), new, z), memory

    def step(_: object, state: PyTree) -> Any:
        z, memory, n = state
        if problem.in_turn:
            new = jax.lax.map(lambda one: move(*one), (z, memory))
        else:
            new = jax.vmap(move)(z, memory)
        z, memory = jax.lax.cond(n < options.num_steps, lambda: new, lambda: (z, memory))
        return z, memory, n + 1

    return jax.lax.fori_loop(0, options.chunk, step, state)


def search(
    problem: Problem, key: PRNGKeyArray, session: Session, options: Any, target: Callable[..., Any]
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    """The flat vector of the highest `target` that any start found, numbers and warnings."""
    first = first_start(problem, options.start)
    init = jax.jit(functools.partial(_init, problem=problem, options=options, first=first))
    advance = jax.jit(functools.partial(_advance, problem=problem, options=options, target=target))
    state, draws = begin(session, init, key, problem.data)
    depth = functools.partial(_depth, data=problem.data, problem=problem, target=target)
    depths = jax.jit(jax.vmap(jax.value_and_grad(depth)))

    def step(state: PyTree, _: Draws) -> Step:
        state = advance(state, problem.data)
        done = min(int(state[2]), options.num_steps)

        def numbers() -> dict[str, Any]:
            return {
                "evaluations": done * options.num_starts,
                "height": -float(np.nanmin(np.asarray(depths(state[0])[0]))),
            }

        return Step(state, {}, done, options.num_steps, numbers, done >= options.num_steps)

    if int(state[2]) < options.num_steps:
        state = drive(session, state, draws, step)
    return best_start(state[0], depths, options)


def _run_many(
    problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session, options: MAP
) -> list[Posterior]:
    """As `run`, for all items of the data side by side."""
    if options.num_draws:
        raise ValueError("num_draws= is for one fit")
    return search_many("map", problem, keys, data, session, options, height)


def search_many(
    method: str,
    problem: Problem,
    keys: PRNGKeyArray,
    data: PyTree,
    session: Session,
    options: Any,
    target: Callable[..., Any],
) -> list[Posterior]:
    first = first_start(problem, options.start)
    start = functools.partial(_init, problem=problem, options=options, first=first)
    init = jax.jit(jax.vmap(start))
    one = functools.partial(_advance, problem=problem, options=options, target=target)
    # steps are counted once for all, so that nothing runs past the end
    advance = jax.jit(
        jax.vmap(lambda z, memory, n, data: one((z, memory, n), data), in_axes=(0, 0, None, 0),
                 out_axes=(0, 0, None))
    )  # fmt: skip
    saved = session.load()
    state = init(keys, data) if saved is None else None
    if state is None:
        state, _ = unpack(saved or {}, jax.eval_shape(init, keys, data))
    z, memory, count = state
    done = int(np.max(np.asarray(count)))
    while done < options.num_steps:
        z, memory, n = advance(z, memory, jnp.asarray(done, jnp.int32), data)
        done = min(int(n), options.num_steps)
        calls = done * options.num_starts * len(keys)
        session.report(done, options.num_steps, lambda calls=calls: {"evaluations": calls})
        state = z, memory, jnp.full_like(count, int(n))
        session.tick(state, {}, done=done >= options.num_steps)

    def depth(z: Array, data: PyTree) -> Any:
        return _depth(z, data, problem, target)

    depths = jax.jit(jax.vmap(jax.value_and_grad(depth), in_axes=(0, None)))
    return [
        point(method, item, *best_start(z[k], lambda z: depths(z, item.data), options))  # noqa: B023
        for k, item in enumerate(problem.split(data))
    ]


def best_start(
    z: Array, depths: Callable[..., Any], options: Any
) -> tuple[Any, dict[str, Any], tuple[str, ...]]:
    value, grad = depths(z)
    value = np.nan_to_num(-np.asarray(value, np.float64), nan=-np.inf)
    at = int(np.argmax(value))
    agree = int(np.sum(value > value[at] - SAME))
    stats: dict[str, Any] = {
        "starts": options.num_starts,
        "starts_agree": agree,
        "gradient": float(np.linalg.norm(np.asarray(grad)[at])),
        "heights": value,
        "evaluations": options.num_starts * options.num_steps,
    }
    warnings = ()
    if agree < max(AGREE * options.num_starts, 2):
        warnings = (
            f"{agree} of {options.num_starts} starts found the highest maximum; "
            "there may be others",
        )
    return z[at], stats, warnings


def point(
    method: str, problem: Problem, z: Array, stats: Any, warnings: Sequence[str]
) -> Posterior:
    """A posterior of one draw."""
    table = problem.evaluate(z[None])
    return Posterior(
        method,
        table.params,
        np.ones(1),
        table.log_likelihood,
        table.log_prior,
        stats=stats,
        warnings=tuple(warnings),
    )


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: MAP) -> Posterior:
    if options.curvature not in CURVATURES:
        raise ValueError(f"curvature is {' or '.join(CURVATURES)}, found '{options.curvature}'")
    z, stats, warnings = search(problem, key, session, options, height)
    if not options.num_draws:
        return point("map", problem, z, stats, warnings)
    return _laplace(problem, jax.random.fold_in(key, 1), z, options, stats, warnings)


def _by_differences(height: Callable[..., Any], z: Array) -> tuple[Any, Any]:
    """The maximum near z, and a root of the covariance there."""
    found = gaussian_at(height, climb(height, z, CLIMB)[0])
    return found.mean, found.scale


def _laplace(
    problem: Problem,
    key: PRNGKeyArray,
    z: Array,
    options: MAP,
    stats: dict[str, Any],
    warnings: Sequence[str],
) -> Posterior:
    """Weighted draws from the normal distribution at the maximum of the density in z."""
    mode = z

    def depth(z: Array) -> Any:
        return -problem.density(z, problem.data).log_target

    def newton(_: object, z: Array) -> Any:
        step = jnp.linalg.solve(jax.hessian(depth)(z), jax.grad(depth)(z))
        for shrink in (1.0, 0.3, 0.1):
            new = z - shrink * step
            z = jnp.where(depth(new) < depth(z), new, z)
        return z

    # from the maximum in the parameters to that in z, which is near
    if options.curvature == "differences":
        centre, root = jax.jit(_by_differences, static_argnums=0)(lambda z: -depth(z), z)
        root = np.asarray(root, np.float64)
    else:
        centre = jax.jit(lambda z: jax.lax.fori_loop(0, 20, newton, z))(z)
        hessian = np.asarray(jax.jit(jax.hessian(depth))(centre), np.float64)
        try:
            root = np.linalg.cholesky(np.linalg.inv(hessian))
        except np.linalg.LinAlgError:
            raise ValueError(
                "the density has no normal shape at its maximum (the Hessian is not positive): it "
                "is flat there, or at a bound; use a sampler"
            ) from None
    half_det = float(np.linalg.slogdet(root)[1])
    normal = np.asarray(jax.random.normal(key, (options.num_draws, len(centre))), np.float64)
    log_normal = -0.5 * np.sum(normal**2 + np.log(2 * np.pi), axis=1)
    log_normal = log_normal - half_det
    draws = jnp.asarray(np.asarray(centre) + normal @ root.T, centre.dtype)
    log_target = np.asarray(jax.jit(jax.vmap(lambda z: -depth(z)))(draws), np.float64)
    log_weight = np.where(np.isfinite(log_target), log_target - log_normal, -np.inf)
    top = np.max(log_weight)
    weights = np.exp(log_weight - top)
    effective = float(np.sum(weights) ** 2 / np.sum(weights**2))
    mean = np.mean(weights)
    laplace = -float(depth(centre)) + 0.5 * len(centre) * np.log(2 * np.pi) + half_det
    tail = float(pareto_k(jnp.asarray(log_weight - top)))
    stats = stats | {"laplace_logz": float(laplace), "pareto_k": tail}
    if effective < LEAST_EFFECTIVE * options.num_draws:
        warnings = (
            *warnings,
            f"{options.num_draws} draws at the maximum are {effective:.0f} effective draws: the "
            "posterior is not normal; use a sampler",
        )
    elif tail > GOOD_K:
        warnings = (
            *warnings,
            f"the weights of draws at the maximum have a long tail (Pareto index {tail:.2f}): the "
            "posterior reaches farther than a normal distribution; use a sampler",
        )
    # the maximum itself comes first, without weight, so that it is the best draw
    table = problem.evaluate(jnp.concatenate([mode[None], draws]))
    return Posterior(
        "map",
        table.params,
        np.concatenate([[0.0], weights / weights.sum()]),
        table.log_likelihood,
        table.log_prior,
        logz=float(top + np.log(mean)),
        logz_err=float(np.std(weights) / mean / np.sqrt(options.num_draws)),
        stats=stats,
        warnings=tuple(warnings),
    )
