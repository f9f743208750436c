"""How far a run is: evaluations, evidence or R-hat so far, time to go."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

EVERY = 1.0  # seconds between looks at a run by a bar


class Progress:
    """Tells a person (a bar of tqdm) or a function how far a run is.

    `show` is True, False, None (a bar where standard error is a terminal), or a function of a
    dictionary: `method`, `done` and `total` steps (`total` may be an estimate that changes), and
    numbers such as `evaluations`, `logz` and `rhat`.
    """

    def __init__(self, show: bool | None | Callable[[dict[str, Any]], Any], method: str) -> None:
        self._call = show if callable(show) else None
        terminal = hasattr(sys.stderr, "isatty") and sys.stderr.isatty()
        self._bar_wanted = not callable(show) and (terminal if show is None else bool(show))
        self._method, self._bar, self._last = method, None, 0.0

    @property
    def wanted(self) -> bool:
        """Whether now is a time to report."""
        if self._call is not None:
            return True
        return self._bar_wanted and time.monotonic() - self._last >= EVERY

    def __call__(self, done: float, total: float, numbers: Mapping[str, Any]) -> None:
        self._last = time.monotonic()
        if self._call is not None:
            self._call({"method": self._method, "done": done, "total": total, **numbers})
        if not self._bar_wanted:
            return
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._method, total=total, initial=done, file=sys.stderr, unit="step"
            )
        self._bar.total, self._bar.n = total, done
        text = {k: f"{v:.4g}" if isinstance(v, float) else f"{v}" for k, v in numbers.items()}
        self._bar.set_postfix(text, refresh=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
