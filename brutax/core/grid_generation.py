"""Old import path of brutus."""

from brutax.models import GridGenerator as GridGenerator
