"""Tempered sequential Monte Carlo: from the prior to the posterior, all particles side by side.

Particles drawn from the prior are weighted, resampled and moved through prior x likelihood^beta as
beta grows from 0 to 1, each time as far as leaves a share `ess` of them effective (Del Moral,
Doucet & Jasra 2006, JRSS B 68, 411). The product of the mean weights is the evidence. Half of the
particles move at a time, by the preconditioned Crank-Nicolson step of a Student distribution fitted
to all (Grumitt et al. 2022, arXiv:2207.05660), or by differential evolution among those of the
other half (ter Braak 2006), which gets from mode to mode. All particles cost the same, so that
many problems go side by side without waiting for one another.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from brutax.infer.checkpoint import Session, unpack
from brutax.infer.loop import Draws, Step, begin, drive
from brutax.infer.method import AbstractMethod
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

DEGREES = 5  # of freedom of the Student distribution
WANTED = 0.3  # share of moves that are accepted
LEAST_ACCEPTED = 0.03  # share of accepted moves below which particles hardly move: a warning
BISECTIONS = 30  # for the next beta
RIDGE = 1e-6  # on the covariance of the particles
JUMP = 0.1  # share of differential-evolution moves by a whole difference


@dataclass(frozen=True)
class SMC(AbstractMethod):
    """Particles, moves of each at every beta, and the share that a step of beta leaves effective.

    Of many problems `at_once` go side by side, all of them one block after the other.
    """

    name: ClassVar[str] = "smc"
    side_by_side: ClassVar[bool] = True
    free: ClassVar[tuple[str, ...]] = ("max_stages", "at_once", "chunk")

    num_particles: int = 512
    num_moves: int = 10
    num_final: int = 2  # rounds of moves at beta 1
    ess: float = 0.6
    max_stages: int = 200
    at_once: int = 8
    chunk: int = 4  # stages between visits of the host; changes no bit

    def __post_init__(self) -> None:
        if self.num_particles < 8 or self.num_particles % 2:
            raise ValueError(f"num_particles is even and at least 8, found {self.num_particles}")
        if self.num_moves < 1 or self.num_final < 1:
            raise ValueError("num_moves and num_final are at least 1")
        if not 0.0 < self.ess < 1.0:
            raise ValueError(f"ess is between 0 and 1, found {self.ess}")

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)

    def run_many(
        self, problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session
    ) -> list[Posterior]:
        return _run_many(problem, keys, data, session, self)


class _State(NamedTuple):
    z: Any  # (particle, size)
    log_like: Any  # (particle,), with the factor of brutax priors
    log_base: Any  # (particle,), per unit of z
    beta: Any
    logz: Any
    variance: Any  # of logz, were the particles independent
    eve: Any  # (particle,): which of the first particles it comes from
    scale: Any  # (2,): of the two kinds of moves
    accepted: Any  # (2,): shares at the last beta
    stage: Any
    final: Any  # rounds of moves at beta 1


def _densities(z: Array, data: PyTree, problem: Problem) -> tuple[Any, Any]:
    def one(z: Array) -> tuple[Any, Any]:
        params, log_base, log_jacobian = problem.prior.from_real(z)
        log_like = problem.log_likelihood(params, data) + problem.prior.log_factor(params)
        log_like = jnp.where(jnp.isnan(log_like), -jnp.inf, log_like)
        return log_like, log_base + log_jacobian

    return jax.lax.map(one, z) if problem.in_turn else jax.vmap(one)(z)


def _init(key: PRNGKeyArray, data: PyTree, problem: Problem, options: SMC) -> _State:
    z = jax.vmap(problem.sample_real)(jax.random.split(key, options.num_particles))
    log_like, log_base = _densities(z, data, problem)
    zero = jnp.zeros((), z.dtype)
    pair = jnp.asarray([0.5, 1.0], z.dtype)
    none = jnp.zeros((), jnp.int32)
    eve = jnp.arange(options.num_particles, dtype=jnp.int32)
    return _State(z, log_like, log_base, zero, zero, zero, eve, pair, pair, none, none)


def _next_beta(log_like: Array, beta: Array, share: float) -> Any:
    """The largest step of beta that leaves `share` of the particles effective."""

    def effective(step: Array) -> Any:
        log_w = jnp.where(log_like > -jnp.inf, step * log_like, -jnp.inf)
        w = jnp.exp(log_w - jnp.max(log_w))
        return jnp.sum(w) ** 2 / jnp.sum(w**2)

    # particles of likelihood 0 are lost at once, with any step
    wanted = share * jnp.maximum(jnp.sum(log_like > -jnp.inf), 1)

    def halve(_: object, ends: tuple[Array, Array]) -> Any:
        low, high = ends
        middle = 0.5 * (low + high)
        good = effective(middle) >= wanted
        return jnp.where(good, middle, low), jnp.where(good, high, middle)

    most = 1.0 - beta
    low, _ = jax.lax.fori_loop(0, BISECTIONS, halve, (jnp.zeros_like(most), most))
    return jnp.where(effective(most) >= wanted, most, low)


def _systematic(key: PRNGKeyArray, weights: Array) -> Any:
    n = weights.shape[0]
    places = (jnp.arange(n) + jax.random.uniform(key, (), weights.dtype)) / n
    total = jnp.cumsum(weights)
    at = jnp.searchsorted(total / total[-1], places.astype(weights.dtype))
    return jnp.minimum(at, n - 1)


def _stage(
    state: _State, key: PRNGKeyArray, data: PyTree, problem: Problem, options: SMC
) -> _State:
    """One step of beta, of 0 at the end: weigh, resample, move."""
    n, size = state.z.shape
    key_pick, key_move = jax.random.split(jax.random.fold_in(key, state.stage))
    step = _next_beta(state.log_like, state.beta, options.ess)
    last = step >= 1.0 - state.beta
    beta = jnp.where(last, 1.0, state.beta + step)
    log_w = jnp.where(state.log_like > -jnp.inf, step * state.log_like, -jnp.inf)
    log_mean = jax.nn.logsumexp(log_w) - np.log(n)
    w = jnp.exp(log_w - jnp.max(log_w))
    variance = (n * jnp.sum(w**2) / jnp.sum(w) ** 2 - 1.0) / n
    at = _systematic(key_pick, w)
    z, log_like, log_base = state.z[at], state.log_like[at], state.log_base[at]

    mean = jnp.mean(z, axis=0)
    away = z - mean
    cov = jnp.matmul(away.T, away, precision="highest") / n
    unit = jnp.eye(size, dtype=z.dtype)
    root = jnp.linalg.cholesky(cov + (RIDGE * jnp.trace(cov) / size + 1e-12) * unit)
    inverse = jax.scipy.linalg.solve_triangular(root, unit, lower=True)

    def radius(z: Array) -> Any:  # squared, in standard deviations
        return jnp.sum(jnp.matmul(z - mean, inverse.T, precision="highest") ** 2, axis=1)

    half = n // 2

    def move(i: int | Array, carry: PyTree) -> Any:
        particles, scale, accepted = carry
        begin, other = half * (i % 2), half * (1 - i % 2)
        own = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, begin, half), particles)
        others = jax.lax.dynamic_slice_in_dim(particles[0], other, half)
        new, good, kind = moved(jax.random.fold_in(key_move, i), own, others, scale)
        particles = jax.tree.map(
            lambda x, y: jax.lax.dynamic_update_slice_in_dim(x, y, begin, 0), particles, new
        )
        rates = [jnp.sum(good & (kind == k)) / jnp.maximum(jnp.sum(kind == k), 1) for k in (0, 1)]
        rate = jnp.stack(rates).astype(scale.dtype)
        scale = scale * jnp.exp((rate - WANTED) / jnp.sqrt(1.0 + i).astype(scale.dtype))
        scale = jnp.clip(scale, 1e-3, jnp.asarray([0.99, 2.0], scale.dtype))
        return particles, scale, accepted + rate

    def moved(key: PRNGKeyArray, own: PyTree, others: Array, scale: Array) -> tuple[Any, Any, Any]:
        z, log_like, log_base = own
        keys = jax.random.split(key, 7)
        kind = jax.random.bernoulli(keys[0], 0.5, (half,)).astype(jnp.int32)
        noise = jax.random.normal(keys[1], z.shape, z.dtype)
        # Student: keeps the fitted distribution, whatever the scale
        r_old = radius(z)
        chi = jax.random.normal(keys[2], (half, size + DEGREES), z.dtype)
        spread = jnp.sqrt((DEGREES + r_old) / jnp.sum(chi**2, axis=1))
        along = jnp.matmul(noise, root.T, precision="highest") * spread[:, None]
        student = mean + jnp.sqrt(1.0 - scale[0] ** 2) * (z - mean) + scale[0] * along
        # differential evolution: a difference of two of the others
        a = jax.random.randint(keys[3], (half,), 0, half)
        b = (a + jax.random.randint(keys[4], (half,), 1, half)) % half
        size_of = jnp.where(
            jax.random.bernoulli(keys[5], JUMP, (half,)), 1.0, scale[1] * 2.38 / np.sqrt(2.0 * size)
        )
        small = 1e-3 * jnp.matmul(noise, root.T, precision="highest")
        evolved = z + size_of[:, None] * (others[a] - others[b]) + small
        new_z = jnp.where(kind[:, None] == 0, student, evolved)
        new_like, new_base = _densities(new_z, data, problem)
        r_new = radius(new_z)
        log_q = 0.5 * (size + DEGREES) * (jnp.log1p(r_new / DEGREES) - jnp.log1p(r_old / DEGREES))
        log_ratio = beta * (new_like - log_like) + new_base - log_base
        log_ratio = log_ratio + jnp.where(kind == 0, log_q, 0.0)
        log_u = jnp.log(jax.random.uniform(keys[6], (half,), z.dtype, 1e-30, 1.0))
        good = (log_u < log_ratio) & (new_like > -jnp.inf) & jnp.isfinite(new_base)
        keep = [jnp.where(good, x, y) for x, y in ((new_like, log_like), (new_base, log_base))]
        return (jnp.where(good[:, None], new_z, z), *keep), good, kind

    start = (z, log_like, log_base), state.scale, jnp.zeros_like(state.accepted)
    moves = 2 * options.num_moves
    (z, log_like, log_base), scale, accepted = jax.lax.fori_loop(0, moves, move, start)
    return _State(
        z,
        log_like,
        log_base,
        beta,
        state.logz + log_mean,
        state.variance + variance,
        state.eve[at],
        scale,
        accepted / moves,
        state.stage + 1,
        state.final + last,
    )


def _advance(
    state: _State,
    key: PRNGKeyArray,
    stages: int | Array,
    data: PyTree,
    problem: Problem,
    options: SMC,
) -> _State:
    """At most `stages` more; nothing after the end."""

    def more(carry: tuple[_State, Any]) -> Any:
        state, left = carry
        more = (state.final < options.num_final) & (state.stage < options.max_stages)
        return more & (left > 0)

    def go(carry: tuple[_State, Any]) -> tuple[_State, Any]:
        return _stage(carry[0], key, data, problem, options), carry[1] - 1

    return jax.lax.while_loop(more, go, (state, stages))[0]


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: SMC) -> Posterior:
    key_start, key_run = jax.random.split(key)
    init = jax.jit(functools.partial(_init, problem=problem, options=options))
    advance = jax.jit(functools.partial(_advance, problem=problem, options=options))
    state, draws = begin(session, init, key_start, problem.data)

    def step(state: _State, _: Draws) -> Step:
        state = advance(state, key_run, jnp.asarray(options.chunk, jnp.int32), problem.data)
        numbers = functools.partial(_numbers, state, options)
        return Step(state, {}, float(state.beta), 1.0, numbers, _over(state, options))

    if not _over(state, options):
        state = drive(session, state, draws, step)
    return _posterior(problem, state, options)


def _run_many(
    problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session, options: SMC
) -> list[Posterior]:
    """As `run`, for all items of the data, `at_once` side by side."""
    pairs = jax.vmap(jax.random.split)(keys)
    init = jax.jit(jax.vmap(functools.partial(_init, problem=problem, options=options)))
    one = functools.partial(_advance, problem=problem, options=options)
    advance = jax.jit(jax.vmap(one, in_axes=(0, 0, None, 0)))
    saved = session.load()
    n = len(keys)
    block = min(options.at_once, n)
    if saved is None:
        state = _in_blocks(lambda at: init(pairs[at, 0], _take(data, at)), n, block)
    else:
        state, _ = unpack(saved, jax.eval_shape(init, pairs[:, 0], data))
    for first in range(0, n, block):
        at = np.minimum(np.arange(first, first + block), n - 1)
        part, part_data = _take(state, at), _take(data, at)
        while not _over(part, options):
            part = advance(part, pairs[at, 1], jnp.asarray(options.chunk, jnp.int32), part_data)
            state = jax.tree.map(lambda x, y: x.at[at].set(y), state, part)  # noqa: B023
            done = int(jnp.sum(state.final >= options.num_final))
            session.report(done, n, functools.partial(_numbers, state, options))
            session.tick(state, {}, done=_over(state, options))
    return [
        _posterior(item, _take(state, k), options) for k, item in enumerate(problem.split(data))
    ]


def _take(tree: PyTree, at: int | slice | np.ndarray) -> Any:
    return jax.tree.map(lambda x: x[at], tree)


def _in_blocks(function: Callable[..., Any], n: int, block: int) -> Any:
    parts = []
    for first in range(0, n, block):
        at = np.minimum(np.arange(first, first + block), n - 1)
        parts.append(_take(function(at), slice(0, min(block, n - first))))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def _over(state: _State, options: SMC) -> bool:
    over = (state.final >= options.num_final) | (state.stage >= options.max_stages)
    return bool(np.all(np.asarray(over)))


def _calls(state: _State, options: SMC) -> int:
    each = 1 + np.asarray(state.stage, int) * options.num_moves
    return int(np.sum(each) * options.num_particles)


def _numbers(state: _State, options: SMC) -> dict[str, Any]:
    out: dict[str, Any] = {"evaluations": _calls(state, options)}
    return out if np.ndim(state.logz) else out | {"logz": float(state.logz)}


def _shared(eve: np.ndarray) -> float:
    """The share of pairs of particles that descend from one of the first particles.

    It is the variance of ln Z, also where moves leave particles near those that they were copies
    of (Lee & Whiteley 2018, Biometrika 105, 609; without the factor for resampling that copies
    particles of equal weight, which systematic resampling does not).
    """
    n = len(eve)
    counts = np.bincount(eve, minlength=n)
    return float(np.sum(counts * (counts - 1.0)) / (n * (n - 1.0)))


def _posterior(problem: Problem, state: _State, options: SMC) -> Posterior:
    n = options.num_particles
    table = problem.evaluate(state.z)
    accepted = np.asarray(state.accepted, float)
    warnings = []
    if int(state.final) < options.num_final:
        warnings.append(f"ended at max_stages={options.max_stages} with beta {state.beta:.2g}")
    if accepted.max() < LEAST_ACCEPTED:
        warnings.append(f"{accepted.max():.1%} of the last moves were accepted: use more particles")
    shared = _shared(np.asarray(state.eve))
    return Posterior(
        "smc",
        table.params,
        np.full(n, 1.0 / n),
        table.log_likelihood,
        table.log_prior,
        logz=float(state.logz),
        logz_err=float(np.sqrt(max(float(state.variance), shared))),
        stats={
            "stages": int(state.stage),
            "evaluations": _calls(state, options),
            "accepted": accepted,
            "ancestors": len(np.unique(np.asarray(state.eve))),
        },
        warnings=tuple(warnings),
    )
