"""The folder of what brutax can make or fetch again: grids, models, compiled programs."""

import os
import sys
from pathlib import Path

VARIABLE = "BRUTAX_DATA_DIR"


def cache_dir() -> Path:
    """The folder of `BRUTAX_DATA_DIR`, or the user's cache folder for brutax; it may not exist."""
    stated = os.environ.get(VARIABLE)
    if stated:
        return Path(stated).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "brutax"
