"""Clouds along sight lines: beside brutus, hundreds at once, simulated ones found, Orion.

    python benchmarks/dust.py                  all parts
    python benchmarks/dust.py --parts speed    some; the others keep their results

Parts: `speed` (500 stars x 50 draws x 3 clouds, beside brutus on the same cores), `many` (200
sight lines x 200 stars, posteriors of 2 clouds), `recovery` (100 simulated sight lines of 1 to 3
clouds: positions, and their number by evidence), `evidence` (beside nested sampling), `orion` (the
sight line l = 204.7, b = -19.2, through the command line).
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
from _common import ORION, ORION_DATASET, PS, TMASS, known, parse, parser, write

PARTS = ("speed", "many", "recovery", "evidence", "orion")
PARTICLES = 128  # few, so that all of it takes minutes
NEAR, FAR = 0.15, 2.5  # kpc, of simulated stars
LITERATURE = {  # kpc
    "Zucker et al. (2020), Orion A and B": (0.38, 0.46),
}


def simulate(rng: Any, dist: Any, level: Any, stars: int, draws: int) -> tuple[Any, Any]:
    """Draws (star, draw) of distance and A_V, of a sight line with clouds at `dist`.

    Stars are even in ln d, 0.08 mag about their level, 3 % of them anywhere; measured to 8 % in
    distance and 0.12 mag (with a spread of 30 to 40 % in these), and drawn from what was measured
    within the range of distances and at A_V above 0.
    """
    from scipy.stats import truncnorm

    ln_d = rng.uniform(np.log(NEAR), np.log(FAR), stars)
    av = np.asarray(level)[np.searchsorted(np.log(dist), ln_d)] + 0.08 * rng.normal(size=stars)
    out = rng.uniform(size=stars) < 0.03
    av = np.where(out, rng.uniform(0, 1.3 * max(level), stars), np.maximum(av, 0))

    def drawn(value: Any, sigma: Any, low: float, high: float) -> Any:
        seen, sigma = (value + sigma * rng.normal(size=stars))[:, None], sigma[:, None]
        ends = (low - seen) / sigma, (high - seen) / sigma
        return truncnorm.rvs(*ends, seen, sigma, size=(stars, draws), random_state=rng)

    ln_d = drawn(ln_d, 0.08 * np.exp(0.4 * rng.normal(size=stars)), np.log(NEAR), np.log(FAR))
    return np.exp(ln_d), drawn(av, 0.12 * np.exp(0.3 * rng.normal(size=stars)), 0.0, 20.0)


def clear_case(rng: Any, clouds: int) -> tuple[Any, Any]:
    """Distances at least 0.5 apart in ln d, jumps of 0.5 to 1.2 mag."""
    while True:
        ln_d = np.sort(rng.uniform(np.log(0.22), np.log(1.7), clouds))
        if (np.diff(ln_d) > 0.5).all():
            break
    jumps = rng.uniform(0.5, 1.2, clouds)
    return np.exp(ln_d), np.cumsum([rng.uniform(0.02, 0.25), *jumps])


def best_time(function: Any, *given: Any) -> float:
    import jax

    jax.block_until_ready(function(*given))
    times = []
    for _ in range(15):
        start = time.perf_counter()
        for _ in range(10):
            out = function(*given)
        jax.block_until_ready(out)
        times.append((time.perf_counter() - start) / 10)
    return min(times)


def speed(args: Any) -> dict[str, Any]:
    import jax
    import jax.numpy as jnp

    from brutax.dust import CloudParams, log_likelihood, make_sightline

    rng = np.random.default_rng(0)
    theta = np.array([0.05, 0.03, 0.04, 0.2, 8.0, 1.0, 10.0, 1.6, 12.0, 2.1])
    true = rng.uniform(6, 14, (500, 1))
    dist = true + rng.normal(0, 0.3, (500, 50))
    red = np.array([0.2, 1.0, 1.6, 2.1])[np.searchsorted(theta[4::2], true)]
    red = red + rng.normal(0, 0.15, dist.shape)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder) / "in.npz", theta=theta, dist=dist, red=red)
        command = [args.peer_python, str(Path(__file__).with_name("_peer_dust.py"))]
        done = subprocess.run(
            [*command, str(Path(folder) / "in.npz")], capture_output=True, text=True, check=True
        )
    peer = json.loads(done.stdout.splitlines()[-1])
    t, d, r = (jnp.asarray(x, jnp.float32) for x in (theta, dist, red))
    one = jax.jit(log_likelihood)
    lines = 64
    batch = tuple(jnp.tile(x, (lines, *[1] * x.ndim)) for x in (t, d, r))
    line = make_sightline(dist, red, n_draws=50, av_range=(0, 6), dist_range=(1, 20))
    params = CloudParams(
        *(jnp.asarray(x, float) for x in (theta[4::2], theta[3::2], [0.18, 0.24], 0.05))
    )
    smooth = jax.jit(lambda p: line.log_likelihood(p))
    many = jax.tree.map(lambda x: jnp.tile(x, (lines, *[1] * x.ndim)), params)
    ours = {
        "alone": best_time(one, t, d, r),
        "batch, per sight line": best_time(jax.jit(jax.vmap(log_likelihood)), *batch) / lines,
        "value and gradient": best_time(jax.jit(jax.value_and_grad(log_likelihood)), t, d, r),
        "value and gradient, batch": best_time(
            jax.jit(jax.vmap(jax.value_and_grad(log_likelihood))), *batch
        )
        / lines,
        "smooth, many points": best_time(jax.jit(jax.vmap(line.log_likelihood)), many) / lines,
        "smooth, alone": best_time(smooth, params),
    }
    ratio = {name: peer["seconds"] / value for name, value in ours.items()}
    print("brutus", peer["seconds"], ours, ratio)
    off = abs(float(one(t, d, r)) - peer["value"])
    return {"brutus": peer["seconds"], "seconds": ours, "ratio": ratio, "difference": off}


def many(args: Any) -> dict[str, Any]:
    from brutax.dust import stack_sightlines
    from brutax.sightline import fit as fit_clouds

    rng = np.random.default_rng(2)
    truth = [clear_case(rng, 2) for _ in range(200)]
    start = time.perf_counter()
    stack = stack_sightlines([simulate(rng, *one, 200, 50) for one in truth])
    made = time.perf_counter()
    fits = fit_clouds(stack, 2, key=1, num_particles=PARTICLES)
    seconds = time.perf_counter() - made
    off = np.array([[c.distance[1] for c in f.found()] for f in fits]) / [x for x, _ in truth] - 1
    out = {
        "lines": len(fits),
        "stars": 200,
        "seconds": seconds,
        "making the data": made - start,
        "warnings": sum(bool(f.warnings) for f in fits),
        "median |d / d_true - 1|": np.median(np.abs(off)),
    }
    print(out)
    return out


def recovery(args: Any) -> dict[str, Any]:
    from brutax.dust import stack_sightlines
    from brutax.sightline import fit as fit_clouds

    rng = np.random.default_rng(7)
    numbers = rng.integers(1, 4, 100)
    truth = [clear_case(rng, n) for n in numbers]
    stack = stack_sightlines([simulate(rng, *one, 200, 200) for one in truth])
    fits = fit_clouds(stack, (1, 2, 3, 4), key=3, num_particles=PARTICLES)
    inside, inside_two, pull, jumps = [], [], [], []
    for fit, n, (dist, level) in zip(fits, numbers, truth, strict=True):
        for k, cloud in enumerate(fit.found(int(n))):
            low, middle, high = np.log(cloud.distance)
            inside.append(low < np.log(dist[k]) < high)
            sigma = 0.5 * (high - low)
            inside_two.append(abs(np.log(dist[k]) - middle) < 2 * sigma)
            pull.append((np.log(dist[k]) - middle) / sigma)
            jumps.append((level[k + 1] - level[k] - cloud.jump[1]) / np.ptp(cloud.jump[::2]) * 2)
    best = np.array([fit.best for fit in fits])
    out = {
        "lines": len(fits),
        "clouds": len(inside),
        "within 1 sigma": np.mean(inside),
        "within 2 sigma": np.mean(inside_two),
        "pull": [np.mean(pull), np.std(pull)],
        "jump within 1 sigma": np.mean(np.abs(jumps) < 1),
        "right number": np.mean(best == numbers),
        "right number by true number": {
            int(n): np.mean(best[numbers == n] == n) for n in (1, 2, 3)
        },
        "too many": np.mean(best > numbers),
        "warnings": sum(bool(f.warnings) for f in fits),
    }
    print(out)
    return out


def evidence(args: Any) -> dict[str, Any]:
    """Evidences by both methods, of simulated sight lines with two clouds."""
    from brutax.dust import stack_sightlines
    from brutax.sightline import fit as fit_clouds

    rng = np.random.default_rng(11)
    lines = [simulate(rng, *clear_case(rng, 2), 200, 50) for _ in range(2)]
    stack = stack_sightlines(lines)
    nested = fit_clouds(stack, 2, key=4, method="nested", num_live=150)
    smc = [fit_clouds(stack, 2, key=5 + k, num_particles=PARTICLES) for k in range(2)]
    out = {
        "nested": [fit.logz[0] for fit in nested],
        "its error": [fit.logz_err[0] for fit in nested],
        "smc": [[fit.logz[0] for fit in fits] for fits in smc],
        "quoted error": [fit.logz_err[0] for fit in smc[0]],
    }
    print(out)
    return out


def orion(args: Any) -> dict[str, Any]:
    from _common import RESULTS

    from brutax.sightline import CloudFit

    brutax = str(Path(sys.executable).with_name("brutax"))
    with tempfile.TemporaryDirectory() as folder:
        posterior, out = Path(folder) / "orion.h5", Path(folder) / "los.h5"
        command = [brutax, "fit", str(args.shared / ORION)]
        command += ["--grid", str(args.shared / "models/mist_medium.h5")]
        command += ["--dataset", ORION_DATASET, "--bands", ",".join(PS + TMASS)]
        command += ["--units", "parallax=arcsec", "--id", "row", "--error-floor", "0.02"]
        subprocess.run([*command, "-q", "-o", str(posterior)], check=True, env=os.environ)
        start = time.perf_counter()
        command = [brutax, "dust", str(posterior), "--clouds", "1-4", "-o", str(out)]
        command += ["--figure", str(RESULTS / "dust_orion.png"), "--distance", "0.15,2.5"]
        done = subprocess.run(command, env=os.environ, stdout=subprocess.PIPE, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            sys.exit("brutax dust failed")
        print(done.stdout)
        fit = CloudFit.load(out)
    clouds = fit.found()
    main = max(clouds, key=lambda cloud: cloud.jump[1])
    result = {
        "seconds": seconds,
        "stars": fit.n_stars,
        "logz": dict(zip(map(str, fit.clouds), fit.logz)),
        "clouds": [{"distance": c.distance, "jump": c.jump} for c in clouds],
        "main": {"distance": main.distance, "jump": main.jump},
        "literature": LITERATURE,
    }
    print(result)
    return result


def main() -> None:
    given = parser(__doc__ or "")
    given.add_argument("--parts", default=",".join(PARTS))
    given.add_argument(
        "--peer-python", default=os.environ.get("BRUTAX_PEER_PYTHON"), help="for the part `speed`"
    )
    wanted = given.parse_args().parts.split(",")
    args = given.parse_args()
    if "speed" in wanted:
        parse(given)
    results = known("dust").get("results", {})
    for part in PARTS:
        if part in wanted:
            results[part] = globals()[part](args)
            write("dust", {"particles": PARTICLES}, results)


if __name__ == "__main__":
    main()
