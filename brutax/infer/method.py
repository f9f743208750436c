"""What a method of inference is: options as fields, and `run(problem, key, session)`."""

import abc
import dataclasses
from typing import Any, ClassVar

from jaxtyping import PRNGKeyArray, PyTree

from brutax.infer.checkpoint import Session
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem


@dataclasses.dataclass(frozen=True)
class AbstractMethod(abc.ABC):
    """One way to explore a posterior. Its options are the fields of a frozen dataclass.

    A method of one's own is a final class like this, given to `infer.fit` as it is:

        @dataclass(frozen=True)
        class BestOfPrior(infer.AbstractMethod):
            name: ClassVar[str] = "best_of_prior"
            draws: int = 1000

            def run(self, problem, key, session):
                z = jax.vmap(problem.sample_real)(jax.random.split(key, self.draws))
                table = problem.evaluate(z)
                weights = np.exp(table.log_likelihood - table.log_likelihood.max())
                return infer.Posterior(
                    self.name,
                    table.params,
                    weights / weights.sum(),
                    table.log_likelihood,
                    table.log_prior,
                    logz=float(np.log(weights.mean()) + table.log_likelihood.max()),
                )

        infer.fit(problem, BestOfPrior(draws=4000))

    `name` is what posteriors and checkpoints call it. `needs_gradient`: the density is
    differentiated. `needs_unit_cube`: every free parameter needs an inverse CDF. `side_by_side`:
    it has `run_many`. `free` names the options that a continued run may change, since they decide
    how far it goes and not where.
    """

    name: ClassVar[str]
    needs_gradient: ClassVar[bool] = False
    needs_unit_cube: ClassVar[bool] = False
    side_by_side: ClassVar[bool] = False
    free: ClassVar[tuple[str, ...]] = ()

    @abc.abstractmethod
    def run(self, problem: Problem, key: PRNGKeyArray, session: Session) -> Posterior:
        """Explores the posterior of a problem.

        `session` reports progress, and keeps what is needed to continue: `session.load()` at the
        start, `session.report` and `session.tick` now and then (`brutax.infer.loop.drive` does it
        for methods in JAX). The same key gives the same posterior, interrupted or not.
        """

    def run_many(
        self, problem: Problem, keys: PRNGKeyArray, data: PyTree, session: Session
    ) -> list[Posterior]:
        """As `run`, for all items of the leading axis of `data`, one key for each."""
        raise ValueError(_not_side_by_side(self.name))

    def identity(self) -> dict[str, Any]:
        """The options that decide about the numbers of a run."""
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in self.free}


def check_side_by_side(method: AbstractMethod) -> None:
    """Raises `ValueError` for methods that run one problem at a time."""
    if not method.side_by_side:
        raise ValueError(_not_side_by_side(method.name))


def _not_side_by_side(name: str) -> str:
    return f"'{name}' does not run side by side: use nuts, nested, smc, map or mle"
