"""How the learning rate goes from step to step, one law a file."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
