"""Marks in the noise that sampling starts from, one kind a file."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
