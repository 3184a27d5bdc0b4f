"""The flag that marks the noise which images are drawn from."""

import jax

import diffjax.trust.watermarks
from diffjax import spec
from diffjax.editing.interpolation import FromNoise
from diffjax.errors import UserError
from diffjax.randomness import fold_in, sample_keys
from diffjax.tasks.denoisers import DENOISER
from diffjax.trust.watermarks.base import Watermark
from experiments.flags import specs
from experiments.flags.making import Wanted

WATERMARK = specs.define_spec(
    "watermark", None, diffjax.trust.watermarks,
    "a mark in the noise, which experiments.audit --task=detect finds again in the images",
)  # fmt: skip


def chosen() -> Watermark | None:
    """The watermark of the flag; None without it."""
    if WATERMARK.value is None:
        return None
    found: Watermark = spec.build(WATERMARK.value, diffjax.trust.watermarks)
    return found


def asked() -> Watermark:
    """The watermark of the flag, which is given."""
    found = chosen()
    assert found is not None, "checked before"
    return found


def start(wanted: Wanted, mark: Watermark) -> FromNoise:
    """Marked noise for what is wanted, the same whatever the batch size.

    Raises UserError for a sampler that draws noise on the way, from which nothing leads back.
    """
    run, task = wanted.run, wanted.run.task
    _, sigma = task.process.bind(run[DENOISER].params).schedule.alpha_sigma(wanted.times[0])
    keys = fold_in(sample_keys(jax.random.key(wanted.seed), 0, wanted.num), 0)
    edit = FromNoise(wanted.sampler, sigma * mark.noise(keys, task.shape))
    edit.check(task.process)
    return edit


def check_absent(where: str) -> None:
    """Raises UserError where the flag is given and does nothing."""
    if WATERMARK.value is not None:
        raise UserError(f"--watermark does nothing {where}: leave it out")
