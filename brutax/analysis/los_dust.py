"""Old import path of brutus."""

from brutax.dust import kernel_gauss as kernel_gauss
from brutax.dust import kernel_lorentz as kernel_lorentz
from brutax.dust import kernel_tophat as kernel_tophat
from brutax.dust import los_clouds_loglike_samples as los_clouds_loglike_samples
from brutax.dust import los_clouds_priortransform as los_clouds_priortransform
