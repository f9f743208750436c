"""The maximum of the likelihood within the support of the prior, searched for as in `map`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import PRNGKeyArray, PyTree

from brutax.infer.checkpoint import Session
from brutax.infer.method import AbstractMethod
from brutax.infer.methods.map import point, search, search_many
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Density, Problem


@dataclass(frozen=True)
class MLE(AbstractMethod):
    """Starts, iterations of each, and the first start, as in `map`."""

    name: ClassVar[str] = "mle"
    needs_gradient: ClassVar[bool] = True
    side_by_side: ClassVar[bool] = True
    free: ClassVar[tuple[str, ...]] = ("chunk",)

    num_starts: int = 16
    num_steps: int = 200
    start: Any = "prior"
    chunk: int = 50

    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        return _run(problem, key, session, self)

    def run_many(
        self, problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session
    ) -> list[Posterior]:
        return _run_many(problem, keys, data, session, self)


def _likelihood(out: Density) -> Any:
    return out.log_likelihood


def _run(problem: Problem, key: PRNGKeyArray, session: Session, options: MLE) -> Posterior:
    return point("mle", problem, *search(problem, key, session, options, _likelihood))


def _run_many(
    problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session, options: MLE
) -> list[Posterior]:
    """As `run`, for all items of the data side by side."""
    return search_many("mle", problem, keys, data, session, options, _likelihood)
