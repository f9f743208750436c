"""Star clusters: a likelihood that samplers can follow, and what it says of single stars."""

from typing import Any

from brutax.analysis.cluster.isochrone import Curve as Curve
from brutax.analysis.cluster.isochrone import Layout as Layout
from brutax.analysis.cluster.lattice import Lattice as Lattice
from brutax.analysis.cluster.members import Members as Members
from brutax.analysis.cluster.members import members as members
from brutax.analysis.cluster.mock import MockMembers as MockMembers
from brutax.analysis.cluster.mock import mock_members as mock_members
from brutax.analysis.cluster.model import ClusterModel as ClusterModel
from brutax.analysis.cluster.model import ClusterParams as ClusterParams
from brutax.analysis.cluster.model import PerStar as PerStar
from brutax.analysis.cluster.stars import ClusterStars as ClusterStars
from brutax.analysis.cluster.stars import make_stars as make_stars


def __getattr__(name: str) -> Any:
    if name in ("cluster_numpyro", "cluster_prior", "cluster_problem"):
        # numpyro is not loaded before it is wanted
        from brutax.analysis.cluster import inference

        return getattr(inference, name)
    if name in ("ClusterOutputs", "cluster_outputs"):
        from brutax.analysis.cluster import outputs

        return getattr(outputs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
