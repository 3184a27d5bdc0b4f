"""Which times a sampler visits, one way a file: falling from noise to 0."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
