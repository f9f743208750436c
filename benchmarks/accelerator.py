"""How many stars a second does one accelerator fit, to disk, and what limits it?

    python benchmarks/accelerator.py [--stars 100000] [--grid mist_large]

Runs on what JAX computes on. Whole fits of mock stars with parallaxes, in 8 bands, into a file, as
`stress.py` does them: the pace is that after the first tenth of the stars. Then the stages of the
first round alone, with a batch of stars side by side, beside two limits measured here: the rate of
a float32 matrix product and that of a copy in the device's memory. Operations and bytes are counted
by XLA in the programs of one tile and one star, and multiplied by what a batch looks into at most:
stars side by side look into as many tiles as the one that needs most. Last the same stars on the
host's processor too: differences of posteriors in units of sigma and of Monte Carlo errors; and
in the reverse order, which should change no bit.
"""

import gzip
import json
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _common import PS, TMASS, answer, in_own_process, parse, parser, write
from against_brutus import SKY, make_stars
from stages import fastest, operations, product_rate
from stress import COLUMNS, draw_mock

import brutax
from brutax.catalog import make_catalog
from brutax.fitting import Priors
from brutax.fitting.devices import bytes_per_star
from brutax.fitting.prepare import device_models, model_log_prior
from brutax.fitting.prior import repeat, star_priors
from brutax.fitting.rounds import star_keys
from brutax.solver import Settings, pipeline
from brutax.solver.magnitude_scores import magnitude_scores
from brutax.solver.scores import screen
from brutax.solver.shortlist import far_draws
from brutax.solver.tiles import score_tiles

STAGES = ("tiles", "scores", "refinement, draws, weights, summaries", "equal-weight draws")
COPIED = 2**30  # bytes
COMPARED = ("dist", "av", "mini", "loga", "feh")


