"""Figures of results. Every function returns (figure, axes); save with `figure.savefig`."""

from brutax.plotting.binning import bin_pdfs_distred as bin_pdfs_distred
from brutax.plotting.cluster import cluster_diagram as cluster_diagram
from brutax.plotting.corner import cornerplot as cornerplot
from brutax.plotting.distance import dist_vs_red as dist_vs_red
from brutax.plotting.dust import distance_extinction as distance_extinction
from brutax.plotting.offsets import photometric_offsets as photometric_offsets
from brutax.plotting.offsets import photometric_offsets_2d as photometric_offsets_2d
from brutax.plotting.offsets import zero_points as zero_points
from brutax.plotting.recovery import truth_ranks as truth_ranks
from brutax.plotting.recovery import truth_recovery as truth_recovery
from brutax.plotting.sed import posterior_predictive as posterior_predictive
from brutax.plotting.sightline import sightline_profile as sightline_profile
from brutax.plotting.summary import summary_plot as summary_plot
from brutax.plotting.triangle import corner as corner
from brutax.plotting.utils import hist2d as hist2d
