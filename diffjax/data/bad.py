"""Records that are damaged by themselves: what is said of them, and how many are let pass."""

import threading
from collections.abc import Hashable

from diffjax.errors import UserError


class BadRecord(UserError):
    """A record that cannot be read, where the others of its set can be used without it.

    `what` is what is wrong and `remedy` what to do about it.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(
            f"{what}: {remedy}, or skip such records with max_bad_records=10",
            option="max_bad_records",
        )
        self.what = what


class Tally:
    """Counts distinct bad records, met in any thread, up to `allowed`."""

    def __init__(self, allowed: int) -> None:
        if allowed < 0:
            raise UserError(f"max_bad_records is {allowed}: choose 0 or more", "max_bad_records")
        self.allowed = allowed
        self._met: set[Hashable] = set()
        self._lock = threading.Lock()

    def __contains__(self, record: Hashable) -> bool:
        return record in self._met

    def add(self, record: Hashable, error: BadRecord) -> str | None:
        """A line that names the record; None where it has been met before.

        Raises UserError, again each time, for a record that is one too many.
        """
        with self._lock:
            if record in self._met:
                return None
            count = len(self._met) + 1
            if count > self.allowed:
                raise self._too_many(error, count) from error.__cause__
            self._met.add(record)
        return f"skipping a bad record, {count} of at most {self.allowed}: {error.what}"

    def _too_many(self, error: BadRecord, count: int) -> UserError:
        if not self.allowed:
            return error
        return UserError(
            f"{error.what}: bad record {count}, and max_bad_records={self.allowed} allows no "
            "more; repair the data, or choose a larger number",
            option="max_bad_records",
        )
