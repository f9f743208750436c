"""Files of results that later processes use again: compiled programs, tiles of grids.

They are kept beside JAX's own compiled programs, in the folder of `jax_compilation_cache_dir`, if
that is set. The name of a file is a hash of everything that its content depends on. What cannot be
read or written is computed again, with a line in the log.
"""

import contextlib
import functools
import hashlib
import logging
import os
import platform
import sys
import uuid
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

log = logging.getLogger("brutax")

# settings of JAX change programs, except those that have one of these words in their names: they
# only choose folders and what is logged
PLACES = ("cache", "log", "dump", "profil", "traceback", "coordinator")


def folder() -> Path | None:
    """The folder of these files; None where JAX keeps no compiled programs on this machine."""
    values = jax.config.values
    path = values.get("jax_compilation_cache_dir")
    if not path or not values.get("jax_enable_compilation_cache", True) or "://" in str(path):
        return None
    return Path(path) / "brutax"


def name_of(*content: Any) -> str:
    """A name of a file: a hash of some values by their `repr`."""
    return hashlib.blake2b(repr(content).encode(), digest_size=16).hexdigest()


def read(name: str) -> bytes | None:
    """The content of a file in the cache, or None."""
    place = folder()
    if place is None:
        return None
    try:
        return (place / name).read_bytes()
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
