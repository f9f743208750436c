"""`brutax info`: what a file holds."""

import argparse
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from brutax.catalog import CatalogError, read_stars
from brutax.catalog.schema import COLUMNS, HALF, PER_DRAW
from brutax.catalog.store import FINGERPRINT
from brutax.cli import report
from brutax.cli.options import DEMO
from brutax.data._layouts import open_grid, read_labels
from brutax.models import demo_grid

NAME = "info"
HELP = "what a grid, a file of posteriors or a table of stars holds"
EXAMPLE = "brutax info posterior.h5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", help="grid, posteriors or table of stars; `demo`: the demo grid")
    parser.add_argument("--dataset", metavar="NAME", help="table in a file of several")


def run(args: argparse.Namespace) -> None:
    path = Path(args.file)
    if args.file == DEMO and not path.is_file():  # a folder may have that name
        grid = demo_grid()
        labels = {name: grid.label_table[name] for name in grid.label_names}
        lines = grid_lines("in memory", len(grid), grid.bands, grid.axes, labels, grid.attrs)
    else:
        lines = {"grid": _grid, "posterior": _posterior, "table": _table}[_kind(path)](path, args)
    print("\n".join([f"{args.file}:", *lines]))


def _kind(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(2, "no such file", str(path))
    if path.is_dir():
        raise IsADirectoryError(21, "is a folder", str(path))
    if not h5py.is_hdf5(path):
        if path.suffix.lower() in (".h5", ".hdf5"):
            raise CatalogError(f"{path} is not an HDF5 file, or it is damaged")
        return "table"
    try:
        with h5py.File(path, "r") as file:
            if FINGERPRINT in file.attrs and "done" in file:
                return "posterior"
            if "mag_coeffs" in file or all(k in file for k in ("models", "reddening")):
                return "grid"
    except (OSError, KeyError, RuntimeError) as error:
        raise CatalogError(f"{path} cannot be opened: {error}".splitlines()[0]) from None
    return "table"


def _grid(path: Path, args: argparse.Namespace) -> list[str]:
    with open_grid(path) as file:
        labels = read_labels(file)
        attrs = {key: value for key, value in file.h5.attrs.items()}
        kind = f"{file.layout} layout, {report.size(path.stat().st_size)}"
        return grid_lines(kind, file.n_models, file.bands, file.axes, labels, attrs)


def grid_lines(
    kind: str,
    n_models: int,
    bands: tuple[str, ...],
    axes: tuple[str, ...],
    labels: dict[str, np.ndarray],
    attrs: Any,
) -> list[str]:
    """What is known of a grid, in words."""
    lines = [f"  grid of models, {kind}", f"  {n_models:,} models in {len(bands)} bands"]
    lines += _wrapped(bands)
    lines.append("  axes")
    for name in axes:
        nodes = np.unique(labels[name])
        lines.append(f"    {name:<8}{nodes[0]:>10.4g} to {nodes[-1]:<10.4g}{nodes.size:>6} values")
    predicted = [name for name in labels if name not in axes]
    if predicted:
        lines.append("  predicted labels")
    for name in predicted:
        known = labels[name][np.isfinite(labels[name])]
        ends = f"{known.min():>10.4g} to {known.max():<10.4g}" if known.size else "no value"
        lines.append(f"    {name:<8}{ends}")
    texts = {k: _text(v) for k, v in attrs.items() if k not in ("filters", "band_system")}
    if texts:
        lines.append("  provenance")
        lines += [f"    {key}: {text}" for key, text in sorted(texts.items())]
    return lines


def _posterior(path: Path, args: argparse.Namespace) -> list[str]:
    with h5py.File(path, "r") as file:
        attrs: dict[str, Any] = dict(file.attrs)
        datasets: dict[str, Any] = {name: file[name] for name in ("done", "status")}
        done = datasets["done"][:].astype(bool)
        status = datasets["status"][:][done]
        kept, present = _kept(file), _datasets(file)
    known = json.loads(attrs[FINGERPRINT])
    unfinished = int(np.count_nonzero(~done))
    lines = [
        f"  posteriors of {done.size:,} stars, {report.size(path.stat().st_size)}",
        f"  {report.fitted(status):,} fitted"
        + (f", {unfinished:,} not finished: run the fit again to continue" if unfinished else ""),
        f"  {kept}",
        *report.flag_lines(status),
        "  summarised quantities",
        *_wrapped([_text(name) for name in attrs["parameters"]]),
        "  datasets",
        *present,
        "  provenance",
        f"    created {_text(attrs.get('created'))} by brutax {_text(attrs.get('brutax_version'))} "
        f"on {_text(attrs.get('device'))}",
    ]
    keys = ("grid", "method", "precision", "seed", "n_samples", "stars", "dust")
    lines += [f"    {key}: {known[key]}" for key in keys if known.get(key) not in (None, "")]
    lines += ["    bands:", *_wrapped(known.get("bands", ()), "      ")]
    notes = _text(attrs.get("notes", ""))
    if notes:
        lines += ["  how the stars were read", *(f"    {note}" for note in notes.split("\n"))]
    return lines


def _datasets(file: h5py.File) -> list[str]:
    """The datasets of a posterior file, and what they hold."""
    lines = []
    for column in COLUMNS:
        if column.name in file:
            unit = f" [{column.unit}]" if column.unit else ""
            lines.append(f"    {column.name:<18}{column.meaning}{unit}")
    return lines


def _kept(file: h5py.File) -> str:
    """What a file keeps of the draws of its stars, in words."""
    found: dict[str, Any] = {name: file[name] for name in sorted(PER_DRAW) if name in file}
    if not found:
        return "no draws: summaries only"
    count = found["model_idx"].shape[1]
    half = [name for name in HALF if name in found]
    if not half:
        return f"{count} draws per star (models only)"
    if found[half[0]].dtype == np.float16:
        return f"{count} draws per star, distance, A_V and R_V in half precision"
    return f"{count} draws per star"


def _table(path: Path, args: argparse.Namespace) -> list[str]:
    import logging

    logger = logging.getLogger("brutax")
    level = logger.level
    logger.setLevel(logging.WARNING)  # the notes are printed below
    try:
        stars = read_stars(path, dataset=args.dataset)
    finally:
        logger.setLevel(level)
    seen = np.isfinite(stars.flux)
    parallaxes = int(np.count_nonzero(np.isfinite(stars.parallax)))
    lines = [f"  table of {len(stars):,} stars", "  bands, and stars observed in them"]
    for i, band in enumerate(stars.bands):
        mag = -2.5 * np.log10(stars.flux[seen[:, i] & (stars.flux[:, i] > 0), i])
        ends = f"{mag.min():>8.2f} to {mag.max():<6.2f} mag" if mag.size else ""
        lines.append(f"    {band:<14}{seen[:, i].sum():>9,} {ends}")
    lines.append(f"  {parallaxes:,} parallaxes")
    lines += ["  flags", *report.flag_lines(stars.status)] if np.any(stars.status) else []
    return [*lines, "  how it was read", *(f"    {note}" for note in stars.notes)]


def _wrapped(words: Any, indent: str = "    ") -> list[str]:
    import textwrap

    return textwrap.wrap(", ".join(words), 96, initial_indent=indent, subsequent_indent=indent)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return ", ".join(_text(x) for x in value.ravel()[:12])
    return str(value)
