"""How long from nothing to a posterior: importing, compiling, fitting one star.

    python benchmarks/startup.py

Fresh processes throughout: the import alone (beside that of jax), what it pulls in, and the first
posterior of one star on a grid of 208 352 models in 8 bands, with an empty compilation cache
(JAX_COMPILATION_CACHE_DIR) and with the one that this left behind.
"""

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
import json, sys, time
marks = [time.perf_counter()]
mark = lambda: marks.append(time.perf_counter())
import brutax
mark()
grid = brutax.StarGrid.read(sys.argv[1], bands=sys.argv[2].split(","))
mark()
mag = [16.5, 15.9, 15.7, 15.6, 15.5, 14.5, 14.1, 14.0]
star = dict(zip(grid.bands, ([m] for m in mag))) | {f"{b}_err": [0.02] for b in grid.bands}
star |= {"parallax": [1.0], "parallax_err": [0.05], "l": [90.0], "b": [30.0]}
for _ in range(2):
    result = brutax.fit(star, grid, units="mag", verbose=False)
    mark()
assert result.fitted.all()
print(json.dumps(marks))
"""


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


def first_posterior(grid: Path, cache: Path) -> dict[str, float]:
    """Seconds of each step from a fresh process to the first and the second posterior."""
    total, said = seconds(
        FIRST, str(grid), ",".join(PS + TMASS), JAX_COMPILATION_CACHE_DIR=str(cache)
    )
    marks = json.loads(said)
    names = ("import", "read grid", "first posterior", "second posterior")
    steps: dict[str, Any] = dict(zip(names, np.diff(marks)))
    return steps | {"process to first posterior": total - steps["second posterior"]}


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
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: first_posterior(grid, Path(folder)) for name in ("empty", "warm")}
    rows = [(name, *(steps[cache][name] for cache in steps)) for name in steps["empty"]]
    table(("compilation cache", *steps), rows)
    results = {"process_seconds": medians, "packages": packages, "first_posterior_seconds": steps}
    write("startup", {"grid": grid, "bands": PS + TMASS, "repeats": args.repeats}, results)


if __name__ == "__main__":
    main()
