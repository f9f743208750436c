"""Clouds along sight lines: from the posteriors of stars to distances, profiles and maps."""

from typing import Any

from brutax.analysis.sightline.reweight import Reweighted as Reweighted
from brutax.analysis.sightline.reweight import reweight as reweight

LATER = {
    **dict.fromkeys(("sightline_prior", "sightline_problem"), "inference"),
    **dict.fromkeys(("Cloud", "CloudFit", "dust_map", "fit_clouds"), "clouds"),
}


def __getattr__(name: str) -> Any:
    if name in LATER:  # numpyro is not loaded before it is wanted
        import importlib

        return getattr(importlib.import_module(f"{__name__}.{LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
