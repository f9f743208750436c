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


def _read(name: str) -> bytes:
    return (files("brutax.data") / "builtin" / f"{name}.npz").read_bytes()
