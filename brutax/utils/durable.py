"""Durable files: hashes of content, and replacing a file in one step."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def digest(*arrays: Any) -> str:
    """A short hash of arrays and strings, by content."""
    sha = hashlib.sha256()
    for array in arrays:
        array = np.ascontiguousarray(array)
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(array.tobytes())
    return sha.hexdigest()[:16]


def sync(path: str | Path) -> None:
    """Forces a file or a folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(partial: Path, path: Path, previous: Path | None = None) -> None:
    """Puts a complete file in the place of another, durably; `previous` keeps the old one.

    At every moment `path` is either the old file or the new one, never neither.
    """
    sync(partial)
    if previous is not None and path.exists():
        link = previous.with_name(f"{previous.name}.{os.getpid()}.new")
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, previous)
    os.replace(partial, path)
    sync(path.absolute().parent)


def differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """Names and values of what differs between two records, '' where nothing does."""
    differ = [key for key in sorted({*known, *wanted}) if known.get(key) != wanted.get(key)]
    return ", ".join(
        f"{key} was {short(known.get(key))}, now {short(wanted.get(key))}" for key in differ
    )


def short(value: Any) -> str:
    """A value as text of at most 60 characters."""
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_datasets(file: h5py.File) -> dict[str, np.ndarray]:
    """All datasets of an HDF5 file as arrays; groups are joined with '/'."""
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    file.visititems(visit)
    return arrays
