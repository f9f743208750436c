"""What is printed about results."""

import resource
import sys
from collections.abc import Sequence

import numpy as np

from brutax.models import Status

MEANINGS = {
    Status.NO_PHOTOMETRY: "no usable band: not fitted",
    Status.FEW_BANDS: "fewer than four bands: not all parameters are constrained",
    Status.BAD_PARALLAX: "parallax without a valid error, or the reverse: not used",
    Status.NO_COORDINATES: "no position: a distance prior without direction is used",
    Status.NEGATIVE_FLUX: "a flux that is not positive, used as data",
    Status.BAD_BANDS: "bands dropped for an invalid flux or error",
    Status.LOW_ESS: "fewer effective draws than promised",
    Status.POOR_FIT: "no model fits (p < 0.001)",
    Status.EXTENDED: "needed more draws than one round (information)",
    Status.NO_MODELS: "no model is possible: not fitted",
}


def flag_lines(status: np.ndarray) -> list[str]:
    """How many stars have each flag, and what it means."""
    lines = []
    for flag in Status:
        count = int(np.count_nonzero(np.asarray(status) & int(flag)))
        if count:
            lines.append(f"    {str(flag.name):<15}{count:>9,}  {MEANINGS[flag]}")
    return lines


def fitted(status: np.ndarray) -> int:
    """How many stars have a posterior."""
    not_fitted = int(Status.NO_PHOTOMETRY | Status.NO_MODELS)
    return int(np.count_nonzero((np.asarray(status) & not_fitted) == 0))


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def size(n_bytes: float) -> str:
    """Decimal units, as disks count."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} TB"


def peak_memory() -> str:
    """The most memory that this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size(peak * (1 if sys.platform == "darwin" else 1024))  # macOS counts bytes


def columns(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in plain text, right-aligned."""
    table = [header, *body]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = ("  ".join(x.rjust(w) for x, w in zip(row, widths, strict=True)) for row in table)
    return "\n".join(f"  {line}" for line in lines)
