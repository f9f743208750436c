"""Clouds along sight lines: from the posteriors of stars to distances, profiles and maps."""

from brutax.sightline.problem import sightline_prior as sightline_prior
from brutax.sightline.problem import sightline_problem as sightline_problem
from brutax.sightline.reweight import Reweighted as Reweighted
from brutax.sightline.reweight import reweight as reweight
from brutax.sightline.search import Cloud as Cloud
from brutax.sightline.search import CloudFit as CloudFit
from brutax.sightline.search import dust_map as dust_map
from brutax.sightline.search import fit_clouds as fit_clouds
