"""How do speed and answers compare with astro-brutus 1.2.0 on the same stars and cores?

    python benchmarks/against_brutus.py --peer-python PYTHON_WITH_BRUTUS [--grid mist_large]

Mock stars with parallaxes on a grid of 208 352 or 725 196 models in 8 bands. Both fit all stars
at their defaults, 250 draws each, write a file, and are warm: brutus after five stars, brutax
after a first run, with the grid in its order. One runs after the other, on the same cores.
Differences of posterior means are in units of brutus' own sigma; 250 draws alone scatter them
by 0.07.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import PS, TMASS, parse, parser, peak_rss_mb, table, write

import brutax
from brutax.fitting.mock import mock_catalog

COMPARED = ("dist", "av", "mini", "loga")
SKY = (90.0, 30.0)  # Galactic l, b [deg]


def make_stars(grid: brutax.StarGrid, number: int, seed: int) -> Any:
    """Mock stars brighter than r = 18, 2 % photometry, parallaxes to 0.05 mas."""
    mock = mock_catalog(grid, number, seed=seed, coords=SKY, mag_limit=("PS_r", 18.0))
    return brutax.read_stars(mock, grid.bands)


def timed_fit(stars: Any, grid: brutax.StarGrid, path: Path) -> tuple[Any, float]:
    start = time.perf_counter()
    result = brutax.fit(stars, grid, output=brutax.Output(path, overwrite=True), progress=False)
    return result, time.perf_counter() - start


def run_peer(
    python: str, stars: Any, grid_path: Path, folder: Path, cores: int, repeats: int
) -> dict[str, Any]:
    names = ("flux", "flux_err", "parallax", "parallax_err", "coords")
    source, out = folder / "stars.npz", folder / "peer.npz"
    np.savez(source, bands=stars.bands, **{name: getattr(stars, name) for name in names})
    script = Path(__file__).with_name("_peer_fit.py")
    environment = os.environ | {"NUMBA_NUM_THREADS": str(cores), "OMP_NUM_THREADS": str(cores)}
    command = [python, str(script), str(source), str(grid_path), str(out), str(repeats)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the peer failed:\n{done.stderr[-3000:]}")
    with np.load(out) as file:
        return {name: file[name] for name in file.files}


def spread(values: Any) -> dict[str, float]:
    low, median, high = np.percentile(values, (16, 50, 84))
    return {"median": median, "p16": low, "p84": high}


def time_of(seconds: Any, stars: int) -> dict[str, float]:
    """Seconds per star of repeated fits."""
    each = np.asarray(seconds) / stars
    return {"median": np.median(each), "fastest": np.min(each), "slowest": np.max(each)}


def agreement(result: Any, peer: dict[str, Any], subset: np.ndarray) -> dict[str, Any]:
    """Median and 16-84 % of the difference of means and of the ratio of deviations."""
    out = {"stars": int(subset.sum())}
    for name in COMPARED:
        column = result.parameters.index(name)
        sigma = peer[name].std(axis=1)
        # one value of the grid only: no sigma to speak of
        use = subset & (sigma > 1e-6 * np.abs(peer[name].mean(axis=1)))
        off = (result["summary_mean"][:, column] - peer[name].mean(axis=1))[use] / sigma[use]
        ratio = result["summary_std"][:, column][use] / sigma[use]
        out[name] = {"mean": spread(off), "worst": np.max(np.abs(off)), "std ratio": spread(ratio)}
    return out


def main() -> None:
    arguments = parser(__doc__, peer=True)
    arguments.add_argument("--stars", type=int, default=200)
    arguments.add_argument("--cores", type=int, default=2)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--repeats", type=int, default=5, help="timed fits of brutax")
    arguments.add_argument("--peer-repeats", type=int, default=1, help="timed fits of brutus")
    arguments.add_argument("--grid", default="mist_medium", choices=("mist_medium", "mist_large"))
    args = parse(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.cores])
    grid_path = args.shared / f"models/{args.grid}.h5"
    grid = brutax.StarGrid.read(grid_path, bands=PS + TMASS)
    stars = make_stars(grid, args.stars, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        peer = run_peer(args.peer_python, stars, grid_path, place, args.cores, args.peer_repeats)
        timed_fit(stars, grid, place / "fit.h5")
        runs = [timed_fit(stars, grid, place / "fit.h5") for _ in range(args.repeats)]
    result = runs[0][0]
    mine = time_of([seconds for _, seconds in runs], args.stars)
    theirs = time_of(peer["totals"], args.stars)
    print(f"{args.stars} stars, {len(grid):,} models, {args.cores} cores")
    print("whole fits, seconds per star")
    table(("", *mine), [("brutax", *mine.values()), ("brutus", *theirs.values())])
    ratio = theirs["median"] / mine["median"]
    print(f"brutus takes {ratio:.2f} times as long; reading the grid and compiling set aside\n")

    snr = stars.parallax / stars.parallax_err
    av, av_std = (result[f"summary_{x}"][:, result.parameters.index("av")] for x in ("mean", "std"))
    fair = (av > 4 * av_std) & (snr < 10)
    subsets = {
        "A_V > 4 sigma and S/N < 10": fair,
        "the rest": ~fair,
        "all": np.full(fair.shape, True),
    }
    agree = {name: agreement(result, peer, subset) for name, subset in subsets.items()}
    rows = []
    for title, group in agree.items():
        print(f"{title}: {group['stars']} stars")
        rows = [
            (x, *group[x]["mean"].values(), group[x]["worst"], *group[x]["std ratio"].values())
            for x in COMPARED
        ]
        header = ("mean off [sigma]", "median", "16 %", "84 %", "worst")
        table((*header, "std ratio", "16 %", "84 %"), rows)
    settings = {"grid": grid_path, "bands": grid.bands, "mag_limit": "PS_r < 18", "coords": SKY}
    settings |= {
        "stars": args.stars,
        "cores": args.cores,
        "seed": args.seed,
        "repeats": args.repeats,
    }
    settings |= {"flux_error": 0.02, "parallax_error_mas": 0.05, "brutus": str(peer["version"])}
    speed = {"brutax": mine, "brutus": theirs, "ratio": ratio}
    speed["brutus, one star without set-up and writing"] = spread(peer["seconds"])
    ess = {"ess": spread(result["obj_ess"]), "khat": spread(result["obj_khat"])}
    results = {"seconds_per_star": speed, "agreement": agree, "brutax_draws": ess}
    name = "against_brutus" + args.grid.removeprefix("mist").replace("_medium", "")
    write(name, settings, results | {"peak_rss_mb": peak_rss_mb()})


if __name__ == "__main__":
    main()
