"""State of a sampler on disk: one HDF5 file, replaced as a whole, checksummed, without pickles.

The file before the last one is kept as `<name>.prev` and used where the last one is damaged.
"""

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from types import FrameType
from typing import Any

import h5py
import jax
import numpy as np
from jaxtyping import Array, PyTree

from brutax.infer.progress import Progress
from brutax.utils.durable import differences, digest, read_datasets, replace

MAGIC = "brutax.infer checkpoint"
SCHEMA = 1  # of the file; goes up when its layout changes
SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1")  # that ask a run to stop (SIGUSR1: SLURM)


Draws = dict[str, list[np.ndarray]]  # pieces of every kind of draw, in order


class CheckpointError(ValueError):
    """A checkpoint that cannot be continued: it belongs to another run, or is damaged."""


class Interrupted(KeyboardInterrupt):
    """A signal ended the run after its state was saved."""


class Session:
    """Saves a run every `save_every` seconds and when a signal asks it to stop.

    `identity` (JSON) is what the numbers depend on; a file of another identity is refused.
    Without a path nothing is written and no signal handler is installed.
    """

    def __init__(
        self,
        path: str | PathLike | None,
        identity: dict[str, Any],
        *,
        resume: str | bool = "auto",
        save_every: float = 60.0,
        progress: Progress | None = None,
    ) -> None:
        if resume not in ("auto", "require", False):
            raise ValueError(f"resume is 'auto', 'require' or False, found {resume!r}")
        self.path = None if path is None else Path(path)
        self.identity = json.loads(json.dumps(identity))
        self.resume, self.save_every = resume, save_every
        self.progress = Progress(False, "") if progress is None else progress
        self._last, self._signal, self._old = time.monotonic(), 0, {}

    def __enter__(self) -> "Session":
        if self.path is not None and threading.current_thread() is threading.main_thread():
            for name in SIGNALS:
                number = getattr(signal, name)
                self._old[number] = signal.signal(number, self._asked)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self.progress.close()
        # it came after the last save: it has not been acted on yet
        if self._signal and kind is None:
            signal.raise_signal(self._signal)

    def _asked(self, number: int, frame: FrameType | None) -> None:
        if self._signal:  # asked twice: do not wait for the chunk under way
            raise KeyboardInterrupt
        self._signal = number

    def load(self) -> dict[str, np.ndarray] | None:
        """Arrays of the last good save, or None for a fresh start.

        Raises `CheckpointError` if the file belongs to another run, if no copy is readable, or if
        there is none and `resume="require"`.
        """
        if self.path is None:
            return None
        for old in self.path.parent.glob(f"{self.path.name}.tmp*"):
            old.unlink(missing_ok=True)
        if not self.path.exists():
            if self.resume == "require":
                raise CheckpointError(f"{self.path} does not exist, and resume='require'")
            return None
        problems = []
        for path in (self.path, self.previous):
            try:
                arrays, identity = _read(path)
            except (OSError, KeyError, ValueError, RuntimeError) as error:
                problems.append(f"{path}: {error}".splitlines()[0])
                continue
            changes = differences(identity, self.identity)
            if changes:
                raise CheckpointError(
                    f"{path} belongs to another run ({changes}); choose another file or delete it"
                )
            if problems:
                warnings.warn(f"{problems[0]}; going on from {path}", RuntimeWarning, stacklevel=2)
            return arrays if self.resume else None
        raise CheckpointError("; ".join(problems) + ": delete it or choose another file")

    @property
    def previous(self) -> Path:
        assert self.path is not None
        return self.path.with_name(self.path.name + ".prev")

    def report(self, done: float, total: float, numbers: Callable[[], Mapping[str, Any]]) -> None:
        """How far the run is; `numbers` are only asked for where somebody looks."""
        if self.progress.wanted:
            self.progress(done, total, numbers())

    def tick(self, state: PyTree, draws: Draws | Callable[[], Draws], done: bool = False) -> None:
        """To be called between chunks: saves when it is time, and stops when asked to.

        `draws` are arrays in pieces by name; they or `state` may be functions that gather them.
        """
        if self.path is None:
            return
        due = time.monotonic() - self._last >= self.save_every
        if due or done or self._signal:
            state = state() if callable(state) else state
            draws = draws() if callable(draws) else draws
            _write(self.path, self.previous, pack(state, draws), self.identity)
            self._last = time.monotonic()
        if self._signal:
            name = signal.Signals(self._signal).name
            raise Interrupted(f"{name}: saved to {self.path}; run the same call again to go on")


def pack(state: PyTree, draws: Draws) -> dict[str, np.ndarray]:
    """Leaves of a pytree by number, and draws joined along their first axis."""
    arrays = {f"state/{i:04d}": _plain(leaf) for i, leaf in enumerate(jax.tree.leaves(state))}
    return arrays | {f"draws/{k}": np.concatenate(v) for k, v in draws.items() if v}


def unpack(arrays: Mapping[str, np.ndarray], like: PyTree) -> tuple[Any, Draws]:
    """The inverse of `pack`, in the structure of `like` (shapes from `jax.eval_shape`)."""
    leaves, structure = jax.tree.flatten(like)
    found = [arrays[f"state/{i:04d}"] for i in range(len(leaves))]
    state = [_as(value, leaf) for value, leaf in zip(found, leaves, strict=True)]
    draws = {k.split("/", 1)[1]: [v] for k, v in arrays.items() if k.startswith("draws/")}
    return jax.tree.unflatten(structure, state), draws


def _plain(leaf: Array | np.ndarray | np.generic) -> np.ndarray:
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return np.asarray(jax.random.key_data(jax.numpy.asarray(leaf)))
    return np.asarray(leaf)


def _as(value: np.ndarray, like: Any) -> Any:
    if jax.numpy.issubdtype(like.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jax.numpy.asarray(value))
    if value.shape != like.shape or value.dtype != like.dtype:
        raise CheckpointError(f"state is {value.dtype}{value.shape}, not {like.dtype}{like.shape}")
    return jax.numpy.asarray(value)


def _checksum(arrays: dict[str, np.ndarray], identity: str) -> str:
    return digest(identity, *(x for name in sorted(arrays) for x in (name, arrays[name])))


def _write(path: Path, previous: Path, arrays: dict[str, np.ndarray], identity: dict) -> None:
    partial = path.with_name(f"{path.name}.tmp{os.getpid()}")
    text = json.dumps(identity, sort_keys=True)
    with h5py.File(partial, "w") as file:
        for name, value in arrays.items():
            file.create_dataset(name, data=value)
        file.attrs.update(magic=MAGIC, schema=SCHEMA, identity=text)
        file.attrs["sha256"] = _checksum(arrays, text)
    replace(partial, path, previous)


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    with h5py.File(path, "r") as file:
        if file.attrs.get("magic") != MAGIC:
            raise ValueError("not a checkpoint of brutax")
        if file.attrs["schema"] != SCHEMA:
            raise ValueError(f"schema {file.attrs['schema']}, this version reads {SCHEMA}")
        arrays = read_datasets(file)
        text = str(file.attrs["identity"])
        if _checksum(arrays, text) != str(file.attrs["sha256"]):
            raise ValueError("damaged: its checksum does not fit")
        return arrays, json.loads(text)
