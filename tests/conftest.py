"""Shape checks on every annotated function, and one compilation cache for the whole session."""

import os
import pathlib
from importlib import metadata

import hypothesis
from jaxtyping import install_import_hook

os.environ.setdefault("JAX_PLATFORMS", "cpu")
CACHE = pathlib.Path(__file__).parent.parent / ".cache" / "jax"
# Through the environment, so that the programs that tests start share the cache.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
# Neither a table of convolutions nor programs of the user's own.
os.environ["XDG_CACHE_HOME"] = str(CACHE.parent)
# Tests compile far more than they compute: these flags leave a fifth of the time to compile. What
# must hold to the last bit is tested once more as users run it: .ci/run sets XLA_FLAGS empty for
# the faults.
CHEAP = "--xla_backend_optimization_level=0"
# A flag that jaxlib does not know ends the process.
if metadata.version("jaxlib").startswith("0.10."):
    CHEAP += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", CHEAP)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

install_import_hook("diffjax", "beartype.beartype")

# A first call compiles: no deadline. The same examples every time: a failure can be repeated.
hypothesis.settings.register_profile("diffjax", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("diffjax")
