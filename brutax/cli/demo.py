"""`brutax demo`: mock stars, fitted offline in a minute, compared with their truth."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from brutax.catalog import FitResult, read_stars
from brutax.cli import report
from brutax.cli.fit import Watch, print_files, warn, watched_fit
from brutax.cli.options import UsageError, shown
from brutax.cli.tables import write_table
from brutax.fitting import FitOptions, Output, Priors, mock_catalog
from brutax.models import default_grid
from brutax.plotting import truth_ranks, truth_recovery

if TYPE_CHECKING:
    from astropy.table import Table

NAME = "demo"
HELP = "fits 40 mock stars offline and compares them with the truth"
EXAMPLE = "brutax demo -o demo"

BANDS = ("PS_g", "PS_r", "PS_i", "PS_z", "PS_y", "2MASS_J", "2MASS_H", "2MASS_Ks")
AV = (0.0, 3.0)  # [mag]
SHOWN = {"dist": "distance [kpc]", "av": "A_V [mag]", "mini": "mass [Msun]", "loga": "log10 age"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--output", default="brutax-demo", metavar="FOLDER", help="[brutax-demo]")
    add("-n", "--n-stars", type=int, default=40, metavar="N", help="[40]")
    add("--seed", type=int, default=3, metavar="N", help="[3]")


def run(args: argparse.Namespace) -> None:
    folder = Path(args.output)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give the name of a folder")
    folder.mkdir(parents=True, exist_ok=True)
    grid = default_grid(BANDS, progress=None if args.quiet else shown)
    mock = mock_catalog(
        grid, args.n_stars, seed=args.seed, av=AV, mag_limit=("PS_r", 19.0), missing=0.1
    )
    files = {name: folder / name for name in ("mock.csv", "posterior.h5", "summary.ecsv")}
    write_table(mock, files["mock.csv"])
    stars = read_stars(files["mock.csv"], grid.bands)
    watch = Watch(args.quiet)
    result = watched_fit(
        watch,
        stars,
        grid,
        FitOptions(seed=args.seed),
        Priors(av=AV),
        Output(path=files["posterior.h5"], overwrite=True, progress=watch),
    )
    write_table(result.table(), files["summary.ecsv"])
    written = [(path.stem, path) for path in files.values()]
    figure = folder / "recovery.png"
    if draw(result, mock, figure):
        written.append((figure.stem, figure))
    if not args.quiet:
        print(compare(result, mock))
        print(watch.report(result))
        print_files(written)


def compare(result: FitResult, mock: "Table") -> str:
    """Truth against median and half of the central 68 %, star by star."""
    levels = [result.levels.index(level) for level in (0.16, 0.5, 0.84)]
    header, body = ["star"], [[str(x)] for x in mock["source_id"]]
    inside = []
    for name, title in SHOWN.items():
        header += [title, "truth"]
        column = result.parameters.index(name)
        low, middle, high = result["summary_quantiles"][:, column, levels].T
        truth = np.asarray(mock[f"true_{name}"])
        for row, center, width, true in zip(body, middle, (high - low) / 2, truth, strict=True):
            row += [f"{center:.2f} ± {width:.2f}", f"{true:.2f}"]
        share = np.mean(np.abs(truth_ranks(result, mock, name) - 0.5) < 0.34)
        inside.append(f"{title.split(' [')[0]} {share:.0%}")
    scatter = 100 * np.sqrt(0.68 * 0.32 / len(mock))
    return (
        f"{report.columns(header, body)}\n"
        f"truth in the central 68 % of the draws: {', '.join(inside)} "
        f"(expected: 68 ± {scatter:.0f} %)"
    )


def draw(result: FitResult, mock: "Table", path: Path) -> bool:
    """Saves truth against posterior, where matplotlib is installed."""
    try:
        figure, _ = truth_recovery(result, mock)
    except (ImportError, ValueError) as error:
        warn(f"no figure: {error}")
        return False
    figure.savefig(path)
    return True
