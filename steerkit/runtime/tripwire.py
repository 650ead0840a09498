"""Ends a reply in the middle of a call that a rule is already certain of, instead of paying for its end."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit import guard
from steerkit.chat import StepPlaces, Tokenizer, Wire, place_machine
from steerkit.engine import Step
from steerkit.runtime.request import Prepared
from steerkit.types import Call, Span, Trace, Verdict

_NAMED = ("named", "key", "value", "between", "closed", "broken")
"""Modes of the reply's grammar in which the name is complete."""


class Tripwires:
    """Watches the calls of a batch while they are written; does nothing where no policy has a tripwire."""

    def __init__(self, tokenizer: Tokenizer, prepared: Sequence[Prepared]) -> None:
        self._watched = [
            _Watch(tokenizer, one, row)
            for row, one in enumerate(prepared)
            if any(guard.is_tripwire(rule) for policy in one.policies if policy.guard for rule in policy.guard.rules)
        ]
        self.tripped: dict[int, Verdict] = {}
        """By row, the verdict that ended it."""

    def after(self, step: Step) -> set[int]:
        """Rows to stop after a step."""
        cut = set()
        for watch in self._watched:
            token = step.tokens[watch.row]
            verdict = None if token is None else watch.read(token, step)
            if verdict is not None:
                self.tripped[watch.row] = verdict
                cut.add(watch.row)
        return cut


class _Watch:
    """One row: the state of its grammar, and the values of the features that the guard needs."""

    def __init__(self, tokenizer: Tokenizer, one: Prepared, row: int) -> None:
        self.row, self._one = row, one
        self._machine = place_machine(tokenizer)
        self._opens = Wire.of(tokenizer).call
        self._steps = StepPlaces(tokenizer, one.prompt.ids)
        self._position = len(one.prompt.ids)
        self._call: int | None = None
        self._unread: list[int] = []
        """The last decoded token: the model has not run on it yet."""
        self._values: dict[str, tuple[float, ...]] = {}
        self._seen = 0

    def read(self, token: int, step: Step) -> Verdict | None:
        """The verdict that is certain after this token, if any."""
        self._steps.read(self._unread)
        self._unread = [token]
        standing = self._machine.read(self._steps.standing, token)
        position, self._position = self._position, self._position + 1
        reply = standing.reply
        if reply is None or reply.mode in ("text", "done"):
            self._call = None
            return None
        if token == self._opens and self._call is None:
            self._call = position
        name = reply.name if reply.mode in _NAMED else ""
        call = Call(name, {}, Span(self._call or position, position + 1))
        trace = Trace(0, self._trace(step), places=self._steps.spans())
        return guard.certain(call, trace=trace, policies=self._one.policies, messages=self._one.request.messages)

    def _trace(self, step: Step) -> dict[str, tuple[float, ...]]:
        """The watched values of every token that the model has run on."""
        fresh = step.watched(self.row, self._seen)
        self._values = {name: (*self._values.get(name, ()), *values) for name, values in fresh.items()}
        self._seen = max((len(values) for values in self._values.values()), default=0)
        return self._values
