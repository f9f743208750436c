"""Old import path of brutus."""

from brutax.models import Isochrone as Isochrone
from brutax.models import StellarPop as StellarPop
