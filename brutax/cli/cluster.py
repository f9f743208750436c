"""`brutax cluster`: age, distance, dust and metallicity of a cluster from its stars."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from brutax.catalog import Catalog
from brutax.catalog.tables import load_columns
from brutax.cli.fit import add_table_arguments, check_figure, print_files, read, refuse_clashes, say
from brutax.cli.options import UsageError, names, writable
from brutax.cli.tables import check_format, write_table
from brutax.cluster import ClusterModel, Layout, Members, make_stars, members
from brutax.models import Isochrone, StellarPop
from brutax.priors import KroupaIMF

NAME = "cluster"
HELP = "age, distance, dust and metallicity of a star cluster; a run that was stopped goes on"
EXAMPLE = "brutax cluster members.csv --bands PS_g,PS_r,PS_i -o cluster.h5 --error-floor 0.02"
SHOWN = {"loga": "log10 age [yr]", "feh": "[Fe/H]", "av": "A_V [mag]", "rv": "R_V"}
SHOWN |= {"distance_pc": "distance [pc]", "field_fraction": "share of field stars"}
SHOWN |= {"binary_fraction": "share of stars with companions", "scatter": "scatter [mag]"}

METHODS: dict[str, dict[str, int]] = {  # with their own options and the defaults of these
    "nuts": {"chains": 4, "warmup": 200, "draws": 250},
    "smc": {"particles": 256},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("stars", help="table of stars in the cluster's field")
    add("-o", "--output", required=True, metavar="FILE", help="HDF5 file of the posterior")
    add("--members", metavar="TABLE", help="membership and mass of every star: .csv .ecsv .fits")
    add("--figure", metavar="IMAGE", help="colour-magnitude diagram: .png .pdf .svg")
    add("--colour", type=names, metavar="A,B", help="bands of its colour (default: first, last)")
    add("--overwrite", action="store_true", help="replace existing files")
    add_table_arguments(parser)
    add = parser.add_argument_group("the model").add_argument
    add("--prob", metavar="COLUMN", help="membership probabilities known before")
    add(
        "--prior",
        action="append",
        default=[],
        metavar="NAME=LOW,HIGH|NAME=VALUE",
        help="flat prior or fixed value of feh, loga, av, rv, distance_pc, ...; repeat for more",
    )
    add("--imf", action="store_true", help="masses by Kroupa's function (default: flat)")
    add("--scatter", action="store_true", help="fit an intrinsic scatter of all bands too")
    add("--no-parallax", action="store_true", help="leave parallaxes out")
    add = parser.add_argument_group("the computation").add_argument
    add(
        "--method",
        choices=tuple(METHODS),
        default="nuts",
        help="chains about the maximum, or particles tempered from the prior, which "
        "weigh several peaks in age [nuts]",
    )
    add("--particles", type=int, metavar="N", help="of smc [256]")
    add("--chains", type=int, metavar="N", help="of nuts [4]")
    add("--warmup", type=int, metavar="N", help="steps of each chain before draws [200]")
    add("--draws", type=int, metavar="N", help="of each chain [250]")
    add("--seed", type=int, default=0, metavar="N", help="same seed, same draws [0]")
    add("--coarse", action="store_true", help="half as many segments and mass ratios")


def run(args: argparse.Namespace) -> None:
    output, table = writable(args.output, "--output"), writable(args.members, "--members")
    figure = writable(args.figure, "--figure")
    assert output is not None
    check_format(table)
    if figure is not None:
        check_figure(figure)
    refuse_clashes(
        {"the table": args.stars, "--offsets": args.offsets},
        {"--output": output, "--members": table, "--figure": figure},
    )
    for path in (output, table, figure):
        if path is not None and path.exists() and not args.overwrite:
            raise UsageError(f"{path} exists; choose another name or --overwrite")
    if args.colour is not None and len(args.colour) != 2:
        raise UsageError("--colour takes two bands, like PS_g,PS_i")
    options = _options(args)
    say(args, f"{args.stars}:")
    stars = read(args, None)
    model, prior = _model(args, stars)

    from brutax import infer
    from brutax.cluster import problem as cluster_problem

    say(args, f"{len(stars)} stars in {', '.join(stars.bands)}")
    resting = output.with_name(output.name + ".run")
    post = infer.fit(
        cluster_problem(model, prior),
        args.method,
        key=args.seed,
        checkpoint=resting,
        **options,
    )
    post.save(output)
    for path in (resting, resting.with_name(resting.name + ".prev")):
        path.unlink(missing_ok=True)
    written = [("posterior", output)]
    found = members(model, post.samples, post.weights)
    if table is not None:
        write_table(_table(stars, found), table)
        written.append(("members", table))
    if figure is not None:
        _draw(args, model, stars, post.samples, found, figure)
        written.append(("figure", figure))
    if not args.quiet:
        print(_report(post, found))
        print_files(written)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    for method, own in METHODS.items():
        for name in own:
            if method != args.method and getattr(args, name) is not None:
                raise UsageError(f"--{name} is an option of --method {method}, not {args.method}")
    given = {
        name: default if getattr(args, name) is None else getattr(args, name)
        for name, default in METHODS[args.method].items()
    }
    if low := [name for name, value in given.items() if value < 1]:
        raise UsageError(f"--{low[0]} must be at least 1")
    if args.method == "smc":
        return {"num_particles": given["particles"], "num_moves": 5, "chunk": 1}
    chains, warmup, draws = (given[name] for name in METHODS["nuts"])
    found = {"start": "map", "num_tries": 256, "max_tree_depth": 6}
    return found | {"num_chains": chains, "num_warmup": warmup, "num_samples": draws}


def _model(args: argparse.Namespace, stars: Catalog) -> tuple[ClusterModel, dict[str, Any]]:
    import numpyro.distributions as dist

    from brutax.cluster import prior as cluster_prior

    given: dict[str, Any] = {"scatter": dist.HalfNormal(0.03)} if args.scatter else {}
    for text in args.prior:
        name, equals, value = text.partition("=")
        try:
            numbers = [float(x) for x in value.split(",")]
        except ValueError:
            numbers = []
        if not equals or len(numbers) not in (1, 2) or numbers != sorted(numbers):
            raise UsageError(f"--prior {text!r} is not NAME=LOW,HIGH or NAME=VALUE")
        given[name.strip()] = numbers[0] if len(numbers) == 1 else dist.Uniform(*numbers)
    plx: dict[str, Any] = {}
    if not args.no_parallax and np.isfinite(stars.parallax_err).any():
        plx = {"parallax": stars.parallax, "parallax_err": stars.parallax_err}
    prob = 1.0 if args.prob is None else _probabilities(args, len(stars))
    layout = Layout()
    if args.coarse:
        layout = Layout(main=120, last=16, hook=48, turn=8, late=176, ratios=48)
    model = ClusterModel(
        StellarPop(Isochrone(), stars.bands),
        make_stars(stars.flux, stars.flux_err, prob=prob, **plx),
        imf=KroupaIMF() if args.imf else None,
        layout=layout,
    )
    return model, cluster_prior(model, **given)


def _probabilities(args: argparse.Namespace, count: int) -> np.ndarray:
    columns, name = load_columns(args.stars, args.dataset)
    if args.prob not in columns:
        raise UsageError(f"--prob: {name} has no column {args.prob!r}")
    values = np.asarray(columns[args.prob].values, float)
    values = values if args.rows is None else values[args.rows]
    if len(values) != count:
        raise UsageError(f"--prob: {len(values)} values for {count} stars")
    return np.nan_to_num(values)


def _table(stars: Catalog, found: Members) -> Any:
    from astropy.table import Table

    table: Any = Table({"source_id": np.asarray(stars.source_id)})
    for name, values in found._asdict().items():
        table[name] = np.asarray(values, np.float32)
    for name in ("mass", "mass_std"):
        table[name].unit = "Msun"
    return table


def _report(post: Any, found: Members) -> str:
    lines = ["                                   mean    std. dev."]
    for name, row in post.summary().items():
        if np.ndim(row.mean) or row.std == 0:
            continue
        lines.append(f"{SHOWN.get(name, name):32s} {row.mean:9.4g}  {row.std:9.2g}")
    lines.append(f"{np.nansum(found.member):.0f} of {len(found.member)} stars are members")
    ratios = [float(np.max(v)) for k, v in post.stats.items() if k.startswith("rhat/")]
    worst = f", R-hat at most {max(ratios):.3f}" if ratios else ""
    lines.append(f"{len(post.weights)} draws, {post.ess:.0f} effective{worst}")
    return "\n".join([*lines, *(f"warning: {text}" for text in post.warnings)])


def _draw(
    args: argparse.Namespace,
    model: ClusterModel,
    stars: Catalog,
    samples: dict[str, np.ndarray],
    found: Members,
    path: Path,
) -> None:
    from brutax.plotting import cluster_diagram

    with np.errstate(invalid="ignore", divide="ignore"):
        mag = -2.5 * np.log10(stars.flux)
    colour = tuple(args.colour) if args.colour else None
    figure, _ = cluster_diagram(model, mag, samples, found, colour=colour)
    figure.savefig(path, dpi=150)
