"""Does the default path give what the reference path gives, within its Monte Carlo error?

    python benchmarks/calibration.py [--stars 1000] [--folder FOLDER]

Mock stars drawn from the prior, in 8 bands with a tenth of the magnitudes missing, on a grid of
25 486 models. The reference path scores every model, refines all that matter, and makes 64 times
the draws, so that its error hardly counts (its variance is taken as 1/64 of that of the default
path and added). The error of the default path is measured, star by star, as the scatter of runs
with other seeds: models are drawn systematically, which makes it several times smaller than
sigma / sqrt(ESS), by a factor that differs from star to star. A scatter measured from a few runs
has a distribution of its own, so that z-scores are wider than normal ones: they are in units of
the width that the runs have against each other (each against the mean and scatter of the rest).

Where the draws hardly ever leave one value of a label (replicas of its deviation scatter by more
than 30 %, all runs agree but for one, or the deviation says that less than one draw in 400 is
elsewhere), errors are those of rare events and not normal: such pairs of star and label are left
out and counted. With `--folder` the posteriors stay there, and a run that was stopped goes on.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _common import PS, TMASS, parse, parser, table, write

import brutax
from brutax.fitting import FitOptions, fit_catalog, mock_catalog

COMPARED = ("dist", "av", "rv", "mini", "feh", "loga")
ON_NODES = ("mini", "feh", "loga")  # have few values, those of the grid
RARE = 0.3  # relative scatter of a deviation
ONE_VALUE = 0.05  # of the usual deviation, about a step of the grid: 1 draw in 400 elsewhere
ENOUGH = 200  # effective draws that a star has, or a flag
DRAWS = 512  # of the default path
MORE = 64  # times the draws on the reference path


def moments(result: brutax.FitResult) -> dict[str, np.ndarray]:
    """Means, deviations and evidence, each (star,)."""
    out = {}
    for moment in ("mean", "std"):
        for name in COMPARED:
            column = result.parameters.index(name)
            out[f"{moment} {name}"] = result[f"summary_{moment}"][:, column].astype(float)
    return out | {"ln evidence": result["obj_log_evid"].astype(float)}


def own_width(runs: np.ndarray) -> float:
    """The width of the z-scores of runs (run, star), each against mean and scatter of the rest."""
    square = []
    for k, run in enumerate(runs):
        rest = np.delete(runs, k, axis=0)
        error = rest.std(axis=0, ddof=1) * np.sqrt(1 + 1 / len(rest))
        square.append(np.mean((run - rest.mean(axis=0)) ** 2 / error**2))
    return float(np.sqrt(np.mean(square)))


def one_dominates(runs: np.ndarray) -> np.ndarray:
    """Whether runs (run, star) scatter because of one of them, and hardly without it."""
    rest = [np.delete(runs, k, axis=0).std(axis=0) for k in range(len(runs))]
    return np.min(rest, axis=0) <= RARE * runs.std(axis=0)


def compare(
    first: dict[str, np.ndarray],
    replicas: list[dict[str, np.ndarray]],
    exact: dict[str, np.ndarray],
    fitted: np.ndarray,
) -> dict[str, dict[str, float]]:
    """z-scores of every quantity, of the first run against the reference path."""
    out = {}
    for name, reference in exact.items():
        runs = np.array([run[name] for run in replicas])
        scatter = runs.std(axis=0, ddof=1)
        usual = fitted & (scatter > 0)
        deviation = name if name == "ln evidence" else f"std {name.split()[1]}"
        if name != "ln evidence":
            spread = np.array([run[deviation] for run in replicas])
            usual &= spread.std(axis=0, ddof=1) < RARE * spread.mean(axis=0)
            usual &= exact[deviation] > 0
            if name.split()[1] in ON_NODES:
                usual &= spread.mean(axis=0) > ONE_VALUE * np.median(spread)
        usual &= ~one_dominates(np.array([first[name], *runs]))
        off = (first[name] - reference)[usual]
        z = off / scatter[usual] / np.sqrt(1 + 1 / MORE)
        width = own_width(runs[:, usual])
        z /= width
        low, high = np.percentile(z, (16, 84))
        sigma = 1.0 if name == "ln evidence" else exact[deviation][usual]
        out[name] = {
            "stars": int(usual.sum()),
            "z_mean": z.mean(),
            "z_width": z.std(),
            "z_width_16_84": 0.5 * (high - low),
            "z_worst": np.abs(z).max(),
            "unit": width,
            "bias": np.mean((runs.mean(axis=0) - reference)[usual] / sigma),  # [sigma], [nats]
            "error": np.median(scatter[usual] / sigma),
            "worst": np.max(np.abs(off / sigma)),
        }
        if name.startswith("std"):
            ratio = np.percentile(first[name][usual] / reference[usual], (16, 50, 84))
            out[name] |= dict(zip(("ratio_16", "ratio_median", "ratio_84"), ratio))
    return out


def worth(result: brutax.FitResult) -> dict[str, Any]:
    """How many draws are effective, and whether too few are flagged."""
    fitted, status = result.fitted, result["status"]
    ess, share = result["obj_ess"], result["obj_ess"] / np.maximum(result["obj_nsamp"], 1)
    flagged = (status & brutax.Status.LOW_ESS) != 0
    return {
        "fitted": int(fitted.sum()),
        "half_or_more_effective": np.mean(share[fitted] >= 0.5),
        "ess_per_draw_1_5_50": np.percentile(share[fitted], (1, 5, 50)),
        "extended": np.mean((status[fitted] & brutax.Status.EXTENDED) != 0),
        "flagged": int(np.count_nonzero(flagged & fitted)),
        "unflagged_below_200": int(np.count_nonzero(fitted & ~flagged & (ess < ENOUGH))),
    }


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--stars", type=int, default=1000)
    arguments.add_argument("--replicas", type=int, default=24, help="runs with other seeds")
    arguments.add_argument("--grid", default="mist_small")
    arguments.add_argument("--seed", type=int, default=1, help="of the mock stars")
    arguments.add_argument("--folder", type=Path, help="where posteriors stay (default: nowhere)")
    args = parse(arguments)
    grid_path = args.shared / f"models/{args.grid}.h5"
    grid = brutax.StarGrid.read(grid_path, bands=PS + TMASS)
    mock = mock_catalog(grid, args.stars, seed=args.seed, missing=0.1)
    catalog = brutax.read_stars(mock, grid.bands)
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)

        def fit(name: str, **options: Any) -> brutax.FitResult:
            path = folder / f"{name}.h5"
            return brutax.FitResult.load(
                fit_catalog(
                    catalog,
                    grid,
                    FitOptions(draws=0, **options),
                    output=brutax.Output(path, verbose=False),
                )
            )

        runs = [fit(f"default-{seed}", seed=seed) for seed in range(1 + args.replicas)]
        exact = fit("reference", method="reference", weighted_draws=MORE * DRAWS)
        first, *replicas = map(moments, runs)
        compared = compare(first, replicas, moments(exact), runs[0].fitted & exact.fitted)
        draws = {"default": worth(runs[0]), "reference": worth(exact)}
    shown = ("stars", "z_mean", "z_width", "z_width_16_84", "z_worst", "unit", "bias", "error")
    table(("", *shown), [(name, *(row[x] for x in shown)) for name, row in compared.items()])
    print("unit: see above; bias, and error of one run (median), in sigma or nats\n")
    shown = ("ratio_16", "ratio_median", "ratio_84")
    spreads = {name: row for name, row in compared.items() if "ratio_16" in row}
    table(("default / ref", *shown), [(k, *(row[x] for x in shown)) for k, row in spreads.items()])
    for path, numbers in draws.items():
        print(f"\n{path} path: " + ", ".join(f"{k} {v}" for k, v in numbers.items()))
    verdict = {
        "z mean within 0.1": all(abs(row["z_mean"]) <= 0.1 for row in compared.values()),
        "z width 0.9-1.1": all(0.9 <= row["z_width"] <= 1.1 for row in compared.values()),
        "ESS/S >= 0.5 for 95 %": draws["default"]["half_or_more_effective"] >= 0.95,
        "none below 200 unflagged": draws["default"]["unflagged_below_200"] == 0,
    }
    print(
        "\n" + "\n".join(f"{'PASS' if good else 'FAIL'}  {name}" for name, good in verdict.items())
    )
    settings = {"grid": grid_path, "bands": PS + TMASS, "stars": args.stars, "seed": args.seed}
    settings |= {"replicas": args.replicas, "reference_draws": MORE * DRAWS, "missing": 0.1}
    write("calibration", settings, {"compared": compared, "draws": draws, "verdict": verdict})


if __name__ == "__main__":
    main()
