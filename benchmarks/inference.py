"""Every method of `brutax.infer` on posteriors that are known, a star cluster and a sight line.

A banana in five dimensions, the same with two modes of weights 0.3 and 0.7 ten deviations apart,
and a funnel: exact answers are integrals on grids and in closed form, computed here. A simulated
cluster of 60 stars in five bands, of six free parameters and a coarse layout, and a simulated sight
line of two clouds (150 stars, eight parameters): beside the fits of nautilus. Seconds include
compilation. pocoMC is an extra of its own: without it, the others run.

    python benchmarks/inference.py [--only banana cluster] [--methods nuts,nested] [--seeds 48]

Results go beside those on record of other problems and methods. `--seeds` instead makes so many
fits of `nested`, eight side by side, of each of `--only`, which tell a bias of its evidence from
its scatter.
"""

import argparse
import time
from typing import Any

import numpy as np
from _common import known, table, write

METHODS: dict[str, dict[str, Any]] = {
    "nuts": dict(num_warmup=1000, num_samples=2000),
    "ensemble": dict(num_warmup=1500, num_samples=4000, num_walkers=64),
    "nested": dict(num_live=500),
    "map": dict(num_draws=20_000),
    "dynesty": dict(nlive=500),
    "nautilus": dict(n_live=500, n_eff=5000),
    "emcee": dict(nwalkers=64, nsteps=6000, moves="mixed"),
    "smc": dict(num_particles=1024),
    "pocomc": dict(n_effective=1024),
}
CLUSTER: dict[str, dict[str, Any]] = {  # where they differ: a call takes milliseconds
    "nuts": dict(start="map", num_tries=256, num_warmup=150, num_samples=250, in_turn=True),
    "ensemble": dict(num_warmup=500, num_samples=1000, num_walkers=24),
    "nested": dict(num_live=100, num_inner=12),
    "map": dict(num_starts=4, num_tries=256, num_draws=2000, curvature="differences"),
    "dynesty": dict(nlive=100, sample="rwalk"),
    "nautilus": dict(n_live=400, n_eff=2000),
    "emcee": dict(nwalkers=24, nsteps=1500, moves="mixed"),
    "smc": dict(num_particles=256, num_moves=5),
    "pocomc": dict(n_effective=256, n_active=128),
}
PROBLEMS = ("banana", "two modes", "funnel", "cluster", "sight line")
REFERENCE = "nautilus"  # where there is no exact answer
CORR = np.array([[1.0, 0.6, 0.2], [0.6, 1.0, -0.3], [0.2, -0.3, 1.0]])
SCALE = np.array([0.3, 0.5, 0.2])
BEND = 0.5  # of the banana
FAR = 10.0  # between the modes [deviations]


def problems() -> dict[str, Any]:
    import jax
    import jax.numpy as jnp
    import numpyro.distributions as dist

    from brutax import infer

    inverse = jnp.asarray(np.linalg.inv(CORR), float)
    norm = float(
        -0.5 * np.linalg.slogdet(CORR)[1] - np.sum(np.log(SCALE)) - 1.5 * np.log(2 * np.pi)
    )

    def gaussian(v: Any) -> Any:
        w = v / SCALE
        return norm - 0.5 * w @ inverse @ w

    def banana(p: Any) -> Any:
        bent = p["y"] - BEND * (p["x"] ** 2 - 1.0)
        return -0.5 * (p["x"] ** 2 + (bent / 0.4) ** 2) - np.log(2 * np.pi * 0.4)

    def one(p: Any, data: Any) -> Any:
        return banana(p) + gaussian(p["v"])

    def two(p: Any, data: Any) -> Any:
        shift = jnp.asarray([FAR * SCALE[0], 0.0, 0.0])
        first = np.log(0.3) + gaussian(p["v"] + 0.5 * shift)
        second = np.log(0.7) + gaussian(p["v"] - 0.5 * shift)
        return banana(p) + jnp.logaddexp(first, second)

    def measured(p: Any, data: Any) -> Any:
        return jnp.sum(jax.scipy.stats.norm.logpdf(data, p["x"], 1.0))

    bent = {
        "x": dist.Uniform(-6.0, 6.0),
        "y": dist.Uniform(-8.0, 12.0),
        "v": dist.Normal(jnp.zeros(3), 5.0).to_event(0),
    }
    funnel = {
        "s": dist.Normal(0.0, 1.5),
        "x": lambda p: dist.Normal(jnp.zeros(4), jnp.exp(p["s"] / 2)),
    }
    return {
        "banana": infer.Problem(bent, one),
        "two modes": infer.Problem(bent, two),
        "funnel": infer.Problem(funnel, measured, np.array([0.5, -1.0, 2.0, 0.2], np.float32)),
    }


