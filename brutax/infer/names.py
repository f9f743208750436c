"""Names that are not known are refused with the nearest that is."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    return f"; do you mean '{close[0]}'?" if close else f": there are {', '.join(known)}"


def refuse_unknown(owner: str, name: str, known: Iterable[str]) -> None:
    """Raises TypeError where `name` is not among `known` options of `owner`."""
    known = list(known)
    if name not in known:
        raise TypeError(f"'{owner}' has no option '{name}'{nearest(name, known)}")
