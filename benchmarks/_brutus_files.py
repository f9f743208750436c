"""Small files in brutus' layouts, filled from the models inside brutax."""

from pathlib import Path

import h5py
import numpy as np

from brutax.models import EEPTracks, Isochrone

BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")


def write_files(folder: Path) -> dict[str, str]:
    """Tracks, isochrones and (random) networks; their paths by kind."""
    paths = {kind: str(folder / f"{kind}.h5") for kind in ("tracks", "isochrones", "networks")}
    tracks = EEPTracks(verbose=False)
    mini, eep = np.round(np.arange(0.4, 1.61, 0.05), 3), np.arange(202.0, 606.0, 4.0)
    columns = ["initial_mass", "EEP", "initial_[Fe/H]", "initial_[a/Fe]", "log_age", "log_L"]
    columns += ["log_Teff", "log_g", "[Fe/H]", "star_mass", "log_R"]
    with h5py.File(paths["tracks"], "w") as file:
        file["index"] = np.array([b"low", b"high"])
        for name, feh in (("low", -0.5), ("high", 0.0)):
            m, e = (x.ravel() for x in np.meshgrid(mini, eep, indexing="ij"))
            labels = np.stack([m, e, np.full(m.size, feh), 0.0 * m], axis=1)
            loga, logl, logt, logg, surf, *_ = tracks.get_predictions(labels, apply_corr=False).T
            good = np.isfinite(loga)
            rows = np.zeros(good.sum(), dtype=[(c, float) for c in columns])
            values = (m, e, labels[:, 2], 0 * m, loga, logl, logt, logg, surf, m, 0 * m)
            for column, value in zip(columns, values):
                rows[column] = value[good]
            file[name] = rows
    isochrone = Isochrone(verbose=False)
    feh, loga, stages = (
        np.array([-0.5, -0.25, 0.0]),
        np.arange(9.0, 10.01, 0.1),
        np.arange(202.0, 809),
    )
    table = np.stack(
        [
            [isochrone.get_predictions(f, 0.0, a, stages, apply_corr=False) for a in loga]
            for f in feh
        ]
    )[:, None]
    with h5py.File(paths["isochrones"], "w") as file:
        file["feh"], file["afe"], file["loga"], file["eep"] = feh, [0.0], loga, stages
        data = file.create_dataset("predictions", data=table)
        data.attrs["labels"] = [name.encode() for name in isochrone.predictions]
    rng = np.random.default_rng(5)
    with h5py.File(paths["networks"], "w") as file:
        for band in BANDS:
            group = file.create_group(band)
            shapes = {"w1": (16, 6), "b1": (16, 1), "w2": (12, 16), "b2": (12, 1), "w3": (1, 12)}
            for name, shape in {**shapes, "b3": (1, 1)}.items():
                group[name] = rng.normal(size=shape) * 0.5
            group["xmin"] = np.array([2500.0, -1.0, -4.0, -0.2, 0.0, 2.0])
            group["xmax"] = np.array([50000.0, 6.0, 0.8, 0.6, 6.0, 5.0])
    return paths
