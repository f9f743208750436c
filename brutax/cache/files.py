"""Files of results that later processes use again: compiled programs, tiles of grids.

They are kept in a folder of brutax' own, `programs` in the user's cache folder
(`brutax.cache.folders`). `BRUTAX_CACHE` names another folder, or is "off". The name of a file is a
hash of everything that its content depends on. What cannot be read or written is computed again,
with a line in the log. The folder holds `LIMIT` bytes at most: what was not used for longest is
removed. Several processes may read, write and clean at the same time: files appear complete, and
one that another process has removed is made again.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import sys
import time
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from brutax.cache.folders import cache_dir

log = logging.getLogger("brutax")

VARIABLE = "BRUTAX_CACHE"  # a folder, or "off"
OFF = ("off", "0", "no", "none", "false")
LIMIT = 1_000_000_000  # bytes: the programs of some hundred combinations of bands and grids
KEPT = 0.8  # of LIMIT that is left after cleaning
ABANDONED = 86_400  # seconds after which a file that was never finished is removed

# settings of JAX change programs, except those that have one of these words in their names: they
# only choose folders and what is logged
PLACES = ("cache", "log", "dump", "profil", "traceback", "coordinator")


def folder() -> Path | None:
    """The folder of these files; None where nothing is to be kept."""
    stated = os.environ.get(VARIABLE, "").strip()
    if stated.lower() in OFF or not getattr(jax.config, "jax_enable_compilation_cache", True):
        return None
    return Path(stated).expanduser() if stated else cache_dir() / "programs"


def name_of(*content: Any) -> str:
    """A name of a file: a hash of some values by their `repr`."""
    return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def read(name: str) -> bytes | None:
    """The content of a file in the cache, or None."""
    place = folder()
    if place is None:
        return None
    try:
        content = (place / name).read_bytes()
        with contextlib.suppress(OSError):
            os.utime(place / name)  # used just now
        return content
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("%s cannot be read, and is made again: %s", place / name, error)
        return None


def write(name: str, content: bytes) -> None:
    """Writes a file of the cache, completely or not at all; a failure is logged, not raised."""
    place = folder()
    if place is None:
        return
    part = place / f"{name}.{os.getpid()}-{uuid.uuid4().hex[:8]}.part"
    try:
        place.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(place / name)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        log.warning("cannot keep %s for later processes: %s", place / name, error)
    else:
        _clean(place)


def _clean(place: Path) -> None:
    """Removes what was used longest ago until the folder is within its limit.

    Files come and go meanwhile: what another process has removed is no longer there to remove.
    """
    found, now = [], time.time()
    with contextlib.suppress(OSError), os.scandir(place) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                state = entry.stat()
                if entry.name.endswith(".part"):
                    if now - state.st_mtime > ABANDONED:
                        os.unlink(entry.path)
                elif entry.is_file():
                    found.append((state.st_mtime, state.st_size, entry.path))
    total = sum(size for _, size, _ in found)
    if total <= LIMIT:
        return
    for _, size, path in sorted(found):
        if total <= KEPT * LIMIT:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        total -= size


def circumstances() -> tuple:
    """What a program depends on besides code and arguments: versions, settings, the machine."""
    values = jax.config.values
    settings = [
        (name, repr(values[name]))
        for name in sorted(values)
        if not any(word in name for word in PLACES)
    ]
    x64 = bool(jax.config.read("jax_enable_x64"))
    device = jax.local_devices()[0]
    where = (device.platform, device.device_kind, device.client.platform_version, _processor())
    flags = [os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")]
    return (_versions(), tuple(settings), x64, where, tuple(flags))


@functools.cache
def _versions() -> tuple[str, ...]:
    names = ("jax", "jaxlib", "equinox", "numpy")
    return (sys.version, *(version(name) for name in names))


@functools.cache
def code() -> str:
    """A hash of the source of the package."""
    root = Path(__file__).parents[1]
    sha = hashlib.blake2b(digest_size=16)
    for path in sorted(root.rglob("*.py")):
        sha.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return sha.hexdigest()


@functools.cache
def _processor() -> str:
    """Model and instruction sets of the processor, which compiled programs depend on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    words = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(words)}))
