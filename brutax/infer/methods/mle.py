"""The maximum of the likelihood within the support of the prior, searched for as in `map`."""

from dataclasses import dataclass, replace
from typing import Any

from brutax.infer.checkpoint import Session
from brutax.infer.methods import map as by_map
from brutax.infer.posterior import Posterior
from brutax.infer.problem import Problem

NEEDS_GRADIENT = True


@dataclass(frozen=True)
class Options(by_map.Options):
    """Those of `map`; there is no Gaussian to draw from."""

    of_prior = False

    def __post_init__(self) -> None:
        if self.num_draws:
            raise ValueError("'mle' has no draws: use 'map' with num_draws")


def run(problem: Problem, key: Any, session: Session, options: Options) -> Posterior:
    return replace(by_map.run(problem, key, session, options), method="mle")
