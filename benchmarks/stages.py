"""Where does the time of a fit go, and what share of the arithmetic limit does scoring reach?

    python benchmarks/stages.py [--grid mist_large] [--stars 64]

The stages of the solver on one core: programs that each go one stage further than the last, over
the same stars in the same loop, so that differences are stages; then whole fits on all cores: the
first round of all stars, later rounds of those that need them, writing. Operations are counted by
XLA (`cost_analysis`) in the programs of one tile, without loops, and multiplied by the tiles
looked into. The limit is the rate of a large float32 matrix product on the same core, measured
here. Scoring is exponentials, logarithms and divisions next to sums, each counted as one
operation, so that it cannot reach it.
"""

import functools
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from _common import PS, TMASS, answer, in_own_process, parse, parser, table, write
from against_brutus import make_stars

import brutax
from brutax.fitting import FitOptions, Output, Priors
from brutax.fitting.prepare import device_models, model_log_prior
from brutax.fitting.prior import repeat, star_priors
from brutax.solver import Settings, fit_stars, pipeline
from brutax.solver.magnitude_scores import magnitude_scores
from brutax.solver.shortlist import draw_from_tiles, shortlist
from brutax.solver.tiles import score_tiles

SIZE = 2048  # of the matrices


def fastest(function: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls, after one to warm up."""
    jax.block_until_ready(function())
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def operations(function: Callable, *args: Any) -> float:
    """Operations of a program without loops, counted by XLA."""
    arrays, rest = eqx.partition(args, eqx.is_array)
    lowered = jax.jit(lambda arrays: function(*eqx.combine(arrays, rest))).lower(arrays)
    cost = lowered.compile().cost_analysis()
    return float(cost["flops"] + cost.get("transcendentals", 0.0))


def product_rate(repeats: int) -> float:
    """Operations per second of a float32 matrix product."""
    one, two = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE), jnp.float32)
    multiply = jax.jit(lambda a, b: jnp.dot(a, b, precision="highest"))
    return 2.0 * SIZE**3 / fastest(lambda: multiply(one, two), repeats)


def stages(stars: Any, grid: Any, repeats: int) -> dict[str, Any]:
    """Milliseconds per star up to each stage, and the tiles looked into."""
    tiled, _ = device_models(grid, model_log_prior(grid))
    prior, _ = star_priors(Priors(), stars.coords)
    data, settings, number = stars.stars(), Settings(in_magnitudes=True), len(stars)
    keys, u = jax.random.split(jax.random.key(0), number), jnp.float32(0.3)
    how = {
        "most": settings.tiles,
        "size": settings.n_samples,
        "in_magnitudes": settings.in_magnitudes,
    }

    def look(star: Any, grid: Any) -> Any:
        return shortlist(star, grid, prior, score_tiles(star, grid.tiles, prior), u, **how)

    def draw(star: Any, key: Any, grid: Any) -> Any:
        return draw_from_tiles(look(star, grid), key, size=settings.n_samples)

    steps: dict[str, Callable] = {
        "tiles": lambda star, key, grid: score_tiles(star, grid.tiles, prior),
        "scores": draw,  # and the models drawn by them, which takes no time to speak of
        "refinement, draws, weights": lambda star, key, grid: pipeline._sample(
            star, grid.models, prior, draw(star, key, grid), key, settings
        ),
        "summaries": lambda star, key, grid: pipeline.weigh_draws(
            star,
            grid,
            prior,
            pipeline.choose_models(
                star, grid, prior, score_tiles(star, grid.tiles, prior), key, settings
            ),
            key,
            settings,
        ),
    }
    up_to = {}
    for name, step in steps.items():
        program = eqx.filter_jit(
            lambda data, keys, grid, step=step: jax.lax.map(lambda x: step(*x, grid), (data, keys))
        )
        up_to[name] = fastest(lambda program=program: program(data, keys, tiled), repeats)
    av = repeat(prior.av, number)
    up_to["equal-weight draws"] = fastest(
        lambda: fit_stars(data, tiled, prior, av, keys, settings), repeats
    )
    first = jax.tree.map(lambda x: x[0], data)
    looked = eqx.filter_jit(
        lambda data, grid: jax.lax.map(
            lambda star: jnp.sum(jnp.any(look(star, grid).scores > -jnp.inf, axis=1)),
            data,
        )
    )(data, tiled)
    one_tile = tiled.members(jnp.arange(1))
    count = {
        "tiles": operations(lambda s, t: score_tiles(s, t, prior), first, tiled.tiles),
        "one tile looked into": operations(
            lambda s, m: magnitude_scores(s, m, prior), first, one_tile
        ),
    }
    return {
        "up_to_ms": {name: 1e3 * value / number for name, value in up_to.items()},
        "tiles": int(tiled.tiles.log_prior.shape[0]),
        "models_per_tile": tiled.size,
        "tiles_looked_into": np.percentile(np.asarray(looked), (16, 50, 84)),
        "tiles_looked_into_mean": float(np.mean(looked)),
        "operations": count,
    }


def whole(stars: Any, grid: Any, repeats: int) -> dict[str, Any]:
    """Milliseconds per star of whole fits, and of a fit of one star, most of which is set-up."""
    fitter, seconds = brutax.BruteForce(grid, verbose=False), {}
    with tempfile.TemporaryDirectory() as folder:
        for name, effort, path in (
            ("first round only", "low", None),
            ("with later rounds", "normal", None),
            ("to disk", "normal", Path(folder) / "fit.h5"),
        ):
            output = Output(path=path, overwrite=True, verbose=False)
            options = FitOptions(effort=effort)
            fit = functools.partial(fitter.fit_catalog, stars, options, output=output)
            seconds[name] = fastest(fit, repeats)
        output, one = Output(verbose=False), stars.select(slice(1))
        alone = fastest(functools.partial(fitter.fit_catalog, one, output=output), repeats)
    each = {name: 1e3 * value / len(stars) for name, value in seconds.items()}
    return {"whole_ms": each, "one_star_ms": 1e3 * alone}


def measure(case: dict[str, Any]) -> dict[str, Any]:
    """The stages, or whole fits, on so many cores."""
    # before JAX starts its threads
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: case["cores"]])

    grid = brutax.StarGrid.read(case["grid"], bands=PS + TMASS)
    stars = make_stars(grid, case["stars"], case["seed"])
    if case["what"] == "whole":
        return {"models": len(grid)} | whole(stars, grid, case["repeats"])
    rate = product_rate(case["repeats"])
    return {"product_rate": rate} | stages(stars, grid, case["repeats"])


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--grid", default="mist_large")
    arguments.add_argument("--stars", type=int, default=64)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--seed", type=int, default=1)
    args = parse(arguments)
    if args.case:
        return answer(measure(args.case))
    grid = args.shared / f"models/{args.grid}.h5"
    case = {"grid": str(grid), "stars": args.stars, "seed": args.seed, "repeats": args.repeats}
    # processes of their own: the threads of JAX keep the cores that they started on
    every = len(os.sched_getaffinity(0))
    found = in_own_process(__file__, case | {"what": "stages", "cores": 1})
    fits = in_own_process(__file__, case | {"what": "whole", "cores": every})

    print(f"{args.stars} stars, {fits['models']:,} models; one core")
    up_to = found["up_to_ms"]
    each = dict(zip(up_to, np.diff([0.0, *up_to.values()])))
    table(("stage", "ms per star", "up to here"), [(k, each[k], up_to[k]) for k in up_to])
    print(f"\nwhole fits, {every} cores")
    table(("", "ms per star"), list(fits["whole_ms"].items()))
    print(f"a fit of one star: {fits['one_star_ms']:.4g} ms, most of it set-up")

    looked, count = found["tiles_looked_into_mean"], found["operations"]
    total = {"tiles": count["tiles"], "scores": looked * count["one tile looked into"]}
    limit = {name: 1e3 * value / found["product_rate"] for name, value in total.items()}
    share = {name: limit[name] / each[name] for name in limit}
    share["both"] = sum(limit.values()) / sum(each[name] for name in limit)
    print(
        f"\n{looked:.0f} of {found['tiles']} tiles of {found['models_per_tile']} models looked into"
    )
    print(f"matrix products: {found['product_rate'] / 1e9:.4g} Gflop/s on this core")
    table(
        ("", "Mflop per star", "at that rate [ms]", "took [ms]", "share"),
        [(k, total[k] / 1e6, limit[k], each[k], share[k]) for k in total],
    )
    results = found | fits | {"stage_ms": each, "cores_of_whole_fits": every}
    results |= {"operations_per_star": total, "share_of_limit": share}
    settings = {"grid": grid, "bands": PS + TMASS, "stars": args.stars, "seed": args.seed}
    write("stages", settings | {"repeats": args.repeats}, results)


if __name__ == "__main__":
    main()
