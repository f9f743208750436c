"""Tables out, in the format that the name of the file says."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from brutax.cli.options import UsageError

if TYPE_CHECKING:
    from astropy.table import Table

FORMATS = {
    ".csv": "ascii.csv",
    ".ecsv": "ascii.ecsv",
    ".fits": "fits",
    ".parquet": "parquet",
    ".vot": "votable",
    ".xml": "votable",
}


def check_format(path: Path | None) -> None:
    """Refuses file names that name no format, and formats that lack their extra."""
    if path is None:
        return
    if path.suffix.lower() not in FORMATS:
        raise UsageError(f"{path}: tables are written as {', '.join(FORMATS)}")
    try:
        import astropy.table  # noqa: F401

        if path.suffix.lower() == ".parquet":
            import pyarrow  # noqa: F401
    except ImportError:
        raise ImportError(f"writing {path} needs more: pip install 'brutax[tables]'") from None


def write_table(table: "Table", path: Path) -> None:
    """Writes a table in place of an older one, once it is complete."""
    form = FORMATS[path.suffix.lower()]
    table = table.copy()
    if form == "fits":  # headers hold short names and one line each
        known = {"brutax_version": "VERSION", "created": "CREATED", "device": "DEVICE"}
        meta = dict(table.meta or {})
        table.meta = {new: meta[key] for key, new in known.items() if key in meta}
    else:
        table.convert_bytestring_to_unicode()
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        table.write(partial, format=form, overwrite=True)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
