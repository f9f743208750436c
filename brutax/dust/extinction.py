"""Old import path of brutus."""

from brutax.dust.maps import lb2pix as lb2pix
