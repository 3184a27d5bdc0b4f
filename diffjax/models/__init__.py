"""Networks, as Linen modules that know nothing of diffusion."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
