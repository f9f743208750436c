"""Coefficients of a grid file as memory-mapped arrays, through an uncompressed copy on disk."""

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from brutax.data._layouts import GridError, GridFile, iter_coefficients, require_rows


def cached_coefficients(
    file: GridFile, bands: Sequence[str], keep: np.ndarray, cache_dir: Any
) -> tuple[np.ndarray, np.ndarray]:
    """`gridfile.load_coefficients` from an uncompressed copy on disk that is made if needed."""
    source = Path(file.name).resolve()
    state = source.stat()
    key = hashlib.sha256(json.dumps([str(source), state.st_size, state.st_mtime_ns]).encode())
    key.update(json.dumps(list(bands)).encode())
    key.update(keep.tobytes())
    if cache_dir is None:
        folder = Path(tempfile.mkdtemp(prefix="brutax-grid-"))
    else:
        folder = Path(cache_dir) / f"{source.stem}-{key.hexdigest()[:16]}"
    try:
        if not (folder / "coefficients.npy").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            _unpack(file, bands, keep, folder)
        good = np.load(folder / "positions.npy")
        require_rows(good.size, file)  # an empty array cannot be mapped
        table = np.load(folder / "coefficients.npy", mmap_mode="r")
    except (OSError, GridError) as error:
        if cache_dir is None:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, GridError):
            raise
        raise GridError(f"cannot unpack {file.name} to {folder}: {error}") from error
    if cache_dir is None:
        weakref.finalize(_owner(table), shutil.rmtree, folder, ignore_errors=True)
    return table.transpose(1, 0, 2), good


def _owner(table: np.ndarray) -> Any:
    """The mapping itself, which lives as long as any view of the array."""
    return table._mmap if isinstance(table, np.memmap) else table  # pyright: ignore


def _unpack(file: GridFile, bands: Sequence[str], keep: np.ndarray, folder: Path) -> None:
    """Appends the finite rows to a .npy file, block by block; the header comes right at the end."""
    partial = folder / f"coefficients.{os.getpid()}.partial"
    good, n = [], 0
    header = {"descr": "<f4", "fortran_order": False}
    with open(partial, "wb") as out:
        shape = (keep.size, 3, len(bands))
        np.lib.format.write_array_header_1_0(out, {**header, "shape": shape})
        for where, block in iter_coefficients(file, bands, keep):
            finite = np.isfinite(block).all(axis=(1, 2))
            out.write(block[finite].astype("<f4").tobytes())
            good.append(where[finite])
            n += good[-1].size
        out.seek(0)
        np.lib.format.write_array_header_1_0(out, {**header, "shape": (n, *shape[1:])})
    np.save(folder / "positions.npy", np.concatenate(good) if good else np.empty(0, int))
    os.replace(partial, folder / "coefficients.npy")
