"""The guard's decisions, one row each: how strict it is, what it releases, whether it ends the run, how it is said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

Decision: TypeAlias = Literal["none", "allow", "flag", "retry", "hold", "deny", "handoff", "stop"]
"""What the guard says of a call; `none`: no guard was asked."""
Ruling: TypeAlias = Literal["allow", "flag", "hold", "retry", "deny", "handoff", "stop"]
"""What a rule may decide."""
Default: TypeAlias = Literal["allow", "flag", "hold", "deny", "handoff", "stop"]
"""What may happen to a call that no rule matches."""


class Meaning(NamedTuple):
    """What follows from a decision."""

    severity: int
    """Of several verdicts on a call the highest counts."""
    releases: bool
    """Whether an executor may run the call."""
    ends: Literal["stopped", "handoff"] | None
    """Status under which the agent loop's run ends; None where it goes on."""
    alone: bool
    """Whether no other call of the turn is released beside it."""
    does: str
    """What a rule does, said of a call `{}`."""
    becomes: str
    """What a call does that no rule matches."""
    style: str
    """How the decision looks on a terminal."""


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
    """How strict it is."""
    return DECISIONS[decision].severity


def ending(decisions: Sequence[str]) -> Literal["stopped", "handoff"] | None:
    """Status under which a turn with these decisions ends the run, the strictest first; None where none does."""
    rows = [row for name, row in DECISIONS.items() if name in decisions and row.ends]
    return max(rows, key=lambda row: row.severity).ends if rows else None


def releases(decision: str, beside: Sequence[str]) -> bool:
    """Whether a call with this decision may be run, among all decisions of its turn."""
    return decision in RELEASED and not any(row.alone for name, row in DECISIONS.items() if name in beside)
