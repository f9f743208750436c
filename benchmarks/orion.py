"""The Orion sight line, from its file to a figure of the clouds, through the command line.

    python benchmarks/orion.py

1642 stars with five to eight bands and Gaia parallaxes, of which brutus' authors published fits
(other grids, a dust prior) for the first 50: likeness with these is evidence, not a parity test.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from _common import ORION, ORION_DATASET, PS, TMASS, parse, parser, save_figure, table, write

import brutax

PUBLISHED = "observed/Orion_l204.7_b-19.2_brutusfit_{}_50stars.h5"
CLOUD = (0.38, 0.46)  # kpc: the clouds of Orion (Zucker et al. 2020, A&A 633, A51)


def fit(shared: Path, out: Path) -> dict[str, float]:
    """Runs the command; seconds, and the most memory it held [MB]."""
    command = [str(Path(sys.executable).with_name("brutax")), "fit", str(shared / ORION)]
    command += ["--grid", str(shared / "models/mist_medium.h5"), "--dataset", ORION_DATASET]
    command += ["--bands", ",".join(PS + TMASS), "--units", "parallax=arcsec", "--id", "row"]
    command += ["--error-floor", "0.02", "-o", str(out)]
    start = time.perf_counter()
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)}\nfailed:\n{done.stderr[-3000:]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3
    return {"seconds": seconds, "peak_rss_mb": peak}


def count_flags(result: Any) -> dict[str, int]:
    status = result["status"]
    counts = {str(f.name): int(np.sum(status & f != 0)) for f in brutax.Status if f}
    return {k: v for k, v in counts.items() if v} | {"without any": int(np.sum(status == 0))}


def likeness(result: Any, path: Path) -> dict[str, Any]:
    """Differences from the published draws of the first stars, in the joint sigma."""
    out = {}
    with h5py.File(path) as file:
        for name, key in (("dist", "samps_dist"), ("av", "samps_red")):
            theirs = file[key][:]
            n = len(theirs)
            ours = result[f"{name}_samples"][:n]
            sigma = np.hypot(ours.std(axis=1), theirs.std(axis=1))
            off = (np.median(ours, axis=1) - np.median(theirs, axis=1)) / sigma
            ratio = ours.std(axis=1) / theirs.std(axis=1)
            out[name] = {
                "median off": np.median(off),
                "median |off|": np.median(np.abs(off)),
                "within 1 sigma": np.mean(np.abs(off) < 1),
                "within 2 sigma": np.mean(np.abs(off) < 2),
                "std ratio": np.median(ratio),
            }
    return out


def figure(result: Any, good: np.ndarray) -> Any:
    """Draws of A_V against distance, summed over the stars with good fits."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    dist, av = (result[f"{x}_samples"][good] for x in ("dist", "av"))
    edges = np.geomspace(0.2, 3.2, 61), np.linspace(0, 2.5, 81)
    counts, *_ = np.histogram2d(dist.ravel(), av.ravel(), bins=edges)
    # columns of few draws (one star is 250) are left pale
    counts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1000)
    fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    ax.pcolormesh(*edges, counts.T, cmap="Blues", vmin=0, vmax=np.quantile(counts, 0.99))
    d, a = np.median(dist, axis=1), np.median(av, axis=1)
    tight = dist.std(axis=1) < 0.2 * d
    ax.plot(d[tight], a[tight], ".", ms=2.5, color="C3", label="medians, distance to 20 %")
    ax.axvspan(*CLOUD, color="0.4", alpha=0.15, lw=0, label="Orion clouds (Zucker et al. 2020)")
    ax.set(xscale="log", xlim=(0.2, 3.2), ylim=(0, 2.5))
    ax.set(xlabel="distance [kpc]", ylabel="A$_V$ [mag]")
    ax.minorticks_off()
    ax.set_xticks([0.2, 0.3, 0.5, 1, 2, 3], labels=["0.2", "0.3", "0.5", "1", "2", "3"])
    ax.legend(loc="upper left", fontsize=8)
    ax.set_title("l = 204.7°, b = −19.2°: draws, normalised at each distance", fontsize=9)
    return fig


def steps(result: Any, good: np.ndarray) -> dict[str, float]:
    """Median A_V of stars in front of and behind the clouds."""
    d, a = (np.median(result[f"{x}_samples"], axis=1) for x in ("dist", "av"))
    tight = good & (result["dist_samples"].std(axis=1) < 0.2 * d)
    front, behind = tight & (d < CLOUD[0]), tight & (d > CLOUD[1]) & (d < 2)
    return {
        "stars_front": int(front.sum()),
        "av_front": np.median(a[front]),
        "stars_behind": int(behind.sum()),
        "av_behind": np.median(a[behind]),
    }


def main() -> None:
    args = parse(parser(__doc__))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "orion.h5"
        cost = fit(args.shared, out)
        result = brutax.load(out)
    flags = count_flags(result)
    good = result.fitted & (result["status"] & brutax.Status.POOR_FIT == 0)
    print(f"{len(result)} stars, {int(result.fitted.sum())} fitted; flags: {flags}")
    print(f"{cost['seconds']:.0f} s with start-up, {cost['peak_rss_mb']:.0f} MB at most")
    print(f"ESS: median {np.median(result['obj_ess']):.0f}, least {np.min(result['obj_ess']):.0f}")
    alike = {}
    for name in ("mist", "bayestar"):
        alike[name] = likeness(result, args.shared / PUBLISHED.format(name))
        print(f"\nFirst 50 stars, published brutus fits with the {name} models")
        first = next(iter(alike[name].values()))
        table(("", *first), [(k, *v.values()) for k, v in alike[name].items()])
    jump = steps(result, good)
    print(
        f"\nmedian A_V {jump['av_front']:.2f} before the clouds ({jump['stars_front']} stars), "
        f"{jump['av_behind']:.2f} behind ({jump['stars_behind']})"
    )
    save_figure(figure(result, good), "orion")
    ess = {"ess_median": np.median(result["obj_ess"]), "ess_least": np.min(result["obj_ess"])}
    results = cost | {"stars": len(result), "fitted": int(result.fitted.sum()), "flags": flags}
    results |= ess | {"likeness": alike, "extinction": jump}
    write("orion", {"grid": "mist_medium.h5", "bands": PS + TMASS, "error_floor": 0.02}, results)


if __name__ == "__main__":
    main()
