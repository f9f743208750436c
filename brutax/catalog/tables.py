"""Tables of any kind, from files or from memory, as named columns of plain arrays."""

import gzip
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np

from brutax.catalog.catalogue import CatalogError

_MISSING_TEXT = ("", "null", "NULL", "N/A", "NA", "--", "None", "nan", "NaN")
_META = ".__table_column_meta__"  # where astropy writes the units of an HDF5 table


class Column(NamedTuple):
    """One column of a table."""

    values: np.ndarray  # (star,), or (star, element) for vectors
    missing: np.ndarray | None = None  # True where there is no value
    unit: str | None = None

    def numbers(self, name: str, element: int | None = None) -> np.ndarray:
        """The values (or one element of vectors) in float64, NaN where missing."""
        values, missing = self.values, self.missing
        if element is not None:
            values = values[:, element]
            missing = None if missing is None else missing[:, element]
        if values.dtype.kind in "OSU":
            text = np.char.strip(values.astype(str))
            values = np.where(np.isin(text, _MISSING_TEXT), "nan", text)
        try:
            numbers = values.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise CatalogError(f"column {name} is not numeric: {error}") from None
        return numbers if missing is None else np.where(missing, np.nan, numbers)


def load_columns(table: Any, dataset: str | int | None = None) -> tuple[dict[str, Column], str]:
    """The columns of a file or of a table in memory, and what it is called in messages.

    Files: CSV, TSV, ECSV, whitespace-separated text, FITS, VOTable, Parquet, HDF5. In memory:
    astropy Table and QTable, pandas DataFrame, pyarrow Table, mappings of arrays, structured
    NumPy arrays. `dataset` names one of several tables in a file.
    """
    if isinstance(table, str | Path):
        path = Path(table)
        columns = _load_file(path, dataset)
        name = path.name
    else:
        if dataset is not None:
            raise CatalogError("dataset= names a table in a file, but this table is in memory")
        columns, name = _from_memory(table), "the table"
    if not columns:
        raise CatalogError(f"{name} has no columns")
    lengths = {len(column.values) for column in columns.values()}
    if len(lengths) > 1:
        raise CatalogError(f"{name} has columns of different lengths: {sorted(lengths)}")
    if lengths == {0}:
        raise CatalogError(f"{name} has zero rows")
    return columns, name


def _load_file(path: Path, dataset: str | int | None) -> dict[str, Column]:
    if not path.is_file():
        raise CatalogError(f"{path}: no such file")
    kind = _kind_of_file(path)
    if kind in ("csv", "tab", "ecsv", "ascii", "parquet") and dataset is not None:
        raise CatalogError(f"{path.name} holds one table: leave out dataset={dataset!r}")
    try:
        if kind == "hdf5":
            return _load_hdf5(path, dataset)
        if kind == "parquet":
            return _from_arrow(_need("pyarrow.parquet").read_table(path))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            table = _load_with_astropy(path, kind, dataset)
        if any("truncated" in str(warning.message) for warning in caught):
            raise CatalogError(f"{path.name} is truncated: fetch it again")
        return _from_memory(table)
    except (CatalogError, ImportError):
        raise
    except Exception as error:  # every reader has its own ways to fail
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise CatalogError(
            f"{path.name} cannot be read as {kind}, it may be truncated or damaged: {reason}"
        ) from error


def _kind_of_file(path: Path) -> str:
    """The format, from the first bytes; the name decides only between kinds of text."""
    with open(path, "rb") as file:
        head = file.read(4096)
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if head[:2] == b"\x1f\x8b":
        try:
            with gzip.open(path) as file:
                head = file.read(4096)
        except (OSError, EOFError) as error:
            raise CatalogError(f"{path.name} is a damaged gzip file: {error}") from None
    for start, kind in ((b"SIMPLE", "fits"), (b"\x89HDF", "hdf5"), (b"PAR1", "parquet")):
        if head.startswith(start):
            return kind
    if b"<VOTABLE" in head:
        return "votable"
    if head.startswith(b"# %ECSV"):
        return "ecsv"
    claims = {".fits": "FITS", ".fit": "FITS", ".h5": "HDF5", ".hdf5": "HDF5", ".hdf": "HDF5"}
    claims |= {".parquet": "Parquet", ".pq": "Parquet", ".vot": "VOTable", ".xml": "VOTable"}
    claims |= {".votable": "VOTable", ".ecsv": "ECSV"}
    claimed = [claims[suffix] for suffix in suffixes if suffix in claims]
    if claimed:
        raise CatalogError(f"{path.name} is not a {claimed[0]} file: it starts with {head[:12]!r}")
    if not head.strip():
        raise CatalogError(f"{path.name} is empty")
    if b"\0" in head:
        raise CatalogError(
            f"{path.name} is of no format known here: use CSV, FITS, ECSV, VOTable, Parquet, HDF5"
        )
    if ".csv" in suffixes:
        return "csv"
    return "tab" if ".tsv" in suffixes else "ascii"


