"""Old import path of brutus."""

from brutax.models import FastNN as FastNN
from brutax.models import FastNNPredictor as FastNNPredictor
