"""The files that brutus published: fetched once, checked, kept in the user's cache folder.

Tracks and isochrones of MIST, grids, zero-point offsets, networks and a dust map (Speagle et al.
2025; Harvard Dataverse). brutax itself needs none of them.
"""

import difflib
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from brutax.cache.folders import VARIABLE, cache_dir

BASE_URL = "https://dataverse.harvard.edu/api/access/datafile/:persistentId?persistentId=doi:"
RETRIES = 3  # attempts to fetch one file
TIMEOUT = 30.0  # without an answer [s], after which an attempt ends
CHUNK = 2**18  # read at once [bytes]


class Published(NamedTuple):
    """A file of brutus."""

    doi: str
    sha256: str
    what: str


FILES = {
    "MIST_1.2_iso_vvcrit0.0.h5": Published(
        "10.7910/DVN/FZMFQY/BKAG41",
        "ac46048acb9c9c1c10f02ac1bd958a8c4dd80498923297907fd64c5f3d82cb57",
        "isochrones, MIST v1.2 without rotation",
    ),
    "MIST_1.2_iso_vvcrit0.4.h5": Published(
        "10.7910/DVN/FZMFQY/PRGJIP",
        "25d97db9760df5e4e3b65c686a04d5247cae5027c55683e892acb7d1a05c30f7",
        "isochrones, MIST v1.2 with rotation",
    ),
    "MIST_1.2_EEPtrk.h5": Published(
        "10.7910/DVN/JV866N/FJ5NNO",
        "001558c1b32f4a85ea9acca3ad3f7332a565167da3f6164a565c3f3f05afc11b",
        "evolutionary tracks, MIST v1.2 without rotation",
    ),
    "bayestar2019_v1.h5": Published(
        "10.7910/DVN/G49MEI/Y9UZPG",
        "73064ab18f4d1d57b356f7bd8cbcc77be836f090f660cca6727da85ed973d1e6",
        "dust map, Bayestar 2019",
    ),
    "grid_mist_v9.h5": Published(
        "10.7910/DVN/7BA4ZG/Z7MGA7",
        "7d128a5caded78ca9d1788a8e6551b4329aeed9ca74e7a265e531352ecb75288",
        "grid of MIST models, v9",
    ),
    "grid_mist_v8.h5": Published(
        "10.7910/DVN/7BA4ZG/NKVZFT",
        "b07d9c19e7ff5e475b1b061af6d1bb4ebd13e0e894fd0703160206964f1084e0",
        "grid of MIST models, v8",
    ),
    "grid_bayestar_v5.h5": Published(
        "10.7910/DVN/7BA4ZG/LLZP0B",
        "c5d195430393ebd6c8865a9352c8b0906b2c43ec56d3645bb9d5b80e6739fd0c",
        "grid of empirical models, Bayestar",
    ),
    "offsets_mist_v9.txt": Published(
        "10.7910/DVN/L7D1FY/ASPSUR",
        "e2c33ee4669ff4da67bcdd6e2d7551fbe4d4b3a6f95d29bb220da622304af468",
        "zero-point offsets for grid_mist_v9",
    ),
    "offsets_mist_v8.txt": Published(
        "10.7910/DVN/L7D1FY/QTNKKN",
        "35425281b5d828431ca5ef93262cb7c6f406814b649d7e7ca4866b8203408e5f",
        "zero-point offsets for grid_mist_v8",
    ),
    "offsets_bs_v9.txt": Published(
        "10.7910/DVN/L7D1FY/W4O6NJ",
        "b5449c08eb7b894b6d9aa1449a351851ca800ef4ed461c987434a0c250cba386",
        "zero-point offsets for grid_bayestar_v5",
    ),
    "nn_c3k.h5": Published(
        "10.7910/DVN/MSCY2O/XHU1VJ",
        "bc86d4bf55b2173b97435d24337579a2f337e80ed050c73f1e31abcd04163259",
        "networks of bolometric corrections, C3K",
    ),
}
ISOCHRONES = {
    "MIST_1.2_vvcrit0.0": "MIST_1.2_iso_vvcrit0.0.h5",
    "MIST_1.2_vvcrit0.4": "MIST_1.2_iso_vvcrit0.4.h5",
}
TRACKS = {"MIST_1.2_vvcrit0.0": "MIST_1.2_EEPtrk.h5"}
DUST_MAPS = {"bayestar19": "bayestar2019_v1.h5"}
GRIDS = {
    "mist_v9": "grid_mist_v9.h5",
    "mist_v8": "grid_mist_v8.h5",
    "bayestar_v5": "grid_bayestar_v5.h5",
}
OFFSETS = {
    "mist_v9": "offsets_mist_v9.txt",
    "mist_v8": "offsets_mist_v8.txt",
    "bayestar_v5": "offsets_bs_v9.txt",
}
NETWORKS = {"c3k": "nn_c3k.h5"}


