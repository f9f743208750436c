"""`brutax data`: the files that brutus published."""

import argparse

from brutax.cli import report
from brutax.cli.options import UsageError
from brutax.data.download import FILES, fetch, find_file

NAME = "data"
HELP = "lists and fetches the files that brutus published (brutax needs none of them)"
EXAMPLE = "brutax data fetch grid_mist_v9.h5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("action", choices=("list", "fetch"), help="list the files, or fetch one")
    add("name", nargs="?", help="the file to fetch")
    add("--to", default=".", metavar="FOLDER", help="where a link to it is made [.]")


def run(args: argparse.Namespace) -> None:
    if args.action == "list":
        print(listing())
        return
    if not args.name:
        raise UsageError("brutax data fetch needs the name of a file (see `brutax data list`)")
    path = fetch(args.name, args.to, progress=not args.quiet)
    if not args.quiet:
        print(f"{path}  ({report.size(path.stat().st_size)})")


def listing() -> str:
    """Every file, what it is, and where it is."""
    rows = []
    for name, known in FILES.items():
        try:
            path = find_file(name)
            where = f"{path} ({report.size(path.stat().st_size)})"
        except FileNotFoundError:
            where = "not fetched"
        rows.append([name, known.what, where])
    return report.columns(["file", "what it is", "where"], rows)
