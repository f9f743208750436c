"""What the figures share: labels with units, colours, a light style."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from brutax.catalog import FitResult
from brutax.models import Status

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, ACCENT, FAINT = "#22303c", "#c8553d", "#9aa5b1"  # text and points; lines on top; the rest
MAP = "Blues"  # colours of densities

LABELS = {
    "dist": r"distance  [kpc]",
    "av": r"$A_V$  [mag]",
    "rv": r"$R_V$",
    "mini": r"initial mass  [$M_\odot$]",
    "eep": "EEP",
    "feh": "[Fe/H]  [dex]",
    "afe": r"[$\alpha$/Fe]  [dex]",
    "loga": r"$\log_{10}$ age  [yr]",
    "logl": r"$\log_{10} L$  [$L_\odot$]",
    "logt": r"$\log_{10} T_{\rm eff}$  [K]",
    "logg": r"$\log_{10} g$  [cm s$^{-2}$]",
    "Mr": r"$M_r$  [mag]",
    "smf": "secondary mass fraction",
}

_STYLE = {
    "font.size": 10,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.direction": "in",
    "ytick.direction": "in",
    "xtick.top": True,
    "ytick.right": True,
    "legend.frameon": False,
    "mathtext.fontset": "dejavusans",
    "savefig.dpi": 200,
}


def pyplot() -> Any:
    """matplotlib.pyplot, or an `ImportError` that names the extra."""
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("figures need matplotlib: pip install 'brutax[plots]'") from None
    return plt


def style() -> Any:
    """A context in which figures have the style of the package."""
    return pyplot().rc_context(_STYLE)


def label(name: str) -> str:
    return LABELS.get(name, name)


def new_axes(ax: "Axes | None", figsize: Sequence[float]) -> "tuple[Figure, Axes]":
    """A new figure with one panel, or the figure that `ax` is part of."""
    if ax is None:
        return pyplot().subplots(figsize=figsize, layout="constrained")
    fig: Any = ax.get_figure(root=True)
    return fig, ax


def good_stars(result: FitResult) -> np.ndarray:
    """Stars with a reliable posterior and a model that fits, boolean (star,).

    Raises `ValueError` if there is none.
    """
    bad = Status.POOR_FIT | Status.LOW_ESS
    good = result.fitted & (np.asarray(result["status"]) & bad == 0)
    if not good.any():
        raise ValueError("no star of this result has a good fit: there is nothing to draw")
    return good


def summary(result: FitResult, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """16 %, 50 % and 84 % quantiles of a quantity, each (star,), in the units of the result."""
    if name not in result.parameters:
        raise ValueError(f"no {name} in this result: it has {', '.join(result.parameters)}")
    column = result.parameters.index(name)
    quantiles = np.atleast_3d(result["summary_quantiles"])
    low, middle, high = (quantiles[:, column, result.levels.index(q)] for q in (0.16, 0.5, 0.84))
    return low, middle, high


def plain_log_ticks(axis: Any) -> None:
    """Ticks of a logarithmic axis as 0.1, 0.2, 0.5, 1, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_locator(LogLocator(subs=range(1, 10)))
    axis.set_minor_formatter(NullFormatter())
