"""Does a fit that is killed again and again end with the same file, bit for bit?

    python benchmarks/interruption.py

Real stars of the Orion catalogue, fitted in a child process that is killed (SIGKILL) during
start-up, while a batch is computed, and while a batch is written, and continued each time. Every
dataset is then compared with those of an uninterrupted run; and draws, star by star, with
those of other batch sizes and of shuffled stars.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _common import ORION, ORION_DATASET, PS, TMASS, parse, parser, table, write

import brutax
from brutax.catalog import PosteriorStore
from brutax.catalog.store import read_arrays
from brutax.fitting import FitOptions, fit_catalog

BATCH = 8  # small, so that there are many moments to be killed at


def orion(shared: Path, number: int) -> Any:
    grid_bands = PS + TMASS
    stars = brutax.read_stars(
        shared / ORION,
        grid_bands,
        dataset=ORION_DATASET,
        units={"parallax": "arcsec"},
        source_id="row",
        error_floor=0.02,
    )
    return stars.select(slice(number))


def run(stars: Any, grid: Any, path: Path, batch: int, **options: Any) -> None:
    output = brutax.Output(path, verbose=False, progress=options.pop("progress", None))
    fit_catalog(stars, grid, FitOptions(batch_size=batch, **options), output=output)


def child(shared: Path, number: int, path: Path, batch: int) -> None:
    """Fits, and tells on stdout when a batch begins to be written and when it is safe."""
    append = PosteriorStore.append

    def announced(self: PosteriorStore, *args: Any) -> None:
        print("writing", flush=True)
        append(self, *args)

    def watch(counts: Iterator[int], total: int, done: int) -> Iterator[int]:
        print(f"begin {done}", flush=True)
        for count in counts:
            print("safe", flush=True)
            yield count

    PosteriorStore.append = announced
    grid = brutax.StarGrid.read(shared / "models/mist_medium.h5", bands=PS + TMASS)
    run(orion(shared, number), grid, path, batch, progress=watch)


def start(args: Any, path: Path, cache: Path) -> subprocess.Popen:
    command = [sys.executable, __file__, "--shared", str(args.shared), "--stars", str(args.stars)]
    command += ["--child", str(path)]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "BRUTAX_CACHE": str(cache / "brutax"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def kill_once(process: subprocess.Popen, moment: str, rng: np.random.Generator) -> dict[str, Any]:
    """Kills the child at a random instant of the given kind of moment; says what was done."""
    word = {"startup": None, "computing": "safe", "writing": "writing"}[moment]
    done, wait = 0, rng.integers(1, 3)
    while word is not None and wait > 0:
        line = process.stdout.readline().split()
        if not line:
            break
        done = int(line[1]) if line[0] == "begin" else done
        wait -= line[0] == word
    longest = {"startup": 5.0, "computing": 0.2, "writing": 0.02}[moment]
    time.sleep(rng.uniform(0, longest))
    process.send_signal(signal.SIGKILL)
    killed = process.wait() == -signal.SIGKILL
    process.stdout.close()
    return {"moment": moment, "killed": killed, "stars_done_at_start": done}


def differing(one: dict[str, np.ndarray], two: dict[str, np.ndarray]) -> list[str]:
    """Names of arrays that differ in type, shape or any bit."""
    same = {
        name
        for name in one.keys() & two.keys()
        if one[name].dtype == two[name].dtype
        and one[name].shape == two[name].shape
        and one[name].tobytes() == two[name].tobytes()
    }
    return sorted((one.keys() | two.keys()) - same)


def sorted_by_id(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    order = np.argsort(arrays["source_id"])
    return {k: v if k.startswith("models/") else v[order] for k, v in arrays.items()}


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--stars", type=int, default=1642)
    arguments.add_argument("--kills", type=int, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--child", type=Path, help="used by the script itself")
    args = parse(arguments)
    if args.child:
        return child(args.shared, args.stars, args.child, BATCH)

    rng = np.random.default_rng(args.seed)
    moments = [
        ("startup", "computing", "writing", "computing", "writing")[i % 5]
        for i in range(args.kills)
    ]
    stars = orion(args.shared, args.stars)
    grid = brutax.StarGrid.read(args.shared / "models/mist_medium.h5", bands=PS + TMASS)
    verdicts = {}
    with tempfile.TemporaryDirectory() as folder:
        place, kills = Path(folder), []
        target = place / "killed.h5"
        for moment in rng.permutation(moments):
            kills.append(kill_once(start(args, target, place / "cache"), str(moment), rng))
            print(f"{len(kills)}: {kills[-1]}", flush=True)
        last = start(args, target, place / "cache")
        said, _ = last.communicate()
        ended = last.returncode == 0
        resumed = int(said.split()[1]) if ended else -1
        run(stars, grid, place / "whole.h5", BATCH)
        whole, _ = read_arrays(place / "whole.h5")
        ours, _ = read_arrays(target)
        verdicts[f"killed {len(kills)} times"] = differing(whole, ours)
        for batch in (7, 64, 200):
            run(stars, grid, place / f"{batch}.h5", batch)
            other, _ = read_arrays(place / f"{batch}.h5")
            verdicts[f"batches of {batch}"] = differing(whole, other)
        run(stars.select(rng.permutation(len(stars))), grid, place / "shuffled.h5", 64)
        other, _ = read_arrays(place / "shuffled.h5")
        verdicts["shuffled stars"] = differing(whole, sorted_by_id(other))

    print(f"last run took over at {resumed} of {args.stars} stars")
    rows = [(k, "identical" if not v else f"DIFFER: {', '.join(v)}") for k, v in verdicts.items()]
    table((f"{args.stars} stars, {len(whole)} datasets, against one run", "bits"), rows)
    good = ended and all(k["killed"] for k in kills) and not any(verdicts.values())
    print("PASS" if good else "FAIL")
    settings = {"stars": args.stars, "batch": BATCH, "seed": args.seed, "grid": "mist_medium.h5"}
    results = {"kills": kills, "resumed_at": resumed, "differing": verdicts, "pass": good}
    write("interruption", settings, results)
    sys.exit(not good)


if __name__ == "__main__":
    main()
