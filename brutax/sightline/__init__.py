"""Clouds along sight lines: from the posteriors of stars to distances, profiles and maps."""

from brutax.sightline.problem import log_likelihood as log_likelihood
from brutax.sightline.problem import numpyro_model as numpyro_model
from brutax.sightline.problem import prior as prior
from brutax.sightline.problem import problem as problem
from brutax.sightline.reweight import Reweighted as Reweighted
from brutax.sightline.reweight import reweight as reweight
from brutax.sightline.search import Cloud as Cloud
from brutax.sightline.search import CloudFit as CloudFit
from brutax.sightline.search import dust_map as dust_map
from brutax.sightline.search import fit as fit
