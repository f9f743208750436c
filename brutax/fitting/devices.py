"""Where batches of stars run: on every core of a CPU, or on every accelerator."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax

from brutax.solver import Settings, TiledModels
from brutax.solver.shortlist import STRIDE

log = logging.getLogger("brutax")

CPU_BATCH = 64  # stars; 32 cost 7 % more in a fit of 200, 128 gain nothing
LATER_BATCH = 8  # stars in later rounds on a CPU
MOST_AT_ONCE = 2048  # stars on an accelerator
MOST_LATER = 64  # the same in later rounds
BATCHES = 4  # of an accelerator in one piece of work: later rounds of few stars are few too
UNKNOWN_MEMORY = 32  # stars on an accelerator that does not tell its memory
WORKERS = 3  # threads per accelerator: one program runs while results of others are fetched
SHARE = 0.2  # of an accelerator's free memory: a batch of each worker is there, with its results
TEMPORARIES = 80  # arrays of the size of the models that are scored at once


@dataclass(frozen=True)
class Worker:
    """A device, with the models on it, on which one thread runs batches."""

    device: Any  # a jax.Device
    grid: TiledModels  # on that device
    under_settings: Callable[[Callable], Callable]  # of JAX in the thread that made the worker


def make_workers(grid: TiledModels) -> list[Worker]:
    """One worker per CPU core, or some per accelerator: it computes while others are looked after.

    With several devices each has a copy of the grid, and stars are split over them. A default
    device that the user has chosen is the only one.
    """
    devices = _devices()
    copies = [grid] if len(devices) == 1 else [jax.device_put(grid, x) for x in devices]
    cpu = devices[0].platform == "cpu"
    count = max(n_cores(), len(devices)) if cpu else WORKERS * len(devices)
    places = list(zip(devices, copies, strict=True))
    return [
        Worker(device, copy, _settings(device))
        for device, copy in (places[k % len(places)] for k in range(count))
    ]


def _devices() -> list[Any]:
    chosen = jax.config.jax_default_device  # pyright: ignore[reportAttributeAccessIssue]
    if chosen is None:
        return jax.local_devices()
    return [chosen] if isinstance(chosen, jax.Device) else jax.local_devices(backend=chosen)[:1]


def _settings(device: Any) -> Callable[[Callable], Callable]:
    """Makes functions run in other threads as in this one: JAX has settings for each."""
    x64 = jax.config.read("jax_enable_x64")

    def under(function: Callable) -> Callable:
        def call(*args: Any) -> Any:
            with jax.enable_x64(x64), jax.default_device(device):
                return function(*args)

        return call

    return under


def n_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def batch_for(worker: Worker, settings: Settings) -> int:
    """Stars at once: what fits the free memory of an accelerator, a fixed number on a CPU."""
    if worker.device.platform == "cpu":
        return CPU_BATCH
    return batch_within(_memory(worker), bytes_per_star(worker.grid, settings), MOST_AT_ONCE)


def later_batch_for(worker: Worker) -> int:
    """The same for later rounds, in which all models of a star are scored at once."""
    if worker.device.platform == "cpu":
        return LATER_BATCH
    table = worker.grid.models.log_prior
    return batch_within(
        _memory(worker), TEMPORARIES * table.size * table.dtype.itemsize, MOST_LATER
    )


def _memory(worker: Worker) -> Mapping[str, int]:
    return worker.device.memory_stats() or {}


def batch_within(memory: Mapping[str, int], each: int, most: int) -> int:
    """Stars that fit into `SHARE` of the free memory of a device at `each` bytes per star."""
    if "bytes_limit" not in memory:
        return min(UNKNOWN_MEMORY, most)
    free = memory["bytes_limit"] - memory.get("bytes_in_use", 0)
    return int(max(1, min(most, SHARE * free // each)))


def bytes_per_star(grid: TiledModels, settings: Settings) -> int:
    """About what one star takes during the first round."""
    tiles = grid.blocks.shape[0]
    scores = min(settings.tiles or tiles, tiles) * grid.size
    scored = TEMPORARIES * min(STRIDE, tiles) * grid.size
    drawn = TEMPORARIES * settings.n_samples
    return grid.blocks.dtype.itemsize * (scores + scored + drawn)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device has refused memory."""
    return "RESOURCE_EXHAUSTED" in str(error)
