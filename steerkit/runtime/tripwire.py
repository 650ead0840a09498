"""Ends a reply in the middle of a call that a rule is already certain of, instead of paying for its end."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit import guard
from steerkit.chat import CallOpened, Cursor, Event
from steerkit.engine import Step
from steerkit.runtime.request import Prepared
from steerkit.types import Call, Span, Trace, Verdict

_NAMED = ("named", "key", "value", "between", "closed", "broken")
"""Modes of the reply's grammar in which the name is complete."""


class Tripwires:
    """Watches the calls of a batch while they are written; does nothing where no policy has a tripwire."""

    def __init__(self, prepared: Sequence[Prepared]) -> None:
        self._watched = [
            _Watch(one, row)
            for row, one in enumerate(prepared)
            if any(guard.is_tripwire(rule) for policy in one.policies if policy.guard for rule in policy.guard.rules)
        ]
        self.tripped: dict[int, Verdict] = {}
        """By row, the verdict that ended it."""

    def after(self, step: Step, cursors: Sequence[Cursor], events: Sequence[Sequence[Event]]) -> set[int]:
        """Rows to stop after a step, whose tokens the rows' cursors have read."""
        cut = set()
        for watch in self._watched:
            row = watch.row
            if step.tokens[row] is None:
                continue
            verdict = watch.verdict(step, cursors[row], events[row])
            if verdict is not None:
                self.tripped[row] = verdict
                cut.add(row)
        return cut


class _Watch:
    """One row: its open call, and the values of the features that the guard needs."""

    def __init__(self, one: Prepared, row: int) -> None:
        self.row, self._one = row, one
        self._call = 0
        """Position at which the last call opened."""
        self._values: dict[str, tuple[float, ...]] = {}
        self._seen = 0

    def verdict(self, step: Step, cursor: Cursor, events: Sequence[Event]) -> Verdict | None:
        """The verdict that is certain after this token, if any."""
        for event in events:
            if isinstance(event, CallOpened):
                self._call = event.position
        reply = cursor.state.reply
        if reply is None or not reply.in_call:
            return None
        name = reply.name if reply.mode in _NAMED else ""
        call = Call(name, {}, Span(self._call, cursor.position))
        places = cursor.spans(cursor.position - 1)  # the model has not run on the last token yet
        trace = Trace(0, self._watched(step), places=places)
        return guard.certain(call, trace=trace, policies=self._one.policies, messages=self._one.request.messages)

    def _watched(self, step: Step) -> dict[str, tuple[float, ...]]:
        """The watched values of every token that the model has run on."""
        fresh = step.watched(self.row, self._seen)
        self._values = {name: (*self._values.get(name, ()), *values) for name, values in fresh.items()}
        self._seen = max((len(values) for values in self._values.values()), default=0)
        return self._values
