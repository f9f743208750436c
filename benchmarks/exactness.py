"""How far are brutax's posteriors from exact ones?

    python benchmarks/exactness.py

24 mock stars on a grid of 25 486 models, whose posteriors are known from dense quadrature in
float64 by an implementation that shares no code with brutax. The reference path is compared by
the weight of every model, the default path by the moments of its draws.
"""

from typing import Any

import h5py
import jax
import numpy as np
from _common import parse, parser, table, write

import brutax
from brutax.fitting import FitOptions, Priors, fit_catalog
from brutax.fitting.prepare import device_models, model_log_prior
from brutax.fitting.prior import star_priors
from brutax.solver import Settings, model_log_weights

COMPARED = ("dist", "av", "mini", "loga")
MANY = 131072  # draws, so that their scatter does not hide an error of the method
ONE_VALUE = 1e-6  # exact sigma / mean below which only one value of the grid is possible


def exact_posteriors(path: Any) -> list[dict[str, Any]]:
    """Weights, moments and evidence of each star."""
    out = []
    with h5py.File(path) as file:
        names = [x.decode() for x in file.attrs["parameters"]]
        for star in file.values():
            exact = {key: star[key][:] for key in ("model", "ln_weight")}
            for moment in ("mean", "std"):
                exact[moment] = dict(zip(names, star[moment][:]))
            out.append(exact | {"ln_evidence": float(star.attrs["ln_evidence"])})
    return out


def total_variation(
    catalog: Any, grid: Any, exact: list[dict[str, Any]], quadrature: bool
) -> np.ndarray:
    """Per star, half the summed difference of model weights from the exact ones."""
    tiled, order = device_models(grid, model_log_prior(grid))
    real = order >= 0
    prior, _ = star_priors(Priors(), catalog)
    settings = Settings(survivors=len(grid), quadrature=quadrature)
    stars = catalog.stars(np.arange(len(catalog)))
    out = []
    for i, answer in enumerate(exact):
        star = jax.tree.map(lambda x, i=i: x[i], stars)
        weights = np.zeros(len(grid))
        log_weights = np.asarray(model_log_weights(star, tiled.models, prior, settings), float)
        weights[order[real]] = np.exp(log_weights[real])
        weights[answer["model"]] -= np.exp(answer["ln_weight"].astype(float))
        out.append(0.5 * np.abs(weights).sum())
    return np.array(out)


def differences(result: Any, exact: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Per star: mean off in sigma, std ratio - 1, evidence off in nats.

    NaN for a label that can only have one value: its sigma is nothing but rounding.
    """
    out = {}
    for name in COMPARED:
        column = result.parameters.index(name)
        mean = np.array([e["mean"][name] for e in exact])
        std = np.array([e["std"][name] for e in exact])
        std = np.where(std > ONE_VALUE * np.abs(mean), std, np.nan)
        out[f"mean {name} [sigma]"] = (result["summary_mean"][:, column] - mean) / std
        out[f"std {name} / exact - 1"] = result["summary_std"][:, column] / std - 1
    evidence = np.array([e["ln_evidence"] for e in exact])
    return out | {"ln evidence [nats]": result["obj_log_evid"] - evidence}


def report(title: str, values: dict[str, np.ndarray], ids: np.ndarray) -> dict[str, Any]:
    """Prints and returns median, worst and where the worst is."""
    print(f"\n{title}")
    rows, out = [], {}
    for name, value in values.items():
        size = np.abs(value)
        worst = ids[np.nanargmax(size)].decode()
        numbers = {"median": np.nanmedian(size), "worst": np.nanmax(size)}
        stars = int(np.isfinite(size).sum())
        rows.append((name, *numbers.values(), worst, stars))
        out[name] = numbers | {"worst_star": worst, "stars": stars}
    table(("absolute", "median", "worst", "in", "stars"), rows)
    return out


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--draws", type=int, default=MANY, help="of the default path")
    args = parse(arguments)
    stars, grid_path = args.shared / "gold/open_stars.csv", args.shared / "models/mist_small.h5"
    exact = exact_posteriors(args.shared / "gold/open_exact.h5")
    grid = brutax.StarGrid.read(grid_path)
    catalog = brutax.read_stars(stars, grid.bands, units="maggies")
    grid = grid.select(bands=catalog.bands)
    options = FitOptions(effort="low", weighted_draws=args.draws)
    many = fit_catalog(catalog, grid, options, output=brutax.Output(verbose=False))
    ids = many["source_id"]
    distances = {
        name: total_variation(catalog, grid, exact, quadrature)
        for name, quadrature in (("quadrature", True), ("Laplace", False))
    }
    results = {"total_variation": report("Reference path: total variation", distances, ids)}
    title = f"Default path (one round) with {args.draws:,} draws"
    results["default"] = report(title, differences(many, exact), ids)
    scatter = 1 / np.sqrt(many["obj_ess"])
    print(
        f"Monte Carlo scatter of a mean: {np.median(scatter):.4f} sigma, worst {max(scatter):.4f}"
    )
    results["scatter"] = {"median": np.median(scatter), "worst": np.max(scatter)}

    print("\nWorth of the draws at the default settings")
    columns: dict[str, np.ndarray] = {}
    for method, how in {
        "fast": {"effort": "low"},
        "auto": {},
        "reference": {"method": "reference"},
    }.items():
        one = brutax.fit(stars, grid_path, units="maggies", progress=False, **how)
        ess, k = one["obj_ess"], one["obj_khat"]
        columns |= {f"{method} ESS": ess, f"{method} ESS/S": ess / one["obj_nsamp"]}
        columns |= {f"{method} k": k}
        results[f"default_{method}"] = report(f"method={method!r}", differences(one, exact), ids)
    rows = [(i.decode(), *(c[n] for c in columns.values())) for n, i in enumerate(ids)]
    table(("star", *columns), rows)
    results["draws"] = columns | {"star": [i.decode() for i in ids]}
    results["per_star"] = {f"TV {k}": v for k, v in distances.items()} | differences(many, exact)
    write("exactness", {"grid": grid_path, "stars": stars, "draws": args.draws}, results)


if __name__ == "__main__":
    main()
