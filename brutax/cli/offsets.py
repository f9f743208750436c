"""`brutax offsets`: zero points of the photometry, from the posteriors of its stars."""

import argparse
import json
from pathlib import Path

import numpy as np

from brutax.catalog import Catalog, FitResult, digest
from brutax.catalog.store import FINGERPRINT
from brutax.cli.fit import add_table_arguments, check_figure, read, refuse_clashes, say, warn
from brutax.cli.options import UsageError, grid_from, shown, writable
from brutax.data import load_offsets
from brutax.models import default_grid
from brutax.zeropoints import PhotometricOffsetsConfig, ZeroPoints, measure

NAME = "offsets"
HELP = "offsets between photometry and models, from a file of posteriors"
EXAMPLE = "brutax offsets stars_posterior.h5 --catalog stars.csv -o offsets.txt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("posteriors", help="HDF5 file written by `brutax fit`")
    add("--catalog", dest="stars", required=True, metavar="TABLE", help="the table it was made of")
    add("-g", "--grid", help="the grid it was made with (default: the one built for its bands)")
    add("-o", "--output", required=True, metavar="FILE", help="band and offset per line")
    add("--figure", metavar="IMAGE", help="offsets and errors by band: .png .pdf .svg")
    add("--overwrite", action="store_true", help="replace existing files")
    add_table_arguments(parser)
    add = parser.add_argument_group("the measurement").add_argument
    add(
        "--method",
        default="resampling",
        choices=("resampling", "evidence"),
        help="one band at a time, or all at once with error floors [resampling]",
    )
    add("--bootstrap", type=int, default=300, metavar="N", help="resampled samples [300]")
    add("--seed", type=int, default=0, metavar="N", help="of the resampling [0]")
    add("--poor-fits", action="store_true", help="use stars flagged as poor fits too")


def run(args: argparse.Namespace) -> None:
    output, figure = writable(args.output, "--output"), writable(args.figure, "--figure")
    assert output is not None
    if figure is not None:
        check_figure(figure)
    inputs = {"the posteriors": args.posteriors, "--catalog": args.stars}
    inputs |= {"--grid": args.grid, "--offsets": args.offsets}
    refuse_clashes(inputs, {"--output": output, "--figure": figure})
    for path in (output, figure):
        if path is not None and path.exists() and not args.overwrite:
            raise UsageError(f"{path} exists; choose another name or --overwrite")
    result = FitResult.load(args.posteriors)
    fitted = [str(band) for band in np.atleast_1d(result.attrs["bands"])]
    if args.grid is None:
        grid = default_grid(fitted, progress=None if args.quiet else shown)
    else:
        grid = grid_from(args.grid, fitted if args.method == "evidence" else None)
    say(args, f"{args.stars}:")
    stars = read(args, grid)
    _compare(result, stars, fitted)
    applied = load_offsets(args.offsets, stars.bands) if args.offsets else None
    config = PhotometricOffsetsConfig(n_bootstrap=args.bootstrap, random_seed=args.seed)
    found = measure(
        result,
        grid,
        stars,
        applied=applied,
        method=args.method,
        poor_fits=args.poor_fits,
        config=config,
    )
    found.save(output)
    if not args.quiet:
        print(_report(found))
        print(f"offsets: {output}")
    if figure is not None:
        _draw(found, figure)


def _compare(result: FitResult, stars: Catalog, fitted: list[str]) -> None:
    """Says so where the table does not look like the one that was fitted."""
    fitted_on = json.loads(result.attrs[FINGERPRINT])["stars"]
    columns = [stars.bands.index(band) for band in fitted if band in stars.bands]
    now = digest(
        stars.flux[:, columns],
        stars.flux_err[:, columns],
        stars.parallax,
        stars.parallax_err,
        stars.coords,
        stars.source_id,
    )
    if fitted_on != now:
        warn(
            "the table differs from the one that was fitted: other rows, or fluxes and errors read "
            "with other --offsets, --error-floor or --units"
        )


def _report(found: ZeroPoints) -> str:
    lines = ["band            offset      error   stars"]
    floors = found.floors
    if floors is not None:
        lines[0] += "   error floor [mag]"
    for k, band in enumerate(found.bands):
        line = f"{band:14s}  {found.offsets[k]:.4f}  {found.errors[k]:9.4f}  {found.n_stars[k]:6d}"
        if floors is not None:
            line += f"   {floors[k]:.4f}"
        lines.append(line)
    return "\n".join(lines)


def _draw(found: ZeroPoints, path: Path) -> None:
    from brutax.plotting import zero_points

    figure, _ = zero_points([found])
    figure.savefig(path, dpi=150)
