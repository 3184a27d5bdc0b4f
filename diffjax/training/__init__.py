"""Training: the state, the step, its optimizer, devices, checkpoints and the loop."""
