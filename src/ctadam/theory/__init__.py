"""The paper's predictions as formulas, in float64, without models or data. `flow` needs torch; the rest needs only NumPy."""
