"""How a gradient becomes a step, one optimizer a file."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
