"""How much each noise level counts in a loss, one weighting a file."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
