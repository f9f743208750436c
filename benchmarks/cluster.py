"""The likelihood of a cluster: beside brutus', smooth and converged, sampled, and of M67.

    python benchmarks/cluster.py --peer-python PYTHON_WITH_BRUTUS [--only speed smooth nuts m67]

speed: one call for 100 and 500 simulated stars in 8 bands with parallaxes, value and gradient, at
`Layout()` and with as many mass ratios as brutus has, whose call has 1000 EEPs and 21 secondary
fractions. smooth: ln L of 100 stars of 2 %
along every parameter and its difference to lattices of 16 times as many segments: the residuals of
that from cubics over half a deviation (roughness), its scatter where ln L is within 5 nats of its
maximum, and at 12 points of the posterior (the scatter counts, not the constant). nuts:
four chains of a cluster of 100 stars, until R-hat is below 1.01 and the effective draws are 400.
recovery: simulated clusters with companions and 20 % field stars, ranks and coverage of their
parameters by tempered Monte Carlo: posteriors of clusters with evolved stars have many peaks in
age. m67: members and field of `NGC_2682.fits`.

Simulated stars lie on the segments of a lattice twice as fine in both directions.
"""

import json
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from _brutus_files import BANDS, write_files
from _common import answer, in_own_process, known, parser, save_figure, table, write
from scipy.stats import kstest

PEER_RATIOS = 21
PARTS = ("speed", "smooth", "nuts", "recovery", "m67")
TRUTH = {"feh": 0.0, "loga": 9.6, "av": 0.15, "rv": 3.1, "distance_pc": 850.0}
TRUTH |= {"field_fraction": 0.2, "binary_fraction": 0.4}
ERROR, PARALLAX_ERROR = 0.02, 0.05  # of fluxes; [mas]
FAINT = 19.0  # r magnitude
WIDTH = {"feh": 0.02, "loga": 0.01, "av": 0.02, "rv": 0.1, "distance_pc": 10.0}  # about a deviation
WIDTH |= {"field_fraction": 0.04, "binary_fraction": 0.05}
STEPS = np.linspace(-2.0, 2.0, 81)  # deviations
TEMPERED = dict(num_particles=128, num_moves=5, ess=0.5)  # of the recovery
NEAR = 5.0  # nats
WINDOW = 11  # steps that the polynomials of roughness go over


def simulate(pop: Any, truth: dict[str, float], count: int, seed: int) -> dict[str, np.ndarray]:
    """Fluxes and parallaxes of members on the isochrone, and of field stars spread over the same
    magnitudes."""
    from brutax.cluster import ClusterModel, ClusterParams, Layout, make_stars

    rng, bands = np.random.default_rng(seed), len(pop.filters)
    blank = make_stars(np.ones((1, bands)), np.ones((1, bands)))
    model = ClusterModel(pop, blank, layout=Layout().scaled(2))
    params = ClusterParams(**{k: jnp.float32(x) for k, x in truth.items()})
    lattice = jax.tree.map(np.asarray, jax.jit(lambda p: model.lattice(p).tiles)(params))
    weight = lattice.weight * (lattice.flux[:, 1:, 1] > 10 ** (-0.4 * FAINT))
    field = rng.random(count) < truth["field_fraction"]
    at = rng.choice(weight.size, count, p=(weight / weight.sum()).ravel())
    tile, segment = np.unravel_index(at, weight.shape)
    t = rng.random((count, 1))
    flux = lattice.flux[tile, segment] * (1 - t) + lattice.flux[tile, segment + 1] * t
    low, high = np.log(flux.min(axis=0)), np.log(flux.max(axis=0))
    flux = np.where(field[:, None], np.exp(rng.uniform(low, high, flux.shape)), flux)
    plx = np.where(field, rng.uniform(0.2, 4.0, count), 1000.0 / truth["distance_pc"])
    err, plx_err = ERROR * flux, np.full(count, PARALLAX_ERROR)
    return {
        "flux": flux + err * rng.normal(size=flux.shape),
        "err": err,
        "plx": plx + plx_err * rng.normal(size=count),
        "plx_err": plx_err,
        "field": field,
    }


