"""BruteForce: the posterior of a star, or of a table of stars, over a grid of models."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from brutax.catalog import Catalog, CatalogError, FitResult, make_catalog
from brutax.compat.brutus import gridpost
from brutax.compat.brutus.gridpost import GridLikelihood, GridPosterior
from brutax.compat.brutus.keywords import (
    check_units,
    make_priors,
    note_knobs,
    seed_from,
    warn_of_extra,
)
from brutax.fitting import FitOptions, Output, Priors, fit_catalog
from brutax.models import StarGrid, get_seds
from brutax.priors import AbstractPrior

log = logging.getLogger("brutax")


class BruteForce:
    """Fits stars over every model of a grid.

    `star_grid` is a `StarGrid`; anything else raises `TypeError`. The names and meanings of
    methods and arguments follow brutus 1.2.0; `docs/differences.md` lists where results differ.
    """

    def __init__(self, star_grid: StarGrid, verbose: bool = True) -> None:
        if not isinstance(star_grid, StarGrid):
            raise TypeError(
                f"BruteForce needs a StarGrid, got {type(star_grid).__name__}; "
                "make one with StarGrid(models, labels) or StarGrid.read(path)"
            )
        self.star_grid = star_grid
        self.verbose = verbose

    @property
    def nmodels(self) -> int:
        """Number of models in the grid."""
        return self.star_grid.nmodels

    @property
    def nfilters(self) -> int:
        """Number of bands of the grid."""
        return self.star_grid.nfilters

    @property
    def models(self) -> np.ndarray:
        """Coefficients (model, band, 3): magnitude at 1 kpc, reddening, its R_V slope."""
        return self.star_grid.models

    @property
    def models_labels(self) -> np.ndarray:
        """All labels as one structured table."""
        return self.star_grid.labels

    @property
    def labels_mask(self) -> dict[str, bool]:
        """Which labels are axes of the grid (the others are predictions)."""
        return self.star_grid.labels_mask

    def __repr__(self) -> str:
        return f"BruteForce({self.star_grid!r})"

    def get_sed_grid(
        self, indices: Any = None, av: Any = None, rv: Any = None, return_flux: bool = False
    ) -> tuple[Any, Any, Any]:
        """Magnitudes (or fluxes [maggies]) at 1 kpc of the models, and their reddening vectors.

        `indices` selects models; `av` [mag] (default 0) and `rv` (default 3.3) are one number or
        one per model. Returns seds, rvecs, drvecs, each (model, band).
        """
        coeffs = self.models if indices is None else self.models[np.asarray(indices)]
        return get_seds(
            coeffs, av=av, rv=rv, return_flux=return_flux, return_rvec=True, return_drvec=True
        )

    def loglike_grid(
        self, data: Any, data_err: Any, data_mask: Any, **options: Any
    ) -> GridLikelihood:
        return gridpost.loglike_grid(self.star_grid, data, data_err, data_mask, **options)

    def logpost_grid(self, results: Any, **options: Any) -> GridPosterior:
        return gridpost.logpost_grid(self.star_grid, results, **options)

    loglike_grid.__doc__ = gridpost.loglike_grid.__doc__
    logpost_grid.__doc__ = gridpost.logpost_grid.__doc__

    def fit(
        self,
        data: Any,
        data_err: Any,
        data_mask: Any = None,
        data_labels: Any = None,
        save_file: str | os.PathLike | None = None,
        phot_offsets: Any = None,
        parallax: Any = None,
        parallax_err: Any = None,
        Nmc_prior: int = 50,
        avlim: Sequence[float] = (0.0, 20.0),
        av_gauss: Sequence[float] | None = None,
        rvlim: Sequence[float] = (1.0, 8.0),
        rv_gauss: Sequence[float] | None = (3.32, 0.18),
        lnprior: Any = None,
        wt_thresh: float | None = 1e-3,
        cdf_thresh: float | None = 2e-3,
        Ndraws: int = 250,
        apply_agewt: bool = True,
        apply_grad: bool = True,
        lngalprior: Callable | AbstractPrior | None = None,
        lndustprior: Callable | None = None,
        dustfile: Any = None,
        apply_dlabels: bool = True,
        data_coords: Any = None,
        logl_dim_prior: bool = False,
        ltol: float = 3e-2,
        ltol_subthresh: float = 1e-2,
        logl_initthresh: float | None = 5e-3,
        mag_max: float | None = None,
        merr_max: float | None = None,
        rstate: Any = None,
        save_dar_draws: bool = True,
        running_io: bool = True,
        mem_lim: float = 8000.0,
        max_models: int = 50000,
        precision_shrinkage: float = 0.0,
        subsample_mode: str = "representative",
        verbose: bool | None = None,
        R_solar: float = 8.2,
        Z_solar: float = 0.025,
        *,
        n_samples: int | None = None,
        units: str | None = None,
        error_floor: float = 0.0,
        seed: int = 0,
        method: str = "auto",
        batch_size: int | None = None,
        dust_floor: float = 0.0,
        draw_dtype: str = "float32",
        overwrite: bool = False,
        **extra: Any,
    ) -> str | FitResult:
        """The posterior of one star or of many.

        One star: `data`, `data_err` (band,); the result is a `FitResult` whose
        `["dist_samples"]` [kpc], `["av_samples"]` [mag], `["rv_samples"]`, `["mini_samples"]`, ...
        hold `n_samples` draws. Many stars: (star, band); with `save_file` everything goes to
        that HDF5 file as it is computed and its path (a string) is returned, without it a
        `FitResult` is. An existing unfinished `save_file` of the same fit is continued.

        Data
            `units`: "maggies" or "mag" (both in the native zero point of each band). Left out, it
            is inferred where the numbers allow only one reading, and logged. Bands where data or
            error are not finite, the error is not positive, or `data_mask` (bool or 0/1) is
            false are not used. Negative fluxes are data. `mag_max`, `merr_max` [mag] drop faint
            and noisy bands, if given. `phot_offsets` (band,) multiply fluxes and errors;
            `error_floor` [mag] is added in quadrature. `parallax`, `parallax_err` [mas], NaN
            where absent. `data_coords` Galactic (l, b) [deg]; stars without get a distance
            prior that knows no direction, and a flag. `data_labels` are stored, and serve as
            source ids where they are one column of distinct values (else row numbers do).

        Priors
            `lnprior` (model,) in place of the mass function; `apply_agewt`, `apply_grad` as in
            brutus. `avlim`, `rvlim` bounds; `av_gauss`, `rv_gauss` (mean, standard deviation) or
            None for flat. `lngalprior`: a `brutax.priors` object or a function
            `f(dists, coord, labels=...)`; `lndustprior`: `f(avs, dustmap, coord, distance=...)`.
            `dustfile`: a file of the Bayestar map, or any object with `query` (see
            `brutax.priors.dust_profile`); `dust_floor` [mag] is added to its standard
            deviations in quadrature. `apply_dlabels=False` hides [Fe/H] and age from
            the Galactic prior. `R_solar`, `Z_solar` [kpc] of the default Galactic prior.

        Running
            Keys come from (`seed`, source id); `rstate` (RandomState or Generator) may give the
            seed. `method`: "auto" (fast, with more effort where too few draws are
            effective), "fast", or "reference" (every model that matters refined).
            `Ndraws`/`n_samples` equal-weight draws are kept, with `Ndraws=0` summaries only;
            `draw_dtype` as in `brutax.fit`.

        `Nmc_prior`, `wt_thresh`, `cdf_thresh`, `ltol`, `ltol_subthresh`, `logl_initthresh`,
        `mem_lim`, `max_models`, `subsample_mode`, `running_io` set the approximations or the
        buffering of brutus. They are checked and have nothing to act on here: no model is cut,
        every optimum is converged, every row is saved at once. `precision_shrinkage` other
        than 0 is refused, since it would change the posterior. Other keywords are named in one
        warning.

        Raises `ValueError` (`CatalogError`, `StoreError`) for input that cannot be used, and
        `FileNotFoundError` for a map that is not there.
        """
        warn_of_extra("BruteForce.fit", extra)
        note_knobs(
            Nmc_prior=Nmc_prior,
            wt_thresh=wt_thresh,
            cdf_thresh=cdf_thresh,
            ltol=ltol,
            ltol_subthresh=ltol_subthresh,
            logl_initthresh=logl_initthresh,
            mem_lim=mem_lim,
            max_models=max_models,
            subsample_mode=subsample_mode,
            running_io=running_io,
            precision_shrinkage=precision_shrinkage,
        )
        catalog = self._catalog(
            data,
            data_err,
            data_mask,
            data_labels,
            units=units,
            parallax=parallax,
            parallax_err=parallax_err,
            coords=data_coords,
            error_floor=error_floor,
            phot_offsets=phot_offsets,
            mag_max=mag_max,
            merr_max=merr_max,
        )
        options = FitOptions(
            seed=seed_from(rstate, seed),
            method="auto" if method == "fast" else method,
            effort="low" if method == "fast" else "normal",
            draws=_draws(Ndraws, n_samples),
            batch_size=batch_size,
            dim_prior=bool(logl_dim_prior),
        )
        priors = make_priors(
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
            apply_dlabels=apply_dlabels,
            R_solar=R_solar,
            Z_solar=Z_solar,
        )
        output = Output(
            path=save_file,
            overwrite=overwrite,
            labels=data_labels,
            save_draws=save_dar_draws,
            draw_dtype=draw_dtype,
            single=np.ndim(data) == 1,
            verbose=self.verbose if verbose is None else verbose,
        )
        return self.fit_catalog(catalog, options, priors, output)

    def fit_catalog(
        self,
        catalog: Catalog,
        options: FitOptions | None = None,
        priors: Priors | None = None,
        output: Output | None = None,
    ) -> str | FitResult:
        """Fits a checked `Catalog` whose bands are among the grid's; see `fit`."""
        return fit_catalog(catalog, self.star_grid, options, priors, output)

    def _catalog(
        self, data: Any, err: Any, mask: Any, labels: Any, *, units: str | None, **options: Any
    ) -> Catalog:
        data, err = np.array(data, np.float64, ndmin=2), np.array(err, np.float64, ndmin=2)
        if data.ndim != 2 or data.shape[1] != self.nfilters:
            raise CatalogError(
                f"data has shape {data.shape}; the grid has {self.nfilters} bands "
                f"({', '.join(self.star_grid.bands)}), so (star, {self.nfilters}) is needed"
            )
        if mask is not None:
            mask = np.array(mask, ndmin=2)
        for name in ("parallax", "parallax_err"):
            if options[name] is not None:
                options[name] = np.array(options[name], np.float64, ndmin=1)
        if options["coords"] is not None:
            options["coords"] = np.array(options["coords"], np.float64, ndmin=2)
        return make_catalog(
            data,
            err,
            self.star_grid.bands,
            mask=mask,
            units=check_units(units, data),
            source_id=_ids(labels, len(data)),
            **options,
        )


def _draws(ndraws: int, n_samples: int | None) -> int:
    value, least = (ndraws, 0) if n_samples is None else (n_samples, 1)
    if int(value) != value or value < least:
        raise ValueError(
            f"the number of draws must be a whole number of at least {least}, got {value}"
        )
    return int(value)


def _ids(labels: Any, n_stars: int) -> np.ndarray | None:
    """Source ids from one column of distinct labels; None stands for row numbers."""
    if labels is None:
        return None
    labels = np.asarray(labels)
    if labels.shape[:1] != (n_stars,):
        raise CatalogError(
            f"data_labels has shape {labels.shape}; one row for each of {n_stars} stars needed"
        )
    flat = labels.reshape(n_stars, -1)
    plain = flat.shape[1] == 1 and flat.dtype.kind in "iuSU"
    if plain and np.unique(flat).size == n_stars:
        return flat[:, 0]
    log.info("data_labels are not distinct identifiers: random keys follow the row numbers")
    return None