def fetch_isos(target_dir: Any = ".", iso: str = "MIST_1.2_vvcrit0.0") -> Path:
    """Isochrones for `Isochrone(path)`; see `fetch` for what is returned and raised."""
    return fetch(_choice("iso", iso, ISOCHRONES), target_dir)


def fetch_tracks(target_dir: Any = ".", track: str = "MIST_1.2_vvcrit0.0") -> Path:
    """Evolutionary tracks for `EEPTracks(path)`; see `fetch`."""
    return fetch(_choice("track", track, TRACKS), target_dir)


def fetch_dustmaps(target_dir: Any = ".", dustmap: str = "bayestar19") -> Path:
    """A three-dimensional dust map; see `fetch`."""
    return fetch(_choice("dustmap", dustmap, DUST_MAPS), target_dir)


def fetch_grids(grid: str = "mist_v9", target_dir: Any = ".") -> Path:
    """A grid of models for `load_models(path)` and `brutax fit --grid`; see `fetch`."""
    return fetch(_choice("grid", grid, GRIDS), target_dir)


def fetch_offsets(target_dir: Any = ".", grid: str = "mist_v9") -> Path:
    """Zero-point offsets of a grid for `load_offsets(path)`; see `fetch`."""
    return fetch(_choice("grid", grid, OFFSETS), target_dir)


def fetch_nns(target_dir: Any = ".", model: str = "c3k") -> Path:
    """Networks for `FastNN(nnfile=path)`; see `fetch`."""
    return fetch(_choice("model", model, NETWORKS), target_dir)


def fetch(name: str, target_dir: Any = ".", *, progress: bool = True) -> Path:
    """One of `FILES` by name: a link in `target_dir` to the file in the cache folder.

    The cache is the folder in `BRUTAX_DATA_DIR`, or the user's cache folder; copies that brutus
    keeps are used. A file is fetched if it is not there or its SHA-256 is wrong; a download that
    stopped goes on where it was. Where links cannot be made, the file is copied.

    Raises `ValueError` for an unknown name, and for content of another SHA-256; `ConnectionError`
    where the server cannot be reached; `OSError` where folders cannot be written; `ImportError`
    without pooch.
    """
    _choice("file", name, {one: one for one in FILES})
    target = Path(target_dir)
    if not target.is_dir():
        raise NotADirectoryError(f"{target} is no folder; make it first")
    return _link(_cached(name, progress), target / name)


def find_file(name: str) -> Path:
    """A file that is in the cache folder, or in that of brutus.

    Raises `FileNotFoundError`, with the command that fetches it.
    """
    for folder in (cache_dir(), *_brutus_folders()):
        if (folder / name).is_file():
            return folder / name
    hint = f": `brutax data fetch {name}` fetches it" if name in FILES else ""
    raise FileNotFoundError(f"{name} is neither in {cache_dir()} nor in brutus' cache{hint}")


def find_nn_file(possible_names: tuple[str, ...] = ("nn_c3k.h5", "nnMIST_BC.h5")) -> Path:
    """The first of some files of networks that is in a cache folder; `FileNotFoundError`."""
    for name in possible_names:
        try:
            return find_file(name)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(
        f"none of {', '.join(possible_names)} is in {cache_dir()}: `brutax data fetch nn_c3k.h5` "
        "fetches the networks of brutus; leave out `nnfile` for the models inside brutax"
    )


