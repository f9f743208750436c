"""From a table of stars to a catalogue: recognises columns and converts units."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from brutax.catalog.catalogue import Catalog, CatalogError, make_catalog, per_band
from brutax.catalog.columns import (
    Match,
    Names,
    check_map,
    find_photometry,
    find_source_id,
    find_vectors,
    looked_for,
    nearest,
    resolve_bands,
)
from brutax.catalog.convert import Source, read_coords, read_parallax, read_photometry
from brutax.catalog.surveys import DEFAULT_BANDS
from brutax.catalog.tables import load_columns


def read_stars(
    table: Any,
    bands: str | Sequence[str] | None = None,
    *,
    map: Any = None,  # Mapping[str, str | None]
    units: str | Mapping[str, str] | None = None,
    dataset: str | int | None = None,
    source_id: str | None = None,
    error_floor: Any = 0.0,
    offsets: Any = None,
    require_bands: Collection[str] = (),
    vector_bands: str | Sequence[str] | None = None,
    band_system: Mapping[str, str] | None = None,
) -> Catalog:
    """Reads stars from a file or a table in memory.

        stars = brutax.read_stars("stars.csv", grid.bands, error_floor=0.02)
        stars = brutax.read_stars(table, map={"PS_g": "gmag", "PS_g_err": "e_gmag"}, units="ABmag")
        stars.notes  # every choice that was made

    `bands` are the names of the grid's bands (by default, all that are known). Recognised are
    columns of these names, with any usual name of an error (`PS_g_err`, `e_PS_g`, ...), and the
    names of Gaia, Pan-STARRS, SDSS, 2MASS and WISE archives; `require_bands` must be there.
    Columns with other names are named by `map`, from ours (a band, `<band>_err`, `parallax`,
    `parallax_err`, `l`, `b`, `ra`, `dec`, `source_id`) to the column's; None leaves one out.

    `units` is the unit of the photometry ("mag", "maggies", "Jy", ...), or a mapping from our
    names, column names, "photometry" or "coords" to units; it takes precedence over the units of
    the table. Magnitudes are in the native system of each survey, which is the grid's. Fluxes in Jy
    are converted for AB bands; `band_system` maps bands to "AB" or "Vega" where that is not
    known. What is not given is inferred where it is unambiguous; `notes` list every choice.

    `source_id` names the column of identifiers; "row" numbers the rows. `dataset` chooses a
    table in a file. Vector columns `mag`, `err` (or `flux`, ...) hold `vector_bands` (default
    `bands`) in this order. `error_floor` [mag] is added in quadrature, `offsets` multiply fluxes
    and their errors: numbers, mappings of bands, or sequences in the order of `bands`.

    Raises `CatalogError` for a table in which photometry, units or identifiers are missing or
    ambiguous; the message names the argument that decides. Single bad rows get a flag instead.
    """
    wanted = DEFAULT_BANDS if bands is None else _as_names(bands)
    wanted = resolve_bands(wanted, wanted)
    required = resolve_bands(_as_names(require_bands), wanted)
    order = None if vector_bands is None else _as_names(vector_bands)
    order = order and resolve_bands(order, order)
    columns, name = load_columns(table, dataset)
    names, said = Names(columns), []
    check_map(map or {}, wanted, names)
    source = Source(columns, name, names, map or {}, _unit_map(units, wanted, names), said)

    matches = _find(source, wanted, order)
    lacking = [band for band in required if band not in {match.band for match in matches}]
    if lacking:
        raise CatalogError(
            f"{name} has no photometry of {', '.join(lacking)}: near it are columns "
            f"{names.near(lacking[0])}; name the column in map="
        )
    found = tuple(match.band for match in matches)
    flux, err = read_photometry(source, matches, band_system)
    parallax, parallax_err = read_parallax(source)
    return make_catalog(
        flux,
        err,
        found,
        parallax=parallax,
        parallax_err=parallax_err,
        coords=read_coords(source),
        source_id=_identifiers(source, source_id),
        error_floor=_some_of(error_floor, wanted, found, "error_floor", 0.0),
        phot_offsets=_some_of(offsets, wanted, found, "offsets", 1.0),
        notes=said,
    )


def _as_names(bands: str | Collection[str]) -> tuple[str, ...]:
    return (bands,) if isinstance(bands, str) else tuple(str(band) for band in bands)


def _some_of(
    value: Any, bands: Sequence[str], found: Sequence[str], name: str, default: float
) -> np.ndarray:
    numbers = dict(zip(bands, per_band(value, bands, name, default)))
    return np.array([numbers[band] for band in found])


def _unit_map(
    units: str | Mapping[str, str] | None, bands: Sequence[str], names: Names
) -> Mapping[str, str]:
    if units is None or isinstance(units, str):
        return {} if units is None else {"photometry": units}
    keys = [*bands, *(f"{band}_err" for band in bands), "photometry", "coords"]
    keys += ["parallax", "parallax_err", "l", "b", "ra", "dec", *names.all]
    for key in units:
        if key not in keys:
            raise CatalogError(f"units has the key {key!r}: near it are {nearest(key, keys)}")
    return {key: str(unit) for key, unit in units.items()}


def _find(
    source: Source,
    bands: Sequence[str],
    vector_bands: Sequence[str] | None,
) -> list[Match]:
    """The photometry of scalar columns, or else of a vector column."""
    matches: list[Match] = []
    if vector_bands is None:
        matches = find_photometry(source.names, bands, source.map, source.said)
    vectors = find_vectors(source.names, source.map) if not matches else None
    if vectors is not None and source.columns[vectors[0]].values.ndim == 2:
        matches = _vector_matches(source, vectors, bands, vector_bands)
    if not matches and vector_bands is not None:  # the table has no vectors
        matches = find_photometry(source.names, bands, source.map, source.said)
    if not matches:
        present = ", ".join(source.names.all[:30]) + (", ..." if len(source.columns) > 30 else "")
        raise CatalogError(
            f"no photometry recognised in {source.name}: looked for {looked_for(bands)}; its "
            f"columns are {present}; name them with map={{'{bands[0]}': column, ...}}"
        )
    return matches


def _vector_matches(
    source: Source,
    vectors: tuple[str, str],
    bands: Sequence[str],
    vector_bands: Sequence[str] | None,
) -> list[Match]:
    value, error = vectors
    order = tuple(vector_bands) if vector_bands is not None else tuple(bands)
    shapes = [source.columns[column].values.shape for column in vectors]
    if shapes[0] != shapes[1] or shapes[0][1] != len(order):
        raise CatalogError(
            f"vector columns {value} {shapes[0][1:]} and {error} {shapes[1][1:]} for "
            f"{len(order)} bands: name the bands of their elements, in order, with vector_bands="
        )
    source.said.append(f"elements of column {value} are {', '.join(order)}")
    outside = [band for band in order if band not in bands]
    if outside:
        source.said.append(f"not in the grid: {', '.join(outside)}")
    is_mag = "mag" in value.lower()
    found = {
        band: Match(band, value, (error,), magnitude=is_mag, element=i)
        for i, band in enumerate(order)
        if source.map.get(band, band) is not None
    }
    return [found[band] for band in bands if band in found]


def _identifiers(source: Source, column: str | None) -> np.ndarray | None:
    """The identifiers as the table has them, or None for row numbers."""
    if column is None:
        mapped = "source_id" in source.map
        column = source.map["source_id"] if mapped else find_source_id(source.names)
        if column is None:
            source.said.append("source_id: row numbers, no column of identifiers")
            return None
    elif column == "row" and "row" not in source.names.all:
        source.said.append("source_id: row numbers, as asked")
        return None
    elif source.names.find(column) is None:
        raise CatalogError(
            f"source_id names column {column!r}, which the table lacks: near it are "
            f"{source.names.near(column)}"
        )
    column = source.names.find(column) or column
    source.said.append(f"source_id from {column}")
    values, missing, _ = source.columns[column]
    if missing is not None:
        raise CatalogError(
            f"column {column} lacks {int(np.sum(missing))} identifiers: use source_id='row'"
        )
    return _whole_numbers(values)


def _whole_numbers(values: np.ndarray) -> np.ndarray:
    """Text that spells 64-bit integers, as read from some files, as integers."""
    if values.dtype.kind not in "US" or not values.size:
        return values
    text = np.char.strip(values.astype(str))
    if not all(one.isdecimal() and (one == "0" or one[0] != "0") for one in text):
        return values
    numbers = [int(one) for one in text]
    largest = max(numbers)
    return (
        np.array(numbers, np.int64 if largest < 2**63 else np.uint64) if largest < 2**64 else values
    )