def _need(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"reading this table needs {module.split('.')[0]}: pip install 'brutax[tables]'"
        ) from error


def _load_with_astropy(path: Path, kind: str, dataset: str | int | None) -> Any:
    tables = _need("astropy.table")
    if kind == "fits":
        fits = _need("astropy.io.fits")
        with fits.open(path, memmap=False) as hdus:
            kinds = (fits.BinTableHDU, fits.TableHDU)
            found = [i for i, hdu in enumerate(hdus) if isinstance(hdu, kinds)]
            if not found:
                raise CatalogError(f"{path.name} holds no table")
            if dataset is None and len(found) > 1:
                listed = ", ".join(f"{i} {hdus[i].name}".strip() for i in found)
                raise CatalogError(f"{path.name} holds several tables: choose dataset= of {listed}")
            try:
                hdu = hdus[found[0] if dataset is None else dataset]
            except (KeyError, IndexError):
                raise CatalogError(f"{path.name} has no HDU {dataset!r}") from None
            return tables.Table.read(hdu)
    if kind == "votable":
        options = {} if dataset is None else {"table_id": dataset}
        # names: the identifiers of XML turn 2MASS_J into _2MASS_J
        return tables.Table.read(path, format="votable", use_names_over_ids=True, **options)
    if kind == "ecsv":
        return tables.Table.read(path, format="ascii.ecsv")
    missing = [(text, "0") for text in _MISSING_TEXT]
    if kind == "ascii":
        return tables.Table.read(path, format="ascii", fill_values=missing)
    return tables.Table.read(
        path, format=f"ascii.{kind}", guess=False, fill_values=missing, encoding="utf-8-sig"
    )


def _load_hdf5(path: Path, dataset: str | int | None) -> dict[str, Column]:
    with h5py.File(path, "r") as file:
        candidates = _hdf5_tables(file)
        if dataset is None:
            if len(candidates) != 1:
                listed = ", ".join(repr(name) for name in candidates) or "none"
                raise CatalogError(
                    f"{path.name} holds {len(candidates)} tables: choose dataset= of {listed}"
                )
            dataset = candidates[0]
        name = str(dataset).strip("/") or "/"
        node: Any = file.get(name)
        if node is None:
            listed = ", ".join(repr(name) for name in candidates) or "none"
            raise CatalogError(f"{path.name} has no dataset {dataset!r}: its tables are {listed}")
        if isinstance(node, h5py.Group):
            units = {key: _text(_unit_attribute(node[key])) for key in _vectors_of(node)}
            arrays: dict[str, Any] = {key: node[key] for key in units}
            return {key: Column(arrays[key][()], None, unit) for key, unit in units.items()}
        if node.dtype.names is None:
            raise CatalogError(f"{path.name}: dataset {dataset!r} is an array, not a table")
        rows, units = node[()], _astropy_units(file, name)
        return {key: Column(rows[key], None, units.get(key)) for key in rows.dtype.names}


