"""What a denoising network says of itself: the condition it takes and the form of its time."""

from typing import TypeVar

from flax import linen as nn

from diffjax.conditions.base import Condition, Mask
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.typing import TimeInput

Self = TypeVar("Self", bound="Backbone")


class Backbone(nn.Module):
    """A network called as model(x, t, cond, train=...), cond None where it takes none.

    x and the output are NHWC, t one time per sample in the form `time_input`. Fields `in_channels`,
    `out_channels` and `sample_size`, where there are such, are filled in from the data.
    """

    @property
    def time_input(self) -> TimeInput:
        """Which of index, sigma and log-SNR the time embedding was made for."""
        return "index"

    @property
    def told_spans(self) -> bool:
        """Whether it is also told the span of a step, as model(x, t, cond, span=...), or none."""
        return False

    @property
    def time_rows(self) -> int | None:
        """How many indices the time embedding has rows for; None where it takes any time."""
        return None

    @nn.nowrap
    def takes(self, drop: float = 0.0, mask: Mask = "sample") -> Condition:
        """The condition that the network's options ask for, hidden in training as said here.

        Raises UserError where that cannot be.
        """
        check_mask(mask, drop, None)
        return Unconditional(drop=drop)

    @nn.nowrap
    def conditioned_on(self: Self, condition: Condition) -> Self:
        """The network with room for the condition, its null one included."""
        return self


def check_mask(mask: Mask, drop: float, one_hot: int | None) -> None:
    """Raises UserError for a mask of single numbers of what has none, or that hides nothing."""
    if mask == "element" and not (one_hot and drop):
        raise UserError(
            "a mask of elements hides numbers of one-hot classes: choose a course_unet with "
            "num_class_embeds, and a cond_drop above 0",
            option="cond_mask",
        )
