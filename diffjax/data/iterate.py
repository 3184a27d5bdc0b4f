"""Batches for training, shuffled without end and resumable to the record; and one ordered pass."""

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffjax import lazy
from diffjax.data.base import Record, Records
from diffjax.data.skipping import Skipping, read_all
from diffjax.errors import UserError

if TYPE_CHECKING:
    import grain
else:
    grain = lazy.module("grain")

Batch = dict[str, np.ndarray]
# Batches are read ahead while the device computes. Decoding gains from a few threads; many more
# would only contend for the interpreter's lock.
THREADS = max(2, min(8, os.cpu_count() or 1))
LARGE = 1024  # a batch of more images may not be larger than the set


def batches(
    records: Records,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    max_bad_records: int = 0,
) -> "grain.DatasetIterator":
    """Batches without end: every record once an epoch, in an order of its own each epoch.

    A batch maps `image` (float32 BHWC in [-1, 1]), `label` (int32) and `text` (str) to arrays, as
    far as the set has them, with B = batch_size / process_count. Of global batch i, process p gets
    the p-th contiguous part. The epochs follow on without a gap, so a batch may span two of them
    and, up to 1,024 images, may be larger than the set.

    `get_state()` counts global batches: it is equal on all processes, and `set_state` restores it
    exactly on any number of them.

    With `max_bad_records`, a bad record is named on stderr and the next by index that can be read
    stands in for it, on any layout the same one; each process counts the distinct ones that it
    meets, anew where it is started again.

    Raises UserError for a batch size below 1, of more images than that and than there are, or one
    that the processes cannot share, for a seed outside [0, 2**32), a negative max_bad_records, and,
    in reading, for one bad record more than that and for other damage to the data.
    """
    check_batch_size(batch_size, len(records))
    _check_layout(batch_size, process_count, seed)
    local = batch_size // process_count
    skipping = Skipping(records, max_bad_records)
    rows = skipping if max_bad_records else functools.partial(read_all, records)
    # Batches that are read at the same time lie in epochs next to each other.
    order = functools.lru_cache(maxsize=4)(functools.partial(_order, len(records), seed))

    def read(step: int) -> Batch:
        start = step * batch_size + process_index * local
        places = (divmod(place, len(records)) for place in range(start, start + local))
        return _stack(rows([int(order(epoch)[place]) for epoch, place in places]))

    ahead = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=2 * THREADS)
    return iter(grain.MapDataset.range(sys.maxsize).map(read).to_iter_dataset(ahead))


def epoch(records: Records, batch_size: int) -> Iterator[Batch]:
    """One pass in order, in batches as of `batches`; the last may be smaller.

    Raises UserError for a batch size below 1, and for data found damaged in reading.
    """
    check_batch_size(batch_size)
    every = range(len(records))
    parts = (every[start : start + batch_size] for start in every[::batch_size])
    return (_stack(read_all(records, part)) for part in parts)


def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The records' order in an epoch. Grain's shuffle takes a millisecond a record in small sets.

    RandomState, unlike Generator, is promised never to change, so a run resumes under any NumPy.
    """
    return np.random.RandomState((seed, epoch)).permutation(count)


def check_batch_size(batch_size: int, count: int | None = None) -> None:
    """Raises UserError for a size below 1, or a large one of a set of so many records."""
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}: choose 1 or more", "batch_size")
    if count is not None and batch_size > max(count, LARGE):
        raise UserError(
            f"batch_size is {batch_size:,} and the data set has {count:,} images: choose at most "
            f"{max(count, LARGE):,}",
            option="batch_size",
        )


def _check_layout(batch_size: int, process_count: int, seed: int) -> None:
    if batch_size % process_count:
        raise UserError(
            f"batch_size {batch_size} does not divide among {process_count} processes: "
            f"choose {process_count * -(-batch_size // process_count)}",
            option="batch_size",
        )
    if not 0 <= seed < 2**32:
        raise UserError(f"seed is {seed}: choose 0 to {2**32 - 1}", "seed")


def _stack(rows: Sequence[Record]) -> Batch:
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}
