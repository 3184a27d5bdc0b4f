"""The flag that says where things lie that are computed once, and a first stage's latents there."""

import pathlib

from diffjax import runs
from diffjax.data import Records
from diffjax.tasks.base import Source
from diffjax.tasks.latent_cache import LatentCache
from diffjax.tasks.record_cache import FOLDER
from experiments.flags import kinds, learning

CACHE_DIR = kinds.define_path(
    "cache_dir", str(FOLDER), "where embeddings and latents of records are kept"
)


def latents_of(records: Records, source: Source) -> LatentCache:
    """The latents of a first stage, in --cache_dir."""
    return LatentCache(
        records, runs.load_source(source), source.digest, learning.data_named(),
        pathlib.Path(CACHE_DIR.value), learning.MAX_BAD_RECORDS.value, learning.say,
    )  # fmt: skip
