"""Noise schedules, one a file: log-SNR against t in [0, 1], 0 clean and 1 noise."""

from diffjax import spec

__getattr__, __dir__ = spec.lazily(__name__)
