"""`brutax.fit`: a table of stars in, a table of posteriors out."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from brutax.catalog import Catalog, FitResult, read_stars, resolve_bands
from brutax.fitting.options import Priors
from brutax.fitting.prepare import ready_models, star_priors
from brutax.fitting.rounds import Options, Runner
from brutax.fitting.write import Output, Progress, describe, write_out
from brutax.models import StarGrid, available_bands, default_grid, load_bolometric
from brutax.priors import AbstractPrior


def open_grid(grid: StarGrid | str | os.PathLike, bands: Sequence[str] | None = None) -> StarGrid:
    """A grid as it is, or read from a file; of the `bands`, if given.

    Raises `GridError` for a file that cannot be read, `CatalogError` for a band it lacks.
    """
    if isinstance(grid, StarGrid):
        return grid if bands is None else grid.select(bands=resolve_bands(bands, grid.bands))
    return StarGrid.read(grid, bands=bands)


def fit(
    table: Any,
    grid: StarGrid | str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    *,
    bands: Sequence[str] | None = None,
    map: Mapping[str, str | None] | None = None,
    units: str | Mapping[str, str] | None = None,
    dataset: str | None = None,
    source_id: Any = None,
    error_floor: float | Mapping[str, float] = 0.0,
    phot_offsets: Any = None,
    n_draws: int = 250,
    seed: int = 0,
    method: str = "auto",
    n_samples: int = 512,
    batch_size: int | None = None,
    lnprior: Any = None,
    apply_agewt: bool = True,
    apply_grad: bool = True,
    avlim: Sequence[float] = (0.0, 20.0),
    av_gauss: Sequence[float] | None = None,
    rvlim: Sequence[float] = (1.0, 8.0),
    rv_gauss: Sequence[float] | None = (3.32, 0.18),
    lngalprior: Callable | AbstractPrior | None = None,
    lndustprior: Callable | None = None,
    dustfile: Any = None,
    dust_floor: float = 0.0,
    save_draws: bool = True,
    draw_dtype: str = "float32",
    overwrite: bool = False,
    verbose: bool = True,
    progress: Progress | None = None,
) -> FitResult:
    """Posteriors of distance, A_V, R_V, mass, age and metallicity for a table of stars.

    `table`: a file (CSV, ECSV, FITS, VOTable, Parquet, HDF5), an astropy Table, a pandas
    DataFrame, a mapping of columns, or a `Catalog`; `read_stars` describes how columns and units
    are recognised, and `map`, `units`, `dataset`, `source_id`, `bands` (those that must be used),
    `error_floor` [mag, added in quadrature] and `phot_offsets`. `grid`: a `StarGrid`, a file, or
    None for `brutax.models.default_grid` in the bands of the table, built on first use.

    With `output` the posteriors are saved there as they are computed; a file of the same fit
    that is not finished is continued. The same `seed` and source ids give the same draws,
    whatever the order of the stars or the `batch_size`. The priors are those of `BruteForce.fit`.

    `n_draws` equal-weight draws are kept; with 0 only quantiles, moments, evidence, quality and
    flags. `draw_dtype="float16"` keeps draws of distance, A_V and R_V to one part in 2048, and
    logs how many stars are known so well that this adds more than 0.1 sigma of scatter.

    Raises `ValueError` (`CatalogError`, `GridError`, `StoreError`) for input that cannot be used;
    single bad rows get a flag instead.
    """
    opened = None if grid is None else open_grid(grid)
    known = available_bands() if opened is None else opened.bands
    if isinstance(table, Catalog):
        stars = table
    else:
        stars = read_stars(
            table,
            known,
            map=map,
            units=units,
            dataset=dataset,
            source_id=source_id,
            require_bands=() if bands is None else resolve_bands(bands, known),
            drop_bands=() if bands is None else _others(bands, known),
            error_floor=error_floor,
            phot_offsets=phot_offsets,
            vector_bands=bands,
            band_system=band_systems(opened),
        )
    if opened is None:
        opened = default_grid(stars.bands, verbose=verbose)
    result = fit_catalog(
        stars,
        opened,
        Options(
            seed=seed,
            method=method,
            n_draws=n_draws,
            n_samples=n_samples,
            batch_size=batch_size,
        ),
        Priors(
            lnprior=lnprior,
            apply_agewt=apply_agewt,
            apply_grad=apply_grad,
            avlim=avlim,
            av_gauss=av_gauss,
            rvlim=rvlim,
            rv_gauss=rv_gauss,
            lngalprior=lngalprior,
            lndustprior=lndustprior,
            dustfile=dustfile,
            dust_floor=dust_floor,
        ),
        Output(
            path=output,
            overwrite=overwrite,
            save_draws=save_draws,
            draw_dtype=draw_dtype,
            verbose=verbose,
            progress=progress,
        ),
    )
    return result if isinstance(result, FitResult) else FitResult.load(result)


def fit_catalog(
    catalog: Catalog,
    grid: StarGrid,
    options: Options | None = None,
    priors: Priors | None = None,
    output: Output | None = None,
) -> str | FitResult:
    """Fits a checked `Catalog` whose bands are among the grid's.

    Returns the path of the posterior file if `output` names one, else a `FitResult`.
    """
    options, priors, output = options or Options(), priors or Priors(), output or Output()
    if tuple(catalog.bands) != tuple(grid.bands):
        grid = grid.select(bands=catalog.bands)
    ready = ready_models(grid, priors)
    prior, per_star = star_priors(priors, catalog.coords, grid.label_table)
    runner = Runner(catalog, ready.models, ready.rows, prior, options, per_star)
    fingerprint = describe(catalog, grid, ready.log_prior, prior, per_star, options)
    return write_out(runner, grid, fingerprint, output)


def _others(bands: Sequence[str], available: Sequence[str]) -> tuple[str, ...]:
    wanted = set(resolve_bands(bands, available))
    return tuple(band for band in available if band not in wanted)


def band_systems(grid: StarGrid | None) -> dict[str, str] | None:
    """The magnitude system of every band of a grid, or of the models inside brutax."""
    if grid is None:
        models = load_bolometric()
        return dict(zip(models.bands, models.systems, strict=True))
    if grid.band_system is None:
        return None
    return dict(zip(grid.bands, grid.band_system, strict=True))
