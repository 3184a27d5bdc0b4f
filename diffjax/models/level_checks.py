"""Refusals of networks whose levels each halve or double height and width."""

from collections.abc import Sequence
from typing import Any

from diffjax.errors import UserError


def check_widths(kind: str, net: Any, positive: Sequence[str]) -> None:
    """Refuses numbers of `positive` below 1, and channels that norm_num_groups does not divide."""
    for name in positive:
        if (value := getattr(net, name)) is not None and value < 1:
            raise UserError(f"{kind}({name}={value}): {name} must be above 0")
    if not net.channels or any(c < 1 or c % net.norm_num_groups for c in net.channels):
        raise UserError(
            f"{kind}(channels={net.channels}): give at least one, each a multiple of "
            f"norm_num_groups={net.norm_num_groups}"
        )


def check_reach(kind: str, net: Any, does: str) -> None:
    """Refuses a sample_size that the levels do not divide; `does` says what is in vain."""
    levels, times = len(net.channels), 2 ** len(net.channels)
    if net.sample_size is not None and net.sample_size % times:
        raise UserError(
            f"{kind}(channels={net.channels}) {does.format(levels)} {net.sample_size} pixels: give "
            f"fewer, or a sample_size divisible by {times}",
            option="image_size",
        )
