"""Runs where astro-brutus lives: fits the stars of an .npz file and saves draws and times.

    python _peer_fit.py stars.npz grid.h5 out.npz REPEATS

Never imports brutax. brutus 1.2.0 can only be told the true axes of its grid by overwriting
`labels_mask`: StarGrid(models, labels) takes every label for an axis (a spurious weight per
model), and the other constructions lose the weights of grid cells or of ages.
"""

import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
from brutus.analysis import BruteForce
from brutus.core import StarGrid
from brutus.data import load_models


class Timed(BruteForce):
    """Remembers how long each star takes, without reading, set-up and writing."""

    def _fit(self, *args, **options):
        start = time.perf_counter()
        out = super()._fit(*args, **options)
        self.seconds.append(time.perf_counter() - start)
        return out


def main(stars_path: str, grid_path: str, out_path: str, repeats: str) -> None:
    with np.load(stars_path) as file:
        stars = {name: file[name] for name in file.files}
    bands = [str(x) for x in stars["bands"]]
    models, labels, is_axis = load_models(grid_path, filters=bands, verbose=False)
    fitter = Timed(StarGrid(np.ascontiguousarray(models, np.float64), labels, verbose=False))
    for name in labels.dtype.names:
        fitter.labels_mask[name] = bool(is_axis[name][0])

    def fit(rows: np.ndarray, path: str) -> float:
        fitter.seconds = []  # of this fit's stars
        flux, err = stars["flux"][rows], stars["flux_err"][rows]
        start = time.perf_counter()
        fitter.fit(
            flux,
            err,
            np.isfinite(flux) & np.isfinite(err),
            rows,
            path,
            parallax=stars["parallax"][rows],
            parallax_err=stars["parallax_err"][rows],
            data_coords=stars["coords"][rows],
            rstate=np.random.RandomState(1),
            verbose=False,
        )
        return time.perf_counter() - start

    rows = np.arange(len(stars["flux"]))
    with tempfile.TemporaryDirectory() as folder:
        fit(rows[:5], str(Path(folder) / "warm.h5"))  # compiles
        path = str(Path(folder) / "fit.h5")
        totals = [fit(rows, path) for _ in range(int(repeats))]
        with h5py.File(path) as file:
            saved = {name: file[name][:] for name in file if name.startswith(("samps", "model"))}
    index = saved["model_idx"]
    np.savez(
        out_path,
        dist=saved["samps_dist"],
        av=saved["samps_red"],
        mini=labels["mini"][index],
        loga=labels["loga"][index],
        seconds=fitter.seconds,
        totals=totals,
        cores=len(os.sched_getaffinity(0)),
        version=version("astro-brutus"),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
