"""Stars and the models of stars."""

from brutax.core.demo import DEMO_BANDS as DEMO_BANDS
from brutax.core.demo import demo_grid as demo_grid
from brutax.core.grid import StarGrid as StarGrid
from brutax.core.interpolate import Lattice as Lattice
from brutax.core.interpolate import build_lattice as build_lattice
from brutax.core.sed import _get_seds as _get_seds
from brutax.core.sed import get_seds as get_seds
from brutax.core.sed import reddened_mag as reddened_mag
from brutax.core.star import Stars as Stars
from brutax.core.star import Status as Status
