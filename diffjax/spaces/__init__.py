"""Where diffusion happens: the images themselves, or an autoencoder's latents, one a file."""
