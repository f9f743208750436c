"""Nested slice sampling of blackjax (Yallup, Kroupa & Handley 2026, arXiv:2601.23252).

Needs neither gradients nor inverse CDFs. The points that replace deleted ones make
`num_inner` slice moves; with fewer than 4 per dimension the evidence is biased.
"""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from brutax.infer.checkpoint import Session
from brutax.infer.loop import Draws, Step, begin, drive, joined
from brutax.infer.method import AbstractMethod
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

N_VOLUMES = 200  # simulated sequences of prior volumes, for the error of the evidence


@dataclass(frozen=True)
class Nested(AbstractMethod):
    """Live points, points deleted per step (default a tenth), moves (default 4 per dimension).

    A run ends when the live points can add less than `dlogz` to the log-evidence.
    """

    name: ClassVar[str] = "nested"
    side_by_side: ClassVar[bool] = True
    free: ClassVar[tuple[str, ...]] = ("max_steps", "chunk")

    num_live: int = 500
    num_delete: int | None = None
    num_inner: int | None = None
    dlogz: float = 0.01
    max_steps: int = 10_000
    chunk: int = 20  # steps between visits of the host; changes no bit

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)

    def run_many(
        self, problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session
    ) -> list[Posterior]:
        return _run_many(problem, keys, data, session, self)


def _sampler(problem: Problem, options: Nested, data: PyTree) -> Any:
    import blackjax  # slow to import

    def log_prior(z: Array) -> Any:
        _, log_base, log_jacobian = problem.prior.from_real(z)
        return log_base + log_jacobian

    def log_likelihood(
        z: Array,
    ) -> Any:  # with the factor, since the base is what is drawn from
        params, _, _ = problem.prior.from_real(z)
        return problem.log_likelihood(params, data) + problem.prior.log_factor(params)

    return blackjax.nss(
        logprior_fn=log_prior,
        loglikelihood_fn=log_likelihood,
        num_delete=options.num_delete or max(options.num_live // 10, 1),
        num_inner_steps=options.num_inner or max(4 * problem.prior.size, 5),
    )


def _init(key: PRNGKeyArray, data: PyTree, problem: Problem, options: Nested) -> Any:
    key_start, key_run = jax.random.split(key)
    z = jax.vmap(problem.sample_real)(jax.random.split(key_start, options.num_live))
    return _sampler(problem, options, data).init(z), key_run, jnp.zeros((), jnp.int32)


def _remaining(ns: PyTree) -> Any:
    """What the live points may still add to ln Z."""
    return jnp.logaddexp(ns.integrator.logZ, ns.integrator.logZ_live) - ns.integrator.logZ


def _advance(state: PyTree, data: PyTree, problem: Problem, options: Nested) -> tuple[Any, Any]:
    """A chunk of steps; those after the end of the run do nothing."""
    sampler = _sampler(problem, options, data)

    def go(state: PyTree) -> tuple[Any, Any]:
        ns, key, n = state
        ns, info = sampler.step(jax.random.fold_in(key, n), ns)
        moves = info.update_info
        # both ends of an interval are looked at before it grows
        calls = jnp.sum(moves.num_expansions + 2 + moves.num_shrink)
        return (ns, key, n + 1), (info.particles, calls)

    shapes = jax.eval_shape(go, state)[1]
    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)

    def step(state: PyTree, _: None) -> tuple[Any, Any]:
        more = (_remaining(state[0]) > options.dlogz) & (state[2] < options.max_steps)
        new, dead = jax.lax.cond(more, go, lambda s: (s, nothing), state)
        return new, (dead, more)

    state, ((dead, calls), ran) = jax.lax.scan(step, state, None, length=options.chunk)
    return state, (dict(dead._asdict(), calls=calls), ran, _remaining(state[0]))


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: Nested) -> Posterior:
    init = jax.jit(functools.partial(_init, problem=problem, options=options))
    advance = jax.jit(functools.partial(_advance, problem=problem, options=options))
    state, draws = begin(session, init, key, problem.data)
    left = np.inf

    def step(state: PyTree, draws: Draws) -> Step:
        nonlocal left
        state, (dead, ran, remaining) = advance(state, problem.data)
        ran, left = np.asarray(ran), float(remaining)
        done = int(state[2])
        return Step(
            state,
            {name: np.asarray(value)[ran] for name, value in dead.items()},
            done,
            done + _steps_left(left, options),
            functools.partial(_numbers, state, draws),
            not ran.all() or left <= options.dlogz,
        )

    state = drive(session, state, draws, step)
    return _posterior(problem, state, joined(draws), left, options)


