"""One star in continuous parameters, on evolutionary tracks."""

from brutax.star.problem import log_likelihood as log_likelihood
from brutax.star.problem import star_problem as star_problem
