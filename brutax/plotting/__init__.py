"""Figures of results: every function returns figure and axes, which the caller saves."""

from brutax.plotting.cluster import cluster_diagram as cluster_diagram
from brutax.plotting.dust import distance_extinction as distance_extinction
from brutax.plotting.offsets import photometric_offsets as photometric_offsets
from brutax.plotting.offsets import photometric_offsets_2d as photometric_offsets_2d
from brutax.plotting.offsets import zero_points as zero_points
from brutax.plotting.recovery import truth_ranks as truth_ranks
from brutax.plotting.recovery import truth_recovery as truth_recovery
from brutax.plotting.sightline import sightline_profile as sightline_profile
from brutax.plotting.triangle import corner as corner
