"""Updates that are not finite: how many in a row are borne, and whose fault they are."""

from collections.abc import Mapping, Sequence

import numpy as np

NAMED = 5  # tensors; where one is not finite, most others soon are not


class NotFinite(Exception):
    """So many updates in a row were not finite that going on makes no sense."""


class Guard:
    """Counts the updates left out in a row; raises NotFinite at the `limit`-th.

    And at once where the parameters overflow, which are then lost. `names` are those of the metric
    `nonfinite`; `in_row` is where a run taken up again stands.
    """

    def __init__(self, names: Sequence[str], limit: int, in_row: int = 0) -> None:
        self._names, self._limit = names, limit
        self.in_row = in_row

    def watch(self, step: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Metrics of the steps of one dispatch, the first of which is `step`."""
        for i, skipped in enumerate(metrics["skipped"]):
            if metrics["nonfinite"][i][-1]:
                raise NotFinite(f"step {step + i}: the update was not finite in {self._names[-1]}")
            self.in_row = self.in_row + 1 if skipped else 0
            if self.in_row >= self._limit:
                raise NotFinite(
                    f"step {step + i}: {self.in_row} updates in a row were not finite, the last in "
                    f"{self._offenders(metrics['nonfinite'][i])}"
                )

    def _offenders(self, nonfinite: np.ndarray) -> str:
        names = [name for name, bad in zip(self._names, nonfinite, strict=True) if bad]
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        return ", ".join(names[:NAMED]) + more
