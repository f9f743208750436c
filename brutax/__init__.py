"""Exact posteriors of stars over grids of stellar models, on CPUs and GPUs.

import brutax
result = brutax.fit("stars.csv")
result.table()
"""

from importlib import import_module as _import_module
from importlib.metadata import version as _version
from types import ModuleType as _ModuleType

from brutax import catalog as catalog
from brutax import data as data
from brutax import fitting as fitting
from brutax import models as models
from brutax import priors as priors
from brutax import utils as utils
from brutax.catalog import FitResult as FitResult
from brutax.catalog import load as load
from brutax.catalog import read_stars as read_stars
from brutax.compat.brutus import BruteForce as BruteForce
from brutax.data import fetch_dustmaps as fetch_dustmaps
from brutax.data import fetch_grids as fetch_grids
from brutax.data import fetch_isos as fetch_isos
from brutax.data import load_models as load_models
from brutax.fitting import Output as Output
from brutax.fitting import Priors as Priors
from brutax.fitting import fit as fit
from brutax.fitting import mock_catalog as mock_catalog
from brutax.models import EEPTracks as EEPTracks
from brutax.models import Isochrone as Isochrone
from brutax.models import Passband as Passband
from brutax.models import StarEvolTrack as StarEvolTrack
from brutax.models import StarGrid as StarGrid
from brutax.models import Status as Status
from brutax.models import StellarPop as StellarPop
from brutax.models import demo_grid as demo_grid
from brutax.utils import inv_magnitude as inv_magnitude
from brutax.utils import magnitude as magnitude

__version__ = _version("brutax")

# rooms that take long to import (numpyro, matplotlib) or that few need: loaded when first named
_LATER = (
    "analysis",
    "cluster",
    "compat",
    "core",
    "dust",
    "infer",
    "plotting",
    "sightline",
    "star",
    "zeropoints",
)


def __getattr__(name: str) -> _ModuleType:
    if name in _LATER:
        return _import_module(f"brutax.{name}")
    raise AttributeError(f"module 'brutax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
