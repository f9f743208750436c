"""Old import path of brutus' analysis; see `brutax.compat.brutus`."""

from brutax.compat.brutus import BruteForce as BruteForce
from brutax.compat.brutus import apply_isochrone_mixture_model as apply_isochrone_mixture_model
from brutax.compat.brutus import (
    compute_isochrone_cluster_loglike as compute_isochrone_cluster_loglike,
)
from brutax.compat.brutus import (
    compute_isochrone_outlier_loglike as compute_isochrone_outlier_loglike,
)
from brutax.compat.brutus import (
    generate_isochrone_population_grid as generate_isochrone_population_grid,
)
from brutax.compat.brutus import isochrone_population_loglike as isochrone_population_loglike
from brutax.compat.brutus import marginalize_isochrone_grid as marginalize_isochrone_grid
from brutax.dust import kernel_gauss as kernel_gauss
from brutax.dust import kernel_lorentz as kernel_lorentz
from brutax.dust import kernel_tophat as kernel_tophat
from brutax.dust import los_clouds_loglike_samples as los_clouds_loglike_samples
from brutax.dust import los_clouds_priortransform as los_clouds_priortransform
from brutax.zeropoints import PhotometricOffsetsConfig as PhotometricOffsetsConfig
from brutax.zeropoints import photometric_offsets as photometric_offsets
