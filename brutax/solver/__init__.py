"""How a star is fitted: score all models, draw some by score, refine those, weigh them exactly.

In the order of a fit: `tiles`, `scores` and `magnitude_scores`, `shortlist`, `optimum`, `gaussian`,
`importance`, `pipeline`; `quadrature` for the reference path, `density` for what is computed.
"""

from brutax.solver.density import Theta as Theta
from brutax.solver.density import log_target as log_target
from brutax.solver.gaussian import TruncatedGaussian as TruncatedGaussian
from brutax.solver.inputs import Models as Models
from brutax.solver.inputs import StarPrior as StarPrior
from brutax.solver.inputs import make_models as make_models
from brutax.solver.one_model import best_fit as best_fit
from brutax.solver.one_model import draw_weighted as draw_weighted
from brutax.solver.one_model import fisher_sar as fisher_sar
from brutax.solver.one_model import fit_gaussian as fit_gaussian
from brutax.solver.pipeline import QUANTILES as QUANTILES
from brutax.solver.pipeline import Draws as Draws
from brutax.solver.pipeline import Settings as Settings
from brutax.solver.pipeline import StarPosterior as StarPosterior
from brutax.solver.pipeline import count_survivors as count_survivors
from brutax.solver.pipeline import fit_stars as fit_stars
from brutax.solver.pipeline import model_log_weights as model_log_weights
from brutax.solver.pipeline import parameter_names as parameter_names
from brutax.solver.pipeline import settled_stars as settled_stars
from brutax.solver.tiles import Tile as Tile
from brutax.solver.tiles import TiledModels as TiledModels
from brutax.solver.tiles import lay_out as lay_out
from brutax.solver.tiles import tile_models as tile_models
