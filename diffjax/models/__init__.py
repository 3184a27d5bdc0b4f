"""Networks, as Linen modules that know nothing of diffusion."""
