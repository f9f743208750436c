"""The loop around methods in JAX: start or continue, advance by chunks, report, save."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from brutax.infer.checkpoint import Draws as Draws
from brutax.infer.checkpoint import Session, pack, unpack

State = TypeVar("State")


class Step(NamedTuple):
    """What a chunk of steps has done."""

    state: Any  # pytree
    new: Mapping[str, np.ndarray]  # draws, with a leading axis over steps
    done: float  # how far it is,
    total: float  # of how much: steps, or a temperature
    numbers: Callable[[], dict[str, Any]]  # evaluations, evidence, ... so far, if anyone looks
    ended: bool


def begin(session: Session, init: Callable[..., State], *args: Any) -> tuple[State, Draws]:
    """The state and draws of a saved run, or of a new one: `init(*args)`, compiled."""
    saved = session.load()
    if saved is None:
        return init(*args), {}
    return unpack(saved, jax.eval_shape(init, *args))


def chunks(done: int, warm_up: int, total: int, size: int) -> Iterator[tuple[int, int, bool]]:
    """Steps before each chunk, steps in it, and whether it is warm-up, which ends with a chunk."""
    while done < total:
        warm = done < warm_up
        n = min(size, (warm_up if warm else total) - done)
        yield done, n, warm
        done += n


def drive(
    session: Session, state: State, draws: Draws, advance: Callable[[State, Draws], Step]
) -> State:
    """Advances until a step says that it is the last; `draws` grow in place.

    `advance(state, draws)` is given the draws so far for the numbers that it reports; what it
    returns as `new` is added before these are asked for.
    """
    while True:
        step = advance(state, draws)
        state = step.state
        for name, value in step.new.items():
            draws.setdefault(name, []).append(np.asarray(value))
        session.report(step.done, step.total, step.numbers)
        session.tick(state, draws, done=step.ended)
        if step.ended:
            return state


def joined(draws: Draws) -> dict[str, np.ndarray]:
    """Draws of every kind in one piece."""
    return {name.split("/", 1)[1]: value for name, value in pack((), draws).items()}
