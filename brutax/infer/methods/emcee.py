"""Walkers of emcee (Foreman-Mackey et al. 2013), all of a step evaluated side by side.

They walk in the flat vector z, in which no prior has an edge. `converge` ends a run by the
autocorrelation time of the parameters.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from brutax.infer.chains import autocorrelation_time, diagnose, start
from brutax.infer.checkpoint import Session
from brutax.infer.method import AbstractMethod
from brutax.infer.methods._host import Points, need, seed_words
from brutax.infer.names import nearest
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

MOVES = ("stretch", "de", "mixed")


@dataclass(frozen=True)
class Emcee(AbstractMethod):
    """Walkers (default 2 per dimension, at least 32), steps, and what of them is kept.

    Burn-in `discard` (default `discard_factor` of the longest autocorrelation time) and `thin`.
    With `converge` the run ends, looked at every `check_every` steps, when for all parameters the
    chain has `tau_factor` autocorrelation times and these change by less than `tau_rtol`; then
    every `thin_factor` of the shortest of them is kept, unless `thin` is given.
    """

    name: ClassVar[str] = "emcee"
    free: ClassVar[tuple[str, ...]] = (
        "nsteps", "discard", "thin", "converge", "check_every", "tau_factor", "tau_rtol",
        "discard_factor", "thin_factor", "chunk",
    )  # fmt: skip

    nwalkers: int | None = None
    nsteps: int = 5000
    discard: int | None = None
    thin: int | None = None
    moves: str = "stretch"
    converge: bool = False
    check_every: int = 100
    tau_factor: float = 50.0
    tau_rtol: float = 0.01
    discard_factor: float = 2.0
    thin_factor: float = 0.5
    chunk: int = 20  # steps between looks at signals and the clock; changes no bit

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: Emcee) -> Posterior:
    emcee = need("emcee", "samplers")
    if options.moves not in MOVES:
        raise ValueError(f"no moves '{options.moves}'{nearest(options.moves, MOVES)}")
    size = problem.prior.size
    walkers = options.nwalkers or max(2 * size, 32)
    if walkers < 2 * size:
        raise ValueError(f"emcee needs at least {2 * size} walkers, found {walkers}")
    points = Points(problem)
    moves = emcee.moves
    chosen = {
        "stretch": moves.StretchMove(),
        "de": moves.DEMove(),
        "mixed": [(moves.StretchMove(), 0.5), (moves.DEMove(), 0.5)],
    }[options.moves]
    sampler = emcee.EnsembleSampler(walkers, size, points.target, vectorize=True, moves=chosen)
    saved = session.load()
    if saved is None:
        random = np.random.RandomState(np.random.MT19937(seed_words(key)))
        z = np.asarray(start(problem, key, problem.data, walkers), np.float64)
        state = emcee.State(z, log_prob=points.target(z), random_state=random.get_state())
        chain: dict[str, list[np.ndarray]] = {}
    else:
        state = emcee.State(
            saved["state/0000"],
            log_prob=saved["state/0001"],
            random_state=_random(saved["state/0002"], saved["state/0003"]),
        )
        chain = {k: [saved[f"draws/{k}"]] for k in ("z", "target", "accepted")}
    done, history = sum(len(x) for x in chain.get("z", ())), []
    looked = 0  # steps at which convergence was looked at
    while True:
        while options.converge and looked + options.check_every <= min(done, options.nsteps):
            looked += options.check_every
            history.append((looked, _taus(problem, chain, looked)))
            if _converged(history, options):
                return _posterior(problem, sampler, emcee, chain, looked, history, options)
        if done >= options.nsteps:
            return _posterior(problem, sampler, emcee, chain, options.nsteps, history, options)
        ends = [options.nsteps, done + options.chunk]
        if options.converge:
            ends.append(looked + options.check_every)
        state = _advance(sampler, state, chain, min(ends) - done)
        done = min(ends)
        session.report(
            done,
            options.nsteps,
            lambda n=done: {
                "evaluations": (n + 1) * walkers,
                "tau": float(np.max(_taus(problem, chain, n))),
            },
        )
        session.tick(_leaves(state), chain, done=done >= options.nsteps)


def _advance(sampler: Any, state: PyTree, chain: dict[str, list[np.ndarray]], n: int) -> Any:
    z, target, accepted = [], [], []
    before = state.coords
    for new in sampler.sample(state, iterations=n, store=False, skip_initial_state_check=True):
        z.append(new.coords.copy())
        target.append(new.log_prob.copy())
        accepted.append(np.any(new.coords != before, axis=1))
        before = z[-1]
    for name, value in (("z", z), ("target", target), ("accepted", accepted)):
        chain.setdefault(name, []).append(np.array(value))
    return type(state)(z[-1], log_prob=target[-1], random_state=sampler.random_state)


def _leaves(state: PyTree) -> tuple[np.ndarray, ...]:
    _, words, position, has_gauss, gauss = state.random_state
    at = np.array([position, has_gauss, gauss], np.float64)
    return state.coords, state.log_prob, np.asarray(words), at


def _random(words: np.ndarray, at: np.ndarray) -> tuple[Any, ...]:
    return ("MT19937", words, int(at[0]), int(at[1]), float(at[2]))


def _taus(problem: Problem, chain: dict[str, list[np.ndarray]], n: int) -> np.ndarray:
    """Autocorrelation time of all parameters in the first n steps, in a row."""
    z = np.concatenate(chain["z"])[:n]
    params = problem.free_params(jnp.asarray(z.reshape(-1, z.shape[2]), float))
    rows = [np.asarray(x, np.float64).reshape(*z.shape[:2], -1) for x in params.values()]
    return autocorrelation_time(np.concatenate(rows, axis=2))


def _converged(history: list[tuple[int, np.ndarray]], options: Emcee) -> bool:
    if len(history) < 2:
        return False
    (_, before), (n, now) = history[-2:]
    if not np.isfinite(now).all():
        return False
    long = n > options.tau_factor * now
    still = np.abs(now - before) < options.tau_rtol * now
    return bool(np.all(long & still))


def _posterior(
    problem: Problem,
    sampler: Any,
    emcee: Any,
    chain: dict[str, list[np.ndarray]],
    n: int,
    history: list[tuple[int, np.ndarray]],
    options: Emcee,
) -> Posterior:
    z, target, accepted = (np.concatenate(chain[k])[:n] for k in ("z", "target", "accepted"))
    _fill(sampler, z, target, accepted)
    tau = _taus(problem, chain, n)
    finite = tau[np.isfinite(tau)]
    longest, shortest = (np.max(finite), np.min(finite)) if finite.size else (n / 50, 1.0)
    discard = options.discard
    if discard is None:
        discard = min(int(options.discard_factor * longest), n // 2)
    thin = options.thin
    if thin is None:
        thin = max(int(options.thin_factor * shortest), 1) if options.converge else 1
    if not 0 <= discard < n - 1 or thin < 1:
        raise ValueError(f"discard={discard} and thin={thin} leave nothing of {n} steps")
    kept = np.swapaxes(z[discard::thin], 0, 1)
    table = problem.evaluate(jnp.asarray(kept.reshape(-1, kept.shape[2]), float))
    by_walker = {k: v.reshape(*kept.shape[:2], *v.shape[1:]) for k, v in table.params.items()}
    stats, warnings = diagnose(by_walker, problem.prior.free, walkers=True)
    warnings = [text for text in warnings if "autocorrelation times" not in text]
    if not np.max(tau) * options.tau_factor <= n:
        warnings.append(
            f"{n} steps are fewer than {options.tau_factor:.0f} autocorrelation times "
            f"({np.max(tau):.3g})"
        )
    elif options.converge and not _converged(history, options):
        warnings.append(f"not converged after {n} steps: the autocorrelation time still changes")
    at = 0
    for name, free in problem.prior.free.items():
        stop = at + int(np.prod(free.shape))
        stats[f"tau/{name}"] = tau[at:stop].reshape(free.shape)  # [steps], before thinning
        at = stop
    stats |= {
        "evaluations": (len(np.concatenate(chain["z"])) + 1) * z.shape[1],
        "acceptance": float(np.mean(accepted)),
        "discard": discard,
        "thin": thin,
        "steps": n,
    }
    if history:
        stats["tau_history/steps"] = np.array([step for step, _ in history])
        stats["tau_history/tau"] = np.array([tau for _, tau in history])
    count = len(table.log_prior)
    return Posterior(
        "emcee",
        table.params,
        np.full(count, 1.0 / count),
        table.log_likelihood,
        table.log_prior,
        n_chains=kept.shape[0],
        stats=stats,
        warnings=tuple(warnings),
        sampler=sampler,
    )


def _fill(sampler: Any, z: np.ndarray, target: np.ndarray, accepted: np.ndarray) -> None:
    """Gives emcee's object the chain, which was kept outside it."""
    backend = sampler.backend
    backend.reset(z.shape[1], z.shape[2])
    backend.chain, backend.log_prob, backend.iteration = z, target, len(z)
    backend.accepted = np.sum(accepted, axis=0).astype(float)
    backend.initialized = True
