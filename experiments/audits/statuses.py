"""What experiments.audit ends with: 0, or what a script should stop at. 1 and 2 are errors."""

from collections.abc import Mapping
from typing import Any

VERDICTS = {"trusted": 0, "valid": 3, "unsigned": 4, "tampered": 5}
UNMARKED = 3
REMEMBERED = 3
CHANCE = 0.5  # the area under the curve of who guesses


def of_copies(found: Mapping[str, Any]) -> int:
    """REMEMBERED where a sample is a copy of a training image."""
    return REMEMBERED if found["copies"] else 0


def of_members(found: Mapping[str, Any]) -> int:
    """REMEMBERED where members are told from others: an area's whole interval is above chance."""
    lows = [told["auc"][1] for told in found.values() if isinstance(told, Mapping)]
    return REMEMBERED if max(lows) > CHANCE else 0
