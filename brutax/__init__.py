"""Exact posteriors of stars over grids of stellar models, on CPUs and GPUs.

import brutax
result = brutax.fit("stars.csv")
result.table()
"""

from importlib.metadata import version as _version

from brutax import analysis as analysis
from brutax import catalog as catalog
from brutax import core as core
from brutax import data as data
from brutax import priors as priors
from brutax import utils as utils
from brutax.analysis import BruteForce as BruteForce
from brutax.analysis import fit as fit
from brutax.catalog import FitResult as FitResult
from brutax.catalog import read_stars as read_stars
from brutax.core import EEPTracks as EEPTracks
from brutax.core import Isochrone as Isochrone
from brutax.core import StarEvolTrack as StarEvolTrack
from brutax.core import StarGrid as StarGrid
from brutax.core import Status as Status
from brutax.core import StellarPop as StellarPop
from brutax.core import demo_grid as demo_grid
from brutax.data import fetch_dustmaps as fetch_dustmaps
from brutax.data import fetch_grids as fetch_grids
from brutax.data import fetch_isos as fetch_isos
from brutax.data import load_models as load_models
from brutax.utils import inv_magnitude as inv_magnitude
from brutax.utils import magnitude as magnitude

load = FitResult.load

__version__ = _version("brutax")
