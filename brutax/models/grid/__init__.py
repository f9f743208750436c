"""Grids of stellar models: photometry and labels of every model, and how they are built."""
