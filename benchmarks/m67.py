"""The open cluster M67 star by star: do its members come out at one distance, the right one?

    python benchmarks/m67.py

Every star is fitted on its own, knowing nothing of the cluster: Pan-STARRS, 2MASS and WISE
magnitudes and Gaia DR2 parallaxes. Members are those of the catalogue's clustering in proper motion
(HDBscan_MemProb > 0.5). Literature: 889 pc from Gaia DR2 (Cantat-Gaudin et al. 2020, A&A 640, A1),
(m - M)_0 = 9.61 +- 0.03, 836 pc, from the main sequence (An et al. 2007, ApJ 655, 233), and
E(B-V) = 0.041 +- 0.004 (Taylor 2007, AJ 133, 370).
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _common import PS, TMASS, parse, parser, peak_rss_mb, save_figure, table, write

import brutax

BANDS = (*PS, *TMASS, "WISE_W1", "WISE_W2")
ZERO_POINT = 0.029  # mas, to be added to parallaxes of Gaia DR2 (Lindegren et al. 2018)
LITERATURE = {"dist": (0.836, 0.889), "av": (0.115, 0.14)}  # kpc; mag, 3.1 E(B-V)


def cluster_mean(values: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """Median with its error from the scatter, and how that compares with the errors."""
    centre = np.median(values)
    low, high = np.percentile(values, (16, 84))
    scatter = 0.5 * (high - low)
    pull = (values - centre) / errors
    return {
        "median": centre,
        "error": 1.253 * scatter / np.sqrt(values.size),
        "scatter": scatter,
        "own error": np.median(errors),
        "pull 16-84 %/2": 0.5 * np.subtract(*np.percentile(pull, (84, 16))),
    }


def figure(dist: np.ndarray, av: np.ndarray, member: np.ndarray) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), layout="constrained")
    for ax, values, edges, lit, label in (
        (axes[0], dist, np.linspace(0.5, 1.5, 61), LITERATURE["dist"], "distance [kpc]"),
        (axes[1], av, np.linspace(0, 1.2, 61), LITERATURE["av"], "A$_V$ [mag]"),
    ):
        ax.hist(values[~member], edges, color="0.75", label="other stars")
        ax.hist(values[member], edges, histtype="step", color="C0", lw=1.5, label="members")
        ax.axvspan(*lit, color="C3", alpha=0.35, lw=0, label="literature")
        ax.set(xlabel=label, ylabel="stars")
    axes[0].legend(fontsize=8)
    fig.suptitle("M67: posterior medians of single stars", fontsize=10)
    return fig


def main() -> None:
    args = parse(parser(__doc__))
    from astropy.table import Table

    path = args.shared / "observed/NGC_2682.fits"
    source = Table.read(path)
    source["Parallax"] += ZERO_POINT
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        result = brutax.fit(
            source,
            brutax.StarGrid.read(args.shared / "models/mist_medium.h5", bands=BANDS),
            output=Path(folder) / "m67.h5",
            units={"photometry": "mag"},
            error_floor=0.02,
            progress=False,
        )
    seconds = time.perf_counter() - start
    poor = result["status"] & brutax.Status.POOR_FIT != 0
    probable = np.nan_to_num(np.asarray(source["HDBscan_MemProb"], float)) > 0.5
    good = result.fitted & ~poor
    member = probable & good
    flags = {str(f.name): int(np.sum(result["status"] & f != 0)) for f in brutax.Status if f}
    flags = {k: v for k, v in flags.items() if v}
    print(f"{len(result)} stars, {int(result.fitted.sum())} fitted, flags {flags}; {seconds:.0f} s")
    print(f"{int(probable.sum())} members, {int(member.sum())} of them with good fits")
    middle = result.levels.index(0.5)
    median, error = {}, {}
    for name in ("dist", "av", "feh", "loga"):
        column = result.parameters.index(name)
        median[name] = result["summary_quantiles"][:, column, middle]
        error[name] = result["summary_std"][:, column]
    numbers = {k: cluster_mean(median[k][member], error[k][member]) for k in median}
    table(("members", *numbers["dist"]), [(k, *v.values()) for k, v in numbers.items()])
    print(f"literature: distance {LITERATURE['dist']} kpc, A_V {LITERATURE['av']} mag")
    save_figure(figure(median["dist"][good], median["av"][good], member[good]), "m67")
    settings = {"grid": "mist_medium.h5", "bands": BANDS, "error_floor": 0.02}
    settings |= {"parallax_zero_point_mas": ZERO_POINT}
    results = {"stars": len(result), "flags": flags, "members": int(probable.sum())}
    results |= {"members_good": int(member.sum()), "cluster": numbers, "literature": LITERATURE}
    write("m67", settings, results | {"seconds": seconds, "peak_rss_mb": peak_rss_mb()})


if __name__ == "__main__":
    main()
