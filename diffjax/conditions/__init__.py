"""What networks are told besides a noisy image and a time, one kind a file."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
