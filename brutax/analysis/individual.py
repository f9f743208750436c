"""Old import path of brutus."""

from brutax.compat.brutus import BruteForce as BruteForce
