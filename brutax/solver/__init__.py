"""How a star is fitted: screen all models, draw some, refine those, weigh exactly."""

from brutax.solver.laplace import TruncatedGaussian as TruncatedGaussian
from brutax.solver.objective import Theta as Theta
from brutax.solver.objective import log_target as log_target
from brutax.solver.posterior import QUANTILES as QUANTILES
from brutax.solver.posterior import Draws as Draws
from brutax.solver.posterior import Settings as Settings
from brutax.solver.posterior import StarPosterior as StarPosterior
from brutax.solver.posterior import count_survivors as count_survivors
from brutax.solver.posterior import fit_stars as fit_stars
from brutax.solver.posterior import model_log_weights as model_log_weights
from brutax.solver.posterior import parameter_names as parameter_names
from brutax.solver.posterior import settled_stars as settled_stars
from brutax.solver.problem import Models as Models
from brutax.solver.problem import StarPrior as StarPrior
from brutax.solver.problem import make_models as make_models
from brutax.solver.single import best_fit as best_fit
from brutax.solver.single import draw_weighted as draw_weighted
from brutax.solver.single import fisher_sar as fisher_sar
from brutax.solver.single import fit_gaussian as fit_gaussian
from brutax.solver.tiles import Tile as Tile
from brutax.solver.tiles import TiledModels as TiledModels
from brutax.solver.tiles import lay_out as lay_out
from brutax.solver.tiles import tile_models as tile_models
