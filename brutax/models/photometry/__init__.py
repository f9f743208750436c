"""Magnitudes of stars behind dust: bolometric corrections, networks, bands from curves."""
