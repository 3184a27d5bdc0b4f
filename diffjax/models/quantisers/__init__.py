"""Quantisers of latents: vectors to the nearest of finitely many codes, one kind per file."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
