"""The calls of socca's fitter on any `brutax.infer.Problem`, and its files of models."""

from brutax.compat.socca.fitter import Fitter as Fitter
from brutax.compat.socca.fitter import fitter as fitter
from brutax.compat.socca.fitter import load as load
