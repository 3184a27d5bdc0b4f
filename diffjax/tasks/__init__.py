"""Kinds of run, one a file: how networks are made, what is minimised, and what is shown of it."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
