"""The one budget of all options: what a star costs, and how soon the first one is there.

    python benchmarks/budget.py --peer PYTHON_WITH_BRUTUS
    python benchmarks/budget.py --fast

200 mock stars in 8 bands (2 % photometry, parallaxes to 0.05 mas) on the grid of 725 196 models, on
two cores, to disk; brutus on the same stars, grid and cores in the same run. One row for the
defaults, one for each option. Every row has two processes of its own: the first starts with empty
caches of brutax and JAX ("cold": from the start of Python to the posterior of one star, the grid
read from its file), fits all stars once and then, timed, three times; the second starts with what
that left behind ("warm"). With --fast 50 stars, the defaults only, without brutus, and nothing is
recorded.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    PS,
    TMASS,
    answer,
    in_own_process,
    known,
    parse,
    parser,
    peak_rss_mb,
    table,
    write,
)

GRID = "mist_large"
STARTED = "BRUTAX_BENCHMARK_STARTED"  # variable with the time at which a process was started
# the keywords of `brutax.fit` of each row
ROWS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "effort low": {"effort": "low"},
    "effort high": {"effort": "high"},
    "summaries only": {"draws": 0},
}
# bounds of all options together (ms per star as a multiple is that of brutus in the same run)
BOUNDS = {"ms per star": 4.0, "memory [MB]": 2000.0, "cold [s]": 5.0, "warm [s]": 1.0}


def case(given: dict[str, Any]) -> None:
    """One process: the first posterior, and unless it is the warm one, all stars."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given["cores"]])
    import brutax

    grid = brutax.StarGrid.read(given["grid"], bands=PS + TMASS)
    with np.load(given["stars"]) as file:
        stars = brutax.catalog.make_catalog(**{k: file[k] for k in file.files})
    options = given["options"]
    result = brutax.fit(stars.select(np.arange(1)), grid, progress=False, **options)
    assert result.fitted.all()
    out = {"first": time.time() - float(os.environ[STARTED])}
    if not given["only first"]:
        seconds = []
        for _ in range(4):
            start = time.perf_counter()
            output = brutax.Output(given["out"], overwrite=True)
            result = brutax.fit(stars, grid, output=output, progress=False, **options)
            seconds.append(time.perf_counter() - start)
        ess = result["obj_ess"] / result["obj_nsamp"]
        low, median = np.percentile(ess, (5, 50))
        out |= {
            "ms per star": 1e3 * float(np.median(seconds[1:])) / len(stars),
            "effective draws per draw": median,
            "at 5 %": low,
            "memory [MB]": peak_rss_mb(),
        }
    answer(out)


def in_process(given: dict[str, Any], cache: Path) -> dict[str, Any]:
    """What `case` says, with the caches in a folder."""
    places = {"BRUTAX_CACHE": str(cache), "JAX_COMPILATION_CACHE_DIR": ""}
    return in_own_process(__file__, given, **places, **{STARTED: repr(time.time())})


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--peer",
        default=os.environ.get("BRUTAX_PEER_PYTHON"),
        help="a Python that has astro-brutus (default: BRUTAX_PEER_PYTHON)",
    )
    arguments.add_argument("--fast", action="store_true", help="50 stars, defaults, no brutus")
    arguments.add_argument("--only", nargs="+", choices=tuple(ROWS), help="some of the rows")
    arguments.add_argument("--cores", type=int, default=2)
    args = parse(arguments)
    if args.case:
        return case(args.case)
    if not (args.fast or args.peer):
        arguments.error("--peer or BRUTAX_PEER_PYTHON: the Python that has brutus installed")
    from against_brutus import make_stars, run_peer

    import brutax

    path = args.shared / f"models/{GRID}.h5"
    stars = make_stars(
        brutax.StarGrid.read(path, bands=PS + TMASS), 50 if args.fast else 200, seed=1
    )
    names = ("flux", "flux_err", "bands", "parallax", "parallax_err", "coords", "source_id")
    rows: dict[str, dict[str, float]] = {}
    brutus: float | None = None
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        np.savez(place / "table.npz", **{name: np.asarray(getattr(stars, name)) for name in names})
        if not args.fast:
            peer = run_peer(args.peer, stars, path, place, args.cores, 1)
            brutus = 1e3 * float(np.median(peer["totals"])) / len(stars)
        for name in ["defaults"] if args.fast else args.only or ROWS:
            given = {
                "grid": str(path),
                "stars": str(place / "table.npz"),
                "out": str(place / "fit.h5"),
                "cores": args.cores,
                "options": ROWS[name],
            }
            cache = place / name.replace(" ", "_")
            row = in_process(given | {"only first": False}, cache)
            row["cold [s]"] = row.pop("first")
            row["warm [s]"] = in_process(given | {"only first": True}, cache)["first"]
            if brutus:
                row["times brutus"] = brutus / row["ms per star"]
            rows[name] = row
    header = tuple(next(iter(rows.values())))
    bounds = ("bound", *(BOUNDS.get(column, "") for column in header))
    table(("", *header), [(name, *row.values()) for name, row in rows.items()] + [bounds])
    if args.fast:
        return
    settings = {"grid": path, "stars": len(stars), "bands": PS + TMASS, "cores": args.cores}
    before = known("budget").get("results", {}).get("rows", {}) if args.only else {}
    write("budget", settings, {"brutus ms per star": brutus, "rows": before | rows})


if __name__ == "__main__":
    main()
