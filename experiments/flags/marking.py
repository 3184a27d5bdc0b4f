"""The flag that says what pictures tell of their origin."""

import contextlib
from collections.abc import Callable, Iterator

from absl import flags

from diffjax.display.marks import Mark
from diffjax.display.marks import marked as marked_by

MARK = flags.DEFINE_enum(
    "mark", "xmp", ["xmp", "none"],
    "what each PNG tells machines of its origin: in xmp that a model made it, which run and which "
    "seed; or nothing",
)  # fmt: skip


@contextlib.contextmanager
def marked(run: str, seed: int | None, say: Callable[[str], object] = print) -> Iterator[None]:
    """Pictures that are written meanwhile are marked as the flag says.

    run: a digest of what the model is.
    """
    if MARK.value == "none":
        say("--mark=none: the pictures do not tell that a model made them")
    with marked_by(None if MARK.value == "none" else Mark(run, seed)):
        yield
