"""Do brutax and brutus read each other's grid files bit for bit?

    python benchmarks/peer_grid_io.py --peer-python /path/to/python-with-brutus [--grid FILE.h5]

Writes grids with brutax and loads them with `brutus.data.load_models`, and the reverse: a file
that brutus' `GridGenerator` would write is put together in the other interpreter and loaded by
brutax. brutus is only ever imported by that other interpreter, a subprocess.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.lib.recfunctions import repack_fields

from brutax.data import load_models
from brutax.models import StarGrid, demo_grid

# runs where brutus lives: loads a file, saves what came back
LOAD = """
import sys, warnings
import numpy as np
from brutus.core import StarGrid
from brutus.data import load_models
path, out, *filters = sys.argv[1:]
models, labels, mask = load_models(path, filters=filters, verbose=False)
grid = StarGrid(models, labels, verbose=False)
np.savez(out, models=models, labels=labels, mask=mask, n=grid.nmodels)
"""

# runs where brutus lives: saves a grid through GridGenerator's own writer
SAVE = """
import sys
import numpy as np
from brutus.core import GridGenerator
source, out, *filters = sys.argv[1:]
with np.load(source) as saved:
    models, labels, params = saved["models"], saved["labels"], saved["params"]
generator = GridGenerator.__new__(GridGenerator)
generator.filters = filters
generator.grid_labels, generator.grid_params = labels, params
generator.grid_sel = np.ones(len(models), bool)
generator.grid_seds = np.zeros(len(models), [(name, "f4", (3,)) for name in filters])
for j, name in enumerate(filters):
    generator.grid_seds[name] = models[:, j]
generator._save_grid(out, 1000.0, verbose=False)
"""


def peer(python: str, code: str, *args: str) -> None:
    """Runs code in the other interpreter."""
    done = subprocess.run([python, "-c", code, *args], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the peer failed:\n{done.stderr[-3000:]}")


def same(ours: tuple, theirs: tuple) -> bool:
    """Are models, labels and mask equal in every bit, type and order?"""
    # brutus' structured arrays are views with gaps between their fields
    theirs = tuple(repack_fields(x) if x.dtype.names else x for x in theirs)
    return all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(ours, theirs, strict=True)
    )


def load_with_peer(python: str, path: Path, filters: tuple, folder: Path) -> tuple:
    out = folder / "loaded.npz"
    peer(python, LOAD, str(path), str(out), *filters)
    with np.load(out) as loaded:
        return loaded["models"], loaded["labels"], loaded["mask"]


def compare(python: str, grid: StarGrid, name: str, folder: Path) -> bool:
    """brutax writes and brutus reads; brutus writes and brutax reads."""
    written = folder / "brutax.h5"
    grid.write(written, overwrite=True)
    models, labels, mask = load_with_peer(python, written, grid.bands, folder)
    ours = load_models(written, filters=grid.bands, verbose=False)
    forward = same(ours, (models, labels, mask))
    forward &= np.array_equal(models, grid.models)  # brutus dropped and changed nothing
    forward &= all(np.array_equal(labels[n], grid.label_table[n]) for n in labels.dtype.names)

    inputs, params = grid.labels[list(grid.axes)], grid.params
    np.savez(folder / "grid.npz", models=grid.models, labels=inputs, params=params)
    theirs = folder / "brutus.h5"
    peer(python, SAVE, str(folder / "grid.npz"), str(theirs), *grid.bands)
    back = StarGrid.read(theirs)
    reverse = back.hash == grid.hash and back.axes == grid.axes
    reverse &= same(
        load_models(theirs, filters=grid.bands, verbose=False),
        load_with_peer(python, theirs, grid.bands, folder),
    )
    for label, good in (("brutax -> brutus", forward), ("brutus -> brutax", reverse)):
        print(
            f"{name}: {len(grid):,} models, {len(grid.bands)} bands, {label}: "
            f"{'identical' if good else 'DIFFERENT'}"
        )
    return forward and reverse


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer-python", default=os.environ.get("BRUTAX_PEER_PYTHON"))
    parser.add_argument("--grid", action="append", default=[], help="a grid file to try as well")
    args = parser.parse_args()
    if not args.peer_python:
        parser.error("--peer-python or BRUTAX_PEER_PYTHON: the Python that has brutus installed")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        good &= compare(args.peer_python, demo_grid(), "demonstration grid", Path(folder))
        for path in args.grid:
            good &= compare(args.peer_python, StarGrid.read(path), Path(path).name, Path(folder))
            bands = StarGrid.read(path, rows=slice(1)).bands
            ours = load_models(path, filters=bands, verbose=False)
            alike = same(ours, load_with_peer(args.peer_python, path, bands, Path(folder)))
            print(f"{Path(path).name} itself: {'identical' if alike else 'DIFFERENT'}")
            good &= alike
    sys.exit(not good)


if __name__ == "__main__":
    main()
