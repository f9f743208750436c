"""Where posteriors go: a durable file or memory, with everything needed to know them again."""

import json
import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from brutax.catalog import Catalog, FitResult, PosteriorStore, StoreError, digest
from brutax.catalog.store import (
    DRAW_DTYPES,
    FINGERPRINT,
    HALF,
    OPTIONAL,
    check_target,
    fields,
    row_bytes,
)
from brutax.fitting.functions import trial_values
from brutax.fitting.rounds import Options, Runner
from brutax.models import StarGrid, Status
from brutax.priors import AbstractPrior
from brutax.solver import QUANTILES, StarPrior, parameter_names

log = logging.getLogger("brutax")

SOLVER = 6  # goes up where the same call gives other draws: files of both are not mixed
COARSE = 0.1  # sigma: rounding of draws beyond which a user is told (it adds 0.5 % to sigma)
Progress = Callable[[Iterator[int], int, int], Iterable[int]]


@dataclass(frozen=True)
class Output:
    """Where the result goes and what is kept of it."""

    path: str | os.PathLike | None = None  # None: memory
    overwrite: bool = False  # replace an existing file instead of going on with it
    labels: Any = None  # stored beside the posteriors
    save_draws: bool = True
    draw_dtype: str = "float32"  # or "float16": of the draws of distance, A_V and R_V
    single: bool = False  # one star, given without a leading axis
    verbose: bool = True
    progress: Progress | None = None  # (finished counts, total, already done) -> the same, shown
    attrs: dict[str, Any] = field(default_factory=dict)  # more provenance

    def __post_init__(self) -> None:
        if self.draw_dtype not in DRAW_DTYPES:
            raise ValueError(
                f"draw_dtype must be {' or '.join(DRAW_DTYPES)}, got {self.draw_dtype!r}"
            )

    def kept(self) -> dict[str, Any]:
        """What a fingerprint says of what is kept."""
        settings = {"save_draws": self.save_draws, "draw_dtype": self.draw_dtype}
        return {k: v for k, v in settings.items() if k not in OPTIONAL or v != OPTIONAL[k]}


def describe(
    catalog: Catalog,
    grid: StarGrid,
    log_prior: np.ndarray,
    prior: StarPrior,
    per_star: AbstractPrior | None,
    options: Options,
) -> dict[str, Any]:
    """Everything that the numbers of a fit depend on, as plain JSON values."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(per_star)]
    own = [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(prior, eqx.is_array))]
    text = eqx.tree_pformat(prior, short_arrays=False, width=10**6)
    return {
        "grid": grid.hash,
        "bands": list(grid.bands),
        "model prior": digest(log_prior),
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
        "seed": options.seed,
        "method": options.method,
        "n_draws": options.n_draws,
        "n_samples": options.n_samples,
        "min_ess": options.min_ess,
        "dim_prior": options.dim_prior,
        "precision": "float64" if jax.config.read("jax_enable_x64") else "float32",
    }


def provenance(catalog: Catalog) -> dict[str, Any]:
    """What is good to know about a result besides."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "brutax_version": version("brutax"),
        "versions": json.dumps(
            {name: version(name) for name in ("jax", "jaxlib", "equinox", "numpy", "h5py")}
            | {"python": sys.version.split()[0]}
        ),
        "device": str(jax.devices()[0].device_kind),
        "bands": list(catalog.bands),
        "flags": json.dumps({str(flag.name): int(flag) for flag in Status if flag}),
        "notes": "\n".join(catalog.notes),
    }


def write_out(
    runner: Runner, grid: StarGrid, fingerprint: dict[str, Any], output: Output
) -> str | FitResult:
    """Runs a fit into a file (returns its path) or into memory (returns a `FitResult`)."""
    catalog = runner.catalog
    attrs = provenance(catalog) | output.attrs | {"single": output.single}
    fingerprint = fingerprint | output.kept()
    ids = labels = _storable(catalog.source_id)
    if output.labels is not None:
        labels = _storable(np.atleast_1d(np.asarray(output.labels)))
    if output.path is None:
        return _to_memory(
            runner, grid, fingerprint, attrs, output, {"source_id": ids, "labels": labels}
        )
    path, keeper = posterior_path(output.path), _Keeper(runner, output)
    with ExitStack() as stack:
        if path.exists() and not output.overwrite:
            store = stack.enter_context(PosteriorStore.resume(path, fingerprint))
            todo, append = store.todo(), store.append
        else:
            check_target(path, len(catalog) * row_bytes(keeper.fields))
            todo = np.arange(len(catalog))
            making = _make_aside(
                stack,
                path,
                source_id=ids,
                n_draws=runner.options.n_draws,
                parameters=parameter_names(runner.grid.models),
                levels=QUANTILES,
                fingerprint=fingerprint,
                attrs=attrs,
                labels=labels,
                models=grid.label_table,
                save_draws=output.save_draws,
                draw_dtype=output.draw_dtype,
            )

            def append(rows: np.ndarray, values: Mapping[str, np.ndarray]) -> None:
                making.result().append(rows, values)

        done = len(catalog) - todo.size
        if done:
            log.info("%s: %d of %d stars are done, going on", path, done, len(catalog))

        def write(rows: np.ndarray, table: dict[str, np.ndarray]) -> None:
            append(rows, keeper.kept(table))

        with closing(runner.run(todo, write)) as counts:  # interrupted, it writes the rest
            for _ in _shown(counts, len(catalog), done, output):
                pass
    keeper.warn()
    return str(path)


def _make_aside(stack: ExitStack, path: Path, **layout: Any) -> Future[PosteriorStore]:
    """Lays out a file while the first stars are fitted."""
    making = stack.enter_context(ThreadPoolExecutor(1)).submit(
        PosteriorStore.create, path, **layout
    )
    stack.callback(lambda: making.exception() or making.result().close())
    return making


class _Keeper:
    """Says what is kept of finished rows, and counts stars whose draws lose by rounding."""

    def __init__(self, runner: Runner, output: Output) -> None:
        size = len(parameter_names(runner.grid.models)), len(QUANTILES)
        self.fields = fields(runner.options.n_draws, *size, output.save_draws, output.draw_dtype)
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


def _to_memory(
    runner: Runner,
    grid: StarGrid,
    fingerprint: dict[str, Any],
    attrs: dict[str, Any],
    output: Output,
    ids: dict[str, np.ndarray],
) -> FitResult:
    catalog = runner.catalog
    parts: list[dict[str, np.ndarray]] = []

    keeper = _Keeper(runner, output)

    def keep(rows: np.ndarray, table: dict[str, np.ndarray]) -> None:
        del rows  # they come in order
        parts.append(keeper.kept(table))

    for _ in _shown(runner.run(np.arange(len(catalog)), keep), len(catalog), 0, output):
        pass
    keeper.warn()
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | ids
    for name, column in grid.label_table.items() if runner.options.n_draws else ():
        arrays[f"models/{name}"] = column.astype(np.float32)
    attrs = attrs | {
        "parameters": list(parameter_names(runner.grid.models)),
        "quantile_levels": np.asarray(QUANTILES),
        FINGERPRINT: json.dumps(fingerprint, sort_keys=True),
    }
    return FitResult(arrays, attrs, single=output.single)


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


def _shown(counts: Iterator[int], total: int, done: int, output: Output) -> Iterable[int]:
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
