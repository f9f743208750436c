"""The maximum of the likelihood within the support of the prior, searched for as in `map`."""

from dataclasses import dataclass
from typing import Any

from brutax.infer.checkpoint import Session
from brutax.infer.methods.map import point, search, search_many
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Density, Problem

NEEDS_GRADIENT = True


@dataclass(frozen=True)
class Options:
    """Starts, iterations of each, and the first start, as in `map`."""

    num_starts: int = 16
    num_steps: int = 200
    start: Any = "prior"
    chunk: int = 50

    free = ("chunk",)


def _likelihood(out: Density) -> Any:
    return out.log_likelihood


def run(problem: Problem, key: Any, session: Session, options: Options) -> Posterior:
    return point("mle", problem, *search(problem, key, session, options, _likelihood))


def run_many(
    problem: Problem, keys: Any, data: Any, session: Session, options: Options
) -> list[Posterior]:
    """As `run`, for all items of the data side by side."""
    return search_many("mle", problem, keys, data, session, options, _likelihood)
