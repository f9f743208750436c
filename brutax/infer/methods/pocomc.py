"""Preconditioned Monte Carlo by pocoMC (Karamanis et al. 2022), over the flat vector z.

pocoMC (GPL, with PyTorch) is an extra of its own and imported only here. A run continues by
being run again with the log-likelihoods that it had (`Replay`); nothing is pickled.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from brutax.infer.checkpoint import Session
from brutax.infer.method import AbstractMethod
from brutax.infer.methods._host import Points, Replay, need, seed_words
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem


@dataclass(frozen=True)
class PocoMC(AbstractMethod):
    """Options of pocoMC under its own names; None leaves its default."""

    name: ClassVar[str] = "pocomc"
    free: ClassVar[tuple[str, ...]] = ()

    n_effective: int = 1000
    n_active: int | None = None
    n_prior: int | None = None
    sample: str | None = None
    n_steps: int | None = None
    n_max_steps: int | None = None
    metric: str | None = None
    resample: str | None = None
    precondition: bool | None = None
    dynamic: bool | None = None
    flow: str | None = None
    train_frequency: int | None = None
    n_total: int = 4096
    n_evidence: int = 4096

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)


RUN = ("n_total", "n_evidence")


class FlatPrior:
    """The prior of a problem over z, in the form that pocoMC asks for."""

    def __init__(self, problem: Problem, points: Points, key: PRNGKeyArray) -> None:
        self._problem, self._points, self._key, self._n = problem, points, key, 0
        self.dim = problem.prior.size
        self.bounds = np.tile([-np.inf, np.inf], (self.dim, 1))

    def logpdf(self, z: np.ndarray) -> np.ndarray:
        return self._points.prior_real(np.atleast_2d(z))

    def rvs(self, size: int = 1) -> np.ndarray:
        self._n += 1
        keys = jax.random.split(jax.random.fold_in(self._key, self._n), size)
        return np.asarray(jax.vmap(self._problem.sample_real)(keys), np.float64)


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: PocoMC) -> Posterior:
    pocomc = need("pocomc", "pocomc")
    points = Points(problem)
    replay = Replay(session, problem.prior.size)
    given = {k: v for k, v in vars(options).items() if v is not None}

    def like(z: np.ndarray) -> np.ndarray:
        values = replay(points.like_real, np.atleast_2d(np.asarray(z, np.float64)))
        session.report(
            replay.asked, max(2 * replay.asked, 1), lambda: {"evaluations": replay.asked}
        )
        replay.tick()
        return values

    sampler = pocomc.Sampler(
        FlatPrior(problem, points, key),
        like,
        vectorize=True,
        random_state=seed_words(key)[-1] % 2**32,
        **{k: v for k, v in given.items() if k not in RUN},
    )
    sampler.run(progress=False, **{k: v for k, v in given.items() if k in RUN})
    replay.tick(done=True)
    z, weights, *_ = sampler.posterior()  # weights, not their logarithms
    logz, logz_err = sampler.evidence()
    table = problem.evaluate(jnp.asarray(z, float))
    weights = np.asarray(weights, np.float64)
    return Posterior(
        "pocomc",
        table.params,
        weights / weights.sum(),
        table.log_likelihood,
        table.log_prior,
        logz=float(logz),
        logz_err=float("nan") if logz_err is None else float(logz_err),
        stats={"evaluations": replay.asked},
        sampler=sampler,
    )
