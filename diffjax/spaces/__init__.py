"""Where diffusion happens: the images themselves, or an autoencoder's latents, one a file."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
