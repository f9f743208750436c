"""Dust along lines of sight."""

from brutax.dust.clouds import kernel_gauss as kernel_gauss
from brutax.dust.clouds import kernel_lorentz as kernel_lorentz
from brutax.dust.clouds import kernel_tophat as kernel_tophat
from brutax.dust.clouds import log_likelihood as log_likelihood
from brutax.dust.clouds import los_clouds_loglike_samples as los_clouds_loglike_samples
from brutax.dust.clouds import los_clouds_priortransform as los_clouds_priortransform
from brutax.dust.maps import Bayestar as Bayestar
from brutax.dust.maps import DustMap as DustMap
from brutax.dust.maps import DustMapError as DustMapError
from brutax.dust.maps import ForeignMap as ForeignMap
from brutax.dust.maps import lb2pix as lb2pix
from brutax.dust.profiles import ProfileMap as ProfileMap
from brutax.dust.sightline import CloudParams as CloudParams
from brutax.dust.sightline import SightLine as SightLine
from brutax.dust.sightline import make_sightline as make_sightline
from brutax.dust.sightline import stack_sightlines as stack_sightlines
