"""Records chosen by what their features say: `style=noto|fluent,skin_variant=false`."""

import dataclasses
import re
from collections.abc import Collection

from diffjax.errors import UserError, listed

CLAUSE = re.compile(r"\s*(?P<feature>[^=!|,]+?)\s*(?P<equal>!?=)(?P<values>[^=!,]*)")


@dataclasses.dataclass(frozen=True)
class Clause:
    """One condition: the feature has one of the values, or none of them where it is `negated`."""

    feature: str
    values: tuple[str, ...]
    negated: bool

    def keeps(self, names: frozenset[str]) -> bool:
        """Whether a record is chosen whose value goes by these names."""
        return bool(names.intersection(self.values)) != self.negated


def parse(text: str) -> tuple[Clause, ...]:
    """The clauses of a selection, all of which a chosen record must meet; none for ''.

    Raises UserError for text of another form.
    """
    found = [CLAUSE.fullmatch(part) for part in text.split(",")] if text.strip() else []
    clauses = [
        Clause(c["feature"], tuple(v.strip() for v in c["values"].split("|")), c["equal"] == "!=")
        for c in found
        if c is not None
    ]
    if len(clauses) < len(found) or any("" in clause.values for clause in clauses):
        raise UserError(
            f"select={text!r}: write 'feature=value', 'feature=value|value' or 'feature!=value', "
            "several joined with ','"
        )
    return tuple(clauses)


def check_values(clause: Clause, known: Collection[str], where: str) -> None:
    """Raises UserError for a value that is not among the `known` ones of the set `where`."""
    for value in clause.values:
        if value not in known:
            raise UserError(
                f"select: no record of {where} has {clause.feature}={value}; "
                f"{clause.feature} is one of {listed(sorted(known)) or 'nothing'}"
            )
