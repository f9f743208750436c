"""The No-U-Turn sampler of numpyro (Hoffman & Gelman 2014), chains side by side.

Every chain starts at its own draw from the prior, so that chains which end in different modes
disagree, which R-hat reports. Where gradients are dear, `start="map"` looks for the maximum first
and starts from the Gaussian about it, in whose coordinates the chains move: they need a short
warm-up and short trees, and see one mode only.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree
from numpyro.infer import NUTS as Kernel

from brutax.infer.chains import check_until, diagnose, reached, so_far, start
from brutax.infer.checkpoint import Session
from brutax.infer.gaussian import Gaussian, find
from brutax.infer.loop import Draws, Step, begin, chunks, drive, joined
from brutax.infer.method import AbstractMethod
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

MAP_STEPS = 200  # of each search for the maximum


@dataclass(frozen=True)
class NUTS(AbstractMethod):
    """Steps of warm-up and of sampling per chain, and the settings of numpyro's NUTS.

    With `until=dict(rhat=1.01, ess=400)` chains go on, `num_samples` steps at a time, until every
    parameter is there or they have `max_samples` steps (default 20 times `num_samples`).
    """

    name: ClassVar[str] = "nuts"
    needs_gradient: ClassVar[bool] = True
    side_by_side: ClassVar[bool] = True
    free: ClassVar[tuple[str, ...]] = ("num_samples", "until", "max_samples", "chunk")

    num_warmup: int = 1000
    num_samples: int = 1000  # may grow when a checkpoint is continued
    num_chains: int = 4
    target_accept: float = 0.8
    max_tree_depth: int = 10
    dense_mass: bool = False
    start: str = "prior"  # or "map": chains start about the highest maximum found
    num_starts: int = 4  # searches for it, from the best of `num_tries` draws (`draws_near_maxima`)
    num_tries: int = 64  # prior draws, and as many at most in each of the rounds after them
    until: Mapping[str, float] | None = None
    max_samples: int | None = None
    in_turn: bool = False  # chains one after the other, as problems with `in_turn` do
    chunk: int = 100  # steps between visits of the host; changes no bit

    def __post_init__(self) -> None:
        if self.start not in ("prior", "map"):
            raise ValueError(f"start is 'prior' or 'map', found {self.start!r}")

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)

    def run_many(
        self, problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session
    ) -> list[Posterior]:
        return _run_many(problem, keys, data, session, self)


def _kernel(problem: Problem, options: NUTS, data: PyTree, frame: Gaussian | None) -> Kernel:
    def potential(u: Array) -> Any:
        return -problem.density(u if frame is None else frame.place(u), data).log_target

    return Kernel(
        potential_fn=potential,
        target_accept_prob=options.target_accept,
        max_tree_depth=options.max_tree_depth,
        dense_mass=options.dense_mass,
    )


def _init(key: PRNGKeyArray, data: PyTree, problem: Problem, options: NUTS) -> Any:
    """The frame of the chains, if any, and their state."""
    key_start, key_run = jax.random.split(key)
    chains, frame = options.num_chains, None
    if options.start == "map":
        key_draws, key_search, key_start = jax.random.split(key_start, 3)
        draws = jax.vmap(problem.sample_real)(jax.random.split(key_draws, options.num_tries))
        frame, _ = find(
            lambda z: problem.density(z, data).log_target,
            draws,
            key_search,
            starts=options.num_starts,
            steps=MAP_STEPS,
        )
        starts = jax.random.normal(key_start, (chains, problem.prior.size), draws.dtype)
    else:
        starts = start(problem, key_start, data, chains)
    keys = jax.random.split(key_run, chains)
    kernel = _kernel(problem, options, data, frame)
    return frame, kernel.init(keys, options.num_warmup, starts, (), {})


def _advance(
    state: PyTree, n: int | Array, data: PyTree, problem: Problem, options: NUTS
) -> tuple[Any, dict[str, Any]]:
    """`n` steps of at most `options.chunk`."""
    frame, chains = state
    in_turn = options.in_turn or problem.in_turn
    kernel = _kernel(problem, options, data, frame)
    # sets up the schedule of the kernel; the state is ours
    if in_turn:
        kernel.init(jax.random.key(0), options.num_warmup, chains.z[0], (), {})
    else:
        keys = jax.random.split(jax.random.key(0), options.num_chains)
        kernel.init(keys, options.num_warmup, chains.z, (), {})
    place = (lambda z: z) if frame is None else frame.place

    def step(state: PyTree, i: int | Array) -> tuple[Any, dict[str, Any]]:
        state = jax.lax.cond(i < n, lambda s: kernel.sample(s, (), {}), lambda s: s, state)
        return state, dict(
            z=(place if in_turn else jax.vmap(place))(state.z),
            potential=state.potential_energy,
            diverging=state.diverging,
            num_steps=state.num_steps,
        )

    def walk(chains: PyTree) -> tuple[Any, dict[str, Any]]:
        return jax.lax.scan(step, chains, jnp.arange(options.chunk))

    if not in_turn:
        chains, out = walk(chains)
        return (frame, chains), out
    # side by side, chains would wait in every step for the longest tree among them
    chains, out = jax.lax.map(walk, chains)
    out = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), out)
    return (frame, chains), out


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: NUTS) -> Posterior:
    check_until(options.until)
    init = jax.jit(functools.partial(_init, problem=problem, options=options))
    advance = jax.jit(functools.partial(_advance, problem=problem, options=options))
    state, draws = begin(session, init, key, problem.data)
    numbers = functools.partial(_numbers, problem, draws)
    wanted = options.num_samples
    while True:
        total = options.num_warmup + wanted
        state = _sample(advance, state, draws, problem.data, total, session, options, numbers)
        kept = {name: value[:wanted] for name, value in joined(draws).items()}
        posterior = _posterior(problem, kept, options)
        most = options.max_samples or 20 * options.num_samples
        if not options.until or wanted >= most or reached(posterior.stats, options.until):
            return posterior
        wanted = min(wanted + options.num_samples, most)


def _run_many(
    problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session, options: NUTS
) -> list[Posterior]:
    """As `run`, for all items of the data side by side."""
    if options.until:
        raise ValueError("until= is for one fit: many would all wait for the slowest")
    one = functools.partial(_advance, problem=problem, options=options)
    advance = jax.jit(jax.vmap(one, in_axes=(0, None, 0), out_axes=(0, 1)))
    init = jax.jit(jax.vmap(functools.partial(_init, problem=problem, options=options)))
    state, draws = begin(session, init, keys, data)
    total = options.num_warmup + options.num_samples
    numbers = functools.partial(_evaluations, draws)
    _sample(advance, state, draws, data, total, session, options, numbers)
    kept = {name: value[: options.num_samples] for name, value in joined(draws).items()}
    return [
        _posterior(problem, {name: v[:, k] for name, v in kept.items()}, options)
        for k, problem in enumerate(problem.split(data))
    ]


def _sample(
    advance: Callable[..., Any],
    state: PyTree,
    draws: Draws,
    data: PyTree,
    total: int,
    session: Session,
    options: NUTS,
    numbers: Any,
) -> Any:
    """Steps up to `total`, warm-up included; `draws` grow."""
    first = int(np.asarray(state[1].i).ravel()[0])
    if first >= total:
        return state
    at = iter(chunks(first, options.num_warmup, total, options.chunk))

    def step(state: PyTree, _: object) -> Step:
        done, n, warm = next(at)
        state, out = advance(state, n, data)
        new = {} if warm else {name: np.asarray(value)[:n] for name, value in out.items()}
        return Step(state, new, done + n, total, numbers, done + n >= total)

    return drive(session, state, draws, step)


def _evaluations(draws: Draws) -> dict[str, Any]:
    return {"evaluations": sum(int(np.sum(x)) for x in draws.get("num_steps", ()))}


def _numbers(problem: Problem, draws: Draws) -> dict[str, Any]:
    if not draws:
        return {"stage": "warm-up"}
    steps = sum(int(np.sum(x)) for x in draws["num_steps"])
    return {"evaluations": steps, **so_far(problem, draws["z"])}


def _posterior(problem: Problem, draws: dict[str, np.ndarray], options: NUTS) -> Posterior:
    kept = {k: np.swapaxes(v, 0, 1) for k, v in draws.items()}
    table = problem.evaluate(jnp.asarray(kept["z"].reshape(-1, problem.prior.size)))
    shape = kept["potential"].shape
    by_chain = {k: v.reshape(*shape, *v.shape[1:]) for k, v in table.params.items()}
    stats, warnings = diagnose(by_chain, problem.prior.free)
    stats["divergences"] = int(np.sum(kept["diverging"]))
    stats["evaluations"] = int(np.sum(kept["num_steps"]))  # of the gradient, after warm-up
    n = len(table.log_prior)
    if stats["divergences"]:
        warnings.append(f"{stats['divergences']} of {n} transitions diverged")
    return Posterior(
        "nuts",
        table.params,
        np.full(n, 1.0 / n),
        table.log_likelihood,
        table.log_prior,
        n_chains=options.num_chains,
        stats=stats,
        warnings=tuple(warnings),
    )
