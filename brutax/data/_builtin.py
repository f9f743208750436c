"""The files of fitted models that come with the package."""

import hashlib
from functools import cache
from importlib.resources import files
from io import BytesIO

import numpy as np


@cache
def builtin(name: str) -> dict[str, np.ndarray]:
    """The arrays of `builtin/<name>.npz`, read once."""
    with np.load(BytesIO(_read(name))) as file:
        return dict(file)


@cache
def builtin_digest(name: str) -> str:
    """The SHA-256 of the file."""
    return hashlib.sha256(_read(name)).hexdigest()


def pack(values: np.ndarray, quantum: float) -> np.ndarray:
    """Numbers as multiples of `quantum`, byte by byte, (4, *shape): compresses to half the size.

    Along the second axis differences are kept, which are small where numbers vary slowly.
    """
    steps = np.round(np.asarray(values, np.float64) / quantum).astype(np.int32)
    steps = np.diff(steps, axis=1, prepend=0)
    octets = np.ascontiguousarray(steps.astype("<i4")).view(np.uint8)
    return np.moveaxis(octets.reshape(*steps.shape, 4), -1, 0)


def unpack(octets: np.ndarray, quantum: float) -> np.ndarray:
    """The numbers of `pack`, in float64."""
    last = np.ascontiguousarray(np.moveaxis(octets, 0, -1))
    steps = last.view("<i4")[..., 0]
    return np.cumsum(steps, axis=1, dtype=np.int64) * quantum


def _read(name: str) -> bytes:
    return (files("brutax.data") / "builtin" / f"{name}.npz").read_bytes()
