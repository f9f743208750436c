"""Old import path of brutus' stellar models; see `brutax.models`."""

from brutax.models import EEPTracks as EEPTracks
from brutax.models import FastNN as FastNN
from brutax.models import FastNNPredictor as FastNNPredictor
from brutax.models import GridGenerator as GridGenerator
from brutax.models import Isochrone as Isochrone
from brutax.models import StarEvolTrack as StarEvolTrack
from brutax.models import StarGrid as StarGrid
from brutax.models import StellarPop as StellarPop
from brutax.models import _get_seds as _get_seds
from brutax.models import get_seds as get_seds
