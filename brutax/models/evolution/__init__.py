"""Stellar evolution: tracks, isochrones, single stars and populations on them."""