def answers() -> dict[str, dict[str, Any]]:
    """ln Z, and mean and deviation of every parameter in a row."""
    out = {}
    covariance = CORR * np.outer(SCALE, SCALE)
    x = np.linspace(-6, 6, 4001)
    weight = np.exp(-0.5 * x**2) / np.sqrt(2 * np.pi)
    weight *= x[1] - x[0]
    shape = BEND * (x**2 - 1)
    banana_z = -np.log(12.0 * 20.0) + np.log(weight.sum())
    weight /= weight.sum()
    mean = np.array([weight @ x, weight @ shape])
    std = np.sqrt([weight @ x**2, weight @ (shape - mean[1]) ** 2 + 0.4**2])
    for name, modes in (("banana", [(1.0, 0.0)]), ("two modes", [(0.3, -0.5), (0.7, 0.5)])):
        total, means, seconds = 0.0, [], []
        marginal = covariance + 25.0 * np.eye(3)
        gain = 25.0 * np.linalg.inv(marginal)
        for share, side in modes:
            centre = np.array([side * FAR * SCALE[0], 0.0, 0.0])
            log_z = -0.5 * centre @ np.linalg.solve(marginal, centre)
            log_z -= 0.5 * np.linalg.slogdet(2 * np.pi * marginal)[1]
            at, spread = gain @ centre, np.diag(25.0 * np.eye(3) - 25.0 * gain)
            means.append((share * np.exp(log_z), at))
            seconds.append(spread + at**2)
            total += share * np.exp(log_z)
        shares = np.array([w for w, _ in means]) / total
        v_mean = shares @ np.array([m for _, m in means])
        v_std = np.sqrt(shares @ np.array(seconds) - v_mean**2)
        out[name] = dict(
            logz=banana_z + np.log(total),
            mean=np.concatenate([mean, v_mean]),
            std=np.concatenate([std, v_std]),
            first=float(shares[0]),
        )
    data, s = np.array([0.5, -1.0, 2.0, 0.2]), np.linspace(-12, 12, 20_001)
    var = np.exp(s)
    log_like = np.sum(
        -0.5 * data[:, None] ** 2 / (1 + var) - 0.5 * np.log(2 * np.pi * (1 + var)), axis=0
    )
    weight = np.exp(log_like - 0.5 * (s / 1.5) ** 2) / (1.5 * np.sqrt(2 * np.pi)) * (s[1] - s[0])
    logz, weight = np.log(weight.sum()), weight / weight.sum()
    shrink = var / (1 + var)
    mean = np.concatenate([[weight @ s], (weight @ shrink) * data])
    second = (weight @ shrink) + (weight @ shrink**2) * data**2
    std = np.sqrt(np.concatenate([[weight @ s**2], second]) - mean**2)
    out["funnel"] = dict(logz=logz, mean=mean, std=std)
    return out


def cluster() -> Any:
    """60 stars of a cluster with companions and a field."""
    import numpyro.distributions as dist
    from cluster import TRUTH, simulate

    from brutax.cluster import (
        ClusterModel,
        Layout,
        make_stars,
    )
    from brutax.cluster import (
        prior as cluster_prior,
    )
    from brutax.cluster import (
        problem as cluster_problem,
    )
    from brutax.models import Isochrone, StellarPop

    pop = StellarPop(Isochrone(), ("PS_g", "PS_r", "PS_i", "2MASS_J", "2MASS_Ks"), verbose=False)
    stars = simulate(pop, TRUTH, 60, 6)
    made = make_stars(
        stars["flux"], stars["err"], parallax=stars["plx"], parallax_err=stars["plx_err"]
    )
    layout = Layout(main=120, last=16, hook=48, turn=8, late=176, ratios=48)
    model = ClusterModel(pop, made, layout=layout)
    narrow = dict(
        feh=dist.Uniform(-1.0, 0.45),
        loga=dist.Uniform(8.5, 10.1),
        av=dist.Uniform(0.0, 1.0),
        rv=TRUTH["rv"],
        distance_pc=dist.LogUniform(300.0, 3000.0),
    )
    return cluster_problem(model, cluster_prior(model, **narrow))


def sight_line() -> Any:
    """150 stars behind two clouds."""
    from dust import clear_case, simulate

    from brutax.dust import make_sightline
    from brutax.sightline import problem as sightline_problem

    rng = np.random.default_rng(4)
    return sightline_problem(make_sightline(*simulate(rng, *clear_case(rng, 2), 150, 64)), 2)


