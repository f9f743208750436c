"""Which column of a table holds which quantity."""

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from brutax.catalog.catalogue import CatalogError
from brutax.catalog.surveys import (
    ALIASES,
    BAND_NAME,
    BARE,
    EQUATORIAL,
    GAIA,
    GALACTIC,
    PARALLAX,
    SOURCE_ID,
    STAR_KEYS,
    VECTOR_ERRORS,
    VECTORS,
    Alias,
    alias_of,
)

ColumnMap = Mapping[str, str | None]  # our name -> column; None leaves it out


class Match(NamedTuple):
    """Where the photometry of one band is."""

    band: str
    value: str
    error: tuple[str, ...]  # one column; two (flux, its error) if `how` is "ratio"
    how: str = "error"  # "error", "over_error" (flux / error) or "ratio"
    magnitude: bool = False  # the name says that these are magnitudes
    element: int | None = None  # of vector columns


class Names:
    """The column names of a table: found as they are or, if only one fits, in any case."""

    def __init__(self, names: Iterable[str]):
        self.all = tuple(names)
        self._lower: dict[str, list[str]] = {}
        for name in self.all:
            self._lower.setdefault(name.lower(), []).append(name)

    def find(self, name: str) -> str | None:
        if name in self.all:
            return name
        same = self._lower.get(name.lower(), [])
        return same[0] if len(same) == 1 else None

    def find_all(self, names: Iterable[str]) -> list[str]:
        """The different columns that go by any of `names`, in order."""
        found = [self.find(name) for name in names]
        return list(dict.fromkeys(name for name in found if name is not None))

    def near(self, name: str) -> str:
        return nearest(name, self.all)


def nearest(name: str, among: Collection[str]) -> str:
    """The names most similar to `name`, as text for a message."""
    lower = {one.lower(): one for one in among}
    close = difflib.get_close_matches(name.lower(), lower, n=4, cutoff=0.5)
    some = [lower[one] for one in close] or list(among)[:20]
    return ", ".join(some) + ("" if close or len(among) <= 20 else ", ...")