def _run_many(
    problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session, options: Nested
) -> list[Posterior]:
    """As `run`, for all items of the data side by side; those that have ended wait."""
    init = jax.jit(jax.vmap(functools.partial(_init, problem=problem, options=options)))
    one = functools.partial(_advance, problem=problem, options=options)
    advance = jax.jit(jax.vmap(one, out_axes=(0, (1, 1, 0))))
    state, draws = begin(session, init, keys, data)
    remaining = np.full(len(keys), np.inf)

    def step(state: PyTree, draws: Draws) -> Step:
        nonlocal remaining
        state, (dead, ran, left) = advance(state, data)
        remaining = np.asarray(left)
        ended = ~np.all(np.asarray(ran), axis=0) | (remaining <= options.dlogz)
        done = int(np.max(np.asarray(state[2])))
        return Step(
            state,
            {**dead, "ran": ran},
            done,
            done + _steps_left(float(np.max(remaining)), options),
            lambda: {"evaluations": sum(int(x.sum()) for x in draws["calls"])},
            bool(ended.all()),
        )

    state = drive(session, state, draws, step)
    dead = joined(draws)
    ran = dead.pop("ran")
    return [
        _posterior(
            problem,
            jax.tree.map(lambda x: x[k], state),  # noqa: B023
            {name: v[ran[:, k], k] for name, v in dead.items()},
            float(remaining[k]),
            options,
        )
        for k, problem in enumerate(problem.split(data))
    ]


def _steps_left(remaining: float, options: Nested) -> int:
    """Steps to the end if the likelihood rose no more: a lower bound before the peak is found."""
    share = (options.num_delete or max(options.num_live // 10, 1)) / options.num_live
    open_part = max(np.log(max(remaining, 1e-30) / options.dlogz), 0.0)
    return int(np.ceil(open_part / -np.log1p(-min(share, 0.99))))


def _numbers(state: PyTree, draws: dict[str, list[np.ndarray]]) -> dict[str, Any]:
    integrator = state[0].integrator
    logz = float(jnp.logaddexp(integrator.logZ, integrator.logZ_live))
    return {"evaluations": sum(int(x.sum()) for x in draws["calls"]), "logz": logz}


def _posterior(
    problem: Problem, state: PyTree, dead: dict[str, np.ndarray], remaining: float, options: Nested
) -> Posterior:
    from blackjax.ns import utils as ns_utils  # slow to import
    from blackjax.ns.base import NSInfo, StateWithLogLikelihood

    ns, key, steps = state
    particles = StateWithLogLikelihood(
        **{
            name: jnp.concatenate(
                [dead[name].reshape(-1, *dead[name].shape[2:]), getattr(ns.particles, name)]
            )
            for name in StateWithLogLikelihood._fields
        }
    )
    no_record: Any = None  # of the moves
    volumes = ns_utils.log_weights(
        jax.random.fold_in(key, 2**32 - 1), NSInfo(particles, no_record), shape=N_VOLUMES
    )
    evidences = np.asarray(jax.nn.logsumexp(volumes, axis=0))
    log_weights = np.asarray(jnp.mean(volumes, axis=1), np.float64)
    weights = np.exp(log_weights - log_weights.max())
    z: Any = particles.position
    table = problem.evaluate(z)
    warnings = ()
    if remaining > options.dlogz:
        warnings = (f"ended at max_steps={options.max_steps} with ln Z open by {remaining:.2g}",)
    return Posterior(
        "nested",
        table.params,
        weights / weights.sum(),
        table.log_likelihood,
        table.log_prior,
        logz=float(np.mean(evidences)),
        logz_err=float(np.std(evidences)),
        stats={"steps": int(steps), "evaluations": int(np.sum(dead["calls"])) + options.num_live},
        warnings=warnings,
    )
