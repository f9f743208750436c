"""Do 100 000 stars go to disk at a constant pace and in constant memory?

    python benchmarks/stress.py [--stars 100000]

Mock stars with parallaxes on `mist_large` in 8 bands, fitted into a file by a process of its own
whose memory is looked at every second (Linux). Besides, fewer stars with draws in half precision
and without draws: stars per second and bytes per star. The pace is that after the first tenth of
the stars: start-up is not part of it, nor is compiling where there are thousands of stars (the
first star in need of a later round compiles that for all). `seconds` is everything.
"""

import os
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    PS,
    TMASS,
    answer,
    in_own_process,
    parse,
    parser,
    peak_rss_mb,
    save_figure,
    table,
    write,
)
from against_brutus import SKY, make_stars

import brutax
from brutax.catalog import make_catalog

MODES = {
    "float32": {},
    "float16": {"draw_dtype": "float16"},
    "no draws": {"draws": 0},
}
COLUMNS = ("flux", "flux_err", "parallax", "parallax_err", "coords", "source_id")
POINTS = 300  # of the memory curve that are kept


def draw_mock(path: Path, grid_path: Path, stars: int, seed: int) -> None:
    """Saves mock stars as arrays."""
    grid = brutax.StarGrid.read(grid_path, bands=PS + TMASS)
    mock = make_stars(grid, stars, seed)
    np.savez(path, **{name: getattr(mock, name) for name in COLUMNS})


class Memory:
    """Looks at the memory of this process every second, from a thread of its own."""

    def __init__(self) -> None:
        self.start, self.samples = time.perf_counter(), []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE") / 1e6
        while not self._stop.wait(1.0):
            held = int(Path("/proc/self/statm").read_text().split()[1]) * page
            self.samples.append((time.perf_counter() - self.start, held))

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """One fit to disk: seconds, stars per second, memory over time, bytes."""
    grid = brutax.StarGrid.read(case["grid"], bands=PS + TMASS)
    with np.load(case["stars_file"]) as file:
        arrays = {name: file[name][: case["stars"]] for name in COLUMNS}
    stars = make_catalog(arrays.pop("flux"), arrays.pop("flux_err"), grid.bands, **arrays)
    path = Path(case["folder"]) / "fit.h5"
    marks: list[tuple[float, int]] = []

    def watch(counts: Iterator[int], total: int, done: int) -> Iterable[int]:
        for count in counts:
            done += count
            marks.append((time.perf_counter() - memory.start, done))
            yield count

    with Memory() as memory:
        kept = case["kept"]
        result = brutax.fit(
            stars,
            grid,
            output=brutax.Output(
                path, overwrite=True, draw_dtype=kept.get("draw_dtype", "float32")
            ),
            draws=kept.get("draws", 250),
            progress=watch,
        )
        seconds = time.perf_counter() - memory.start
    clock, done = np.array(marks).T
    first = np.searchsorted(done, 0.1 * len(stars))
    labels = sum(result[name].nbytes for name in result if name.startswith("models/"))
    held = np.array(memory.samples or [(seconds, peak_rss_mb())])
    every = max(1, len(held) // POINTS)
    return {
        "stars": len(stars),
        "seconds": seconds,
        "stars_per_s": (done[-1] - done[first]) / (clock[-1] - clock[first]),
        "peak_rss_mb": peak_rss_mb(),
        "rss_mb_after_a_tenth": np.interp(clock[first], *held.T),
        "rss_mb_at_the_end": held[-1, 1],
        "file_mb": path.stat().st_size / 1e6,
        "bytes_per_star": (path.stat().st_size - labels) / len(stars),
        "flagged": {
            str(flag.name): int(np.count_nonzero(result["status"] & flag))
            for flag in brutax.Status
            if np.any(result["status"] & flag)
        },
        "memory": {"seconds": held[::every, 0], "rss_mb": held[::every, 1]},
        "done": {"seconds": clock[:: max(1, len(clock) // POINTS)]}
        | {"stars": done[:: max(1, len(done) // POINTS)]},
    }


def draw(run: dict[str, Any]) -> None:
    """Memory and stars done against time."""
    import matplotlib.pyplot as plt

    figure, (upper, lower) = plt.subplots(2, 1, figsize=(6.4, 5), sharex=True, layout="constrained")
    upper.plot(run["memory"]["seconds"], np.array(run["memory"]["rss_mb"]) / 1e3)
    upper.set(ylabel="memory held  [GB]", ylim=(0, None))
    lower.plot(run["done"]["seconds"], run["done"]["stars"])
    lower.set(xlabel="time  [s]", ylabel="stars done", ylim=(0, None))
    upper.set_title(f"{run['stars']:,} stars, {run['stars_per_s']:.3g} stars/s", fontsize=10)
    save_figure(figure, "stress")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--stars", type=int, default=100_000)
    arguments.add_argument("--few", type=int, default=5000, help="stars of the other modes")
    arguments.add_argument("--grid", default="mist_large")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--folder", type=Path, help="for the posteriors (default: temporary)")
    args = parse(arguments)
    if args.case:
        return answer(measure(args.case))
    grid = args.shared / f"models/{args.grid}.h5"
    results = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        stars = Path(folder) / "stars.npz"
        draw_mock(stars, grid, args.stars, args.seed)
        for mode, settings in MODES.items():
            case = {"grid": str(grid), "stars_file": str(stars), "folder": folder}
            number = args.stars if mode == "float32" else min(args.few, args.stars)
            results[mode] = in_own_process(__file__, case | {"stars": number, "kept": settings})
            print(f"{mode}: {results[mode]['stars_per_s']:.4g} stars/s", flush=True)
    shown = ("stars", "seconds", "stars_per_s", "peak_rss_mb")
    shown += ("rss_mb_after_a_tenth", "rss_mb_at_the_end", "file_mb", "bytes_per_star")
    table(("", *shown), [(mode, *(run[x] for x in shown)) for mode, run in results.items()])
    draw(results["float32"])
    settings = {"grid": grid, "bands": PS + TMASS, "coords": SKY, "seed": args.seed}
    write("stress", settings | {"mag_limit": "PS_r < 18", "flux_error": 0.02}, results)


if __name__ == "__main__":
    main()
