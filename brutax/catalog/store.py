"""Posteriors on disk: an HDF5 file that survives being killed at any moment.

Every dataset is allocated in full when the file is made, so that later writes only replace
bytes in place and the structure of the file never changes again. A batch is written, forced to
disk, and only then marked in `done`; a run that finds the file continues with the rows that
are not marked. Datasets, dtypes and fill values follow brutus 1.2.0 where it has them.
"""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from brutax.catalog.schema import DRAW, DRAW_DTYPES, LEVEL, PARAMETER, columns
from brutax.utils.durable import differences, sync

FORMAT = 1  # of the file
FINGERPRINT = "fingerprint"  # root attribute: everything that the numbers depend on
OPTIONAL = {"draw_dtype": "float32"}  # what a fingerprint may leave out, and means then
MIN_FREE = 64 * 2**20  # bytes to leave on the disk


class StoreError(ValueError):
    """A posterior file that cannot be made, read or continued."""


@dataclass(frozen=True)
class Field:
    """One dataset: its shape per star, type and fill value."""

    shape: tuple[int, ...]
    dtype: str
    fill: float | int
    what: str


def fields(
    n_draws: int,
    n_parameters: int,
    n_levels: int,
    save_draws: bool,
    draw_dtype: str = "float32",
) -> dict[str, Field]:
    """The datasets of a posterior file; without draws only those of whole stars."""
    sizes = {DRAW: n_draws, PARAMETER: n_parameters, LEVEL: n_levels}
    table = {}
    for column in columns(n_draws, save_draws):
        shape = tuple(sizes[x] if isinstance(x, str) else x for x in column.shape)
        dtype = DRAW_DTYPES[draw_dtype] if column.half else column.dtype
        unit = f" [{column.unit}]" if column.unit else ""
        table[column.name] = Field(shape, dtype, column.fill, column.meaning + unit)
    return table


def _allocate(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: Any, fill: float | int = 0
) -> h5py.Dataset:
    """A contiguous dataset whose bytes exist, and are `fill`, from the start."""
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.CONTIGUOUS)
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    if fill != 0:
        plist.set_fill_value(np.array(fill, dtype))
        plist.set_fill_time(h5py.h5d.FILL_TIME_ALLOC)
    space = h5py.h5s.create_simple(shape)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=plist)
    return _dataset(file, name)


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise StoreError(f"{file.filename}: '{name}' is not a dataset")
    return item


def _reserve(path: Path) -> None:
    """Makes the disk promise the bytes of a file, so that a full one is found now."""
    if not hasattr(os, "posix_fallocate"):  # not on every system
        return
    with open(path, "r+b") as handle:
        os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)


def _sync(file: h5py.File) -> None:
    file.flush()
    sync(file.filename)