def copy_rate(repeats: int) -> float:
    """Bytes read and written per second by a copy in the device's memory."""
    array = jnp.ones(COPIED // 4, jnp.float32)
    add = jax.jit(lambda x: x + 1.0)
    return 2.0 * COPIED / fastest(lambda: add(array), repeats)


def measure_stages(case: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of each stage per batch, for both kinds of scores."""
    grid = brutax.StarGrid.read(case["grid"], bands=PS + TMASS)
    tiled, _ = device_models(grid, model_log_prior(grid))
    out: dict[str, Any] = {"models": len(grid), "tiles": int(tiled.tiles.log_prior.shape[0])}
    out |= {"product_rate": product_rate(5), "copy_rate": copy_rate(5)}
    catalog = make_stars(grid, max(case["batches"]), case["seed"])
    prior, _ = star_priors(Priors(), catalog.coords)
    for size in case["batches"]:
        rows = np.arange(size)
        stars, keys = catalog.stars(rows), star_keys(0, catalog.source_id[rows])
        for quick in case["quick"]:
            settings = Settings(in_magnitudes=quick, side_by_side=size)
            batch = pipeline.plan(stars, tiled, prior, repeat(prior.av, size), keys, settings)
            start = time.perf_counter()
            jax.block_until_ready(pipeline.STAGES(*batch))
            compiling = time.perf_counter() - start
            trials = []
            for _ in range(case["repeats"]):
                clock = [time.perf_counter()]
                for state in pipeline.STAGES.each(*batch):
                    jax.block_until_ready(state)
                    clock.append(time.perf_counter())
                trials.append(np.diff(clock))
            seconds = np.median(trials, axis=0)
            name = f"{size} stars, scores in {'magnitudes' if quick else 'flux'}"
            out[name] = {
                "first_call_s": compiling,
                "ms": dict(zip(STAGES, 1e3 * seconds)),
                "us_per_star": 1e6 * float(np.sum(seconds)) / size,
            }
            if case["trace"] and size == case["batches"][-1]:
                out[name]["kernels"] = kernels(lambda batch=batch: pipeline.STAGES(*batch))
    star = jax.tree.map(lambda x: x[0], catalog.stars(np.arange(1)))
    members = tiled.members(jnp.arange(1))
    out["operations"] = {
        "tiles": operations(lambda s, t: score_tiles(s, t, prior), star, tiled.tiles),
        "a tile in magnitudes": operations(
            lambda s, m: magnitude_scores(s, m, prior), star, members
        ),
        "a tile in flux": operations(lambda s, m: screen(s, m, prior).log_z, star, members),
    }
    most = Settings().tiles + far_draws(Settings().n_samples)
    out["tiles_at_most"] = most
    out["bytes"] = {"table of a star's tiles": most * tiled.blocks[0].nbytes}
    stats = jax.devices()[0].memory_stats() or {}
    each = bytes_per_star(tiled, Settings())
    out |= {"bytes_per_star_expected": each, "bytes_of_grid": grid_bytes(tiled)}
    return out | {"device_memory": {k: int(v) for k, v in stats.items() if "bytes" in k}}


def grid_bytes(tiled: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tiled))


def kernels(function: Any, most: int = 40) -> dict[str, Any]:
    """Microseconds and calls of the kernels that take most of a call, by JAX's profiler."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            jax.block_until_ready(function())
        found = list(Path(folder).rglob("perfetto_trace.json.gz"))
        if not found:
            return {}
        with gzip.open(found[0]) as file:
            events = json.load(file)
    events = events["traceEvents"] if isinstance(events, dict) else events
    places = {
        e["pid"]: e["args"]["name"]
        for e in events
        if e.get("name") == "process_name" and "args" in e
    }
    threads = {
        (e["pid"], e["tid"]): e["args"]["name"]
        for e in events
        if e.get("name") == "thread_name" and "args" in e
    }
    total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for e in events:
        place = places.get(e.get("pid"), "")
        thread = threads.get((e.get("pid"), e.get("tid")), "")
        if e.get("ph") == "X" and "/device:" in place and "Stream" in thread:
            total[e["name"]][0] += float(e["dur"])
            total[e["name"]][1] += 1
    best = sorted(total.items(), key=lambda x: -x[1][0])
    return {"all": [sum(x[0] for x in total.values()), sum(x[1] for x in total.values())]} | {
        name: value for name, value in best[:most]
    }


def draw_stars(case: dict[str, Any]) -> dict[str, Any]:
    """Draws the stars of all fits; on another device some would be others."""
    draw_mock(Path(case["stars_file"]), Path(case["grid"]), case["stars"], case["seed"])
    return {}


def fit_to_compare(case: dict[str, Any]) -> dict[str, Any]:
    """Fits some stars in memory and saves what is compared."""
    grid = brutax.StarGrid.read(case["grid"], bands=PS + TMASS)
    with np.load(case["stars_file"]) as file:
        arrays = {name: file[name][: case["stars"]] for name in COLUMNS}
    stars = make_catalog(arrays.pop("flux"), arrays.pop("flux_err"), grid.bands, **arrays)
    result = brutax.fit(stars, grid, progress=False)
    back = np.arange(len(stars))[::-1]  # the same stars beside others
    again = brutax.fit(stars.select(back), grid, progress=False)
    differ = [
        name
        for name in result
        if not name.startswith("models/")
        and not np.array_equal(np.asarray(result[name]), np.asarray(again[name])[back])
    ]
    names = ("summary_mean", "summary_std", "obj_log_evid", "obj_log_evid_err", "obj_ess", "status")
    arrays = {name: np.asarray(result[name]) for name in names}
    np.savez(case["out"], model=result["model_idx"], **arrays)
    kind = str(jax.devices()[0].device_kind)
    return {"device": kind, "parameters": list(result.parameters), "differ_reversed": differ}


def compare(device: Path, host: Path, parameters: list[str]) -> dict[str, Any]:
    """How two fits of the same stars differ: same random keys, other order of sums."""
    with np.load(device) as a, np.load(host) as b:
        one, two = dict(a), dict(b)
    columns = [parameters.index(name) for name in COMPARED]
    sigma = np.maximum(two["summary_std"], 1e-9)[:, columns]
    off = ((one["summary_mean"] - two["summary_mean"])[:, columns] / sigma).ravel()
    both = np.hypot(one["obj_log_evid_err"], two["obj_log_evid_err"])
    gap = (one["obj_log_evid"] - two["obj_log_evid"]) / np.maximum(both, 1e-6)
    return {
        "stars": len(gap),
        "means_sigma": {"rms": np.sqrt(np.mean(off**2)), "worst": np.max(np.abs(off))},
        "log_evidence_over_error": {"rms": np.sqrt(np.mean(gap**2)), "worst": np.max(np.abs(gap))},
        "stars_with_the_same_draws": np.mean(np.all(one["model"] == two["model"], axis=1)),
        "ess_per_draw_device": np.percentile(one["obj_ess"], (0, 5, 50)),
        "ess_per_draw_host": np.percentile(two["obj_ess"], (0, 5, 50)),
        "flags_differ": int(np.count_nonzero(one["status"] != two["status"])),
    }


def limits(found: dict[str, Any]) -> dict[str, Any]:
    """Microseconds per star at the rates measured, for the larger batch and scores in magnitudes.

    The table of a star's tiles is read from the grid, written in one piece and read again.
    """
    most, count = found["tiles_at_most"], found["operations"]
    work = count["tiles"] + most * count["a tile in magnitudes"]
    moved = 3.0 * found["bytes"]["table of a star's tiles"]
    took = min(
        run["us_per_star"] for run in found.values() if isinstance(run, dict) and "ms" in run
    )
    at = {"operations": work / found["product_rate"], "memory": moved / found["copy_rate"]}
    return {
        "us_per_star": {name: 1e6 * value for name, value in at.items()},
        "share": {name: 1e6 * value / took for name, value in at.items()},
    }


def report(found: dict[str, Any]) -> None:
    for name, run in found.items():
        if isinstance(run, dict) and "ms" in run:
            print(f"{name}: {run['us_per_star']:.3g} us per star, in ms a batch", run["ms"])
            print(f"  first call {run['first_call_s']:.3g} s", flush=True)
            for kernel, (us, calls) in run.get("kernels", {}).items():
                print(f"  {us:10.0f} us {calls:6d}  {kernel[:90]}")
    print("limits", found["limits"], flush=True)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--grid", default="mist_large")
    arguments.add_argument("--stars", type=int, default=100_000)
    arguments.add_argument("--compared", type=int, default=500, help="stars fitted on the host too")
    arguments.add_argument("--batches", type=int, nargs="+", default=[2048], help="of the stages")
    arguments.add_argument(
        "--quick", type=int, nargs="+", default=[1, 0], help="1: scores in magnitudes; 0: in flux"
    )
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--trace", action="store_true", help="list the kernels, too")
    arguments.add_argument("--only", nargs="+", choices=("stages", "fits", "compared"))
    arguments.add_argument("--folder", type=Path, help="for the posteriors (default: temporary)")
    args = parse(arguments)
    if args.case:
        work = {"stages": measure_stages, "stars": draw_stars, "compared": fit_to_compare}
        return answer(work[args.case["what"]](args.case))
    grid = args.shared / f"models/{args.grid}.h5"
    case = {"grid": str(grid), "seed": args.seed}
    results: dict[str, Any] = {}
    wanted = args.only or ("stages", "fits", "compared")
    if "stages" in wanted:
        more = {"what": "stages", "batches": args.batches, "quick": [bool(x) for x in args.quick]}
        more |= {"repeats": args.repeats, "trace": args.trace}
        results["stages"] = found = in_own_process(__file__, case | more)
        found["limits"] = limits(found)
        report(found)
    # what is measured has the device for itself: this process never touches it before the end
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        case |= {"stars_file": str(Path(folder) / "stars.npz"), "folder": folder}
        if {"fits", "compared"} & set(wanted):
            number = args.stars if "fits" in wanted else args.compared
            more = {"what": "stars", "stars": number}
            in_own_process(__file__, case | more, JAX_PLATFORMS="cpu")
        if "fits" in wanted:
            script = str(Path(__file__).with_name("stress.py"))
            for mode, kept in {"draws": {}, "no draws": {"draws": 0}}.items():
                more = {"stars": args.stars, "kept": kept}
                results[mode] = run = in_own_process(script, case | more)
                print(f"{mode}: {run['stars_per_s']:.5g} stars/s; {run['seconds']:.3g} s in all")
        if "compared" in wanted:
            out = {name: Path(folder) / f"{name}.npz" for name in ("device", "host")}
            more = {"what": "compared", "stars": args.compared}
            one = in_own_process(__file__, case | more | {"out": str(out["device"])})
            more["out"] = str(out["host"])
            in_own_process(__file__, case | more, JAX_PLATFORMS="cpu")
            results["compared"] = compare(out["device"], out["host"], one["parameters"])
            # datasets that are not equal bit for bit in the reverse order
            results["compared"]["differ_reversed"] = one["differ_reversed"]
            print(results["compared"])
    settings = {"grid": grid, "bands": PS + TMASS, "coords": SKY, "seed": args.seed}
    write("accelerator", settings | {"flux_error": 0.02, "only": list(wanted)}, results)


if __name__ == "__main__":
    main()
