"""The grid that is used where none is given: built once per set of bands, then kept."""

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from brutax.cache.folders import VARIABLE, cache_dir
from brutax.data import GridError
from brutax.data._builtin import builtin_digest
from brutax.data.filters import full_names
from brutax.models.evolution.tracks import EEPTracks
from brutax.models.grid.generate import GridGenerator
from brutax.models.grid.star_grid import StarGrid, read_once
from brutax.models.photometry.bolometric import available_bands

logger = logging.getLogger("brutax")

# nodes of the default grid: 0.1-3 Msun, zero-age main sequence to the asymptotic giant branch
MINI = np.round(np.geomspace(0.1, 3.0, 92), 6)  # [Msun]
EEP = np.arange(202.0, 809.0, 4.0)  # zero-age main sequence to the thermally pulsing AGB
FEH = np.round(np.arange(-2.5, 0.51, 0.25), 2)  # initial [Fe/H] [dex]
RECIPE = "1"  # changes with anything here that changes the models


def default_grid(
    bands: Sequence[str],
    *,
    cache: str | os.PathLike | None = None,
    progress: Callable | None = None,
    verbose: bool = True,
) -> StarGrid:
    """The default grid in some bands: 0.1-3 Msun, EEP 202-808, [Fe/H] -2.5 to 0.5, F99 dust.

    Built from the models inside brutax in some seconds, kept in the folder `cache` (default:
    `grids` in `BRUTAX_DATA_DIR` or the user's cache folder) and read from there next time. A
    folder that cannot be written, and a damaged file there, cost a warning and a new build.
    `progress` wraps the loop over compositions. Raises `ValueError` for unknown bands.
    """
    wanted = full_names(bands)
    generator = GridGenerator(EEPTracks(verbose=False), _sorted(wanted), verbose=False)
    bands = generator.filters
    folder = cache_dir() / "grids" if cache is None else Path(cache)
    path = folder / f"mist-{_key(bands)}.h5"
    if path.is_file():
        try:
            grid = read_once(path)
            if verbose:
                logger.info("grid: %s", path)
            return grid.select(bands=wanted)
        except (GridError, OSError) as error:
            logger.warning("%s is damaged and made anew (%s)", path, error)
    if verbose:
        logger.info("building the default grid in %s, once", ", ".join(bands))
    grid = generator.make_grid(MINI, EEP, FEH, verbose=False, progress=progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        grid.write(part, overwrite=True)
        part.replace(path)
    except OSError as error:
        logger.warning(
            "the default grid could not be kept in %s (%s): it is built each time; name a folder "
            "in %s",
            folder,
            error.strerror or error,
            VARIABLE,
        )
    else:
        if verbose:
            logger.info("%d models, kept in %s", len(grid), path)
    return grid.select(bands=wanted)


def _sorted(bands: Sequence[str]) -> list[str]:
    """The same grid serves bands in any order."""
    order = {band: k for k, band in enumerate(available_bands())}
    return sorted(bands, key=lambda band: order.get(band, len(order)))


def _key(bands: Sequence[str]) -> str:
    """What the grid depends on, in short."""
    parts: list[Any] = [RECIPE, version("brutax"), *map(builtin_digest, ("tracks", "bolometric"))]
    parts += [MINI.tobytes().hex(), EEP.tobytes().hex(), FEH.tobytes().hex(), *bands]
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:16]