def _choice(what: str, wanted: str, options: dict[str, str]) -> str:
    if wanted not in options:
        close = difflib.get_close_matches(str(wanted), options, 1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(f"{what} {wanted!r} is not known; {hint}there are {', '.join(options)}")
    return options[wanted]


def _brutus_folders() -> list[Path]:
    stated = os.environ.get("ASTRO_BRUTUS_DATA_DIR")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return [Path(stated)] if stated else [Path(base) / "astro-brutus"]


def _cached(name: str, progress: bool) -> Path:
    """The path of a file in a cache, fetched if it has to be."""
    try:
        import pooch
        import requests
    except ImportError:
        raise ImportError("downloads need pooch: pip install 'brutax[data]'") from None
    known = FILES[name]
    for folder in _brutus_folders():
        path = folder / name
        if path.is_file() and pooch.file_hash(str(path)) == known.sha256:
            return path
    folder, url = cache_dir(), BASE_URL + known.doi
    resuming: Any = _Resuming(folder / f"{name}.part", progress)
    pooch.get_logger().setLevel("WARNING")
    by_hand = f"fetch it elsewhere and put it there as {folder / name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        got = pooch.retrieve(url, f"sha256:{known.sha256}", name, folder, downloader=resuming)
        return Path(got)
    except requests.RequestException as error:
        raise ConnectionError(
            f"{name} could not be fetched from {url} ({_reason(error)}). Try again later (what has "
            f"come is kept), or {by_hand}"
        ) from error
    except ValueError as error:
        raise ValueError(
            f"what came from {url} is not {name}: its SHA-256 is not {known.sha256}. Try again; if "
            f"it happens again, {by_hand}"
        ) from error
    except OSError as error:
        raise OSError(
            f"{folder} cannot be used to keep {name} ({error.strerror or error}); name another "
            f"folder in {VARIABLE}"
        ) from error


def _reason(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # pyright: ignore
    return str(error) or type(error).__name__


class _Resuming:
    """A downloader for pooch that goes on with a file that stopped."""

    def __init__(self, part: Path, progress: bool):
        self.part, self.progress = part, progress

    def __call__(self, url: str, output_file: Any, _: Any, check_only: bool = False) -> None:
        import requests

        for left in range(RETRIES - 1, -1, -1):
            try:
                with _exclusively(self.part) as part:
                    self._get(url, part)
                    shutil.move(part, output_file)
                return
            except requests.RequestException:
                if not left:
                    raise

    def _get(self, url: str, part: Path) -> None:
        import requests

        have = part.stat().st_size if part.exists() else 0
        asked = {"Range": f"bytes={have}-", "Accept-Encoding": "identity"} if have else {}
        with requests.get(url, headers=asked, stream=True, timeout=TIMEOUT) as answer:
            if answer.status_code == 416:  # there is no more to come
                return
            answer.raise_for_status()
            goes_on = answer.status_code == 206 and answer.headers.get(
                "Content-Range", ""
            ).startswith(f"bytes {have}-")
            if answer.status_code == 206 and not goes_on:
                part.unlink()
                raise requests.ConnectionError("the server sent another part than asked for")
            size = int(answer.headers.get("Content-Length") or 0)
            start = have if goes_on else 0
            with part.open("ab" if goes_on else "wb") as file, self._bar(start, size) as bar:
                for block in answer.iter_content(CHUNK):
                    file.write(block)
                    bar.update(len(block))
            if size and part.stat().st_size < start + size:
                raise requests.ConnectionError("the connection was cut")

    def _bar(self, start: int, size: int) -> Any:
        from tqdm.auto import tqdm

        return tqdm(
            total=start + size or None,
            initial=start,
            unit="B",
            unit_scale=True,
            desc=self.part.stem,
            disable=not self.progress,
            mininterval=0.5,
        )


class _exclusively:
    """A partial file of one process; another one that comes meanwhile starts its own."""

    def __init__(self, part: Path):
        self.part, self.lock = part, None

    def __enter__(self) -> Path:
        self.lock = self.part.with_suffix(".lock").open("w")
        try:
            import fcntl

            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (ImportError, OSError):
            return self.part.with_suffix(f".{os.getpid()}.part")
        return self.part

    def __exit__(self, *_: Any) -> None:
        assert self.lock is not None
        self.lock.close()


def _link(cached: Path, target: Path) -> Path:
    """A link at `target` to a cached file, or a copy; a file of the same size there stays."""
    if target.is_symlink():
        if target.resolve() == cached.resolve():
            return target
        target.unlink()
    elif target.exists():
        if target.resolve() == cached.resolve() or target.stat().st_size == cached.stat().st_size:
            return target
        target.unlink()
    try:
        target.symlink_to(cached.resolve())
    except (OSError, NotImplementedError):
        shutil.copy2(cached, target)
    return target
