"""How much each noise level counts in a loss, one weighting a file."""
