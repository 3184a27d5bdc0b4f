"""How well a CLIP matches images and texts: what experiments.clip measures, one kind per file."""
