"""Reverse processes, one a file, all driven by the one scan in base.py."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
