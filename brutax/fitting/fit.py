"""`brutax.fit`: a table of stars in, a table of posteriors out."""

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, TypedDict, Unpack

from brutax.catalog import Catalog, FitResult, read_stars, resolve_bands
from brutax.fitting import batches
from brutax.fitting.prepare import ready_models
from brutax.fitting.prior import Priors, star_priors
from brutax.fitting.rounds import FitOptions, Job
from brutax.fitting.write import Output, Progress, open_sink, shown
from brutax.models import StarGrid, available_bands, default_grid, load_bolometric
from brutax.models.grid.star_grid import read_once


class Reading(TypedDict, total=False):
    """How a table of stars is read: the keywords of `brutax.read_stars`."""

    bands: str | Sequence[str] | None  # those that must be used; None: all that are recognised
    map: Mapping[str, str | None] | None  # columns of our names
    units: str | Mapping[str, str] | None
    dataset: str | int | None  # the table in a file of several
    source_id: str | None  # column of identifiers, or "row"
    error_floor: float | Sequence[float] | Mapping[str, float]  # [mag], in quadrature
    offsets: Sequence[float] | Mapping[str, float] | None  # factors of fluxes and their errors


# keywords of `fit` in version 0.1 and of brutus, and what to write now
_OUTPUT = "output=brutax.Output(path, {}=...)"
_BRUTUS = "brutax.BruteForce(grid).fit, which has brutus' keywords"
MOVED = {
    "avlim": "priors=brutax.Priors(av=(low, high))",
    "av_gauss": "priors=brutax.Priors(av=brutax.priors.TruncatedNormalAv(mean, std, low, high))",
    "rvlim": "priors=brutax.Priors(rv=(low, high))",
    "rv_gauss": "priors=brutax.Priors(rv=brutax.priors.TruncatedNormalRv(mean, std, low, high))",
    "lngalprior": "priors=brutax.Priors(stars=...)",
    "lndustprior": "priors=brutax.Priors(av=brutax.fitting.FunctionAv(...))",
    "dustfile": "priors=brutax.Priors(av=brutax.dust.Bayestar(file))",
    "dust_floor": "priors=brutax.Priors(av=brutax.fitting.DustMapAv(map, floor=...))",
    "lnprior": "priors=brutax.Priors(models=brutax.fitting.ModelPrior(log_mass=...))",
    "apply_agewt": "priors=brutax.Priors(models=brutax.fitting.ModelPrior(age_weight=...))",
    "apply_grad": "priors=brutax.Priors(models=brutax.fitting.ModelPrior(cell_size=...))",
    "n_draws": "draws=...",
    "Ndraws": "draws=...",
    "n_samples": "effort='high' (or weighted_draws of brutax.fitting.FitOptions)",
    "batch_size": "brutax.fitting.fit_catalog(stars, grid, FitOptions(batch_size=...))",
    "phot_offsets": "offsets=...",
    "overwrite": _OUTPUT.format("overwrite"),
    "save_draws": _OUTPUT.format("save_draws"),
    "draw_dtype": _OUTPUT.format("draw_dtype"),
    "save_file": "output=...",
    "verbose": "progress=False",
    "parallax": f"a column of the table, or {_BRUTUS}",
    "data_coords": f"columns of the table, or {_BRUTUS}",
}


