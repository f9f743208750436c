"""How do time and memory grow with models, bands, stars and photometric errors?

    python benchmarks/scaling.py [--only models bands stars error] [--quick]

Whole fits to disk, warm, of mock stars with parallaxes on a grid of 20 bands built from the
models inside brutax: random models of it, and its first bands, so that nothing else changes
along a line. One thing varies at a time from 600 000 models, 8 bands, 200 stars, 2 %. Every case
is a process of its own, with the stars drawn from its grid; memory is the most that this process
held, compiling included. A whole grid of the published kind (`mist_large`) stands beside them in
the results. The point of 100 000 stars is that of `stress.py`, where it has been run.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import (
    answer,
    in_own_process,
    known,
    parse,
    parser,
    peak_rss_mb,
    plain,
    save_figure,
    table,
    write,
)
from against_brutus import SKY

import brutax
from brutax.fitting.mock import mock_catalog
from brutax.models import GridGenerator
from brutax.plotting._style import plain_log_ticks

# the first 4, 8, ... of these
BANDS = (
    *("PS_g", "PS_r", "2MASS_J", "2MASS_Ks", "PS_i", "PS_z", "PS_y", "2MASS_H"),
    *("Gaia_BP_EDR3", "Gaia_G_EDR3", "Gaia_RP_EDR3", "WISE_W1", "WISE_W2", "SDSS_u"),
    *("SDSS_g", "SDSS_r", "SDSS_i", "SDSS_z", "TESS", "UKIDSS_K"),
)
BASE = {"models": 600_000, "bands": 8, "stars": 200, "error": 0.02}
SERIES = {
    "models": (25_000, 50_000, 100_000, 200_000, 400_000, 600_000, 800_000),
    "bands": (4, 6, 8, 12, 16, 20),
    "stars": (1, 10, 100, 1000, 10_000),
    "error": (0.005, 0.01, 0.02, 0.05, 0.1),
}
TITLES = {"models": "models", "bands": "bands", "stars": "stars", "error": "error of a flux"}
LIMIT = 4 * 2**30 / 1e9  # of memory, the goal [GB]
WARM_UP = 1000  # stars of the fit before the timed ones, at most
NODES = {
    "mini_grid": np.round(np.geomspace(0.1, 3.0, 92), 6),  # [Msun]
    "eep_grid": np.arange(202.0, 809.0, 2.0),
    "feh_grid": np.round(np.arange(-2.5, 0.51, 0.05), 2),
}


def build(path: str) -> dict[str, Any]:
    """The grid that all cases are parts of."""
    start = time.perf_counter()
    grid = GridGenerator(filters=BANDS, verbose=False).make_grid(
        **NODES, output_file=path, verbose=False
    )
    return {"models": len(grid), "seconds": time.perf_counter() - start}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of repeated fits, and the memory of this process."""
    grid = brutax.StarGrid.read(case["grid"], bands=BANDS[: case["bands"]])
    if case["models"] < len(grid):
        rows = np.random.default_rng(0).choice(len(grid), case["models"], replace=False)
        grid = grid.select(rows=np.sort(rows))
    mock = mock_catalog(
        grid,
        case["stars"],
        seed=1,
        coords=SKY,
        error=case["error"],
        mag_limit=("PS_r", 18.0),
    )
    stars = brutax.read_stars(mock, grid.bands)
    path = Path(case["folder"]) / "fit.h5"

    def fit(stars: Any) -> tuple[Any, float]:
        start = time.perf_counter()
        result = brutax.fit(stars, grid, output=brutax.Output(path, overwrite=True), progress=False)
        return result, time.perf_counter() - start

    fit(stars.select(slice(WARM_UP)))
    runs = [fit(stars) for _ in range(case["repeats"])]
    result, seconds = runs[0][0], [seconds for _, seconds in runs]
    return {
        "models": len(grid),
        "bands": len(grid.bands),
        "stars": len(stars),
        "error": case["error"],
        "ms_per_star": 1e3 * np.median(seconds) / len(stars),
        "fastest": 1e3 * min(seconds) / len(stars),
        "slowest": 1e3 * max(seconds) / len(stars),
        "peak_rss_mb": peak_rss_mb(),
        "ess_per_draw": np.median(result["obj_ess"] / result["obj_nsamp"]),
        "extended": np.mean(result["obj_nsamp"] > 1024),
    }


