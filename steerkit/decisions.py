"""The guard's decisions, one row each: severity, whether it releases and ends the run, and its words in reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

Decision: TypeAlias = Literal["none", "allow", "flag", "retry", "hold", "deny", "handoff", "stop"]
"""A decision of the guard on a call; `none`: there was no guard."""
Ruling: TypeAlias = Literal["allow", "flag", "hold", "retry", "deny", "handoff", "stop"]
"""A decision that a rule may make."""
Default: TypeAlias = Literal["allow", "flag", "hold", "deny", "handoff", "stop"]
"""A decision on a call that no rule matches."""


class Meaning(NamedTuple):
    """Consequences of a decision, and its words."""

    severity: int
    """Rank; of several verdicts on a call the highest counts."""
    releases: bool
    """Flag: an executor may run the call."""
    ends: Literal["stopped", "handoff"] | None
    """Status with which the agent loop's run ends; None if it continues."""
    alone: bool
    """Flag: no other call of the turn is released beside it."""
    does: str
    """Predicate of a rule, with `{}` for the call."""
    becomes: str
    """Predicate of a call that no rule matches."""
    style: str
    """Style on a terminal, as rich has it."""


DECISIONS: Final[Mapping[Decision, Meaning]] = {
    "none": Meaning(0, True, None, False, "does not judge {}", "is not judged", "dim"),
    "allow": Meaning(1, True, None, False, "allows {}", "is allowed", "green"),
    "flag": Meaning(2, True, None, False, "lets {} through and flags it", "is let through and flagged", "yellow"),
    "retry": Meaning(
        3,
        False,
        None,
        False,
        "does not let {} through and has the reply generated again, with the steering {} acting without its gate",
        "is generated again",
        "yellow",
    ),
    "hold": Meaning(4, False, None, False, "holds {} for a person", "waits for a person", "dark_orange"),
    "deny": Meaning(5, False, None, False, "denies {}", "is denied", "red"),
    "handoff": Meaning(
        6,
        False,
        "handoff",
        True,
        "hands {} over: nothing of the turn runs, and a larger model is to be asked",
        "is handed over to a larger model",
        "magenta",
    ),
    "stop": Meaning(7, False, "stopped", False, "denies {} and ends the run", "is denied and ends the run", "red"),
}
"""From lenient to strict."""
RELEASED: Final[tuple[Decision, ...]] = tuple(name for name, row in DECISIONS.items() if row.releases)
"""Decisions under which an executor may run a call."""


def severity(decision: Decision) -> int:
    """Rank of a decision, from lenient to strict."""
    return DECISIONS[decision].severity


def ending(decisions: Sequence[str]) -> Literal["stopped", "handoff"] | None:
    """Status with which a turn of these decisions ends the run, by the strictest; None if the run continues."""
    rows = [row for name, row in DECISIONS.items() if name in decisions and row.ends]
    return max(rows, key=lambda row: row.severity).ends if rows else None


def releases(decision: str, beside: Sequence[str]) -> bool:
    """True if a call with this decision may be run, given all decisions of its turn."""
    return decision in RELEASED and not any(row.alone for name, row in DECISIONS.items() if name in beside)
