"""Predictions of the paper from its formulas alone: float64, NumPy only, no models and no data."""
