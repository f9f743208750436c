"""The names and call forms of brutus 1.2.0."""

from brutax.compat.brutus.bruteforce import BruteForce as BruteForce
from brutax.compat.brutus.coeval import (
    isochrone_population_loglike as isochrone_population_loglike,
)
from brutax.compat.brutus.populations import (
    apply_isochrone_mixture_model as apply_isochrone_mixture_model,
)
from brutax.compat.brutus.populations import (
    compute_isochrone_cluster_loglike as compute_isochrone_cluster_loglike,
)
from brutax.compat.brutus.populations import (
    compute_isochrone_outlier_loglike as compute_isochrone_outlier_loglike,
)
from brutax.compat.brutus.populations import (
    generate_isochrone_population_grid as generate_isochrone_population_grid,
)
from brutax.compat.brutus.populations import (
    marginalize_isochrone_grid as marginalize_isochrone_grid,
)
