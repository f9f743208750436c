"""Maps of dust in three dimensions: files of the Bayestar map, and maps of the dustmaps package.

A map answers `query(coords)` with (distances [kpc], mean, standard deviation) of A_V [mag]. The
file is the one that brutus publishes (Green et al. 2019, ApJ 887, 93): HEALPix pixels of several
sizes, nested, in Galactic coordinates, and for each of them a profile on one list of distances.
"""

import abc
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from brutax.data.download import find_file

GAP = 64  # rows of the file read in vain rather than by another access
FLAGS = ("converged", "DM_reliable_min", "DM_reliable_max")


class DustMapError(ValueError):
    """A dust map that cannot be used."""


def lb2pix(nside: int, l: Any, b: Any, nest: bool = True) -> Any:
    """HEALPix pixels of Galactic `l`, `b` [deg]; -1 for directions that do not exist.

    An integer for numbers, else an array of the broadcast shape. Raises `ValueError` for an
    `nside` that is not a power of 2.
    """
    try:
        from astropy.units import Quantity
        from astropy_healpix import lonlat_to_healpix
    except ImportError:
        raise ImportError("dust maps need astropy-healpix: pip install 'brutax[dust]'") from None
    l, b = np.broadcast_arrays(np.asarray(l, np.float64), np.asarray(b, np.float64))
    if nside < 1 or nside & (nside - 1):
        raise ValueError(f"nside must be a power of 2, found {nside}")
    ok = np.isfinite(l) & (np.abs(b) <= 90)
    order = "nested" if nest else "ring"
    lon, lat = np.where(ok, l, 0.0) % 360.0, np.where(ok, b, 0.0)
    pixel = lonlat_to_healpix(Quantity(lon, "deg"), Quantity(lat, "deg"), nside, order=order)
    out = np.where(ok, pixel, -1)
    return int(out) if out.ndim == 0 else out.astype(np.int64)


