"""Zero points of photometry: offsets between observed and model fluxes, and error floors."""

from brutax.zeropoints.fit import ZeroPointFit as ZeroPointFit
from brutax.zeropoints.fit import fit as fit
from brutax.zeropoints.fit import measure as measure
from brutax.zeropoints.points import ZeroPoints as ZeroPoints
from brutax.zeropoints.resampling import PhotometricOffsetsConfig as PhotometricOffsetsConfig
from brutax.zeropoints.resampling import photometric_offsets as photometric_offsets
