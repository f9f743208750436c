"""`brutax mock`: a table of stars whose truth is known."""

import argparse

from brutax.cli.options import (
    DEMO,
    DEMO_WARNING,
    UsageError,
    grid_from,
    names,
    pair,
    shown,
    writable,
)
from brutax.cli.tables import check_format, write_table
from brutax.fitting import mock_catalog
from brutax.models import default_grid

NAME = "mock"
HELP = "a table of mock stars, drawn from the prior of the fit, with their truth"
EXAMPLE = "brutax mock --bands PS_g,PS_r,PS_i,2MASS_J,2MASS_Ks -n 200 -o mock.csv"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-g", "--grid", help="HDF5 file of models, or `demo` (default: built for --bands, once)")
    add("-n", "--n-stars", type=int, default=200, metavar="N", help="[200]")
    add("-o", "--output", required=True, help="table: .csv .ecsv .fits .parquet .vot")
    add("--overwrite", action="store_true", help="replace an existing table")
    add("--seed", type=int, default=0, metavar="N", help="same seed, same stars [0]")
    add("--bands", type=names, metavar="A,B,...", help="bands observed (default: all)")
    add(
        "--coords", type=pair, metavar="L,B", help="one direction [deg] (default: all over the sky)"
    )
    add("--error", type=_fractions, default=0.02, metavar="F", help="of the flux; F,F,... per band")
    add("--parallax-error", type=float, default=0.05, metavar="MAS", help="0: no parallaxes [0.05]")
    add(
        "--av",
        type=_av,
        default=(0.0, 3.0),
        metavar="LOW,HIGH|MEAN",
        help="uniform, or exponential",
    )
    add("--mag-limit", type=_limit, metavar="BAND,MAG", help="only stars brighter than this")
    add(
        "--missing", type=float, default=0.0, metavar="F", help="fraction of magnitudes missing [0]"
    )


def run(args: argparse.Namespace) -> None:
    path = writable(args.output, "--output")
    assert path is not None
    check_format(path)
    if path.exists() and not args.overwrite:
        raise UsageError(f"{path} exists; choose another --output or --overwrite")
    if args.grid is not None:
        grid = grid_from(args.grid)
    elif args.bands:
        grid = default_grid(args.bands, progress=None if args.quiet else shown)
    else:
        raise UsageError("brutax mock needs --grid FILE, or --bands A,B,... of the default grid")
    table = mock_catalog(
        grid,
        args.n_stars,
        bands=args.bands if args.grid is not None else None,
        seed=args.seed,
        coords=args.coords,
        error=args.error,
        parallax_error=args.parallax_error or None,
        av=args.av,
        mag_limit=args.mag_limit,
        missing=args.missing,
    )
    write_table(table, path)
    if not args.quiet:
        of = f", of {DEMO_WARNING}" if args.grid == DEMO else ""
        print(f"{path}: {len(table):,} mock stars with their truth{of}")


def _fractions(text: str) -> float | list[float]:
    try:
        values = [float(x) for x in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, nor one per band") from None
    return values[0] if len(values) == 1 else values


def _av(text: str) -> float | tuple[float, float]:
    try:
        return float(text)
    except ValueError:
        return pair(text)


def _limit(text: str) -> tuple[str, float]:
    band, _, faint = text.rpartition(",")
    try:
        return band, float(faint)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not like PS_r,19") from None