class DustMap(abc.ABC):
    """What answers `query(coords)`, and so `query_gal`, `query_equ` and calls."""

    @abc.abstractmethod
    def query(self, coords: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances [kpc] (node,), mean and standard deviation of A_V [mag], (*sky, node)."""

    def __call__(self, coords: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.query(coords, **kwargs)

    def query_gal(self, ell: Any, b: Any, d: Any = None, **kwargs: Any) -> tuple:
        """The `query` at Galactic `ell`, `b` [deg]: profiles (star, node), also of one star.

        With distances `d` [kpc], what is there: (d, mean, standard deviation), each (star,),
        linear between nodes and constant beyond them.
        """
        ell, b = (np.ravel(np.asarray(x, np.float64)) for x in np.broadcast_arrays(ell, b))
        answer = self.query(np.stack([ell, b], axis=1), **kwargs)
        return answer if d is None else _at(answer, d)

    def query_equ(
        self, ra: Any, dec: Any, d: Any = None, frame: str = "icrs", **kwargs: Any
    ) -> tuple:
        """`query_gal` at equatorial coordinates [deg]: "icrs", "fk4", "fk5" or "fk4noeterms"."""
        frames = ("icrs", "fk4", "fk5", "fk4noeterms")
        if frame not in frames:
            raise ValueError(f"frame must be one of {', '.join(frames)}, found {frame!r}")
        ra, dec = (np.ravel(np.asarray(x, np.float64)) for x in np.broadcast_arrays(ra, dec))
        ok = np.isfinite(ra) & (np.abs(dec) <= 90)
        from astropy.coordinates import SkyCoord

        sky = SkyCoord(np.where(ok, ra, 0.0), np.where(ok, dec, 0.0), unit="deg", frame=frame)
        ell, b = (np.where(ok, x, np.nan) for x in galactic(sky).T)
        return self.query_gal(ell, b, d, **kwargs)

    def get_query_size(self, coords: Any) -> int:
        """How many directions `coords` are."""
        return galactic(coords).reshape(-1, 2).shape[0]


def galactic(coords: Any) -> np.ndarray:
    """Galactic (*sky, 2) [deg] of a `SkyCoord` or of numbers (l, b), (star, 2)."""
    if hasattr(coords, "transform_to"):
        sky = coords.transform_to("galactic")
        return np.stack([np.asarray(sky.l.deg), np.asarray(sky.b.deg)], axis=-1)
    out = np.asarray(coords, np.float64)
    if out.ndim < 1 or out.shape[-1] != 2:
        raise ValueError(f"coords must be a SkyCoord or (l, b) in degrees, found {out.shape}")
    return out


def _at(answer: tuple, d: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Profiles (star, node) at one distance of each star."""
    dist, *profiles = answer
    d = np.broadcast_to(np.asarray(d, np.float64), profiles[0].shape[:1])
    place = np.interp(d, dist, np.arange(len(dist)))
    left = np.clip(place, 0, len(dist) - 1).astype(int)
    right, step = np.minimum(left + 1, len(dist) - 1), place - left
    rows = np.arange(len(d))
    out = []
    for values in profiles:
        low, high = values[rows, left], values[rows, right]
        out.append(np.where(step > 0, low + step * (high - low), low))
    return d, *out


class Bayestar(DustMap):
    """The map of a file in the layout of `bayestar2019_v1.h5`.

    Only the list of pixels is held; profiles are read when asked for. `factor` multiplies what the
    file holds: 1 for A_V (the published file), what turns the map's unit into A_V for others (such
    as 2.742, Schlafly & Finkbeiner 2011, for E(B-V) of Bayestar 2015). With
    `apply_reliability_mask`, distances outside the reliable range of a pixel, and pixels that did
    not converge, are NaN. So is every direction that the map does not have.

    Raises `DustMapError` for a file that is damaged or of another layout, `FileNotFoundError` where
    there is none.
    """

    def __init__(
        self,
        dustfile: Any = "bayestar2019_v1.h5",
        apply_reliability_mask: bool = True,
        *,
        factor: float = 1.0,
    ) -> None:
        if not (np.isfinite(factor) and factor > 0):
            raise ValueError(f"factor must be a positive number, found {factor}")
        self.path, self.factor = _found(dustfile), float(factor)
        self.apply_reliability_mask = apply_reliability_mask
        with self._open() as file:
            for name in ("pixel_info", "dists", "av_mean", "av_std"):
                if name not in file:
                    raise DustMapError(f"{self.path} has no '{name}': not a file of this map")
            info: Any = file["pixel_info"]
            fields = info.dtype.names or ()
            if not {"nside", "healpix_index"} <= set(fields):
                raise DustMapError(f"{self.path}: pixel_info lacks nside and healpix_index")
            self.distances = np.asarray(file["dists"], np.float64)
            shape = (info.shape[0], self.distances.size)
            for name in ("av_mean", "av_std"):
                table: Any = file[name]
                if table.shape != shape:
                    raise DustMapError(f"{self.path}: {name} is {table.shape}, not {shape}")
            if self.distances.ndim != 1 or not (np.diff(self.distances) > 0).all():
                raise DustMapError(f"{self.path}: the distances do not increase")
            has_flags = set(FLAGS) <= set(fields)
            used = ["nside", "healpix_index", *(FLAGS if has_flags else ())]
            table = _read(self.path, lambda: info.fields(used)[:])
        if not has_flags:
            missing = [name for name in FLAGS if name not in fields]
            if apply_reliability_mask:
                warnings.warn(
                    f"{self.path} has no {', '.join(missing)}: nothing is masked as unreliable",
                    RuntimeWarning,
                    stacklevel=2,
                )
        nside = table["nside"].astype(np.int64)
        if not nside.size or (nside < 1).any() or (nside & (nside - 1)).any():
            raise DustMapError(f"{self.path}: nside must be powers of 2")
        self._flags = {name: table[name] for name in FLAGS} if has_flags else None
        # per size of pixel, from coarse to fine: sorted indices and the rows they are in
        self._levels: list[tuple[int, np.ndarray, np.ndarray]] = []
        for size in np.unique(nside):
            rows = np.flatnonzero(nside == size)
            index = table["healpix_index"][rows].astype(np.int64)
            order = np.argsort(index, kind="stable")
            self._levels.append((int(size), index[order], rows[order]))

    def _open(self) -> h5py.File:
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no dust map {self.path}")
        try:
            return h5py.File(self.path, "r")
        except OSError as error:
            text = str(error)
            what = "truncated" if "truncated" in text else "not a readable HDF5 file"
            raise DustMapError(f"{self.path} is {what}: fetch it again ({text})") from None

    def __repr__(self) -> str:
        sizes = ", ".join(f"{rows.size} of nside {size}" for size, _, rows in self._levels)
        return f"Bayestar({str(self.path)!r}: {sizes} x {self.distances.size} distances)"

    def rows(self, ell: Any, b: Any) -> np.ndarray:
        """The row of the file for each Galactic `ell`, `b` [deg]; -1 where the map has none."""
        finest = self._levels[-1][0]
        pixel = np.atleast_1d(lb2pix(finest, ell, b))
        out = np.full(pixel.shape, -1)
        for size, index, rows in self._levels:
            wanted = pixel >> (2 * (finest // size).bit_length() - 2)
            place = np.minimum(np.searchsorted(index, wanted), index.size - 1)
            found = (pixel >= 0) & (index[place] == wanted)
            out = np.where(found, rows[place], out)  # finer pixels come later
        return out

    def query(
        self, coords: Any, apply_reliability_mask: bool | None = None, **kwargs: Any
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Distances [kpc] (node,), mean and standard deviation of A_V [mag] along `coords`.

        `coords`: a `SkyCoord`, or Galactic (l, b) [deg], or (star, 2). Profiles are (node,) for one
        direction, else (star, node).
        """
        if kwargs:
            raise TypeError(f"query has no argument {', '.join(kwargs)}")
        sky = galactic(coords)
        flat = sky.reshape(-1, 2)
        row = self.rows(flat[:, 0], flat[:, 1])
        known, place = np.unique(row, return_inverse=True)
        place = place.reshape(-1)
        size = self.distances.size
        mean, std = np.full((2, known.size, size), np.nan)
        inside = known >= 0
        if inside.any():
            with self._open() as file:
                for out, name in ((mean, "av_mean"), (std, "av_std")):
                    data: Any = file[name]
                    out[inside] = self.factor * _read(
                        self.path, lambda data=data: _rows(data, known[inside])
                    )
        masked = self.apply_reliability_mask
        masked = masked if apply_reliability_mask is None else apply_reliability_mask
        if masked and self._flags is not None and inside.any():
            bad = ~self._reliable(known[inside])
            mean[inside] = np.where(bad, np.nan, mean[inside])
            std[inside] = np.where(bad, np.nan, std[inside])
        shape = (*sky.shape[:-1], size)
        return self.distances.copy(), mean[place].reshape(shape), std[place].reshape(shape)

    def _reliable(self, rows: np.ndarray) -> np.ndarray:
        """Which (row, node) are reliable. A limit that is NaN leaves none."""
        assert self._flags is not None
        ok, low, high = (self._flags[name][rows] for name in FLAGS)
        with np.errstate(over="ignore", invalid="ignore"):
            near, far = (10.0 ** (0.2 * x.astype(np.float64) - 2.0)[:, None] for x in (low, high))
            return (self.distances >= near) & (self.distances <= far) & (ok != 0)[:, None]


def _found(dustfile: Any) -> Path:
    path = Path(dustfile)
    return path if path.is_file() or len(path.parts) > 1 else find_file(str(path))


def _rows(data: Any, rows: np.ndarray) -> np.ndarray:
    """Some rows of a dataset, sorted, in few accesses."""
    out = np.empty((rows.size, data.shape[1]))
    for part in np.split(np.arange(rows.size), np.flatnonzero(np.diff(rows) > GAP) + 1):
        first, last = rows[part[0]], rows[part[-1]] + 1
        out[part] = data[first:last][rows[part] - first]
    return out


def _read(path: Path, read: Any) -> np.ndarray:
    try:
        return read()
    except (OSError, RuntimeError) as error:
        raise DustMapError(f"{path} is damaged: fetch it again ({error})") from None


class ForeignMap(DustMap):
    """A map of the `dustmaps` package, or one with its `query`, in A_V.

    `dustmap.query(SkyCoord, mode=...)` returns one number per direction, or per direction and
    distance. `factor` turns its unit into A_V [mag] and has no default: maps are in E(B-V), in
    A_V, or in units of their own. Distances are the map's own where it has `distances`, else
    `distances` [kpc], at which it is asked. The standard deviation is that of `mode="std"`, or of
    `mode="samples"`, or `scatter` times the mean where the map tells neither.
    """

    def __init__(
        self,
        dustmap: Any,
        factor: float,
        *,
        distances: Any = None,
        scatter: float | None = None,
    ) -> None:
        if not hasattr(dustmap, "query"):
            raise TypeError(f"{type(dustmap).__name__} has no method query")
        if not (np.isfinite(factor) and factor > 0):
            raise ValueError(f"factor must be a positive number, found {factor}")
        own = getattr(dustmap, "distances", None)
        self._has_nodes = own is not None and distances is None
        if self._has_nodes:
            distances = own.to_value("kpc") if hasattr(own, "to_value") else own
        self.distances = None if distances is None else np.asarray(distances, np.float64)
        self.dustmap, self.factor, self.scatter = dustmap, float(factor), scatter

    def query(self, coords: Any, **kwargs: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `Bayestar.query`; directions without an answer are NaN."""
        sky = galactic(coords)
        flat = sky.reshape(-1, 2)
        mean = self.factor * self._ask(flat, "mean")
        if self.scatter is not None:
            std = self.scatter * np.abs(mean)
        else:
            std = self.factor * self._spread(flat)
        dist = np.array([0.01, 100.0]) if self.distances is None else self.distances
        shape = (*sky.shape[:-1], dist.size)
        mean, std = (np.broadcast_to(x, (len(flat), dist.size)).reshape(shape) for x in (mean, std))
        return dist.copy(), mean, std

    def _spread(self, flat: np.ndarray) -> np.ndarray:
        for mode in ("std", "samples"):
            try:
                return self._ask(flat, mode)
            except (ValueError, TypeError, KeyError, NotImplementedError):
                continue
        raise DustMapError(
            f"{type(self.dustmap).__name__} has no standard deviation; give scatter=, a fraction "
            "of the mean"
        )

    def _ask(self, flat: np.ndarray, mode: str) -> np.ndarray:
        """(star, 1 or node) of a mode; of samples, their standard deviation."""
        from astropy.coordinates import SkyCoord
        from astropy.units import Quantity

        ok = np.isfinite(flat).all(axis=1) & (np.abs(flat[:, 1]) <= 90)
        ell, b = np.where(ok[:, None], flat, 0.0).T
        if self.distances is None or self._has_nodes:
            place = {"l": ell, "b": b}
        else:
            ell, b, d = np.broadcast_arrays(ell[:, None], b[:, None], self.distances)
            place = {"l": ell.ravel(), "b": b.ravel(), "distance": d.ravel()}
        units = {"l": "deg", "b": "deg", "distance": "kpc"}
        values: dict[str, Any] = {k: Quantity(v, units[k]) for k, v in place.items()}
        where = SkyCoord(frame="galactic", **values)
        try:
            found = self.dustmap.query(where, mode=mode)
        except TypeError:
            if mode != "mean":
                raise
            found = self.dustmap.query(where)  # of one mode only
        found = np.asarray(found, np.float64)
        n_nodes = 1 if self.distances is None else self.distances.size
        if mode == "samples":  # (star, sample) or (star, sample, distance)
            found = found.std(axis=1, ddof=1)
        found = found.reshape(len(flat), n_nodes)
        return np.where(ok[:, None], found, np.nan)
