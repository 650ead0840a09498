"""The filters of a list as they stand in its address, and the query that they ask for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import urlencode

from steerkit.audit import DECISIONS, KINDS, Query, moment
from steerkit.errors import AuditError


class Field(NamedTuple):
    """One field of the form of filters."""

    name: str
    """In the address."""
    label: str
    hint: str
    choices: tuple[str, ...] = ()
    """Values that it may have; empty for free text."""


FIELDS: Final = (
    Field("tool", "Tool", "transfer_money"),
    Field("verdict", "Verdict", "", DECISIONS),
    Field("rule", "Rule", "payments/large"),
    Field("since", "From", "7d, 2026-01-31"),
    Field("until", "Until", "yesterday"),
    Field("feature", "Feature", "name, or 3:72"),
    Field("above", "Above", "1.5"),
    Field("status", "Status", "tool_call, refused"),
    Field("session", "Session", "id"),
    Field("run", "Run", "id"),
    Field("kind", "Kind", "", KINDS),
)
MOST: Final = 5
"""Fields that are always in sight; the others are folded away while they are empty."""
_LONGEST: Final = 400
"""Characters of a value in an address."""


class Asked(NamedTuple):
    """The filters of an address."""

    values: Mapping[str, str]
    """Of `FIELDS`, those that are not empty."""
    before: int | None
    """Show only records older than the one with this sequence."""

    @classmethod
    def of(cls, pairs: Iterable[tuple[str, str]]) -> Asked:
        """The filters of an address's pairs of names and values; what it does not know it leaves out."""
        given = {name: value.strip()[:_LONGEST] for name, value in pairs}
        before = given.get("before", "")
        found = {one.name: given[one.name] for one in FIELDS if given.get(one.name)}
        return cls(found, int(before) if before.isascii() and before.isdecimal() and len(before) < 19 else None)

    def query(self) -> Query:
        """The query that they ask for. Raises AuditError where a value is none that its field may have."""
        values = dict(self.values)
        since, until, above = (values.pop(name, None) for name in ("since", "until", "above"))
        values |= {"conversation": values.pop("session")} if "session" in values else {}
        try:
            height = None if above is None else float(above)
        except ValueError:
            raise AuditError(f"above: got {above!r}, expected a number such as 1.5") from None
        return Query(
            **values,  # type: ignore[arg-type]  # texts, all of them
            since=None if since is None else moment("from", since),
            until=None if until is None else moment("until", until),
            above=height,
        )

    def address(self, **changes: str | int | None) -> str:
        """The part of an address after its path with these filters, some of them changed or (None) taken away."""
        named = {**self.values, **changes}
        said = urlencode({name: value for name, value in named.items() if value is not None})
        return f"?{said}" if said else "?"
