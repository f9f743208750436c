"""A dust map made of the profiles of sight lines."""

from pathlib import Path
from typing import Any

import h5py
import numpy as np

from brutax.dust.maps import DustMap, DustMapError, galactic
from brutax.utils.durable import replace

MAGIC = "brutax dust profiles"
MODES = ("mean", "median", "std", "percentile", "random_sample", "samples")


class ProfileMap(DustMap):
    """A_V against distance along sight lines, from draws of it: (line, draw, node) [mag].

    `coords` are the directions of the sight lines, `distances` [kpc] the nodes. The nearest
    sight line within `radius` [deg] answers; elsewhere, and where a coordinate is not finite,
    the map is silent: NaN.
    """

    def __init__(self, coords: Any, distances: Any, samples: Any, *, radius: float = 1.0) -> None:
        self.sky = np.atleast_2d(galactic(coords)).reshape(-1, 2)
        self.distances = np.asarray(distances, np.float64)
        self.samples = np.asarray(samples, np.float64)
        expected = len(self.sky), self.distances.size
        if self.samples.ndim != 3 or (self.samples.shape[0], self.samples.shape[2]) != expected:
            raise ValueError(
                f"samples are {self.samples.shape}; (line, draw, node) with {expected[0]} lines "
                f"and {expected[1]} nodes are needed"
            )
        increasing = self.distances.ndim == 1 and (np.diff(self.distances) > 0).all()
        if not increasing or self.distances[0] <= 0:
            raise ValueError("distances must be positive and increase")
        if not np.isfinite(self.sky).all():
            raise ValueError("the directions of the sight lines must be finite")
        if not 0 < radius <= 180:
            raise ValueError(f"radius must be in 0 to 180 degrees, found {radius}")
        self.radius = float(radius)

    def lines(self, coords: Any) -> np.ndarray:
        """The sight line of each direction, -1 where there is none within `radius`."""
        flat = galactic(coords).reshape(-1, 2)
        ok = np.isfinite(flat).all(axis=1) & (np.abs(flat[:, 1]) <= 90)
        chord = _unit(np.where(ok[:, None], flat, 0.0)) @ _unit(self.sky).T
        best = np.argmax(chord, axis=1)
        inside = np.max(chord, axis=1) >= np.cos(np.radians(self.radius)) - 1e-15
        return np.where(ok & inside, best, -1)

    def query(self, coords: Any, mode: str | None = None, pct: Any = None, **kwargs: Any) -> Any:
        """A_V [mag] in the directions of `coords`, like the maps of the `dustmaps` package.

        With `mode` ("mean", "median", "std", "percentile" with `pct`, "random_sample", "samples")
        it is that at the distances of `coords` where they have some, (*sky,), else the profile,
        (*sky, node); samples and several percentiles come before the nodes. Without `mode`,
        coordinates with distances have the mean, and others (distances, mean, standard deviation),
        as all maps here. Linear between nodes, constant beyond them.
        """
        if kwargs:
            raise TypeError(f"query has no argument {', '.join(kwargs)}")
        dist = _distances(coords)
        sky = galactic(coords)
        line = self.lines(coords)
        if mode is None and dist is None:
            mean, std = (self._values(line, None, x, None) for x in ("mean", "std"))
            shape = (*sky.shape[:-1], self.distances.size)
            return self.distances.copy(), mean.reshape(shape), std.reshape(shape)
        mode = mode or "mean"
        if mode not in MODES:
            raise ValueError(f"mode is one of {', '.join(MODES)}, found {mode!r}")
        if (mode == "percentile") != (pct is not None):
            raise ValueError("pct= goes with mode='percentile', and the other way round")
        values = self._values(line, None if dist is None else dist.ravel(), mode, pct)
        return values.reshape((*sky.shape[:-1], *values.shape[1:]))[()]

    def _values(self, line: np.ndarray, dist: Any, mode: str, pct: Any) -> np.ndarray:
        """(star, ...) of a mode; NaN without a sight line."""
        known = np.maximum(line, 0)
        samples = self.samples[known]  # (star, draw, node)
        if dist is not None:
            place = np.interp(dist, self.distances, np.arange(self.distances.size))
            place = np.where(np.isfinite(dist) & (dist >= 0), place, 0.0)
            left = np.clip(place.astype(int), 0, self.distances.size - 1)
            right, rows = np.minimum(left + 1, self.distances.size - 1), np.arange(len(line))
            step = (place - left)[:, None]
            samples = samples[rows, :, left] * (1 - step) + samples[rows, :, right] * step
            line = np.where(np.isfinite(dist) & (dist >= 0), line, -1)
        if mode in ("mean", "median", "std"):
            out = getattr(np, mode)(samples, axis=1)
        elif mode == "percentile":
            out = np.percentile(samples, pct, axis=1)
            out = np.moveaxis(out, 0, 1) if np.ndim(pct) else out
        elif mode == "random_sample":
            out = samples[:, np.random.default_rng().integers(samples.shape[1])]
        else:
            out = samples
        out[line < 0] = np.nan
        return out

    def save(self, path: str | Path) -> None:
        """Writes plain HDF5, in place of an older file in one step."""
        path = Path(path)
        partial = path.with_name(path.name + ".new")
        with h5py.File(partial, "w") as file:
            for name in ("sky", "distances", "samples"):
                file.create_dataset(name, data=getattr(self, name))
            file.attrs.update(magic=MAGIC, radius=self.radius)
        replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> "ProfileMap":
        """Reads what `save` wrote; raises `DustMapError` for other files."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no dust map {path}")
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("magic") != MAGIC:
                    raise DustMapError(f"{path} is not a map of profiles")
                sky, dist, samples = (np.asarray(file[x]) for x in ("sky", "distances", "samples"))
                radius = float(np.asarray(file.attrs["radius"]))
        except OSError as error:
            raise DustMapError(f"{path} is damaged: {error}") from None
        return cls(sky, dist, samples, radius=radius)


def _unit(sky: np.ndarray) -> np.ndarray:
    """Unit vectors of (l, b) [deg]."""
    ell, b = np.radians(sky).T
    return np.stack([np.cos(b) * np.cos(ell), np.cos(b) * np.sin(ell), np.sin(b)], axis=1)


def _distances(coords: Any) -> np.ndarray | None:
    """Distances of a `SkyCoord` [kpc], None where it has none."""
    if not hasattr(coords, "transform_to"):
        return None
    dist = coords.distance
    if dist.unit.is_equivalent("kpc"):
        return np.asarray(dist.to_value("kpc"), np.float64)
    return None
