"""`brutax dust`: clouds along a line of sight, from the posteriors of its stars."""

import argparse
from typing import Any

import numpy as np

from brutax.catalog import FitResult
from brutax.cli.fit import check_figure, print_files, refuse_clashes, say
from brutax.cli.options import UsageError, writable
from brutax.dust import SightLine, make_sightline
from brutax.models import Status

NAME = "dust"
HELP = "clouds along a line of sight, from a file of posteriors; a run that was stopped goes on"
EXAMPLE = "brutax dust stars_posterior.h5 --clouds 1-4 -o los.h5 --figure los.png"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("posteriors", help="HDF5 file written by `brutax fit`, of stars in one direction")
    add("-o", "--output", required=True, metavar="FILE", help="HDF5 file of clouds and profile")
    add("--figure", metavar="IMAGE", help="stars and profile: .png .pdf .svg")
    add("--map", metavar="FILE", help="the profile as a dust map; needs --sky")
    add("--sky", metavar="L,B", help="Galactic direction of the sight line [deg]")
    add("--overwrite", action="store_true", help="replace existing files")
    add = parser.add_argument_group("the model").add_argument
    add("--clouds", default="1-4", metavar="N|M-N", help="how many clouds are compared [1-4]")
    add("--distance", metavar="NEAR,FAR", help="where clouds may be [kpc] (default: the stars)")
    add("--av", metavar="LOW,HIGH", help="range of levels [mag] (default: 0 to that of the stars)")
    add("--kernel", default="gauss", choices=("gauss", "lorentz", "tophat"), help="[gauss]")
    add("--poor-fits", action="store_true", help="use stars flagged as poor fits too")
    add = parser.add_argument_group("the computation").add_argument
    add("--draws", type=int, default=128, metavar="N", help="used of each star [128]")
    add("--method", default="smc", choices=("smc", "nested"), help="[smc]")
    add("--seed", type=int, default=0, metavar="N", help="same seed, same draws [0]")


def run(args: argparse.Namespace) -> None:
    output, figure = writable(args.output, "--output"), writable(args.figure, "--figure")
    dust_map = writable(args.map, "--map")
    assert output is not None
    if figure is not None:
        check_figure(figure)
    refuse_clashes(
        {"the posteriors": args.posteriors},
        {"--output": output, "--figure": figure, "--map": dust_map},
    )
    for path in (output, figure, dust_map):
        if path is not None and path.exists() and not args.overwrite:
            raise UsageError(f"{path} exists; choose another name or --overwrite")
    clouds = _clouds(args.clouds)
    sky = _pair(args.sky, "--sky") if args.sky else None
    if dust_map is not None and sky is None:
        raise UsageError("--map needs the direction of the sight line: --sky L,B")
    dist, av = _draws(args)
    line = _line(args, dist, av)

    from brutax.sightline import dust_map as make_map
    from brutax.sightline import fit as fit_clouds
    from brutax.sightline import reweight

    say(args, f"{line.n_stars} stars, {line.dist_range[0]:.3g} to {line.dist_range[1]:.3g} kpc")
    resting = output.with_name(output.name + ".run")
    found: Any = fit_clouds(
        line, clouds, method=args.method, key=args.seed, checkpoint=resting, progress=False
    )
    found.save(output)
    for path in resting.parent.glob(resting.name + ".*"):
        path.unlink(missing_ok=True)
    written = [("clouds", output)]
    if dust_map is not None:
        make_map(found, [sky]).save(dust_map)
        written.append(("dust map", dust_map))
    if figure is not None:
        from brutax.plotting import sightline_profile

        sightline_profile(found, dist, av)[0].savefig(figure, dpi=150)
        written.append(("figure", figure))
    if not args.quiet:
        print(_report(found))
        print("stars weighed by the profile:", reweight(found, dist, av).report(), sep="\n")
        print_files(written)


def _clouds(text: str) -> tuple[int, ...]:
    first, dash, last = text.partition("-")
    try:
        low = int(first)
        high = int(last) if dash else low
    except ValueError:
        low, high = 1, 0
    if not 0 <= low <= high <= 12:
        raise UsageError(f"--clouds {text!r} is not a number or a range like 1-4, at most 12")
    return tuple(range(low, high + 1))


def _pair(text: str, name: str) -> tuple[float, float]:
    try:
        values = [float(x) for x in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 2 or not np.isfinite(values).all():
        raise UsageError(f"{name} {text!r} is not two numbers")
    return values[0], values[1]


def _draws(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    result = FitResult.load(args.posteriors)
    bad = Status.LOW_ESS if args.poor_fits else Status.LOW_ESS | Status.POOR_FIT
    good = result.fitted & (np.atleast_1d(result["status"]) & bad == 0)
    if not good.any():
        raise UsageError(f"{args.posteriors}: no star has a good fit")
    dist, av = (np.atleast_2d(result[f"{name}_samples"])[good] for name in ("dist", "av"))
    return dist, av


def _line(args: argparse.Namespace, dist: np.ndarray, av: np.ndarray) -> SightLine:
    return make_sightline(
        dist,
        av,
        n_draws=args.draws,
        dist_range=_pair(args.distance, "--distance") if args.distance else None,
        av_range=_pair(args.av, "--av") if args.av else None,
        kernel=args.kernel,
    )


def _report(found: Any) -> str:
    lines = ["clouds     ln evidence   probability"]
    for n, logz, error, share in zip(
        found.clouds, found.logz, found.logz_err, found.probability, strict=True
    ):
        lines.append(f"{n:6d}  {logz:9.2f} +- {error:.2f}  {share:12.3f}")
    lines.append(f"{found.best} clouds; of each: distance [kpc], jump in A_V [mag]")
    for cloud in found.found():
        texts = [
            f"{x[1]:.3f} +{x[2] - x[1]:.3f} -{x[1] - x[0]:.3f}"
            for x in (cloud.distance, cloud.jump)
        ]
        lines.append("   ".join(texts))
    return "\n".join([*lines, *(f"warning: {text}" for text in found.warnings)])