def draw(series: dict[str, list[dict[str, float]]], settings: dict[str, Any]) -> None:
    """Time per star above, memory below, a column per series."""
    import matplotlib.pyplot as plt

    size = (1.0 + 2.8 * len(series), 5.4)
    figure, axes = plt.subplots(
        2, len(series), figsize=size, sharey="row", layout="constrained", squeeze=False
    )
    for (name, points), (upper, lower) in zip(series.items(), axes.T):
        x = [point[name] for point in points]
        time_, fast, slow = (
            np.array([point[key] for point in points])
            for key in ("ms_per_star", "fastest", "slowest")
        )
        upper.errorbar(x, time_, [time_ - fast, slow - time_], fmt="o-", ms=4, capsize=2)
        lower.plot(x, [point["peak_rss_mb"] / 1e3 for point in points], "o-", ms=4)
        lower.axhline(LIMIT, ls=":", c="0.4")
        for ax in (upper, lower):
            ax.set(xscale="log", xlabel=TITLES[name])
            ax.grid(alpha=0.3, which="both", lw=0.5)
            if max(x) < 1000:
                plain_log_ticks(ax.xaxis)
            else:
                ax.xaxis.set_minor_formatter("")
    axes[0, 0].set(ylabel="time per star  [ms]", yscale="log")
    axes[1, 0].set(ylabel="peak memory  [GB]", ylim=(0, None))
    plain_log_ticks(axes[0, 0].yaxis)
    figure.suptitle("whole fits to disk; otherwise " + settings["otherwise"], fontsize=10)
    save_figure(figure, "scaling")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--only", nargs="+", default=list(SERIES), choices=list(SERIES))
    arguments.add_argument("--repeats", type=int, default=3, help="timed fits of each case")
    arguments.add_argument("--models", type=int, default=BASE["models"], help="where not varied")
    arguments.add_argument("--stars", type=int, default=BASE["stars"], help="where not varied")
    arguments.add_argument("--quick", action="store_true", help="a trial; writes nothing")
    args = parse(arguments)
    if args.case:
        return answer(build(args.case["build"]) if "build" in args.case else measure(args.case))
    base = BASE | {"models": args.models, "stars": args.stars}
    otherwise = ", ".join(f"{value:,g} {TITLES[name]}" for name, value in base.items())
    settings = {"bands": BANDS, "otherwise": otherwise, "repeats": args.repeats}
    # a run of some series keeps the others of a run like it
    before = known("scaling")
    results = dict(before["results"]) if before.get("settings") == plain(settings) else {}
    with tempfile.TemporaryDirectory() as folder:

        def run(**case: Any) -> dict[str, Any]:
            # every case compiles its programs, or memory would depend on what ran before
            return in_own_process(__file__, case, JAX_ENABLE_COMPILATION_CACHE="0")

        path = f"{folder}/grid.h5"
        results["grid"] = run(build=path)
        print(f"{results['grid']['models']:,} models, built in {results['grid']['seconds']:.3g} s")
        shared = {"folder": folder, "repeats": args.repeats}
        for name in args.only:
            results[name] = []
            for value in SERIES[name][:2] if args.quick else SERIES[name]:
                case = base | {name: value}
                # the longest cases are long enough to be timed once
                once = {"repeats": 1} if case["stars"] > WARM_UP else {}
                results[name].append(run(grid=path, **(shared | case | once)))
                point = results[name][-1]
                print(f"{name} {value:g}: {point['ms_per_star']:.3g} ms", flush=True)
        large = args.shared / "models/mist_large.h5"
        if large.is_file() and "models" in args.only and not args.quick:
            every = base | {"models": 10**9}
            results["mist_large"] = run(grid=str(large), **(shared | every))
    for name in SERIES.keys() & results.keys():
        rows = [(f"{point[name]:g}", *list(point.values())[4:]) for point in results[name]]
        print()
        table((name, "ms per star", "fastest", "slowest", "peak MB", "ESS/S", "extended"), rows)
    if args.quick:
        return
    stress = known("stress").get("results", {}).get("float32")
    series = {name: list(results[name]) for name in SERIES if name in results}
    if stress and "stars" in series:
        each = 1e3 / stress["stars_per_s"]
        point = {"ms_per_star": each, "fastest": each, "slowest": each}
        series["stars"].append(
            point | {"stars": stress["stars"], "peak_rss_mb": stress["peak_rss_mb"]}
        )
    draw(series, settings)
    write("scaling", settings, results)


if __name__ == "__main__":
    main()
