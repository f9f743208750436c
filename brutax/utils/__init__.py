"""Photometry, distributions, small matrices and sampling, for all other rooms."""

from brutax.utils._namespace import ArrayLike as ArrayLike
from brutax.utils._namespace import as_float as as_float
from brutax.utils.linalg import inverse3 as inverse3
from brutax.utils.linalg import isPSD as isPSD
from brutax.utils.linalg import safe_divide as safe_divide
from brutax.utils.linalg import sym3_cholesky as sym3_cholesky
from brutax.utils.linalg import sym3_inverse as sym3_inverse
from brutax.utils.linalg import sym3_logdet as sym3_logdet
from brutax.utils.math import chisquare_logpdf as chisquare_logpdf
from brutax.utils.math import galactic_to_galactocentric_cyl as galactic_to_galactocentric_cyl
from brutax.utils.math import log_ndtr_diff as log_ndtr_diff
from brutax.utils.math import truncnorm_logpdf as truncnorm_logpdf
from brutax.utils.math import truncnorm_pdf as truncnorm_pdf
from brutax.utils.photometry import add_mag as add_mag
from brutax.utils.photometry import chisquare_outlier_loglike as chisquare_outlier_loglike
from brutax.utils.photometry import inv_luptitude as inv_luptitude
from brutax.utils.photometry import inv_magnitude as inv_magnitude
from brutax.utils.photometry import luptitude as luptitude
from brutax.utils.photometry import magnitude as magnitude
from brutax.utils.photometry import phot_loglike as phot_loglike
from brutax.utils.photometry import uniform_outlier_loglike as uniform_outlier_loglike
from brutax.utils.sampling import draw_sar as draw_sar
from brutax.utils.sampling import quantile as quantile
from brutax.utils.sampling import sample_multivariate_normal as sample_multivariate_normal
from brutax.utils.sampling import systematic_indices as systematic_indices
from brutax.utils.sampling import truncnorm_ppf as truncnorm_ppf
