"""Importance nested sampling with neural networks by nautilus (Lange 2023), on the unit cube.

Fewest evaluations of all methods, in batches: for likelihoods of a millisecond and more.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from brutax.infer.checkpoint import CheckpointError, Session
from brutax.infer.method import AbstractMethod
from brutax.infer.methods._host import Points, need, seed_words
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

SLICE = 0.5  # seconds between looks at signals and the clock


@dataclass(frozen=True)
class Nautilus(AbstractMethod):
    """Options of nautilus under its own names; None leaves its default.

    A run ends with `n_eff` effective draws. `discard_exploration` leaves out those from the
    time when bounds were still being found, which are slightly biased.
    """

    name: ClassVar[str] = "nautilus"
    needs_unit_cube: ClassVar[bool] = True
    free: ClassVar[tuple[str, ...]] = ("n_eff", "n_like_max")

    n_live: int = 1000
    n_update: int | None = None
    enlarge_per_dim: float | None = None
    n_points_min: int | None = None
    split_threshold: float | None = None
    n_networks: int | None = None
    n_batch: int | None = None
    n_like_new_bound: int | None = None
    periodic: tuple[int, ...] | None = None
    f_live: float = 0.01
    n_shell: int = 1
    n_eff: float = 10_000
    n_like_max: int | None = None
    discard_exploration: bool = True

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)


RUN = ("f_live", "n_shell", "n_eff", "n_like_max", "discard_exploration")


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: Nautilus) -> Posterior:
    nautilus = need("nautilus", "samplers")
    if problem.prior.size < 2:
        raise ValueError("nautilus needs at least two free parameters: use 'nested' or 'dynesty'")
    points = Points(problem)
    given = {k: v for k, v in vars(options).items() if v is not None}
    made = dict(
        n_dim=problem.prior.size,
        vectorized=True,
        seed=seed_words(key),
        **{k: np.array(v) if isinstance(v, tuple) else v for k, v in given.items() if k not in RUN},
    )
    saved = session.load()
    sampler = _read(nautilus, points, made, saved)
    asked = {k: v for k, v in given.items() if k in RUN}
    while True:
        done = sampler.run(timeout=SLICE, **asked)
        limit = options.n_like_max is not None and sampler.n_like >= options.n_like_max
        session.report(
            sampler.n_like,
            sampler.n_like + _calls_left(sampler, options),
            lambda: {
                "evaluations": int(sampler.n_like),
                "logz": float(sampler.log_z),
                "ess": float(sampler.n_eff),
            },
        )
        session.tick(lambda: _written(sampler), {}, done=bool(done or limit))
        if done or limit:
            break
    return _posterior(problem, sampler, points, bool(done), options)


def _unchanged(u: np.ndarray) -> np.ndarray:
    return u


def _read(
    nautilus: Any, points: Points, made: dict[str, Any], saved: Mapping[str, np.ndarray] | None
) -> Any:
    """A sampler, as it was where something was saved."""
    if saved is None:
        return nautilus.Sampler(_unchanged, points.like, **made)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nautilus.h5"
        path.write_bytes(saved["state/0000"].tobytes())
        try:
            sampler = nautilus.Sampler(_unchanged, points.like, filepath=path, **made)
        except (KeyError, OSError) as error:
            raise CheckpointError(f"this version of nautilus cannot read it: {error}") from error
    sampler.filepath = None  # its own writing is not safe against being killed
    return sampler


def _written(sampler: Any) -> np.ndarray:
    """nautilus' own file, as bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nautilus.h5"
        sampler.write(path)
        return np.frombuffer(path.read_bytes(), np.uint8)


def _calls_left(sampler: Any, options: Nautilus) -> int:
    if not sampler.explored:  # as many bounds again as there are, as a guess
        return int(sampler.n_like)
    share = max(float(sampler.n_eff), 1.0) / max(int(np.sum(sampler.shell_n)), 1)
    return int(max(options.n_eff - sampler.n_eff, 0) / share)


def _posterior(
    problem: Problem, sampler: Any, points: Points, done: bool, options: Nautilus
) -> Posterior:
    u, log_weights, _ = sampler.posterior()
    table = problem.evaluate(jnp.asarray(points.to_real(u), float))
    weights = np.exp(log_weights - np.max(log_weights))
    warnings = ()
    if not done:
        warnings = (f"ended at n_like_max={options.n_like_max} before it was done",)
    return Posterior(
        "nautilus",
        table.params,
        weights / weights.sum(),
        table.log_likelihood,
        table.log_prior,
        logz=float(sampler.log_z),
        logz_err=float(1.0 / np.sqrt(sampler.n_eff)),
        stats={"bounds": len(sampler.bounds), "evaluations": int(sampler.n_like)},
        warnings=warnings,
        sampler=sampler,
    )
