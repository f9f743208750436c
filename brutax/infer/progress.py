"""How far a run is, for those who wait."""

from collections.abc import Callable
from typing import Any

Report = Callable[..., Any]  # (done, total or None, **numbers)


def reporter(progress: Any, method: str) -> Report:
    """What `progress` means: False nothing, True a bar of tqdm, a function itself.

    Raises `ImportError` for a bar without tqdm, `TypeError` for anything else.
    """
    if callable(progress):
        return progress
    if progress is False or progress is None:
        return lambda *_, **__: None
    if progress is not True:
        raise TypeError(f"progress is True, False or a function, found {progress!r}")
    return Bar(method)


class Bar:
    """A bar with steps, pace, time left, and the numbers that a method has to tell."""

    def __init__(self, method: str) -> None:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError("a progress bar needs tqdm: pip install tqdm") from error
        self.bar = tqdm(desc=method, unit="step", mininterval=0.5)

    def __call__(self, done: int, total: int | None, **numbers: float) -> None:
        self.bar.total = total
        self.bar.update(done - self.bar.n)
        self.bar.set_postfix({name: f"{value:.4g}" for name, value in numbers.items()})
        if total is not None and done >= total:
            self.bar.close()
