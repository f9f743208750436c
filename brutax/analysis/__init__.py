"""Inference for users: single stars, catalogues, clusters."""

from typing import Any

from brutax.analysis.api import band_systems as band_systems
from brutax.analysis.api import fit as fit
from brutax.analysis.api import open_grid as open_grid
from brutax.analysis.coeval import isochrone_population_loglike as isochrone_population_loglike
from brutax.analysis.individual import BruteForce as BruteForce
from brutax.analysis.mock import mock_catalog as mock_catalog
from brutax.analysis.offsets import PhotometricOffsetsConfig as PhotometricOffsetsConfig
from brutax.analysis.offsets import photometric_offsets as photometric_offsets
from brutax.analysis.options import Priors as Priors
from brutax.analysis.output import Output as Output
from brutax.analysis.output import posterior_path as posterior_path
from brutax.analysis.output import progress_bar as progress_bar
from brutax.analysis.populations import (
    apply_isochrone_mixture_model as apply_isochrone_mixture_model,
)
from brutax.analysis.populations import (
    compute_isochrone_cluster_loglike as compute_isochrone_cluster_loglike,
)
from brutax.analysis.populations import (
    compute_isochrone_outlier_loglike as compute_isochrone_outlier_loglike,
)
from brutax.analysis.populations import (
    generate_isochrone_population_grid as generate_isochrone_population_grid,
)
from brutax.analysis.populations import (
    marginalize_isochrone_grid as marginalize_isochrone_grid,
)
from brutax.analysis.run import Options as Options
from brutax.analysis.zeropoints import Calibration as Calibration
from brutax.analysis.zeropoints import ZeroPoints as ZeroPoints
from brutax.analysis.zeropoints import calibrate as calibrate
from brutax.analysis.zeropoints import measure_offsets as measure_offsets
from brutax.dust import kernel_gauss as kernel_gauss
from brutax.dust import kernel_lorentz as kernel_lorentz
from brutax.dust import kernel_tophat as kernel_tophat
from brutax.dust import los_clouds_loglike_samples as los_clouds_loglike_samples
from brutax.dust import los_clouds_priortransform as los_clouds_priortransform


def __getattr__(name: str) -> Any:
    # numpyro is not loaded before it is wanted
    if name == "cluster_numpyro":
        from brutax.analysis.cluster import cluster_numpyro

        return cluster_numpyro
    if name == "star_problem":
        from brutax.analysis.star import star_problem

        return star_problem
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
