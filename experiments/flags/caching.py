"""The flag that says where things lie that are computed once."""

from diffjax.tasks.record_cache import FOLDER
from experiments.flags import kinds

CACHE_DIR = kinds.define_path(
    "cache_dir", str(FOLDER / "records"), "where embeddings and latents of records are kept"
)
