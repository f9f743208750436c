"""`brutax fit`: a table of stars in, a file of posteriors out."""

import argparse
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
import jax
import numpy as np

from brutax.catalog import Catalog, FitResult, read_stars, resolve_bands
from brutax.cli import report
from brutax.cli.options import (
    DEMO,
    DEMO_WARNING,
    PRIOR_HELP,
    UsageError,
    av_prior,
    grid_from,
    mapping,
    names,
    rows,
    rv_prior,
    shown,
    units,
    writable,
)
from brutax.cli.tables import check_format, write_table
from brutax.data import load_offsets
from brutax.dust import Bayestar
from brutax.fitting import (
    DustMapAv,
    FitOptions,
    Output,
    Priors,
    band_systems,
    fit_catalog,
    posterior_path,
    progress_bar,
)
from brutax.fitting.rounds import EFFORTS, METHODS
from brutax.models import StarGrid, available_bands, default_grid
from brutax.priors import AbstractAvPrior, UniformAv

NAME = "fit"
HELP = "posteriors for a table of stars; a run that was stopped goes on where it was"
EXAMPLE = "brutax fit stars.csv --summary summary.fits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("stars", help="table of stars: CSV, ECSV, FITS, VOTable, Parquet or HDF5")
    add("-g", "--grid", help="HDF5 file of models, or `demo` (default: built for the bands, once)")
    add("-o", "--output", help="HDF5 file of posteriors, made or continued [STARS_posterior.h5]")
    add("--summary", metavar="TABLE", help="one row per star: .csv .ecsv .fits .parquet .vot")
    add("--figure", metavar="IMAGE", help="A_V against distance: .png .pdf .svg")
    add("--overwrite", action="store_true", help="replace the output instead of continuing it")

    add_table_arguments(parser)
    add = parser.add_argument_group("priors").add_argument
    add("--av", default="flat", metavar="PRIOR", help=f"of A_V: {PRIOR_HELP} [flat: 0,20 mag]")
    add("--dust-map", metavar="FILE", help="Bayestar map of A_V by distance, as the prior of A_V")
    add("--dust-floor", type=float, default=0.0, metavar="MAG", help="added to its errors [0]")
    add(
        "--dust-factor",
        type=float,
        default=1.0,
        metavar="X",
        help="A_V per unit of the map, such as 2.742 for E(B-V) of SFD [1]",
    )
    add("--rv", default="normal:3.32,0.18", metavar="PRIOR", help="of R_V [normal:3.32,0.18]")

    add = parser.add_argument_group("the computation").add_argument
    add("--draws", type=int, default=250, metavar="N", help="kept per star; 0: summaries [250]")
    add(
        "--draw-dtype",
        default="float32",
        choices=("float32", "float16"),
        help="float16 keeps distance, A_V and R_V of draws to one part in 2048 [float32]",
    )
    add("--seed", type=int, default=0, metavar="N", help="same seed, same draws [0]")
    add("--method", default="auto", choices=METHODS, help="[auto]")
    add("--effort", default="normal", choices=EFFORTS, help="[normal]")
    add("--batch-size", type=int, metavar="N", help="stars at once [64 per core; a GPU: by memory]")
    add("--float64", action="store_true", help="double precision")


def add_table_arguments(parser: argparse.ArgumentParser) -> None:
    """How the table of stars is to be read; see `read`."""
    add = parser.add_argument_group("the table").add_argument
    add("--bands", type=names, metavar="A,B,...", help="bands to use (default: all there are)")
    add(
        "--map",
        action="append",
        metavar="OURS=COLUMN",
        help="column of a band, <band>_err, parallax, parallax_err, l, b, ra, dec; `OURS=` leaves "
        "it out; repeat for more",
    )
    add(
        "--units",
        action="append",
        metavar="UNIT|KEY=UNIT",
        help="mag, maggies, Jy, ... of the photometry, or e.g. parallax=arcsec; repeat for more",
    )
    add("--dataset", metavar="NAME", help="table in a file of several")
    add("--id", metavar="COLUMN", help="column of identifiers, or `row` for row numbers")
    add("--rows", type=rows, metavar="FIRST:LAST", help="fit these rows only, counted from 0")
    add("--error-floor", type=float, default=0.0, metavar="MAG", help="added in quadrature [0]")
    add("--offsets", metavar="FILE", help="multiplicative offsets: band and factor per line")


def run(args: argparse.Namespace) -> None:
    summary, figure = writable(args.summary, "--summary"), writable(args.figure, "--figure")
    check_format(summary)
    if figure is not None:
        if args.draws == 0:
            raise UsageError("--figure shows draws, and --draws 0 keeps none; leave one out")
        check_figure(figure)
    if args.float64:
        jax.config.update("jax_enable_x64", True)
    output = posterior_path(args.output or f"{Path(args.stars).stem}_posterior.h5")
    refuse_clashes(
        {
            "the table": args.stars,
            "--grid": args.grid,
            "--offsets": args.offsets,
            "--dust-map": args.dust_map,
        },
        {"--output": output, "--summary": summary, "--figure": figure},
    )
    grid = None if args.grid is None else grid_from(args.grid, args.bands)
    say(args, f"{args.stars}:")
    stars = read(args, grid)
    if grid is None:
        grid = default_grid(stars.bands, progress=None if args.quiet else shown)
    if args.grid == DEMO:
        warn_of_demo()
    options = FitOptions(
        seed=args.seed,
        method=args.method,
        effort=args.effort,
        draws=args.draws,
        batch_size=args.batch_size,
    )
    priors = Priors(av=_av(args), rv=rv_prior(args.rv))
    watch = Watch(args.quiet)
    result = watched_fit(
        watch,
        stars,
        grid,
        options,
        priors,
        Output(path=output, overwrite=args.overwrite, draw_dtype=args.draw_dtype, progress=watch),
    )
    written = [("posteriors", result.path or output)]
    if summary is not None:
        write_table(result.table(), summary)
        written.append(("summary", summary))
    if figure is not None and draw(result, figure):
        written.append(("figure", figure))
    if not args.quiet:
        print(watch.report(result))
        print_files(written)


