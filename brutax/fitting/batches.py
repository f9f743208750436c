"""A catalogue in batches: several workers at the same time, finished rows handed on in order."""

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from brutax.fitting.devices import BATCHES, make_workers
from brutax.fitting.rounds import BatchFitter, Job, Table

Write = Callable[[np.ndarray, Table], None]

WRITE_EVERY = 0.5  # seconds of finished stars that are written together: what a kill may cost
WRITE_AT_ONCE = 2000  # finished stars that are written without waiting for others


def run(job: Job, todo: np.ndarray, write: Write) -> Generator[int, None, None]:
    """Fits rows, hands finished ones to `write` in order, and yields how many those were."""
    workers = make_workers(job.models)
    first = BatchFitter(job, workers[0])
    job = replace(job, magnitudes=first.settle(todo))
    fitters = [BatchFitter(job, worker) for worker in workers]
    fits = [w.under_settings(fitter.fit) for w, fitter in zip(workers, fitters, strict=True)]
    batches = _split(todo, fitters)
    if not first.rounds[0].by_survivors and len(batches) > 1:
        for kind in np.unique(job.magnitudes[todo]):
            fitters[0].prepare(bool(kind))  # before several threads do
    unwritten: list[tuple[np.ndarray, Table]] = []

    def flush() -> None:
        done = [rows for rows, _ in unwritten]
        tables = [table for _, table in unwritten]
        unwritten.clear()
        if len(done) == 1:
            write(done[0], tables[0])
        elif done:
            table = {k: np.concatenate([t[k] for t in tables]) for k in tables[0]}
            write(np.concatenate(done), table)

    with ThreadPoolExecutor(len(workers)) as pool:
        written = time.monotonic()
        work = zip(itertools.cycle(fits), batches)
        try:
            ahead = deque(
                pool.submit(fit, rows) for fit, rows in itertools.islice(work, len(workers) + 1)
            )
            for k, rows in enumerate(batches):
                unwritten.append((rows, ahead.popleft().result()))
                for fit, later in itertools.islice(work, 1):
                    ahead.append(pool.submit(fit, later))
                waited = time.monotonic() > written + WRITE_EVERY
                if waited or rows.size >= WRITE_AT_ONCE or k + 1 == len(batches):
                    flush()
                    written = time.monotonic()
                yield rows.size
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
            flush()  # interrupted: what is computed is kept


def _split(todo: np.ndarray, fitters: list[BatchFitter]) -> list[np.ndarray]:
    """Rows in pieces of work, in order."""
    first, count = fitters[0], len(fitters)
    piece = first.batch * (1 if first.one_by_one else BATCHES)
    # whole rounds of all workers, since one without work costs time; not of less than a batch
    pieces = count * math.ceil(todo.size / (count * piece))
    if not first.one_by_one:  # padding costs as much as stars do
        pieces = min(pieces, math.ceil(todo.size / first.batch))
    return [rows for rows in np.array_split(todo, max(pieces, 1)) if rows.size]
