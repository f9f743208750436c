"""Zero points of photometry: offsets between observed and model fluxes, and error floors."""

from brutax.zeropoints.fit import Calibration as Calibration
from brutax.zeropoints.fit import ZeroPoints as ZeroPoints
from brutax.zeropoints.fit import calibrate as calibrate
from brutax.zeropoints.fit import measure_offsets as measure_offsets
from brutax.zeropoints.resampling import PhotometricOffsetsConfig as PhotometricOffsetsConfig
from brutax.zeropoints.resampling import photometric_offsets as photometric_offsets