def resolve_bands(requested: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    """The requested bands as the grid spells them, found in any case.

    Raises `CatalogError` for a band that is not `available`, with the nearest ones, or is listed
    twice.

        resolve_bands(["ps_g", "2mass_j"], ["PS_g", "2MASS_J"])  # ("PS_g", "2MASS_J")
    """
    names, found = Names(available), []
    for band in (requested,) if isinstance(requested, str) else requested:
        one = names.find(str(band))
        if one is None:
            raise CatalogError(f"the grid has no band {band!r}: near it are {names.near(band)}")
        found.append(one)
    twice = sorted({band for band in found if found.count(band) > 1})
    if twice:
        raise CatalogError(f"listed more than once: band {', '.join(twice)}")
    return tuple(found)


def check_map(map: Any, bands: Sequence[str], names: Names) -> None:
    """Every key of `map` is a quantity, every value a column (or None: leave it out)."""
    if not isinstance(map, Mapping):
        raise CatalogError(f"map={map!r} is no mapping: use {{our name: column}}")
    keys = (*bands, *(f"{band}_err" for band in bands), *STAR_KEYS)
    for key, column in map.items():
        if key not in keys:
            raise CatalogError(
                f"map has the key {key!r}, expected is one like {nearest(key, keys)}"
            )
        if column is not None and column not in names.all:
            raise CatalogError(
                f"map sends {key} to column {column!r}, which the table lacks: near it are "
                f"{names.near(column)}"
            )


def find_photometry(
    names: Names,
    bands: Sequence[str],
    map: ColumnMap,
    said: list[str],
) -> list[Match]:
    """The columns of every band of `bands` that the table has, in the order of `bands`."""
    dropped = {key for key, column in map.items() if column is None}
    wanted = [band for band in bands if band not in dropped]
    matches = {band: _mapped(band, map, names) for band in wanted if band in map}
    taken = {match.value for match in matches.values()}
    for band in wanted:
        column = names.find(band) or names.find(f"_{band}")  # names that may not start with 2
        if band not in matches and column is not None and column not in taken:
            candidates = (*_error_names(column), *_error_names(band))
            error = _error_column(band, column, candidates, map, names)
            matches[band] = Match(band, column, (error,))
            taken.add(column)
    by_alias: dict[str, list[Match]] = {}
    unclear: dict[str, tuple[str, ...]] = {}
    errors = {error.lower() for name in names.all for error in _error_names(name)}
    extra = [name for name in names.all if BAND_NAME.fullmatch(name) and name not in taken]
    extra = [name for name in extra if name not in dropped and name.lower() not in errors]
    for column in names.all:
        alias = alias_of(column)
        if alias is None or column in taken:
            continue
        ours = [band for band in alias.bands if band in wanted]
        if not ours:
            extra += [] if dropped & set(alias.bands) else [column]
        elif any(band in matches for band in ours):
            said.append(f"column {column} not used: {_first(matches, ours)} comes from another")
        elif alias.ambiguous:
            unclear[column] = tuple(ours)
        else:
            match = _aliased(ours[0], column, alias, map, names)
            by_alias.setdefault(ours[0], []).append(match)
            if len(ours) > 1:
                said.append(f"column {column} could be {' or '.join(ours)}: read as {ours[0]}")
    _refuse_unclear({c: b for c, b in unclear.items() if not set(b) & set(by_alias)})
    for band, found in by_alias.items():
        if len(found) > 1:
            columns = ", ".join(match.value for match in found)
            raise CatalogError(
                f"several columns match {band}: {columns}; choose with "
                f"map={{'{band}': '{found[0].value}'}}"
            )
        matches[band] = found[0]
    _refuse_gaia_fluxes(names, wanted, matches)
    if extra:
        said.append(f"not in the grid: {', '.join(extra)}")
    bare = [name for name in BARE if name in names.all and name not in taken]
    if bare:
        said.append(f"columns {', '.join(bare)} not used: of which system? name them in map=")
    return [matches[band] for band in bands if band in matches]


def find_vectors(names: Names, map: ColumnMap) -> tuple[str, str] | None:
    """The columns that hold the photometry of all bands as vectors, and the errors."""
    value, error = map.get("photometry"), map.get("photometry_err")
    if value is None:
        found = names.find_all(VECTORS)
        if len(found) != 1:
            return None
        value = found[0]
    if error is not None:
        return value, error
    errors = names.find_all((*_error_names(value), *VECTOR_ERRORS))
    if len(errors) != 1:
        raise CatalogError(
            f"column {value} needs one column of errors, found {', '.join(errors) or 'none'}: "
            "name it with map={'photometry_err': ...}"
        )
    return value, errors[0]


def find_parallax(names: Names, map: ColumnMap) -> tuple[str | None, str | None]:
    """The columns of parallax and its error."""
    if "parallax" in map:
        value = map["parallax"]
    else:
        found = names.find_all(PARALLAX)
        if len(found) > 1:
            raise CatalogError(
                f"several columns match parallax: {', '.join(found)}; choose with "
                f"map={{'parallax': '{found[0]}'}}"
            )
        value = found[0] if found else None
    if value is None:
        return None, map.get("parallax_err")
    error = _error_column("parallax", value, _error_names(value), map, names)
    return value, error


def find_coords(names: Names, map: ColumnMap) -> tuple[str, str, bool] | None:
    """The columns of l, b (True) or ra, dec (False), or None."""
    for keys, galactic in ((("l", "b"), True), (("ra", "dec"), False)):
        given = [key for key in keys if map.get(key) is not None]
        if len(given) == 1:
            raise CatalogError(f"map names {given[0]} only: give both of {keys[0]}, {keys[1]}")
        if given:
            return map[keys[0]], map[keys[1]], galactic  # pyright: ignore
    for pairs, galactic in ((GALACTIC, True), (EQUATORIAL, False)):
        if map.get("l" if galactic else "ra", "") is None:
            continue
        for first, second in pairs:
            if first == "l":  # in upper case, B is a magnitude
                pair = [name if name in names.all else None for name in (first, second)]
            else:
                pair = [names.find(first), names.find(second)]
            if pair[0] is not None and pair[1] is not None:
                return pair[0], pair[1], galactic
    return None


def find_source_id(names: Names) -> str | None:
    """The column of identifiers, the most specific of those there."""
    found = names.find_all(SOURCE_ID)
    return found[0] if found else None


def looked_for(bands: Sequence[str]) -> str:
    """The column names that would have been recognised, as text for a message."""
    aliases = [name for name, alias in ALIASES.items() if set(alias.bands) & set(bands)]
    own = ", ".join(bands[:6]) + (", ..." if len(bands) > 6 else "")
    return f"{own} (each with an error, like {bands[0]}_err)" + (
        f" or survey names like {', '.join(aliases[:8])}" if aliases else ""
    )


def _error_names(name: str) -> tuple[str, ...]:
    ends = ("_err", "_error", "_sigma", "_unc", "_uncertainty", "_e", "err", "error", "_std")
    starts = ("e_", "err_", "error_", "sigma_", "sig_", "unc_", "sigma")
    return (*(name + end for end in ends), *(start + name for start in starts))


def _error_column(
    key: str, column: str, candidates: Sequence[str], map: ColumnMap, names: Names
) -> str:
    given = map.get(f"{key}_err")
    if given is not None:
        return given
    found = names.find_all(candidates)
    if len(found) == 1:
        return found[0]
    if not found:
        raise CatalogError(
            f"column {column} ({key}) has no error column (looked for {column}_err, "
            f"{column}_error, e_{column}, ...): name it with map={{'{key}_err': ...}}, or leave "
            f"{key} out with map={{'{key}': None}}"
        )
    raise CatalogError(
        f"several columns match the error of {key}: {', '.join(found)}; choose with "
        f"map={{'{key}_err': '{found[0]}'}}"
    )


def _mapped(band: str, map: ColumnMap, names: Names) -> Match:
    column = str(map[band])
    alias = alias_of(column)
    if alias is not None and map.get(f"{band}_err") is None:
        return _aliased(band, column, alias, map, names)
    error = _error_column(band, column, _error_names(column), map, names)
    return Match(band, column, (error,), magnitude=alias is not None)


def _aliased(band: str, column: str, alias: Alias, map: ColumnMap, names: Names) -> Match:
    given = map.get(f"{band}_err")
    known = [given] if given is not None else names.find_all(alias.errors)
    if known:
        return Match(band, column, (known[0],), magnitude=True)
    ratio = names.find_all(alias.over_error)
    if ratio:
        return Match(band, column, (ratio[0],), "over_error", True)
    for flux, error in alias.fluxes:
        pair = names.find(flux), names.find(error)
        if pair[0] is not None and pair[1] is not None:
            return Match(band, column, (pair[0], pair[1]), "ratio", True)
    candidates = (*alias.errors, *_error_names(column))
    return Match(
        band, column, (_error_column(band, column, candidates, map, names),), "error", True
    )


def _first(matches: Mapping[str, Match], bands: Sequence[str]) -> str:
    return next(band for band in bands if band in matches)


def _refuse_unclear(unclear: Mapping[str, tuple[str, ...]]) -> None:
    if not unclear:
        return
    listed = "; ".join(f"{column} ({' or '.join(b)})" for column, b in unclear.items())
    column, bands = next(iter(unclear.items()))
    raise CatalogError(
        f"these names are used by several surveys: {listed}; say which with "
        f"map={{'{bands[0]}': '{column}', ...}}, or leave one out with map={{'{bands[0]}': None}}"
    )


def _refuse_gaia_fluxes(names: Names, wanted: Sequence[str], matches: Mapping[str, Match]) -> None:
    for x, bands in GAIA.items():
        flux = names.find(f"phot_{x}_mean_flux")
        ours = [band for band in bands if band in wanted]
        if flux is not None and ours and not any(band in matches for band in ours):
            raise CatalogError(
                f"column {flux} is in electrons per second: add phot_{x}_mean_mag to the table, "
                f"or leave it out with map={{'{ours[0]}': None}}"
            )