def measure(name: str, problem: Any, method: str, exact: dict[str, Any]) -> dict[str, Any]:
    from brutax import infer

    options = (CLUSTER if name == "cluster" else METHODS)[method]
    begin = time.perf_counter()
    post = infer.fit(problem, method, key=1, **options)
    seconds = time.perf_counter() - begin
    logz, error = post.logz, post.logz_err
    if not np.isfinite(logz):
        try:
            logz, error = infer.bridge_evidence(problem, post, key=2)
        except ValueError:
            pass  # chains that disagree have none
    columns = np.stack([x for x in post.columns().values() if np.ptp(x) > 0], axis=1)
    mean = post.weights @ columns
    std = np.sqrt(post.weights @ (columns - mean) ** 2)
    if not exact:  # the first, which the others are measured by
        exact = {"logz": logz, "mean": mean, "std": std}
    return {
        "logz": logz,
        "logz - exact": logz - exact["logz"],
        "error": error,
        "mean": mean,
        "std": std,
        "widths": [float(np.min(std / exact["std"])), float(np.max(std / exact["std"]))],
        "shift": float(np.max(np.abs(mean - exact["mean"]) / exact["std"])),
        "first mode": float(post.weights @ (columns[:, 2] < 0)) if name == "two modes" else None,
        "evaluations": post.stats.get("evaluations"),
        "effective": post.ess,
        "seconds": seconds,
        "ok": post.ok,
        "warnings": list(post.warnings),
    }


def calibrate(problem: Any, exact: dict[str, Any], n: int, **options: Any) -> dict[str, Any]:
    """Many fits of the same data, one after the other and eight side by side."""
    from brutax import infer

    values, errors, first = [], [], []
    for block in range(0, n, 8):
        data = np.zeros((8, 1), np.float32)
        for post in infer.fit_many(problem, "nested", data=data, key=100 + block, **options):
            values.append(post.logz - exact["logz"])
            errors.append(post.logz_err)
            first.append(post.weights @ (post.samples["v"][:, 0] < 0))
    values, errors = np.array(values), np.array(errors)
    return {
        "fits": len(values),
        "values": values,
        "bias": float(values.mean()),
        "its error": float(values.std(ddof=1) / np.sqrt(len(values))),
        "scatter over quoted": float(values.std(ddof=1) / errors.mean()),
        "first mode": float(np.mean(first)),
        "its error (mode)": float(np.std(first, ddof=1) / np.sqrt(len(first))),
    }


def main() -> None:
    given = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    given.add_argument("--only", nargs="*", default=PROBLEMS, choices=PROBLEMS)
    given.add_argument("--methods", default=",".join(METHODS))
    given.add_argument("--seeds", type=int, default=0, help="fits of nested for its bias")
    given.add_argument("--inner", type=int, help="moves of each new point of these (default 20)")
    args = given.parse_args()
    exact, made = answers(), problems()
    results: dict[str, Any] = dict(known("inference").get("results", {}))
    results["exact logz"] = {k: v["logz"] for k, v in exact.items()}
    rows, ran = [], ["exact logz"]
    for name in args.only:
        if args.seeds:
            found = calibrate(made[name], exact[name], args.seeds, num_inner=args.inner)
            moves = f", {args.inner} moves" if args.inner else ""
            ran.append(f"{name}: nested, many{moves}")
            results[ran[-1]] = found
            print(name, found)
            continue
        others = {"cluster": cluster, "sight line": sight_line}
        problem = others[name]() if name in others else made[name]
        methods = args.methods.split(",")
        if name in others:
            methods.sort(key=lambda method: method != REFERENCE)
        for method in methods:
            best = results.get(f"{name}: {REFERENCE}", {})
            beside = exact.get(name) or ({} if method == REFERENCE else best)
            if name in others and method != REFERENCE and not beside:
                raise SystemExit(f"{name} has no fit of {REFERENCE} yet: name it in --methods")
            try:
                one = measure(name, problem, method, beside)
            except ImportError as error:
                print(f"{name} {method} left out: {error}", flush=True)
                continue
            ran.append(f"{name}: {method}")
            results[ran[-1]] = one
            rows.append(
                [name, method, one["logz - exact"], one["error"], *one["widths"], one["shift"],
                 one["evaluations"] or float("nan"), one["seconds"], "yes" if one["ok"] else "no"]
            )  # fmt: skip
            print(name, method, f"{one['seconds']:.1f} s", flush=True)
            write("inference", {"methods": METHODS, "cluster": CLUSTER}, results, ran)
    header = ["posterior", "method", "dlnZ", "error", "narrowest", "widest", "shift",
              "evaluations", "seconds", "ok"]  # fmt: skip
    table(header, rows)
    write("inference", {"methods": METHODS, "cluster": CLUSTER}, results, ran)


if __name__ == "__main__":
    main()
