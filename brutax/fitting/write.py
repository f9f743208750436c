"""Where posteriors go: a durable file or memory, with everything needed to know them again."""

import functools
import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import equinox as eqx
import jax
import numpy as np

from brutax.catalog import Catalog, FitResult, PosteriorStore, StoreError, digest
from brutax.catalog.schema import DRAW_DTYPES, HALF
from brutax.catalog.store import FINGERPRINT, OPTIONAL, check_target, fields, row_bytes
from brutax.fitting.functions import trial_values
from brutax.fitting.rounds import Job, Table
from brutax.models import StarGrid, Status
from brutax.solver import QUANTILES, parameter_names

log = logging.getLogger("brutax")
_version = functools.cache(version)  # reading it takes a millisecond

# goes up where the same call gives other draws: files of both are not mixed
SOLVER = 7
# rounding, in standard deviations, of draws beyond which a user is warned: it adds 0.5 % to them
COARSE = 0.1
Progress = Callable[[Iterator[int], int, int], Iterable[int]]


@dataclass(frozen=True)
class Output:
    """Where the result goes and what is kept of it.

    `path`: an HDF5 file (`.h5` is added), or None for memory. With `overwrite` an existing file is
    replaced instead of continued. `labels` are stored beside the posteriors. `save_draws=False`
    leaves out the draws of distance, A_V and R_V; `draw_dtype="float16"` keeps them to one part in
    2048. `single` results are of one star, without a leading axis. `verbose` shows a progress bar;
    `progress`, a function (finished counts, total, already done) -> the same counts, is used
    in its place. `attrs` are more provenance. Raises `ValueError` for another `draw_dtype`.
    """

    path: str | os.PathLike | None = None
    overwrite: bool = False
    labels: Any = None
    save_draws: bool = True
    draw_dtype: str = "float32"
    single: bool = False
    verbose: bool = True
    progress: Progress | None = None
    attrs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.draw_dtype not in DRAW_DTYPES:
            raise ValueError(
                f"draw_dtype must be {' or '.join(DRAW_DTYPES)}, got {self.draw_dtype!r}"
            )

    def kept(self) -> dict[str, Any]:
        """What a fingerprint says of what is kept."""
        settings = {"save_draws": self.save_draws, "draw_dtype": self.draw_dtype}
        return {k: v for k, v in settings.items() if k not in OPTIONAL or v != OPTIONAL[k]}


def fingerprint(job: Job, grid: StarGrid, model_prior: str, output: Output) -> dict[str, Any]:
    """Everything that the numbers of a fit depend on, as plain JSON values.

    `model_prior` is the digest of the prior masses of the grid's models.
    """
    catalog, prior = job.catalog, job.prior
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(job.av_per_star)]
    own = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(prior, eqx.is_array))]
    text = eqx.tree_pformat(prior, short_arrays=False, width=10**6)
    return {
        "grid": grid.hash,
        "bands": list(grid.bands),
        "model prior": model_prior,
        "priors": re.sub(r" at 0x[0-9a-f]+", "", text),
        "prior values": digest(*own, *trial_values(prior, grid.label_table, catalog.coords)),
        "dust": digest(*leaves) if leaves else "",
        "stars": digest(
            catalog.flux,
            catalog.flux_err,
            catalog.parallax,
            catalog.parallax_err,
            catalog.coords,
            catalog.source_id,
        ),
        "solver": SOLVER,
        **job.options.identity(),
        "precision": "float64" if jax.config.read("jax_enable_x64") else "float32",
        **output.kept(),
    }


