"""Walkers that move by looking at each other, without gradients (numpyro).

Stretch moves (Goodman & Weare 2010), differential evolution (Nelson et al. 2013), half of each by
default, since either alone leaves walkers behind; or ensemble slices (Karamanis & Beutler 2020).
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree
from numpyro.infer import AIES, ESS

from brutax.infer.chains import check_until, diagnose, reached, so_far, start
from brutax.infer.checkpoint import Session
from brutax.infer.loop import Draws, Step, begin, chunks, drive, joined
from brutax.infer.method import AbstractMethod
from brutax.infer.names import nearest
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

MOVES = ("mixed", "stretch", "de", "slice")


@dataclass(frozen=True)
class Ensemble(AbstractMethod):
    """Walkers (default 4 per dimension, at least 32), steps of each, and how they move.

    `moves` is "mixed", "stretch", "de" or "slice". Every `thin`-th of `num_samples` steps is
    kept. `until` and `max_samples` as in `nuts`.
    """

    name: ClassVar[str] = "ensemble"
    free: ClassVar[tuple[str, ...]] = ("num_samples", "until", "max_samples", "chunk")

    num_warmup: int = 1000
    num_samples: int = 2000  # may grow when a checkpoint is continued
    num_walkers: int | None = None
    moves: str = "mixed"
    thin: int = 1
    until: Mapping[str, float] | None = None
    max_samples: int | None = None
    chunk: int = 100  # steps between visits of the host; changes no bit

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)


def _walkers(problem: Problem, options: Ensemble) -> int:
    n = options.num_walkers or max(4 * problem.prior.size, 32)
    if n % 2 or n < 2 * problem.prior.size:
        raise ValueError(
            f"num_walkers must be even and at least {2 * problem.prior.size}, found {n}"
        )
    return n


def _kernel(problem: Problem, options: Ensemble, data: PyTree) -> Any:
    def potential(z: Array) -> Any:
        return -problem.density(z, data).log_target

    if options.moves == "slice":
        return ESS(potential_fn=potential)
    moves = {"mixed": ("de", "stretch")}.get(options.moves, (options.moves,))
    made = {"de": AIES.DEMove, "stretch": AIES.StretchMove}
    with jax.ensure_compile_time_eval():  # numpyro looks at the weights of the moves
        return AIES(potential_fn=potential, moves={made[name](): 1.0 for name in moves})


def _init(key: PRNGKeyArray, data: PyTree, problem: Problem, options: Ensemble) -> Any:
    n = _walkers(problem, options)
    key_start, key_run = jax.random.split(key)
    z = start(problem, key_start, data, n)
    state = _kernel(problem, options, data).init(
        jax.random.split(key_run, n), options.num_warmup, z, (), {}
    )
    return jax.tree.map(jnp.asarray, state)


def _advance(
    state: PyTree, n: int | Array, data: PyTree, problem: Problem, options: Ensemble
) -> Any:
    """`n` steps of at most `options.chunk`."""
    kernel = _kernel(problem, options, data)
    keys = jax.random.split(jax.random.key(0), len(state.z))
    kernel.init(keys, options.num_warmup, state.z, (), {})  # sets up its moves; state is ours

    def step(state: PyTree, i: int | Array) -> Any:
        state = jax.lax.cond(i < n, lambda s: kernel.sample(s, (), {}), lambda s: s, state)
        return state, state.z

    return jax.lax.scan(step, state, jnp.arange(options.chunk))


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: Ensemble) -> Posterior:
    check_until(options.until)
    if options.moves not in MOVES:
        raise ValueError(f"no moves '{options.moves}'{nearest(options.moves, MOVES)}")
    init = jax.jit(functools.partial(_init, problem=problem, options=options))
    advance = jax.jit(functools.partial(_advance, problem=problem, options=options))
    state, draws = begin(session, init, key, problem.data)
    done, wanted = int(round(float(state.inner_state.i))), options.num_samples
    while True:
        total = options.num_warmup + wanted
        if done < total:
            state = _walk(advance, state, draws, problem, done, total, session, options)
        done = max(done, total)
        kept = -(-wanted // options.thin)
        z = joined(draws)["z"][:kept]
        posterior = _posterior(problem, z, total, options)
        most = options.max_samples or 20 * options.num_samples
        if not options.until or wanted >= most or reached(posterior.stats, options.until):
            return posterior
        wanted = min(wanted + options.num_samples, most)


def _walk(
    advance: Callable[..., Any],
    state: PyTree,
    draws: Draws,
    problem: Problem,
    done: int,
    total: int,
    session: Session,
    options: Ensemble,
) -> Any:
    """Steps from `done` up to `total`, warm-up included; `draws` grow."""
    at = iter(chunks(done, options.num_warmup, total, options.chunk))

    def step(state: PyTree, draws: Draws) -> Step:
        done, n, warm = next(at)
        state, z = advance(state, n, problem.data)
        first = -(done - options.num_warmup) % options.thin
        new = {} if warm else {"z": np.asarray(z)[:n][first :: options.thin]}
        numbers = functools.partial(_numbers, problem, draws, done + n)
        return Step(state, new, done + n, total, numbers, done + n >= total)

    return drive(session, state, draws, step)


def _numbers(problem: Problem, draws: Draws, done: int) -> dict[str, Any]:
    if not draws:
        return {"stage": "warm-up"}
    walkers = draws["z"][0].shape[1]
    return {"evaluations": 2 * done * walkers, **so_far(problem, draws["z"], walkers=True)}


def _posterior(problem: Problem, z: np.ndarray, steps: int, options: Ensemble) -> Posterior:
    """Of z (step, walker, size), all walkers one after the other."""
    z = np.swapaxes(z, 0, 1)
    table = problem.evaluate(jnp.asarray(z.reshape(-1, problem.prior.size)))
    by_walker = {k: v.reshape(*z.shape[:2], *v.shape[1:]) for k, v in table.params.items()}
    stats, warnings = diagnose(by_walker, problem.prior.free, walkers=True)
    if options.moves != "slice":  # whose number of evaluations numpyro does not report
        stats["evaluations"] = 2 * steps * len(z)  # the density at a walker is computed anew
    n = len(table.log_prior)
    return Posterior(
        "ensemble",
        table.params,
        np.full(n, 1.0 / n),
        table.log_likelihood,
        table.log_prior,
        n_chains=len(z),
        stats=stats,
        warnings=tuple(warnings),
    )
