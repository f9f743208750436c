"""Old import path of brutus."""

from brutax.analysis import apply_isochrone_mixture_model as apply_isochrone_mixture_model
from brutax.analysis import (
    compute_isochrone_cluster_loglike as compute_isochrone_cluster_loglike,
)
from brutax.analysis import (
    compute_isochrone_outlier_loglike as compute_isochrone_outlier_loglike,
)
from brutax.analysis import (
    generate_isochrone_population_grid as generate_isochrone_population_grid,
)
from brutax.analysis import isochrone_population_loglike as isochrone_population_loglike
from brutax.analysis import marginalize_isochrone_grid as marginalize_isochrone_grid
