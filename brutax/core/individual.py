"""Old import path of brutus."""

from brutax.models import EEPTracks as EEPTracks
from brutax.models import StarEvolTrack as StarEvolTrack
from brutax.models import StarGrid as StarGrid
