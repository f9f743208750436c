"""Three-dimensional dust maps in files, by sky pixel."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Int

NEEDED = ("pixel_info", "dists", "av_mean", "av_std")
RELIABLE = ("converged", "DM_reliable_min", "DM_reliable_max")
FRAMES = ("icrs", "fk4", "fk5", "fk4noeterms")


class MapError(ValueError):
    """A map file that cannot be read."""


def lb2pix(nside: int, l: Any, b: Any, nest: bool = True) -> Any:
    """HEALPix index of Galactic longitude and latitude [deg]; -1 for |b| > 90 and NaN.

    `l` and `b` broadcast; two numbers give an int. Raises `ImportError` without astropy-healpix.
    """
    try:
        import astropy.units as u
        from astropy_healpix import lonlat_to_healpix
    except ImportError as error:
        raise ImportError("sky pixels need astropy-healpix: pip install 'brutax[dust]'") from error
    lon, lat = np.broadcast_arrays(np.asarray(l, np.float64), np.asarray(b, np.float64))
    good = np.isfinite(lon) & (np.abs(lat) <= 90.0)
    order = "nested" if nest else "ring"
    lon, lat = (np.where(good, x, 0.0) for x in (lon, lat))
    pixel = np.where(good, lonlat_to_healpix(lon * u.deg, lat * u.deg, nside, order=order), -1)
    return int(pixel) if np.ndim(l) == np.ndim(b) == 0 else pixel


class DustMap:
    """A map that is asked by position: what has a `query` is one."""

    def __call__(self, coords: Any, **options: Any) -> Any:
        return self.query(coords, **options)

    def query(self, coords: Any, **options: Any) -> Any:
        """Distances [kpc], mean and deviation of A_V [mag] towards `coords`."""
        raise NotImplementedError(f"{type(self).__name__} has no query")

    def query_gal(self, ell: Any, b: Any, d: Any = None, **options: Any) -> Any:
        """The same towards Galactic `ell`, `b` [deg], always (position, distance).

        With `d` [kpc], one distance per position: mean and deviation there, linear in distance.
        """
        ell, b = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, float)) for x in (ell, b)))
        answer = self.query(np.stack([ell, b], axis=-1), **options)
        if d is None:
            return answer
        dist, mean, std = answer
        d = np.broadcast_to(np.asarray(d, float), len(mean))
        at = [
            [np.interp(x, dist, y) for x, y in zip(d, profile)] for profile in (mean, std)
        ]  # NaN next to what is not known
        return np.array(at[0]), np.array(at[1])

    def query_equ(
        self, ra: Any, dec: Any, d: Any = None, frame: str = "icrs", **options: Any
    ) -> Any:
        """The same towards right ascension and declination [deg] in an equatorial `frame`."""
        if frame not in FRAMES:
            raise ValueError(f"frame must be one of {', '.join(FRAMES)}, got {frame!r}")
        from astropy.coordinates import SkyCoord

        ra, dec = (np.atleast_1d(np.asarray(x, float)) for x in (ra, dec))
        sky = SkyCoord(ra, dec, unit="deg", frame=frame).galactic
        return self.query_gal(sky.l.deg, sky.b.deg, d, **options)


class Bayestar(DustMap):
    """A Bayestar map in the HDF5 layout of brutus: A_V against distance by HEALPix pixel.

    Datasets: `pixel_info` (pixel,) with `nside` and `healpix_index` (nested, Galactic) and, for
    masks of what is not reliable, `converged`, `DM_reliable_min`, `DM_reliable_max`; `dists`
    [kpc]; `av_mean`, `av_std` (pixel, distance). Of the profiles only those that are asked for are
    read, whenever they are. `av_per_unit` turns the unit of the file into magnitudes of A_V, such
    as 2.742 for E(B-V) of SFD (Schlafly & Finkbeiner 2011, table 6, at R_V = 3.1); 1 for files in
    A_V. Raises `MapError` for files of another layout, truncated ones, and rows that disagree.
    """

    def __init__(
        self,
        dustfile: str | Path = "bayestar2019_v1.h5",
        apply_reliability_mask: bool = True,
        *,
        av_per_unit: float = 1.0,
    ) -> None:
        self.path, self.av_per_unit = Path(dustfile), float(av_per_unit)
        if not np.isfinite(self.av_per_unit) or self.av_per_unit <= 0:
            raise ValueError(f"av_per_unit must be positive, got {av_per_unit}")
        if not self.path.is_file():
            raise MapError(f"{self.path} does not exist; `brutax data fetch` has the published map")
        try:
            with h5py.File(self.path, "r") as file:
                lacking = [name for name in NEEDED if name not in file]
                if lacking:
                    raise MapError(f"{self.path} is not a Bayestar map: no {', '.join(lacking)}")
                info = _array(file, "pixel_info")
                self.distances = _array(file, "dists").astype(np.float64)
                shapes = {name: file[name].shape for name in NEEDED[2:]}  # pyright: ignore
        except OSError as error:
            raise MapError(f"{self.path} cannot be read: {error}") from error
        shape = (len(info), len(self.distances))
        wrong = [f"{name} {found}" for name, found in shapes.items() if found != shape]
        if wrong:
            raise MapError(f"{self.path}: {', '.join(wrong)}, where {shape} is needed")
        if not (np.all(self.distances > 0) and np.all(np.diff(self.distances) > 0)):
            raise MapError(f"{self.path}: distances must be positive and increase")
        names = info.dtype.names or ()
        if not {"nside", "healpix_index"} <= set(names):
            raise MapError(f"{self.path}: pixel_info has no nside and healpix_index")
        self._index(info)
        self.reliability = apply_reliability_mask
        self.limits: Float[np.ndarray, "pixel 2"] | None = None  # [kpc], reliable between
        if set(RELIABLE) <= set(names):
            low, high = (info[name].astype(np.float64) for name in RELIABLE[1:])
            good = info["converged"].astype(bool) & ~np.isnan(low) & ~np.isnan(high)
            near, far = (10.0 ** (x / 5.0 - 2.0) for x in (low, high))
            self.limits = np.stack([np.where(good, near, np.inf), np.where(good, far, -np.inf)], 1)
        elif apply_reliability_mask:
            warnings.warn(
                f"{self.path} does not say where it is reliable ({', '.join(RELIABLE)}): "
                "nothing is masked",
                RuntimeWarning,
                stacklevel=2,
            )

    def _index(self, info: np.ndarray) -> None:
        """Sorts pixels of every size, for searches."""
        nside, pixel = info["nside"].astype(np.int64), info["healpix_index"].astype(np.int64)
        sizes = np.unique(nside)
        if sizes.size == 0 or sizes[0] < 1 or np.any(sizes & (sizes - 1)):
            raise MapError(f"{self.path}: nside must be powers of two, found {sizes}")
        self.levels = {}
        for size in sizes:
            rows = np.flatnonzero(nside == size)
            rows = rows[np.argsort(pixel[rows], kind="stable")]
            found = pixel[rows]
            if found.size and (found[0] < 0 or found[-1] >= 12 * size**2):
                raise MapError(f"{self.path}: there are no such pixels of nside {size}")
            if np.any(np.diff(found) == 0):
                raise MapError(f"{self.path}: pixels of nside {size} appear twice")
            self.levels[int(size)] = (found, rows)

    def rows(self, ell: Any, b: Any) -> Int[np.ndarray, " position"]:
        """The finest pixel of the map at Galactic positions [deg]; -1 where there is none."""
        finest = max(self.levels)
        pixel = np.atleast_1d(lb2pix(finest, np.atleast_1d(ell), np.atleast_1d(b)))
        out = np.full(pixel.shape, -1)
        for size, (known, rows) in self.levels.items():  # finer ones come later
            shift = 2 * int(np.log2(finest // size))
            wanted = np.where(pixel >= 0, pixel >> shift, -1)
            place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
            hit = (known[place] == wanted) & (wanted >= 0)
            out[hit] = rows[place[hit]]
        return out

    def query(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, coords: Any, apply_reliability_mask: bool | None = None
    ) -> tuple:
        """Distances [kpc] (distance,), mean and deviation of A_V [mag] towards positions.

        `coords`: one [l, b] [deg] or a scalar SkyCoord gives profiles (distance,); (position, 2)
        or an array of SkyCoord (position, distance). NaN outside the map and where it is not
        reliable (`apply_reliability_mask` overrides that of the map).
        """
        sky = _galactic(coords)
        row = self.rows(sky[..., 0].ravel(), sky[..., 1].ravel())
        mean, std = self._profiles(row)
        masked = self.reliability if apply_reliability_mask is None else apply_reliability_mask
        if masked and self.limits is not None:
            limits = np.where((row >= 0)[:, None], self.limits[row], np.nan)
            near, far = limits[:, :1], limits[:, 1:]
            with np.errstate(invalid="ignore"):
                reliable = (self.distances >= near) & (self.distances <= far)
            mean, std = (np.where(reliable, x, np.nan) for x in (mean, std))
        if sky.ndim == 1:
            mean, std = mean[0], std[0]
        return self.distances.copy(), mean, std

    def get_query_size(self, coords: Any) -> int:
        """Number of positions."""
        return int(np.prod(_galactic(coords).shape[:-1], dtype=int))

    def _profiles(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Profiles of rows of the file, each read once and in order."""
        wanted, back = np.unique(rows, return_inverse=True)
        real = wanted[wanted >= 0]
        blank = np.full((len(wanted), len(self.distances)), np.nan)
        out = []
        try:
            with h5py.File(self.path, "r") as file:
                for name in NEEDED[2:]:
                    found = blank.copy()
                    for part in _runs(real):
                        values = file[name][part.start : part.stop]  # pyright: ignore
                        found[np.searchsorted(wanted, np.arange(part.start, part.stop))] = values
                    out.append(self.av_per_unit * found[back])
        except OSError as error:
            raise MapError(f"{self.path} is damaged: {error}") from error
        return out[0], out[1]


def _runs(rows: np.ndarray) -> Iterator[slice]:
    """Sorted rows as runs without gaps: HDF5 reads those quickly."""
    if rows.size:
        for run in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
            yield slice(int(run[0]), int(run[-1]) + 1)


def _array(file: h5py.File, name: str) -> np.ndarray:
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise MapError(f"{file.filename}: {name} is not a dataset")
    return item[()]


def _galactic(coords: Any) -> Float[np.ndarray, "*position 2"]:
    """Galactic (l, b) [deg] of SkyCoord, or of arrays that end in an axis of two."""
    if hasattr(coords, "galactic"):
        sky = coords.galactic
        return np.stack([np.asarray(sky.l.deg), np.asarray(sky.b.deg)], axis=-1)
    out = np.asarray(coords, np.float64)
    if out.ndim not in (1, 2) or out.shape[-1] != 2:
        raise ValueError(f"positions have the shape {out.shape}: give [l, b] or (position, 2)")
    return out
