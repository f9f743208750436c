"""What goes along with a frozen pytree without being part of its structure."""

import weakref
from collections.abc import Callable
from typing import Any

# What is worked out once per grid. Kept here, because an attribute set on the frozen grid would
# change the structure of the pytree, and compiled programs would be compiled again.
_KNOWN: dict[int, dict[str, Any]] = {}


def once(grid: Any, name: str, compute: Callable[[], Any]) -> Any:
    """The value computed at the first call for this grid; forgotten with the grid."""
    if id(grid) not in _KNOWN:
        _KNOWN[id(grid)] = {}
        weakref.finalize(grid, _KNOWN.pop, id(grid), None)
    known = _KNOWN[id(grid)]
    if name not in known:
        known[name] = compute()
    return known[name]


class Notes(dict):
    """Where a grid comes from. Equal to any other notes, since they choose no program."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Notes)

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0
