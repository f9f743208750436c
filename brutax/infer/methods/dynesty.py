"""Nested sampling by dynesty (Speagle 2020), on the unit cube, one point after the other.

A run continues by being run again with the log-likelihoods that it had (`Replay`).
"""

import functools
import warnings
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from brutax.infer.checkpoint import Session
from brutax.infer.method import AbstractMethod
from brutax.infer.methods._host import Points, Replay, need, seed_words
from brutax.infer.names import nearest
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

SAMPLE = ("auto", "unif", "rwalk", "slice", "rslice")
BOUND = ("none", "single", "multi", "balls", "cubes")


@dataclass(frozen=True)
class Dynesty(AbstractMethod):
    """Options of dynesty's static sampler under its own names; None leaves its default.

    `sample` is "rwalk" rather than "auto", which draws uniformly below ten dimensions and hardly
    finds anything where modes are far apart.
    """

    name: ClassVar[str] = "dynesty"
    needs_unit_cube: ClassVar[bool] = True
    free: ClassVar[tuple[str, ...]] = ("dlogz", "maxiter", "maxcall", "logl_max", "add_live")

    nlive: int = 500
    bound: str = "multi"
    sample: str = "rwalk"
    walks: int | None = None
    slices: int | None = None
    facc: float | None = None
    enlarge: float | None = None
    bootstrap: int | None = None
    update_interval: float | None = None
    first_update: dict[str, float] | None = None
    ncdim: int | None = None
    periodic: tuple[int, ...] | None = None
    reflective: tuple[int, ...] | None = None
    dlogz: float = 0.01
    maxiter: int | None = None
    maxcall: int | None = None
    logl_max: float | None = None
    add_live: bool = True

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)


RUN = Dynesty.free


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: Dynesty) -> Posterior:
    dynesty = need("dynesty", "samplers")
    for value, known in ((options.sample, SAMPLE), (options.bound, BOUND)):
        if value not in known:
            raise ValueError(f"dynesty has no '{value}'{nearest(value, known)}")
    points = Points(problem)
    replay = Replay(session, problem.prior.size)

    def like(u: np.ndarray) -> float:
        return float(replay(points.like, u[None])[0])

    given = {k: v for k, v in vars(options).items() if v is not None}
    sampler = dynesty.NestedSampler(
        like,
        _unchanged,
        problem.prior.size,
        rstate=np.random.Generator(np.random.PCG64(seed_words(key))),
        **{k: list(v) if isinstance(v, tuple) else v for k, v in given.items() if k not in RUN},
    )
    with warnings.catch_warnings():  # the posterior says it
        warnings.filterwarnings("ignore", "The sampling was stopped short", UserWarning)
        sampler.run_nested(
            print_func=functools.partial(_between, replay, session, options),
            **{k: v for k, v in given.items() if k in RUN},
        )
    replay.tick(done=True)
    return _posterior(problem, sampler, points, replay, options)


def _unchanged(u: np.ndarray) -> np.ndarray:
    return u


def _between(
    replay: Replay, session: Session, options: Dynesty, found: Any, it: int, ncall: int, **_: object
) -> None:
    """What dynesty calls after every iteration."""
    rest = found.delta_logz if found.delta_logz > 0 else options.dlogz  # NaN at the very end
    left = max(np.log(rest / options.dlogz), 0.0) * options.nlive
    session.report(
        it,
        it + int(left),
        lambda: {"evaluations": replay.asked, "logz": float(found.logz)},
    )
    replay.tick()


def _posterior(
    problem: Problem, sampler: Any, points: Points, replay: Replay, options: Dynesty
) -> Posterior:
    found = sampler.results
    table = problem.evaluate(jnp.asarray(points.to_real(np.asarray(found.samples)), float))
    log_weights = np.asarray(found.logwt)
    weights = np.exp(log_weights - log_weights.max())
    told = ()
    if (options.maxiter or options.maxcall) and _open(found, options) > options.dlogz:
        told = (
            "ended at maxiter or maxcall with ln Z open by more than "
            f"dlogz={options.dlogz} ({_open(found, options):.2g})",
        )
    elif options.logl_max is not None and np.max(found.logl) >= options.logl_max:
        told = (f"ended at logl_max={options.logl_max}",)
    return Posterior(
        "dynesty",
        table.params,
        weights / weights.sum(),
        table.log_likelihood,
        table.log_prior,
        logz=float(found.logz[-1]),
        logz_err=float(found.logzerr[-1]),
        stats={"steps": int(found.niter), "evaluations": replay.asked},
        warnings=told,
        sampler=sampler,
    )


def _open(found: Any, options: Dynesty) -> float:
    """ln Z that was still to come when the last live points were added."""
    dead = len(found.logl) - (options.nlive if options.add_live else 0)
    if dead < 1:
        return np.inf
    rest = float(np.max(found.logl)) + float(found.logvol[dead - 1])
    before = float(np.logaddexp.reduce(np.asarray(found.logwt)[:dead]))
    return float(np.logaddexp(before, rest) - before)
