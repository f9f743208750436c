"""One star in continuous parameters, on evolutionary tracks."""

from brutax.star.density import PointDensity as PointDensity
from brutax.star.density import density as density
from brutax.star.density import prior as prior
from brutax.star.problem import fit as fit
from brutax.star.problem import log_likelihood as log_likelihood
from brutax.star.problem import problem as problem
