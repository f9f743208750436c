"""Star clusters: a likelihood that samplers can follow, and what it says of single stars."""

from brutax.cluster.data import ClusterStars as ClusterStars
from brutax.cluster.data import make_stars as make_stars
from brutax.cluster.isochrone import Curve as Curve
from brutax.cluster.isochrone import Layout as Layout
from brutax.cluster.members import Members as Members
from brutax.cluster.members import members as members
from brutax.cluster.model import ClusterModel as ClusterModel
from brutax.cluster.model import ClusterParams as ClusterParams
from brutax.cluster.model import PerStar as PerStar
from brutax.cluster.outputs import ClusterOutputs as ClusterOutputs
from brutax.cluster.outputs import cluster_outputs as cluster_outputs
from brutax.cluster.pairs import Lattice as Lattice
from brutax.cluster.predict import MockMembers as MockMembers
from brutax.cluster.predict import mock_members as mock_members
from brutax.cluster.problem import fit as fit
from brutax.cluster.problem import log_likelihood as log_likelihood
from brutax.cluster.problem import numpyro_model as numpyro_model
from brutax.cluster.problem import prior as prior
from brutax.cluster.problem import problem as problem
