"""Clouds along sight lines: how many, where, and the reddening profile that they make."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import jax
import numpy as np

from brutax import infer
from brutax.dust.profiles import ProfileMap
from brutax.dust.sightline import SightLine
from brutax.sightline.problem import prior as make_prior
from brutax.sightline.problem import problem as make_problem
from brutax.utils.durable import replace

MAGIC = "brutax clouds"
PARAMETERS = ("distance", "level", "jump", "scatter", "outliers")
WITH_EVIDENCE = ("smc", "nested")
N_NODES = 200  # of a profile
N_PROFILES = 200  # draws of it


class Cloud(NamedTuple):
    """One cloud: 16, 50, 84 % of its distance [kpc] and of its jump in A_V [mag]."""

    distance: np.ndarray
    jump: np.ndarray


@dataclass(frozen=True)
class CloudFit:
    """Posteriors of one sight line for several numbers of clouds.

    `draws[k]` are draws by parameter for `clouds[k]` clouds, of weights `weights[k]`; `logz` their
    log-evidences. `probability` is that of each number at equal odds.
    """

    clouds: tuple[int, ...]
    logz: np.ndarray
    logz_err: np.ndarray
    draws: tuple[dict[str, np.ndarray], ...]
    weights: tuple[np.ndarray, ...]
    dist_range: tuple[float, float]
    av_range: tuple[float, float]
    kernel: str
    n_stars: int
    method: str
    warnings: tuple[str, ...] = ()

    @property
    def probability(self) -> np.ndarray:
        share = np.exp(self.logz - np.max(self.logz))
        return share / share.sum()

    @property
    def best(self) -> int:
        """The number of clouds of the highest evidence."""
        return self.clouds[int(np.argmax(self.logz))]

    def found(self, clouds: int | None = None) -> list[Cloud]:
        """Every cloud from near to far, for a number of clouds (default: the best)."""
        at = self.clouds.index(self.best if clouds is None else clouds)
        draws, weights = self.draws[at], self.weights[at]
        return [
            Cloud(*(_quantiles(draws[name][:, k], weights) for name in ("distance", "jump")))
            for k in range(self.clouds[at])
        ]

    def sample(self, n: int, seed: int = 0) -> list[dict[str, np.ndarray]]:
        """`n` draws over all numbers of clouds, each by its evidence."""
        rng = np.random.default_rng(seed)
        which = rng.choice(len(self.clouds), n, p=self.probability)
        out = []
        for at in which:
            k = rng.choice(len(self.weights[at]), p=self.weights[at])
            out.append({name: values[k] for name, values in self.draws[at].items()})
        return out

    def profiles(self, dist: Any, n: int = N_PROFILES, seed: int = 0) -> np.ndarray:
        """A_V (draw, node) at distances [kpc], of `n` draws over all numbers of clouds."""
        dist = np.asarray(dist, np.float64)
        rows = [
            draw["level"][np.searchsorted(draw["distance"], dist, side="right")]
            for draw in self.sample(n, seed)
        ]
        return np.array(rows)

    def nodes(self, n: int = N_NODES) -> np.ndarray:
        """Distances [kpc] over the range of the sight line, even in ln d."""
        return np.geomspace(*self.dist_range, n)

    def save(self, path: str | Path) -> None:
        """Writes plain HDF5, in place of an older file in one step."""
        path = Path(path)
        partial = path.with_name(path.name + ".new")
        dist = self.nodes()
        rows = self.profiles(dist)
        with h5py.File(partial, "w") as file:
            for at, n in enumerate(self.clouds):
                for name, values in self.draws[at].items():
                    file.create_dataset(f"clouds/{n}/{name}", data=values)
                file.create_dataset(f"clouds/{n}/weights", data=self.weights[at])
            for name in ("clouds", "logz", "logz_err"):
                file.create_dataset(f"numbers/{name}", data=getattr(self, name))
            file.create_dataset("profile/distance", data=dist)
            file.create_dataset("profile/mean", data=rows.mean(axis=0))
            file.create_dataset("profile/std", data=rows.std(axis=0))
            file.create_dataset("profile/quantiles", data=np.quantile(rows, (0.16, 0.5, 0.84), 0))
            file.attrs.update(
                magic=MAGIC,
                dist_range=self.dist_range,
                av_range=self.av_range,
                kernel=self.kernel,
                n_stars=self.n_stars,
                method=self.method,
                warnings=list(self.warnings),
            )
        replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> "CloudFit":
        """Reads what `save` wrote."""
        with h5py.File(path, "r") as file:
            if file.attrs.get("magic") != MAGIC:
                raise ValueError(f"{path} was not written by brutax dust")
            numbers: Any = file["numbers"]
            clouds = tuple(int(n) for n in numbers["clouds"][:])
            groups: list[Any] = [file[f"clouds/{n}"] for n in clouds]
            attrs: Any = file.attrs
            return cls(
                clouds,
                numbers["logz"][:],
                numbers["logz_err"][:],
                tuple({name: group[name][:] for name in PARAMETERS} for group in groups),
                tuple(group["weights"][:] for group in groups),
                _pair(attrs["dist_range"]),
                _pair(attrs["av_range"]),
                str(attrs["kernel"]),
                int(attrs["n_stars"]),
                str(attrs["method"]),
                tuple(str(x) for x in attrs["warnings"]),
            )


def _pair(values: Any) -> tuple[float, float]:
    low, high = (float(x) for x in values)
    return low, high


def _quantiles(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    order = np.argsort(values)
    total = np.cumsum(weights[order]) - 0.5 * weights[order]
    return np.interp((0.16, 0.5, 0.84), total, values[order])


def fit(
    line: SightLine,
    clouds: int | Sequence[int] = (1, 2, 3, 4),
    *,
    method: str = "smc",
    key: Any = 0,
    checkpoint: str | Path | None = None,
    progress: Any = None,
    prior: dict[str, Any] | None = None,
    **options: Any,
) -> CloudFit | list[CloudFit]:
    """Clouds of a sight line, or of each of a stack (a list), for every number in `clouds`.

    `method` is one of `brutax.infer` with an evidence: "smc", or "nested", which takes
    longer; `options` are its. A stack runs in one program. `checkpoint`, a file, lets a run that
    was stopped go on: each number of clouds has its own, with the number in the name. `prior`
    replaces entries of `sightline.prior`. Raises `ValueError` for other methods.
    """
    if method not in WITH_EVIDENCE:
        raise ValueError(f"the number of clouds needs an evidence: method is 'smc' or 'nested', "
                         f"found '{method}'")  # fmt: skip
    numbers = (clouds,) if isinstance(clouds, int) else tuple(clouds)
    if not numbers or len(set(numbers)) != len(numbers):
        raise ValueError(f"clouds are different numbers, found {numbers}")
    stacked = line.weight.ndim > 1
    key = jax.random.key(key) if isinstance(key, int) else key
    by_number = []
    for n in numbers:
        problem = make_problem(line, n, make_prior(line, n, **(prior or {})))
        own: dict[str, Any] = {"key": jax.random.fold_in(key, n), "progress": progress}
        if checkpoint is not None:
            path = Path(checkpoint)
            own["checkpoint"] = path.with_name(f"{path.name}.{n}")
        if stacked:
            by_number.append(infer.fit_many(problem, method, data=line, **own, **options))
        else:
            by_number.append([infer.fit(problem, method, **own, **options)])
    counts = np.atleast_2d(np.asarray(line.weight) > 0).sum(axis=1)
    out = [
        _fit(line, numbers, posts, int(count), method)
        for *posts, count in zip(*by_number, counts, strict=True)
    ]
    return out if stacked else out[0]


def _fit(
    line: SightLine, numbers: tuple[int, ...], posts: Any, n_stars: int, method: str
) -> CloudFit:
    warnings = []
    for n, post in zip(numbers, posts, strict=True):
        warnings += [f"{n} clouds: {text}" for text in post.warnings]
    return CloudFit(
        numbers,
        np.array([post.logz for post in posts]),
        np.array([post.logz_err for post in posts]),
        tuple({name: post.samples[name] for name in PARAMETERS} for post in posts),
        tuple(post.weights for post in posts),
        line.dist_range,
        line.av_range,
        line.kernel,
        n_stars,
        method,
        tuple(warnings),
    )


def dust_map(
    fits: CloudFit | Sequence[CloudFit],
    coords: Any,
    *,
    radius: float = 1.0,
    nodes: int = N_NODES,
    draws: int = 50,
) -> ProfileMap:
    """A map of the profiles of sight lines: see `brutax.dust.ProfileMap`.

    `coords` are the directions of the sight lines (a `SkyCoord`, or Galactic (l, b) [deg]); each
    answers within `radius` [deg] of it, and the nearest where there are several.
    """
    fits = [fits] if isinstance(fits, CloudFit) else list(fits)
    low = min(fit.dist_range[0] for fit in fits)
    high = max(fit.dist_range[1] for fit in fits)
    dist = np.geomspace(low, high, nodes)
    samples = np.stack([fit.profiles(dist, draws) for fit in fits])
    return ProfileMap(coords, dist, samples, radius=radius)
