"""Data sets as random access records in one form, and the iterators over their batches."""

from diffjax import spec
from diffjax.data.base import Dataset, Records, Split
from diffjax.data.iterate import batches, epoch

__all__ = ["Dataset", "Records", "Split", "batches", "epoch"]

__getattr__, __dir__ = spec.lazily(__name__)