def provenance(catalog: Catalog) -> dict[str, Any]:
    """What is good to know about a result besides."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "brutax_version": _version("brutax"),
        "versions": json.dumps(
            {name: _version(name) for name in ("jax", "jaxlib", "equinox", "numpy", "h5py")}
            | {"python": sys.version.split()[0]}
        ),
        "device": str(jax.devices()[0].device_kind),
        "bands": list(catalog.bands),
        "flags": json.dumps({str(flag.name): int(flag) for flag in Status if flag}),
        "notes": "\n".join(catalog.notes),
    }


class Sink(Protocol):
    """Takes finished rows: a file (`FileSink`) or memory (`MemorySink`)."""

    @property
    def todo(self) -> np.ndarray:
        """Rows that are still to be fitted."""
        ...

    def write(self, rows: np.ndarray, table: Table) -> None:
        """Keeps finished rows."""
        ...

    def result(self) -> str | FitResult:
        """The path of the file, or the result."""
        ...


class FileSink:
    """Rows of a posterior file: one that is continued, or a new one.

    A new file is laid out in a thread of its own while the first stars are fitted; the first write
    waits for it. Use it in a `with` statement. Raises `StoreError` where the file cannot be made or
    holds another fit.
    """

    def __init__(
        self, path: Path, job: Job, grid: StarGrid, known: dict[str, Any], output: Output
    ) -> None:
        self.path, self.keeper = path, Keeper(job, output)
        self._stack = ExitStack()
        count = len(job.catalog)
        if path.exists() and not output.overwrite:
            store = self._stack.enter_context(PosteriorStore.resume(path, known))
            self._store: PosteriorStore | Future[PosteriorStore] = store
            self._todo = store.todo()
        else:
            check_target(path, count * row_bytes(self.keeper.fields))
            self._todo = np.arange(count)
            ids, labels = _ids_and_labels(job.catalog, output)
            self._store = self._make_aside(
                source_id=ids,
                n_draws=job.options.draws,
                parameters=parameter_names(job.models.models),
                levels=QUANTILES,
                fingerprint=known,
                attrs=provenance(job.catalog) | output.attrs | {"single": output.single},
                labels=labels,
                models=grid.labels_to_keep(),
                save_draws=output.save_draws,
                draw_dtype=output.draw_dtype,
            )
        done = count - self._todo.size
        if done:
            log.info("%s: %d of %d stars are done, going on", path, done, count)

    def _make_aside(self, **layout: Any) -> "Future[PosteriorStore]":
        pool = self._stack.enter_context(ThreadPoolExecutor(1))
        making = pool.submit(PosteriorStore.create, self.path, **layout)
        self._stack.callback(lambda: making.exception() or making.result().close())
        return making

    @property
    def todo(self) -> np.ndarray:
        return self._todo

    def write(self, rows: np.ndarray, table: Table) -> None:
        if isinstance(self._store, Future):
            self._store = self._store.result()
        self._store.append(rows, self.keeper.kept(table))

    def result(self) -> str:
        self.keeper.warn()
        return str(self.path)

    def __enter__(self) -> "FileSink":
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)


class MemorySink:
    """Rows in memory, as a `FitResult`."""

    def __init__(self, job: Job, grid: StarGrid, known: dict[str, Any], output: Output) -> None:
        self.job, self.grid, self.known, self.output = job, grid, known, output
        self.keeper = Keeper(job, output)
        self.ids, self.labels = _ids_and_labels(job.catalog, output)
        self.parts: list[Table] = []

    @property
    def todo(self) -> np.ndarray:
        return np.arange(len(self.job.catalog))

    def write(self, rows: np.ndarray, table: Table) -> None:
        del rows  # they come in order
        self.parts.append(self.keeper.kept(table))

    def result(self) -> FitResult:
        self.keeper.warn()
        arrays = {k: np.concatenate([part[k] for part in self.parts]) for k in self.parts[0]}
        arrays |= {"source_id": self.ids, "labels": self.labels}
        for name, column in self.grid.labels_to_keep().items() if self.job.options.draws else ():
            arrays[f"models/{name}"] = column
        attrs = provenance(self.job.catalog) | self.output.attrs
        attrs |= {
            "single": self.output.single,
            "parameters": list(parameter_names(self.job.models.models)),
            "quantile_levels": np.asarray(QUANTILES),
            FINGERPRINT: json.dumps(self.known, sort_keys=True),
        }
        return FitResult(arrays, attrs, single=self.output.single)

    def __enter__(self) -> "MemorySink":
        return self

    def __exit__(self, *error: Any) -> None:
        pass


def open_sink(job: Job, grid: StarGrid, model_prior: str, output: Output) -> FileSink | MemorySink:
    """Where the rows of a job go: `output.path`, or memory."""
    known = fingerprint(job, grid, model_prior, output)
    if output.path is None:
        return MemorySink(job, grid, known, output)
    return FileSink(posterior_path(output.path), job, grid, known, output)


def _ids_and_labels(catalog: Catalog, output: Output) -> tuple[np.ndarray, np.ndarray]:
    ids = _storable(catalog.source_id)
    if output.labels is None:
        return ids, ids
    return ids, _storable(np.atleast_1d(np.asarray(output.labels)))


class Keeper:
    """Says what is kept of finished rows, and counts stars whose draws lose by rounding."""

    def __init__(self, job: Job, output: Output) -> None:
        size = len(parameter_names(job.models.models)), len(QUANTILES)
        self.fields = fields(job.options.draws, *size, output.save_draws, output.draw_dtype)
        self.half = output.draw_dtype == "float16" and "samps_dist" in self.fields
        self.coarse = 0

    def kept(self, table: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if self.half:
            self.coarse += np.count_nonzero(_coarse(table))
        with np.errstate(over="ignore"):
            return {
                name: values.astype(self.fields[name].dtype, copy=False)
                for name, values in table.items()
                if name in self.fields
            }

    def warn(self) -> None:
        if self.coarse:
            log.warning(
                "half precision rounds draws of %d stars by more than %g sigma: "
                "keep draw_dtype='float32' for stars known as well as these",
                self.coarse,
                COARSE,
            )


def _coarse(table: dict[str, np.ndarray]) -> np.ndarray:
    """Stars whose distance, A_V or R_V half precision rounds by more than `COARSE` sigma, rms."""
    out = np.zeros(len(table["status"]), bool)
    for column, name in enumerate(HALF):
        exact, sigma = table[name], table["summary_std"][:, column]
        with np.errstate(over="ignore"):
            error = np.sqrt(np.mean((exact.astype(np.float16) - exact) ** 2, axis=1))
        varies = sigma > 1e-6 * np.abs(table["summary_mean"][:, column])
        out |= varies & (error > COARSE * sigma)
    return out


def posterior_path(path: str | os.PathLike) -> Path:
    """The name of a posterior file: `.h5` is added if it is not there."""
    path = Path(path)
    return path if path.suffix.lower() in (".h5", ".hdf5") else path.with_name(path.name + ".h5")


def _storable(array: np.ndarray) -> np.ndarray:
    """Text as UTF-8 bytes, which HDF5 can hold."""
    if array.dtype.kind == "U":
        return np.char.encode(array, "utf-8")
    if array.dtype.kind == "O":
        if not all(isinstance(x, str | bytes) for x in array.ravel()):
            raise StoreError("labels hold Python objects; give numbers or strings")
        return np.char.encode(array.astype(str), "utf-8")
    if array.dtype.kind not in "biufS" and array.dtype.names is None:
        raise StoreError(f"labels of type {array.dtype} cannot be stored; give numbers or strings")
    return array


def shown(counts: Iterator[int], total: int, done: int, output: Output) -> Iterable[int]:
    """The stream of finished counts, with a progress bar if wanted."""
    if output.progress is not None:
        return output.progress(counts, total, done)
    if output.verbose and total > 1:
        return progress_bar(counts, total, done)
    return counts


def progress_bar(counts: Iterator[int], total: int, done: int) -> Iterator[int]:
    """Shows stars done, speed and time left on stderr while passing counts on."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        log.info("fitting %d stars (install tqdm for a progress bar)", total)
        yield from counts
        return
    with tqdm(total=total, initial=done, unit="star", desc="fit", mininterval=0.5) as bar:
        for count in counts:
            bar.update(count)
            yield count
