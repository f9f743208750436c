"""How long from nothing to a posterior: importing, compiling, fitting one star.

    python benchmarks/startup.py

Fresh processes throughout: the import alone (beside that of jax), what it pulls in, and the first
posterior of one star on a grid of 208 352 models in 8 bands, from a table and as one star: with
empty compilation caches (JAX_COMPILATION_CACHE_DIR, BRUTAX_CACHE), with what that left behind, and
with all programs kept there, as the command line does (JAX itself keeps those that took a second).
Where the time goes: reading the grid, putting it in order, and of the first fit the seconds in
which JAX traces, lowers, and compiles or loads programs (nested and parallel ones count once), and
the rest, which is the work itself.
"""

import functools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import PS, TMASS, parse, parser, table, write

MODULES = """
import importlib.metadata, json, sys
before = set(sys.modules)
import brutax
tops = {name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
owners = importlib.metadata.packages_distributions()
print(json.dumps(sorted({owner for top in tops for owner in owners.get(top, [])})))
"""

FIRST = """
import json, sys, threading, time
import jax
marks = [time.perf_counter()]
mark = lambda: marks.append(time.perf_counter())
import brutax
from brutax.fitting import Priors
from brutax.fitting.prepare import ready_models
mark()
grid = brutax.StarGrid.read(sys.argv[1], bands=sys.argv[2].split(","))
mark()
ready_models(grid, Priors())
mark()
spans = []
def heard(event, duration, **_):
    spans.append((event, time.perf_counter() - duration, time.perf_counter()))
jax.monitoring.register_event_duration_secs_listener(heard)
mag, err = [16.5, 15.9, 15.7, 15.6, 15.5, 14.5, 14.1, 14.0], [0.02] * 8
def table():
    star = {b: [m] for b, m in zip(grid.bands, mag)} | {b + "_err": [0.02] for b in grid.bands}
    star |= {"parallax": [1.0], "parallax_err": [0.05], "l": [90.0], "b": [30.0]}
    return brutax.fit(star, grid, units="mag", progress=False)
def single():
    fitter = brutax.BruteForce(grid, verbose=False)
    more = {"parallax": 1.0, "parallax_err": 0.05, "data_coords": (90.0, 30.0), "n_samples": 1000}
    return fitter.fit(mag, err, units="mag", **more)
call = {"brutax.fit": table, "BruteForce.fit": single}[sys.argv[3]]
mark()
for _ in range(2):
    result = call()
    mark()
assert result.fitted.all()
print(json.dumps({"marks": marks, "spans": spans}))
"""

# what JAX tells of, in the order in which it happens to a program
PHASES = {
    "tracing": "/jax/core/compile/jaxpr_trace_duration",
    "lowering": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "compiling or loading": "/jax/core/compile/backend_compile_duration",
}
CALLS = ("brutax.fit", "BruteForce.fit")
EVERY = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
TARGETS = {
    "empty": 10.0,
    "warm, all kept": 1.0,
}  # seconds from `import brutax` to the posterior of a star


def seconds(code: str, *args: str, **environment: str) -> tuple[float, str]:
    """Wall time of a fresh process that runs code, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"failed:\n{done.stderr[-3000:]}")
    return time.perf_counter() - start, done.stdout


def union(spans: list[tuple[float, float]]) -> float:
    """Seconds in which at least one of some spans was under way."""
    total, reached = 0.0, -np.inf
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def first_posterior(grid: Path, cache: Path, call: str, **environment: str) -> dict[str, float]:
    """Seconds of each step from a fresh process to the first and the second posterior."""
    environment |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "BRUTAX_CACHE": str(cache / "brutax")}
    total, said = seconds(FIRST, str(grid), ",".join(PS + TMASS), call, **environment)
    told = json.loads(said)
    names = ("import", "read grid", "order grid", "", "first posterior", "second posterior")
    steps: dict[str, Any] = dict(zip(names, np.diff(told["marks"])))
    del steps[""]
    steps["after import"] = steps["read grid"] + steps["order grid"] + steps["first posterior"]
    steps["process to first posterior"] = total - steps["second posterior"]
    first = [span for span in told["spans"] if span[1] < told["marks"][5]]
    for phase, event in PHASES.items():
        steps[f"of the first: {phase}"] = union([x[1:] for x in first if x[0] == event])
    known = union([x[1:] for x in first if x[0] in PHASES.values()])
    steps["of the first: all else"] = steps["first posterior"] - known
    steps["programs"] = sum(x[0] == PHASES["compiling or loading"] for x in first)
    return steps


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--repeats", type=int, default=5, help="processes per import")
    args = parse(arguments)
    lines = ("pass", "import numpy", "import jax", "import brutax")
    times = {line: [seconds(line)[0] for _ in range(args.repeats)] for line in lines}
    medians = {line: float(np.median(values)) for line, values in times.items()}
    table(
        ("fresh process", "median [s]", "fastest", "slowest"),
        [(line, medians[line], min(values), max(values)) for line, values in times.items()],
    )
    packages = json.loads(seconds(MODULES)[1])
    print(f"\nimport brutax pulls in: {', '.join(packages)}\n")
    grid = args.shared / "models/mist_medium.h5"
    steps: dict[str, dict[str, dict[str, float]]] = {}
    for call in CALLS:
        with tempfile.TemporaryDirectory() as folder:
            run = functools.partial(first_posterior, grid, Path(folder), call)
            steps[call] = {"empty": run(), "warm": run()}
            run(**EVERY)
            steps[call]["warm, all kept"] = run(**EVERY)
        rows = [
            (name, *(run[name] for run in steps[call].values())) for name in steps[call]["empty"]
        ]
        table((f"{call}, compilation cache", *steps[call]), rows)
        for cache, target in TARGETS.items():
            took = steps[call][cache]["after import"]
            word = "PASS" if took <= target else "FAIL"
            print(f"{word}  {took:.3g} s after the import, {cache} cache: target {target:g} s")
        print()
    results = {"process_seconds": medians, "packages": packages, "first_posterior_seconds": steps}
    write("startup", {"grid": grid, "bands": PS + TMASS, "repeats": args.repeats}, results)


if __name__ == "__main__":
    main()