def _hdf5_tables(file: h5py.File) -> list[str]:
    """Compound datasets, and groups of at least two arrays of one length."""
    found = ["/"] if len(_vectors_of(file)) > 1 else []

    def look(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            if node.dtype.names is not None and node.ndim == 1:
                found.append(name)
        elif len(_vectors_of(node)) > 1:
            found.append(name)

    file.visititems(look)
    return found


def _vectors_of(group: Any) -> list[str]:
    """The arrays of a group, if all are as long as the first."""
    arrays = [key for key, node in group.items() if isinstance(node, h5py.Dataset)]
    arrays = [key for key in arrays if not key.endswith(_META)]
    arrays = [key for key in arrays if group[key].ndim in (1, 2) and group[key].dtype.names is None]
    return arrays if len({group[key].shape[0] for key in arrays}) == 1 else []


def _unit_attribute(node: Any) -> Any:
    return node.attrs.get("unit", node.attrs.get("units"))


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text.strip() or None


def _astropy_units(file: Any, name: str) -> dict[str, str]:
    """Units written by `Table.write(..., serialize_meta=True)`."""
    if name + _META not in file:
        return {}
    lines = [line.decode() for line in file[name + _META][()]]
    header = _need("astropy.table.meta").get_header_from_yaml(lines)
    return _header_units(header)


def _header_units(header: Mapping[str, Any]) -> dict[str, str]:
    columns = [column for column in header["datatype"] if column.get("unit") is not None]
    return {column["name"]: str(column["unit"]) for column in columns}


def _from_memory(table: Any) -> dict[str, Column]:
    if hasattr(table, "colnames"):  # astropy
        columns: dict[str, Column] = {}
        for name in table.colnames:
            if hasattr(table[name], "galactic"):  # a SkyCoord
                sky = table[name].galactic
                columns.setdefault("l", Column(np.asarray(sky.l.deg), None, "deg"))
                columns.setdefault("b", Column(np.asarray(sky.b.deg), None, "deg"))
            elif hasattr(table[name], "dtype"):
                columns[name] = _column(table[name])
        return columns
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        return {str(name): _pandas_column(table[name]) for name in table.columns}
    if hasattr(table, "column_names") and hasattr(table, "schema"):
        return _from_arrow(table)
    if isinstance(table, Mapping):
        return {str(name): _column(values) for name, values in table.items()}
    if isinstance(table, np.ndarray) and table.dtype.names is not None:
        return {name: _column(table[name]) for name in table.dtype.names}
    raise CatalogError(
        f"a {type(table).__name__} is no table: give a path, an astropy Table, a DataFrame, a "
        "mapping of arrays or a structured array"
    )


def _column(values: Any) -> Column:
    """An array, a masked array, an astropy Column or a Quantity, as plain values."""
    unit = _text(getattr(values, "unit", None))
    missing = getattr(values, "mask", None)
    values = getattr(values, "unmasked", values)
    if unit is not None and hasattr(values, "value"):
        values = values.value
    plain = np.atleast_1d(np.ma.getdata(values))
    plain = np.asarray(plain).astype(plain.dtype.newbyteorder("="), copy=False)
    if missing is not None:
        missing = np.broadcast_to(np.asarray(missing, bool), plain.shape)
    return Column(plain, missing if missing is not None and np.any(missing) else None, unit)


def _pandas_column(series: Any) -> Column:
    missing = np.asarray(series.isna(), bool)
    unit = _text(getattr(series, "attrs", {}).get("unit"))
    if series.dtype.kind in "iu" and np.any(missing):  # nullable integers keep every digit
        return Column(series.fillna(0).to_numpy(dtype=series.dtype.numpy_dtype), missing, unit)
    if series.dtype.kind in "iuf":
        values = series.to_numpy(dtype=f"{series.dtype.kind}8", na_value=np.nan)
        return Column(values, missing if np.any(missing) else None, unit)
    return Column(series.to_numpy(dtype=object), missing if np.any(missing) else None, unit)


def _from_arrow(table: Any) -> dict[str, Column]:
    meta = table.schema.metadata or {}
    units: dict[str, str] = {}
    if b"table_meta_yaml" in meta:  # written by astropy
        lines = meta[b"table_meta_yaml"].decode().split("\n")
        units = _header_units(_need("astropy.table.meta").get_header_from_yaml(lines))
    columns = {}
    for field, chunks in zip(table.schema, table.columns):
        unit = units.get(field.name) or _text((field.metadata or {}).get(b"unit"))
        missing = np.asarray(chunks.is_null()) if chunks.null_count else None
        kind = np.dtype(field.type.to_pandas_dtype()).kind
        if missing is not None and kind in "iu":
            chunks = chunks.fill_null(0)  # not by way of floating point: ids keep every digit
        values = chunks.to_numpy()
        if kind == "O" and len(values) and isinstance(values[0], np.ndarray):
            values = np.stack(list(values))  # lists of one length are vectors
        columns[field.name] = Column(values, missing, unit)
    return columns
