"""How good samples are, in float64 NumPy; how embeddings match, in float32 on any device."""
