"""A replayed turn, as `steerkit audit replay --json` writes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from steerkit.types import Call, CallLike, MalformedCall, Span


@dataclass(frozen=True)
class CallRow:
    """A call, or what stood where one should be."""

    name: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)
    malformed: str | None = None
    raw: str = ""
    span: tuple[int, int] = (0, 0)

    @property
    def call(self) -> CallLike:
        """The call itself."""
        if self.name is None:
            return MalformedCall(self.malformed or "", 0, self.raw, Span(*self.span))
        return Call(self.name, self.arguments, Span(*self.span))


@dataclass(frozen=True)
class VerdictRow:
    """A verdict on it."""

    decision: str
    rule: str = ""
    policy: str = ""


@dataclass(frozen=True)
class PolicyRow:
    """A policy that it was made under."""

    name: str


@dataclass(frozen=True)
class MadeRow:
    """The turn that was made."""

    text: str
    calls: tuple[CallRow, ...]
    verdicts: tuple[VerdictRow, ...]
    finish: str
    reply_ids: tuple[int, ...]
    policies: tuple[PolicyRow, ...] = ()
    layers: Mapping[str, float] = field(default_factory=dict)
    """By site, the activation of its strongest features over the reply, a token's mean."""


@dataclass(frozen=True)
class AlternativeRow:
    """A token that might have been written."""

    token: str
    id: int
    probability: float


@dataclass(frozen=True)
class ReplayReport:
    """A recorded turn, made again."""

    report: Literal["replay"]
    record: str
    how: str
    """`again`, `without steering` or `under other policies`."""
    made: MadeRow
    same: bool | None = None
    """True where nothing differs; None of one that was made otherwise."""
    alternatives: tuple[tuple[AlternativeRow, ...], ...] = ()
    """At each token of the recorded reply, the likeliest ones."""

    @property
    def title(self) -> str:
        """Name in a list."""
        return f"Record {self.record[:8]} {'replayed' if self.how == 'again' else self.how}"

    @property
    def lead(self) -> str:
        """The result in a sentence."""
        if self.same is not None:
            return "The same tokens and verdicts." if self.same else "It differs from the record."
        names = ", ".join(one.name or "a malformed call" for one in self.made.calls)
        return f"It calls {names}." if names else "It makes no call."
