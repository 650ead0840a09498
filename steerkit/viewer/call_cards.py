"""Cards of a turn's calls: each with its verdict, the evidence, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from steerkit.audit import Gone, TurnRecord
from steerkit.decisions import DECISIONS, releases
from steerkit.report import json_text
from steerkit.types import CallLike, MalformedCall, Reading, Verdict


class Event(NamedTuple):
    """A decision of a person about a call, or its execution."""

    record: str
    """Id of its own record."""
    time: str
    call_id: str
    word: str
    text: str


class Card(NamedTuple):
    """A call of a turn."""

    name: str
    arguments: tuple[tuple[str, str], ...]
    """Names and values, as JSON."""
    gone: str
    """What became of the arguments, where they were redacted."""
    malformed: str
    """Error of the parser; empty for a call."""
    raw: str
    """Text of what could not be parsed."""
    verdict: Verdict
    rule: str
    """POLICY/RULE, or a built-in check."""
    means: str
    """What the verdict does, as a sentence."""
    events: tuple[Event, ...]
    span: tuple[int, int]
    """Its tokens."""

    @property
    def readings(self) -> tuple[Reading, ...]:
        """Values that decided, each beside its bound."""
        return self.verdict.readings


def cards_of(turn: TurnRecord, events: Sequence[Event]) -> list[Card]:
    """The cards of a turn's calls, in the order in which the model wrote them."""
    decisions = [one.decision for one in turn.verdicts]
    found = []
    for number, (call, verdict) in enumerate(zip(turn.calls, turn.verdicts, strict=True)):
        id = turn.call_ids[number] if number < len(turn.call_ids) else None
        own = tuple(one for one in events if one.call_id == id)
        means = DECISIONS[verdict.decision].becomes
        if DECISIONS[verdict.decision].releases and not releases(verdict.decision, decisions):
            means = f"{means}, but not released beside a call that is handed over"
        found.append(_card(call, verdict, means, own))
    return found


def _card(call: CallLike, verdict: Verdict, means: str, events: tuple[Event, ...]) -> Card:
    rule = verdict.full_name
    span = (call.span.start, call.span.end)
    sentence = f"The call {means}."
    if isinstance(call, MalformedCall):
        return Card("", (), "", call.error, call.raw, verdict, rule, sentence, events, span)
    gone = call.arguments.word if isinstance(call.arguments, Gone) else ""
    arguments = tuple((name, json_text(value)) for name, value in call.arguments.items())
    return Card(call.name, arguments, gone, "", "", verdict, rule, sentence, events, span)
