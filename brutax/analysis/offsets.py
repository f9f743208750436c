"""Old import path of brutus."""

from brutax.zeropoints import PhotometricOffsetsConfig as PhotometricOffsetsConfig
from brutax.zeropoints import photometric_offsets as photometric_offsets