class PosteriorStore:
    """Durable rows of posteriors. Use `create` or `resume`, then `append`, then `close`."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        source_id: np.ndarray,
        n_draws: int,
        parameters: tuple[str, ...],
        levels: tuple[float, ...],
        fingerprint: Mapping[str, Any],
        attrs: Mapping[str, Any],
        labels: np.ndarray | None = None,
        models: Mapping[str, np.ndarray] | None = None,
        save_draws: bool = True,
        draw_dtype: str = "float32",
    ) -> "PosteriorStore":
        """Makes the file, in place of an older posterior file, once it is complete in structure.

        `fingerprint` holds what the numbers depend on (as JSON); `attrs` holds what is good to
        know besides; `models` the labels of the grid's rows, so that draws stand alone.
        """
        path, n_stars = Path(path), len(source_id)
        table = fields(n_draws, len(parameters), len(levels), save_draws, draw_dtype)
        check_target(path, n_stars * row_bytes(table))
        partial = path.with_name(f"{path.name}.{os.getpid()}.new")
        try:
            with h5py.File(partial, "w", libver="earliest") as file:
                for name, field in table.items():
                    shape = (n_stars, *field.shape)
                    dataset = _allocate(file, name, shape, field.dtype, field.fill)
                    dataset.attrs["description"] = field.what
                _allocate(file, "done", (n_stars,), "u1")
                file.create_dataset("source_id", data=source_id)
                file.create_dataset("labels", data=source_id if labels is None else labels)
                for name, column in (models or {}).items() if n_draws else ():
                    # as it is: packing the labels of a large grid takes longer than a small fit
                    file.create_dataset(
                        f"models/{name}", data=column.astype(np.float32, copy=False)
                    )
                file.attrs["format"] = FORMAT
                file.attrs["parameters"] = list(parameters)
                file.attrs["quantile_levels"] = np.asarray(levels)
                file.attrs[FINGERPRINT] = json.dumps(dict(fingerprint), sort_keys=True)
                for name, value in attrs.items():
                    file.attrs[name] = value
                _sync(file)
            _reserve(partial)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise StoreError(f"cannot write {path}: {_reason(error)}") from error
        return cls(_open(path, "r+"))

    @classmethod
    def resume(cls, path: str | Path, fingerprint: Mapping[str, Any]) -> "PosteriorStore":
        """Opens a file to go on with it; refuses if its numbers would differ from new ones."""
        store = cls(_open(Path(path), "r+"))
        try:
            known = json.loads(str(store._file.attrs[FINGERPRINT]))
        except KeyError:
            store.close()
            raise StoreError(
                f"{path} exists and was not written by brutax; choose another output"
            ) from None
        except (OSError, RuntimeError, json.JSONDecodeError):
            store.close()
            raise StoreError(f"{path} is damaged; delete it or choose another output") from None
        known, wanted = OPTIONAL | known, OPTIONAL | json.loads(json.dumps(dict(fingerprint)))
        changes = differences(known, wanted)
        if changes:
            store.close()
            raise StoreError(
                f"{path} holds another fit ({changes}); choose another output or overwrite"
            )
        return store

    @property
    def path(self) -> Path:
        return Path(self._file.filename)

    def todo(self) -> np.ndarray:
        """Rows that are not finished."""
        return np.flatnonzero(_dataset(self._file, "done")[:] == 0)

    def append(self, rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
        """Writes finished rows: all their data first, then the mark that they are done."""
        rows = np.asarray(rows)
        order: Any = slice(len(rows)) if np.all(rows[1:] > rows[:-1]) else np.argsort(rows)
        where: Any = rows[order]
        if where.size and where[-1] - where[0] == where.size - 1:
            where = slice(int(where[0]), int(where[-1]) + 1)  # HDF5 is faster with it
        try:
            for name, value in values.items():
                if name in self._file:
                    _dataset(self._file, name)[where] = np.asarray(value)[order]
            _sync(self._file)
            _dataset(self._file, "done")[where] = 1
            _sync(self._file)
        except OSError as error:
            raise StoreError(
                f"cannot write {self.path}: {_reason(error)}; finished stars are safe, "
                "run again to continue"
            ) from error

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "PosteriorStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _open(path: Path, mode: str) -> h5py.File:
    if not path.is_file():
        raise StoreError(f"{path} does not exist")
    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {_reason(error)}") from error


def check_ours(path: Path) -> None:
    """Raises `StoreError` unless a file may be replaced: a posterior file that nobody has open."""
    with _open(path, "r+") as file:
        if FINGERPRINT not in file.attrs:
            raise StoreError(
                f"{path} exists and is not a posterior file: it is not replaced; "
                "choose another output"
            )


def read_arrays(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """All datasets and root attributes of a posterior file; groups are joined with '/'.

    Arrays are views of the file, as it is now: what is not looked at takes no memory.
    """
    with _open(Path(path), "r") as file:
        if FINGERPRINT not in file.attrs or "done" not in file:
            raise StoreError(f"{path} is not a posterior file written by brutax")
        arrays: dict[str, np.ndarray] = {}

        def visit(name: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                arrays[name] = _view(item)

        try:
            file.visititems(visit)
            attrs = dict(file.attrs)
        except (OSError, RuntimeError, KeyError) as error:
            raise StoreError(f"{path} is damaged: {error}".splitlines()[0]) from error
        lacking = {"status", "source_id", "summary_mean"} - arrays.keys()
        if "samps_dist" in arrays:
            lacking |= {"model_idx"} - arrays.keys()
        if lacking or not {"parameters", "quantile_levels"} <= attrs.keys():
            raise StoreError(
                f"{path} is damaged: it lacks {', '.join(sorted(lacking)) or 'attributes'}"
            )
        return arrays, attrs


def _view(dataset: h5py.Dataset) -> np.ndarray:
    """A dataset mapped into memory where its bytes lie in one piece, else a copy."""
    offset = dataset.id.get_offset()
    if offset is None or not dataset.size or dataset.dtype.hasobject:
        return dataset[()]
    return np.asarray(np.memmap(dataset.file.filename, dataset.dtype, "r", offset, dataset.shape))


def row_bytes(table: Mapping[str, Field]) -> int:
    """Bytes per star of the datasets of a posterior file."""
    return sum(math.prod(field.shape) * np.dtype(field.dtype).itemsize for field in table.values())


def check_target(path: Path, size: int) -> None:
    """Raises `StoreError` unless a posterior file of `size` bytes can be made there."""
    parent = path.absolute().parent
    if not parent.is_dir():
        raise StoreError(f"the folder of {path} does not exist; make it first")
    if path.is_dir():
        raise StoreError(f"{path} is a folder; give the name of a file")
    if not os.access(parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise StoreError(f"{path} cannot be written (read-only); choose another output")
    disk = os.statvfs(parent)
    free = disk.f_bavail * disk.f_frsize
    if size + MIN_FREE > free:
        raise StoreError(
            f"{path} needs {size / 1e6:.0f} MB and the disk has {free / 1e6:.0f} MB free; "
            "lower n_draws or choose another disk"
        )
    if path.exists():
        check_ours(path)


def _reason(error: OSError) -> str:
    if error.strerror and "unable to" not in error.strerror.lower():  # HDF5 says why below
        return error.strerror.lower()
    text = str(error)
    if "errno = 28" in text:
        return "no space left on the disk"
    if "errno = 13" in text or "errno = 30" in text:
        return "permission denied or read-only"
    if "truncated" in text:
        return "the file is truncated"
    if "signature" in text:
        return "not an HDF5 file"
    if "lock" in text:
        return "another process has it open"
    return text.splitlines()[0]
