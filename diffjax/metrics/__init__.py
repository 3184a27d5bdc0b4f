"""How good samples are: statistics of a judge's features and classes, in float64 NumPy."""
