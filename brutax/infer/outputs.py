"""What a model looks like: named outputs, tables or images, of named components.

The `predict` of a `Problem` may be any function. One of `AbstractOutputs` says in addition what
its arrays are, so that files carry units, names of columns and the coordinates of pixels.
"""

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import PyTree

from brutax.infer.names import nearest


class Axis(NamedTuple):
    """A linear axis of an image."""

    name: str
    unit: str
    start: float  # at the middle of the first pixel
    step: float

    def centres(self, count: int) -> np.ndarray:
        """The coordinates of the middles of pixels."""
        return self.start + self.step * np.arange(count)


class Image(NamedTuple):
    """An output that is one array; `axes` from the last index to the first, as in FITS."""

    unit: str
    axes: tuple[Axis, ...]


class Table(NamedTuple):
    """An output that is a dictionary of columns of one length.

    `units` by column, in order, "" for none; `fixed` are the columns that do not depend on
    parameters, such as names of bands or distances.
    """

    units: dict[str, str]
    fixed: dict[str, np.ndarray]


class AbstractOutputs(eqx.Module):
    """The outputs of a model by name, for all of its components or some of them.

    `self(params, data, what=..., component=...)` returns {name: array or columns}; `what` and
    `component` are tuples of names out of `names` and `components`.
    """

    names: eqx.AbstractVar[tuple[str, ...]]
    components: eqx.AbstractVar[tuple[str, ...]]

    @abc.abstractmethod
    def describe(self, name: str, component: tuple[str, ...]) -> Table | Image:
        """What an output of some components is; raises ValueError where they have none."""

    @abc.abstractmethod
    def __call__(
        self,
        params: dict[str, Any],
        data: PyTree,
        *,
        what: tuple[str, ...],
        component: tuple[str, ...],
    ) -> dict[str, Any]:
        """The outputs in `what`, without fixed columns; pure JAX."""


def chosen(given: Any, known: Sequence[str], kind: str) -> tuple[str, ...]:
    """The names meant by a name, an index, an object with a name, or several of these."""
    out = []
    for one in given if isinstance(given, list | tuple) else [given]:
        one = getattr(one, "name", one)
        if isinstance(one, str):
            if one not in known:
                raise ValueError(f"no {kind} '{one}'{nearest(one, known)}")
            out.append(one)
        else:
            if not 0 <= int(one) < len(known):
                raise ValueError(f"no {kind} {one}: there are {len(known)}, {', '.join(known)}")
            out.append(known[int(one)])
    return tuple(out)
