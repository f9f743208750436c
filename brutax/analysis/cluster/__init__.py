"""Star clusters: a likelihood that samplers can follow, and what it says of single stars."""

from brutax.analysis.cluster.isochrone import Curve as Curve
from brutax.analysis.cluster.isochrone import Layout as Layout
from brutax.analysis.cluster.lattice import Lattice as Lattice
from brutax.analysis.cluster.model import ClusterModel as ClusterModel
from brutax.analysis.cluster.model import ClusterParams as ClusterParams
from brutax.analysis.cluster.model import PerStar as PerStar
from brutax.analysis.cluster.stars import ClusterStars as ClusterStars
from brutax.analysis.cluster.stars import make_stars as make_stars