def fit(
    stars: Any,
    grid: StarGrid | str | os.PathLike | None = None,
    *,
    priors: Priors | None = None,
    output: str | os.PathLike | Output | None = None,
    draws: int = 250,
    method: str = "auto",
    effort: str = "normal",
    seed: int = 0,
    progress: bool | Progress = True,
    **reading: Unpack[Reading],
) -> FitResult:
    """Posteriors of distance, A_V, R_V, mass, age and metallicity for a table of stars.

        result = brutax.fit("stars.csv")
        result = brutax.fit("stars.fits", output="posterior.h5", error_floor=0.02)
        result = brutax.fit(stars, "grid_mist_v9.h5", priors=brutax.Priors(av=(0, 3)))

    `stars`: a file (CSV, ECSV, FITS, VOTable, Parquet, HDF5), an astropy Table, a pandas
    DataFrame, a mapping of columns, or what `brutax.read_stars` returned. `grid`: a `StarGrid`, a
    file, or None for `brutax.models.default_grid` in the bands of the table, built on first use.
    `priors`: see `brutax.Priors`, the default is `brutax.Priors()`.

    `output`: an HDF5 file to which posteriors are saved as they are computed (a file of the same
    fit that is not finished is continued), or an `Output` that says more; None keeps them in
    memory. `draws` equal-weight draws are kept per star; with 0 only quantiles, moments, evidence,
    quality and flags.

    `method`: "auto" and "nodes" give the posterior on the models of the grid, "reference" the same
    by quadrature of every model that matters. `effort`: "low" makes one round of draws, "normal"
    repeats the stars for which that is too little (those that no model fits, flagged POOR_FIT, once
    and with little work), "high" makes four times as many and repeats all. The same `seed`
    and identifiers give the same draws, whatever the order of the stars or the machine's memory.
    `progress`: True for a bar, False, or a function (see `Output`).

    `reading`: keywords of `brutax.read_stars` (`bands`, `map`, `units`, `dataset`, `source_id`,
    `error_floor`, `offsets`).

    Raises `TypeError` for unknown keywords and `ValueError` (`CatalogError`, `GridError`,
    `StoreError`) for input that cannot be used; single bad rows get a flag instead.
    """
    check_keywords("fit", reading, Reading.__annotations__)
    opened = None if grid is None else open_grid(grid)
    if isinstance(stars, Catalog):
        if reading:
            raise TypeError(
                f"{', '.join(reading)}: these stars have been read already; give it to read_stars"
            )
        catalog = stars
    else:
        catalog = _read(stars, opened, **reading)
    if opened is None:
        opened = default_grid(catalog.bands, verbose=progress is not False)
    options = FitOptions(seed=seed, method=method, effort=effort, draws=draws)
    target = output if isinstance(output, Output) else Output(path=output)
    if callable(progress):
        target = replace(target, progress=progress)
    elif not progress:
        target = replace(target, verbose=False)
    result = fit_catalog(catalog, opened, options, priors, target)
    return result if isinstance(result, FitResult) else FitResult.load(result)


def fit_catalog(
    catalog: Catalog,
    grid: StarGrid,
    options: FitOptions | None = None,
    priors: Priors | None = None,
    output: Output | None = None,
) -> str | FitResult:
    """Fits a checked `Catalog` whose bands are among the grid's: what all doors call.

    Returns the path of the posterior file if `output` names one, else a `FitResult`. Raises
    `ValueError` for priors that leave no model possible, `StoreError` for a file that cannot be
    made or holds another fit.
    """
    options, priors, output = options or FitOptions(), priors or Priors(), output or Output()
    if tuple(catalog.bands) != tuple(grid.bands):
        grid = grid.select(bands=catalog.bands)
    ready = ready_models(grid, priors.models)
    prior, per_star = star_priors(priors, catalog.coords, grid.label_table)
    job = Job.make(catalog, ready.models, ready.rows, prior, options, per_star)
    with open_sink(job, grid, ready.digest, output) as sink:
        todo, total = sink.todo, len(catalog)
        with closing(batches.run(job, todo, sink.write)) as counts:  # interrupted, it writes
            for _ in shown(counts, total, total - todo.size, output):
                pass
    return sink.result()


def open_grid(grid: StarGrid | str | os.PathLike, bands: Sequence[str] | None = None) -> StarGrid:
    """A grid as it is, or read from a file; of the `bands`, if given.

    Raises `GridError` for a file that cannot be read, `CatalogError` for a band it lacks.
    """
    if isinstance(grid, StarGrid):
        return grid if bands is None else grid.select(bands=resolve_bands(bands, grid.bands))
    if not os.path.isfile(grid):
        return StarGrid.read(grid, bands=bands)  # says what is wrong
    return read_once(grid, bands)


def band_systems(grid: StarGrid | None) -> dict[str, str] | None:
    """The magnitude system of every band of a grid, or of the models inside brutax."""
    if grid is None:
        models = load_bolometric()
        return dict(zip(models.bands, models.systems, strict=True))
    if grid.band_system is None:
        return None
    return dict(zip(grid.bands, grid.band_system, strict=True))


def check_keywords(door: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raises `TypeError` for keywords that a door does not have; says where they went."""
    known = tuple(known)
    for name in given:
        if name in known:
            continue
        if name in MOVED:
            raise TypeError(f"{door}() has no keyword {name!r}: write {MOVED[name]}")
        near = get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise TypeError(f"{door}() has no keyword {name!r}; {hint}")


def _read(table: Any, grid: StarGrid | None, **reading: Unpack[Reading]) -> Catalog:
    """The stars of a table in the bands of a grid, or of the models inside brutax."""
    known = available_bands() if grid is None else grid.bands
    bands = reading.get("bands")
    wanted = () if bands is None else resolve_bands(bands, known)
    left_out = {} if bands is None else {band: None for band in known if band not in set(wanted)}
    return read_stars(
        table,
        known,
        map=left_out | dict(reading.get("map") or {}) or None,
        units=reading.get("units"),
        dataset=reading.get("dataset"),
        source_id=reading.get("source_id"),
        require_bands=wanted,
        error_floor=reading.get("error_floor", 0.0),
        offsets=reading.get("offsets"),
        vector_bands=bands,
        band_system=band_systems(grid),
    )
