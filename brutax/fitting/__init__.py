"""From a table of stars to a table of posteriors: the conductor of a fit."""

from brutax.fitting.fit import band_systems as band_systems
from brutax.fitting.fit import fit as fit
from brutax.fitting.fit import fit_catalog as fit_catalog
from brutax.fitting.fit import open_grid as open_grid
from brutax.fitting.functions import FunctionAv as FunctionAv
from brutax.fitting.functions import FunctionDistance as FunctionDistance
from brutax.fitting.mock import mock_catalog as mock_catalog
from brutax.fitting.prior import DustMapAv as DustMapAv
from brutax.fitting.prior import ModelPrior as ModelPrior
from brutax.fitting.prior import Priors as Priors
from brutax.fitting.prior import WithoutLabels as WithoutLabels
from brutax.fitting.rounds import FitOptions as FitOptions
from brutax.fitting.write import Output as Output
from brutax.fitting.write import posterior_path as posterior_path
from brutax.fitting.write import progress_bar as progress_bar
