"""`brutax grid build`: a grid of stellar models in any bands, from the models inside brutax."""

import argparse

import numpy as np

from brutax.cli import report
from brutax.cli.fit import print_files
from brutax.cli.options import UsageError, names, shown, writable
from brutax.models import GridGenerator, Passband, available_bands
from brutax.models.photometry.passbands import DETECTORS, SYSTEMS, UNITS

NAME = "grid"
HELP = "builds a grid of stellar models in the bands you need, offline"
EXAMPLE = "brutax grid build -o my.h5 --bands PS_g,PS_r,PS_i,2MASS_J --mass 0.1:3:200"

MASS, EEP, FEH = "0.1:3:200", "202:808:2", "-2.5:0.5:0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("build", "bands"), help="build a grid, or list the bands there are")
    add("-o", "--output", metavar="FILE", help="HDF5 file to write")
    add("--bands", type=names, metavar="A,B,...", help="bands of the grid (`brutax grid bands`)")
    add(
        "--filter",
        action="append",
        default=[],
        metavar="NAME=CURVE[,vega][,nm|micron][,energy]",
        help="one more band: wavelength and transmission in two columns, or a VOTable; repeat",
    )
    add("--mass", default=MASS, metavar="LOW:HIGH:COUNT", help=f"[{MASS} Msun, logarithmic]")
    add("--eep", default=EEP, metavar="LOW:HIGH:STEP", help=f"[{EEP}]")
    add("--feh", default=FEH, metavar="LOW:HIGH:STEP", help=f"[{FEH}]")
    add("--law", default="F99", metavar="LAW", help="extinction: CCM89, F99, F19 or G23 [F99]")
    add("--no-corrections", action="store_true", help="without the empirical corrections")
    add("--overwrite", action="store_true", help="replace the output")


def run(args: argparse.Namespace) -> None:
    if args.action == "bands":
        print("\n".join(available_bands()))
        return
    path = writable(args.output, "--output")
    if path is None or not (args.bands or args.filter):
        raise UsageError("brutax grid build needs --output FILE, and --bands A,B,... or --filter")
    if path.exists() and not args.overwrite:
        raise UsageError(f"{path} exists; give --overwrite to replace it")
    bands = [*(args.bands or []), *map(curve, args.filter)]
    generator = GridGenerator(None, bands, verbose=False, law=args.law)
    low, high, count = triple(args.mass, "--mass")
    if count != int(count) or count < 2 or low <= 0:
        raise UsageError(f"--mass {args.mass}: give a range of masses and how many, like {MASS}")
    generator.make_grid(
        np.geomspace(low, high, int(count)),
        steps(args.eep, "--eep"),
        steps(args.feh, "--feh"),
        apply_corr=not args.no_corrections,
        output_file=path,
        progress=None if args.quiet else shown,
    )
    if not args.quiet:
        print(f"    {report.peak_memory()} of memory at most")
        print_files([("grid", path)])


def curve(text: str) -> Passband:
    """`name=curve.dat`, then what is not AB, angstrom, and per photon."""
    name, equals, rest = text.partition("=")
    path, *words = rest.split(",")
    if not equals or not name or not path:
        raise UsageError(f"--filter {text!r} is not like NAME=curve.dat")
    kinds = {one.lower(): ("system", one) for one in SYSTEMS}
    kinds |= {one.lower(): ("unit", one) for one in UNITS}
    kinds |= {one.lower(): ("detector", one) for one in DETECTORS}
    options = {}
    for word in words:
        if word.strip().lower() not in kinds:
            raise UsageError(f"--filter {text!r}: {word!r} is none of {', '.join(kinds)}")
        option, value = kinds[word.strip().lower()]
        options[option] = value
    return Passband.read(path, name.strip(), **options)


def triple(text: str, option: str) -> tuple[float, float, float]:
    """`low:high:third`"""
    try:
        low, high, third = (float(part) for part in text.split(":"))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not three numbers like 0.1:3:200") from None
    if not low < high or third <= 0:
        raise UsageError(f"{option} {text!r}: the range must increase, the last be positive")
    return low, high, third


def steps(text: str, option: str) -> np.ndarray:
    """Nodes from `low:high:step`, both ends included."""
    low, high, step = triple(text, option)
    return np.round(np.arange(low, high + 1e-6 * step, step), 10)
