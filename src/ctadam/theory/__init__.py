"""Predictions of the paper from its formulas alone: float64, no models and no data. Only `flow` needs more than NumPy."""
