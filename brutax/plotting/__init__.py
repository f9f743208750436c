"""Figures of results: every function returns figure and axes, which the caller saves."""

from brutax.plotting.dust import distance_extinction as distance_extinction
from brutax.plotting.recovery import truth_ranks as truth_ranks
from brutax.plotting.recovery import truth_recovery as truth_recovery
from brutax.plotting.triangle import corner as corner