def refuse_clashes(inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
    """No output may be an input, or another output."""
    taken = {Path(path).resolve(): name for name, path in inputs.items() if path is not None}
    for name, path in outputs.items():
        if path is None:
            continue
        other = taken.setdefault(Path(path).resolve(), name)
        if other != name:
            raise UsageError(f"{name} {path} is the same file as {other}; give it another name")


def read(args: argparse.Namespace, grid: StarGrid | None) -> Catalog:
    """The stars, or some rows of them, in the bands of a grid or of the models inside brutax."""
    if grid is not None:
        bands = grid.bands
    else:
        bands = resolve_bands(args.bands, available_bands()) if args.bands else available_bands()
    stars = read_stars(
        args.stars,
        bands,
        map=mapping(args.map),
        units=units(args.units),
        dataset=args.dataset,
        source_id=args.id,
        require_bands=bands if args.bands else (),
        vector_bands=args.bands,
        error_floor=args.error_floor,
        offsets=args.offsets and load_offsets(args.offsets, bands),
        band_system=band_systems(grid),
    )
    if args.rows is None:
        return stars
    some = stars.select(args.rows)
    if not len(some):
        raise UsageError(f"--rows {args.rows.start}:{args.rows.stop} of {len(stars)} stars: none")
    return some


class Watch:
    """Follows a fit: shows its progress, and times it."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.start = time.perf_counter()
        self.done_before = 0
        self.marks: list[tuple[float, int]] = []  # (time, stars) of every batch

    def __call__(self, counts: Iterator[int], total: int, done: int) -> Iterable[int]:
        self.done_before = done
        shown = counts if self.quiet or total == done else progress_bar(counts, total, done)
        for count in shown:
            self.marks.append((time.perf_counter(), count))
            yield count

    def report(self, result: FitResult) -> str:
        status = np.atleast_1d(result["status"])
        wall = time.perf_counter() - self.start
        new = sum(count for _, count in self.marks)
        before = f", {self.done_before:,} of them in earlier runs" if self.done_before else ""
        lines = [f"fitted {report.fitted(status):,} of {status.size:,} stars{before}"]
        pace = f"    {report.duration(wall)}"
        if new:
            pace += f", {new / wall:.3g} stars/s"
        if len(self.marks) > 1:
            (first, some), (last, _) = self.marks[0], self.marks[-1]
            pace += f" ({(new - some) / max(last - first, 1e-9):.3g} after the first batch)"
        lines.append(f"{pace}, {report.peak_memory()} of memory at most")
        return "\n".join([*lines, *report.flag_lines(status)])


def watched_fit(
    watch: Watch,
    stars: Catalog,
    grid: StarGrid,
    options: FitOptions,
    priors: Priors,
    output: Output,
) -> FitResult:
    """Fits, and says how many stars are safe if the user stops it."""
    try:
        return FitResult.load(str(fit_catalog(stars, grid, options, priors, output)))
    except KeyboardInterrupt:
        assert output.path is not None
        kept = saved(posterior_path(output.path))
        raise KeyboardInterrupt(
            f"interrupted; {kept:,} stars are saved, run the same command to continue"
        ) from None


def _av(args: argparse.Namespace) -> AbstractAvPrior | DustMapAv:
    """The prior of A_V that the options describe."""
    plain = av_prior(args.av)
    if args.dust_map is None:
        return plain
    if not isinstance(plain, UniformAv):
        raise UsageError("--av and --dust-map are both priors of A_V; beside a map give LOW,HIGH")
    dustmap = Bayestar(args.dust_map, factor=args.dust_factor)
    return DustMapAv(dustmap, float(plain.low), float(plain.high), args.dust_floor)


def saved(path: Path) -> int:
    """How many stars of a posterior file are done."""
    try:
        with h5py.File(path, "r") as file:
            done: Any = file["done"]
            return int(np.count_nonzero(done[:]))
    except (OSError, KeyError):
        return 0


def check_figure(path: Path) -> None:
    """Refuses an image that could not be drawn or saved."""
    from brutax.plotting._style import pyplot

    known = pyplot().figure().canvas.get_supported_filetypes()
    pyplot().close()
    if path.suffix.lower().lstrip(".") not in known:
        raise UsageError(f"{path}: images are written as {', '.join(sorted(known))}")


def draw(result: FitResult, path: Path) -> bool:
    """Saves A_V against distance, if there is anything to show."""
    from brutax.plotting import distance_extinction

    try:
        figure, _ = distance_extinction(result)
    except ValueError as error:
        warn(f"no figure: {error}")
        return False
    figure.savefig(path)
    return True


def warn(text: str) -> None:
    import logging

    logging.getLogger("brutax").warning("%s", text)


def warn_of_demo() -> None:
    warn(DEMO_WARNING)


def say(args: argparse.Namespace, text: str) -> None:
    if not args.quiet:
        print(text, flush=True)


def print_files(files: list[tuple[str, Path]]) -> None:
    width = max(len(what) for what, _ in files)
    for what, path in files:
        print(f"    {what:<{width}}  {path}  ({report.size(path.stat().st_size)})")