def build(stars: dict[str, np.ndarray], pop: Any, layout: Any = None) -> Any:
    from brutax.cluster import ClusterModel, make_stars

    made = make_stars(
        stars["flux"], stars["err"], parallax=stars["plx"], parallax_err=stars["plx_err"]
    )
    return ClusterModel(pop, made, layout=layout)


def typed(values: dict[str, Any]) -> Any:
    from brutax.cluster import ClusterParams

    return ClusterParams(**{k: jnp.float32(x) for k, x in values.items()})


def population() -> Any:
    from brutax.models import Isochrone, StellarPop

    return StellarPop(Isochrone(verbose=False), BANDS, verbose=False)


def timed(function: Any, repeats: int, *given: Any) -> list[float]:
    jax.block_until_ready(function(*given))
    out = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(function(*given))
        out.append(time.perf_counter() - start)
    return out


def speed(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of values and of values with gradients, as functions of the parameters."""
    from brutax.cluster import Layout

    pop, out = population(), {}
    for count in case["counts"]:
        stars = simulate(pop, TRUTH, count, case["seed"])
        np.savez(Path(case["folder"]) / f"{count}.npz", **stars)  # pyright: ignore
        params, run = typed(TRUTH), {}
        for name, layout in (("", Layout()), ("_coarse", Layout(ratios=PEER_RATIOS))):
            model = build(stars, pop, layout)
            value = jax.jit(lambda p, model=model: model.log_likelihood(p))
            both = jax.jit(jax.value_and_grad(lambda p, model=model: model.log_likelihood(p)))
            start = time.perf_counter()
            jax.block_until_ready(both(params))
            run[f"compiling{name}_s"] = time.perf_counter() - start
            run[f"value{name}_s"] = timed(value, case["repeats"], params)
            run[f"gradient{name}_s"] = timed(both, case["repeats"], params)
        out[str(count)] = run
    return out


def beside_peer(args: Any) -> dict[str, Any]:
    counts = args.counts
    with tempfile.TemporaryDirectory() as folder:
        case = {"what": "speed", "counts": counts, "folder": folder, "seed": 1, "repeats": 400}
        out = in_own_process(__file__, case)
        if args.peer_python:
            ask = {
                "files": write_files(Path(folder)),
                "bands": list(BANDS),
                "stars": {str(n): f"{folder}/{n}.npz" for n in counts},
                "theta": [-0.1, 9.6, 0.15, 3.1, 850.0, 0.2],
                "smf": np.linspace(0.0, 1.0, PEER_RATIOS).tolist(),
                "eep": np.linspace(202.0, 808.0, 1000).tolist(),
                "result": f"{folder}/peer.json",
                "repeats": 5,
            }
            (Path(folder) / "ask.json").write_text(json.dumps(ask))
            script = Path(__file__).with_name("_peer_cluster.py")
            subprocess.run([args.peer_python, str(script), f"{folder}/ask.json"], check=True)
            for name, seconds in json.loads((Path(folder) / "peer.json").read_text()).items():
                out[name]["brutus_s"] = seconds
    rows = []
    for name, run in out.items():
        run["ms"] = {k[:-2]: 1e3 * np.median(v) for k, v in run.items() if isinstance(v, list)}
        rows.append((f"{name} stars", *run["ms"].values()))
    table(("ms", *next(iter(out.values()))["ms"]), rows)
    return out


def smooth(case: dict[str, Any]) -> dict[str, Any]:
    """Roughness along every parameter, and convergence."""
    import equinox as eqx
    from scipy.signal import savgol_filter

    from brutax.cluster import Layout

    pop = population()
    stars = simulate(pop, TRUTH, 100, case["seed"])
    usual, finer, finest = (build(stars, pop, Layout().scaled(k)) for k in (1, 2, 4))

    @eqx.filter_jit
    def along(model: Any, points: Any) -> Any:
        return jax.lax.map(lambda p: model.log_likelihood(p), points)

    rough, away, lines = {}, {}, {}
    for name, width in WIDTH.items():
        points = {k: np.full(STEPS.size, x) for k, x in TRUTH.items()}
        points[name] = points[name] + width * STEPS
        line, exact = (np.asarray(along(m, typed_rows(points)), float) for m in (usual, finest))
        gap = line - exact  # what the function itself does within half a deviation cancels
        rough[name] = float(np.std(gap - savgol_filter(gap, WINDOW, 3)))
        near = exact > exact.max() - NEAR
        away[name] = float(np.std(gap[near]))
        lines[name] = [(x - exact.max()).tolist() for x in (line, exact)]
    rng = np.random.default_rng(case["seed"])
    points = typed_rows({k: x + 0.5 * WIDTH[k] * rng.normal(size=12) for k, x in TRUTH.items()})
    values = [np.asarray(along(m, points), float) for m in (usual, finer, finest)]
    return {
        "roughness_nats": rough,
        "scatter_from_16_times": away,
        "lines": lines,
        "convergence": {
            f"{k * k} times": {"mean": np.mean(x - values[2]), "scatter": np.std(x - values[2])}
            for k, x in zip((1, 2), values)
        },
    }


def typed_rows(points: dict[str, np.ndarray]) -> Any:
    from brutax.cluster import ClusterParams

    return ClusterParams(**{k: jnp.asarray(x, jnp.float32) for k, x in points.items()})


def sampled(pop: Any, stars: dict[str, np.ndarray], seed: int, **how: Any) -> tuple[Any, float]:
    """A posterior by NUTS, and its seconds."""
    from brutax import infer
    from brutax.cluster import prior as cluster_prior
    from brutax.cluster import problem as cluster_problem

    model = build(stars, pop)
    problem = cluster_problem(model, cluster_prior(model, rv=TRUTH["rv"]))
    start = time.perf_counter()
    options = {"start": "map", "num_tries": 256, "max_tree_depth": 6} | how
    post = infer.fit(problem, "nuts", key=seed, **options)
    return post, time.perf_counter() - start


def nuts(case: dict[str, Any]) -> dict[str, Any]:
    pop = population()
    stars = simulate(pop, TRUTH, 100, case["seed"])
    how = {"num_warmup": 150, "num_samples": 100, "until": {"rhat": 1.01, "ess": 400}}
    how |= {"max_samples": 1500, "chunk": 50}
    post, seconds = sampled(pop, stars, case["seed"], **how)
    rhat = max(float(np.max(v)) for k, v in post.stats.items() if k.startswith("rhat/"))
    rows = {k: [float(r.mean), float(r.std), TRUTH[k]] for k, r in post.summary().items()}
    return {
        "seconds": seconds,
        "rhat": rhat,
        "ess": post.ess,
        "gradients": post.stats["evaluations"],
        "divergences": post.stats["divergences"],
        "posterior": rows,
        "warnings": list(post.warnings),
    }


def recovery(case: dict[str, Any]) -> list[dict[str, Any]]:
    """Ranks and pulls of the truth in the posteriors of simulated clusters, on one core."""
    from brutax import infer
    from brutax.cluster import prior as cluster_prior
    from brutax.cluster import problem as cluster_problem

    os.sched_setaffinity(0, {case["core"]})
    jax.config.update("jax_compilation_cache_dir", case["cache"])  # all fits are one program
    pop, rows, problem = population(), [], None
    started = time.perf_counter()
    for k in case["numbers"]:
        rng = np.random.default_rng(1000 + k)
        truth = TRUTH | {
            "feh": rng.uniform(-0.3, 0.3),
            "loga": rng.uniform(9.2, 9.9),
            "av": rng.uniform(0.05, 0.6),
            "distance_pc": rng.uniform(500.0, 1500.0),
            "binary_fraction": rng.uniform(0.2, 0.7),
        }
        model = build(simulate(pop, truth, case["stars"], 1000 + k), pop)
        problem = problem or cluster_problem(model, cluster_prior(model, rv=TRUTH["rv"]))
        post = infer.fit(problem.with_data(model), "smc", key=k, **TEMPERED)
        best = float(post.log_likelihood.max() - model.log_likelihood(typed(truth)))
        row: dict[str, Any] = {"cluster": k, "above_truth": best, "ok": post.ok}
        row |= {"evaluations": post.stats["evaluations"], "rank": {}, "pull": {}}
        for name, draws in post.columns().items():
            if np.ptp(draws) > 0:
                row["rank"][name] = float(np.mean(draws < truth[name]))
                row["pull"][name] = float((np.mean(draws) - truth[name]) / np.std(draws))
        rows.append(row)
        with open(case["rows"], "a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"cluster {k}: {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def recovered(args: Any, case: dict[str, Any]) -> dict[str, Any]:
    """Clusters shared among the cores; those in the file `--rows` are not fitted again."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(args.rows or Path(folder) / "rows.jsonl")
        rows = [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []
        left = sorted(set(range(args.clusters)) - {row["cluster"] for row in rows})
        cores = sorted(os.sched_getaffinity(0))
        shares = [left[i :: len(cores)] for i in range(len(cores))]
        with ThreadPoolExecutor(len(cores)) as pool:
            jobs = [
                pool.submit(
                    in_own_process, __file__,
                    case
                    | {"core": core, "numbers": share, "rows": str(path), "cache": folder},
                )
                for core, share in zip(cores, shares)
                if share
            ]  # fmt: skip
            rows += [row for job in jobs for row in job.result()]
    rows.sort(key=lambda row: row["cluster"])
    names = list(rows[0]["rank"])
    out: dict[str, Any] = {
        "stars": case["stars"],
        "clusters": len(rows),
        "not_ok": sum(not row["ok"] for row in rows),
        "evaluations": float(np.median([row["evaluations"] for row in rows])),
        "above_truth": [row["above_truth"] for row in rows],
        "ranks": {name: [row["rank"][name] for row in rows] for name in names},
        "pulls": {name: [row["pull"][name] for row in rows] for name in names},
    }
    out["uniform_p"] = {k: float(kstest(v, "uniform").pvalue) for k, v in out["ranks"].items()}
    out["pull_mean_std"] = {k: [np.mean(v), np.std(v)] for k, v in out["pulls"].items()}
    for level in (0.68, 0.95):
        inside = {k: np.abs(np.array(r) - 0.5) < level / 2 for k, r in out["ranks"].items()}
        out[f"coverage_{level}"] = {k: float(np.mean(v)) for k, v in inside.items()}
    return out


def m67(case: dict[str, Any]) -> dict[str, Any]:
    import numpyro.distributions as dist
    from astropy.table import Table

    import brutax
    from brutax import infer
    from brutax.cluster import (
        ClusterModel,
        make_stars,
        members,
        mock_members,
    )
    from brutax.cluster import (
        prior as cluster_prior,
    )
    from brutax.cluster import (
        problem as cluster_problem,
    )
    from brutax.models.corrections import CorrectionParams
    from brutax.plotting import cluster_diagram

    source = Table.read(case["table"])
    source["Parallax"] += 0.029  # mas: zero point of Gaia DR2 (Lindegren et al. 2018)
    prob = np.nan_to_num(np.asarray(source["HDBscan_MemProb"], float))
    source, prob = source[prob > case["least"]], prob[prob > case["least"]]
    stars = brutax.read_stars(
        source, case["bands"], units={"photometry": "mag"}, error_floor=case["floor"]
    )
    pop = brutax.StellarPop(brutax.Isochrone(verbose=False), stars.bands, verbose=False)
    made = make_stars(
        stars.flux,
        stars.flux_err,
        parallax=stars.parallax,
        parallax_err=stars.parallax_err,
        prob=np.minimum(prob, 0.99),
    )
    model = ClusterModel(pop, made)
    given: dict[str, Any] = {"rv": 3.1, "loga": dist.Uniform(9.0, 10.1)}
    given["distance_pc"] = dist.LogUniform(500.0, 1500.0)
    if case["corr"]:  # of brutus, for cool dwarfs
        given["corr"] = np.array(CorrectionParams(), float)
    if case["scatter"]:
        given["scatter"] = dist.HalfNormal(0.03)
    if case["zero_points"]:  # of each band, relative to the first two
        count = len(stars.bands)
        given["zero_points"] = dist.Normal(np.zeros(count), case["zero_points"])
    problem = cluster_problem(model, cluster_prior(model, **given))
    start = time.perf_counter()
    post = infer.fit(
        problem, "nuts", key=3, start="map", num_tries=128, num_starts=3, max_tree_depth=6,
        num_warmup=case["warmup"], num_samples=case["draws"], num_chains=2,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    found = members(model, post.samples, post.weights)
    with np.errstate(invalid="ignore", divide="ignore"):
        mag = -2.5 * np.log10(stars.flux)
    error = np.nanmedian(1.0857 * stars.flux_err / stars.flux, axis=0)
    made = mock_members(model, post.samples, 40_000).mag
    made = made + error * np.random.default_rng(0).normal(size=made.shape)
    figure, _ = cluster_diagram(
        model, mag, post.samples, found, colour=tuple(case["colour"]), predicted=made
    )
    save_figure(figure, "cluster_m67")
    rows = {
        k: [np.asarray(r.mean, float).tolist(), np.asarray(r.std, float).tolist()]
        for k, r in post.summary().items()
    }
    return {
        "stars": len(stars),
        "bands": list(stars.bands),
        "seconds": seconds,
        "members": float(np.nansum(found.member)),
        "posterior": rows,
        "best_log_likelihood": float(post.log_likelihood.max()),
        "warnings": list(post.warnings),
    }


def draw(found: dict[str, Any]) -> None:
    import matplotlib.pyplot as plt

    figure, (top, bottom) = plt.subplots(2, figsize=(6.4, 6.0), layout="constrained", sharex=True)
    for name, (line, exact) in found["lines"].items():
        top.plot(STEPS, exact, lw=1, label=name)
        gap = np.subtract(line, exact)
        bottom.plot(STEPS, gap - gap.mean(), lw=1)
    top.set(ylabel="ln L less its maximum  [nats]", ylim=(-30, 2))
    bottom.set(xlabel="offset  [about one deviation]", ylabel="less 16 times finer  [nats]")
    top.legend(fontsize=8)
    save_figure(figure, "cluster_smooth")


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--peer-python",
        default=os.environ.get("BRUTAX_PEER_PYTHON"),
        help="a Python that has astro-brutus, for speed",
    )
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    arguments.add_argument("--clusters", type=int, default=50, help="of the recovery")
    arguments.add_argument("--rows", help="a file of clusters recovered before, continued")
    arguments.add_argument("--counts", type=int, nargs="+", default=[100, 500], help="of speed")
    args = arguments.parse_args()
    if args.case:
        work = {"speed": speed, "smooth": smooth, "nuts": nuts, "recovery": recovery, "m67": m67}
        return answer(work[args.case["what"]](args.case))
    results: dict[str, Any] = {}
    for part in args.only:
        if part == "speed":
            results[part] = beside_peer(args)
            continue
        case: dict[str, Any] = {"what": part, "seed": 1}
        case |= {"stars": 100}
        case |= {"table": str(args.shared / "observed/NGC_2682.fits"), "least": 0.5}
        case |= {"bands": M67_BANDS, "floor": 0.02, "colour": M67_COLOUR, "scatter": True}
        case |= {"corr": True}
        case |= {"zero_points": 0.0, "warmup": 150, "draws": 150}
        if part == "recovery":
            results[part] = recovered(args, case)
        else:
            results[part] = in_own_process(__file__, case)
        shown = {
            k: v
            for k, v in results[part].items()
            if k not in ("lines", "ranks", "pulls", "above_truth")
        }
        print(part, json.dumps(shown, indent=1))
        if part == "smooth":
            draw(results[part])
    name = "cluster" if jax.default_backend() == "cpu" else "cluster_accelerator"
    results = known(name).get("results", {}) | results  # parts that were not run again stay
    write(
        name, {"truth": TRUTH, "error": ERROR, "bands": BANDS, "faint": FAINT}, results, args.only
    )


M67_BANDS = ["PS_g", "PS_r", "PS_i", "PS_z", "2MASS_J", "2MASS_Ks"]
M67_COLOUR = ("PS_g", "PS_i")

if __name__ == "__main__":
    main()
