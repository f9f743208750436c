"""Old import path of brutus."""

from brutax.models import _get_seds as _get_seds
from brutax.models import get_seds as get_seds
