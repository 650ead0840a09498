"""Ends a reply in the middle of a call that a rule is already certain of, instead of paying for its end."""

from __future__ import annotations

from collections.abc import Sequence

from steerkit import guard
from steerkit.chat import Cursor, dialect_of, place_machine
from steerkit.engine import LoadedModel
from steerkit.runtime.request import Prepared
from steerkit.sae import SaeSet
from steerkit.steer import Tape, read_watched
from steerkit.types import Call, Span, Trace, Verdict

_NAMED = ("named", "key", "value", "between", "closed", "broken")
"""Modes of the reply's grammar in which the name is complete."""


class Tripwires:
    """Watches the calls of a batch while they are written; does nothing where no policy has a tripwire."""

    def __init__(self, loaded: LoadedModel, saes: SaeSet | None, prepared: Sequence[Prepared], tape: Tape) -> None:
        self._watched = [
            _Watch(loaded, saes, one, tape, row)
            for row, one in enumerate(prepared)
            if any(guard.is_tripwire(rule) for policy in one.policies if policy.guard for rule in policy.guard.rules)
        ]
        self.tripped: dict[int, Verdict] = {}
        """By sequence, the verdict that ended it."""

    def after(self, tokens: Sequence[int | None]) -> set[int]:
        """The sequences to cut now that these tokens were made."""
        cut = set()
        for watch in self._watched:
            token = tokens[watch.row]
            verdict = None if token is None else watch.read(token)
            if verdict is not None:
                self.tripped[watch.row] = verdict
                cut.add(watch.row)
        return cut


class _Watch:
    """One sequence: where it stands, and what the features that the guard needs have shown."""

    def __init__(self, loaded: LoadedModel, saes: SaeSet | None, one: Prepared, tape: Tape, row: int) -> None:
        self.row, self._one, self._saes, self._tape = row, one, saes, tape
        self._machine = place_machine(loaded.tokenizer)
        self._opens = dialect_of(loaded.tokenizer).call
        self._steps = Cursor(loaded.tokenizer, len(one.prompt.ids))
        self._steps.read(one.prompt.ids)
        self._position = len(one.prompt.ids)
        self._call: int | None = None
        self._unread: list[int] = []
        """The last token made: it is not read yet."""
        self._values: dict[str, tuple[float, ...]] = {}
        self._seen = 0

    def read(self, token: int) -> Verdict | None:
        """The verdict that is certain now that this token was made, if any."""
        self._steps.read(self._unread)
        self._unread = [token]
        standing = self._machine.read(self._steps.state, token)
        position, self._position = self._position, self._position + 1
        reply = standing.reply
        if reply is None or not reply.in_call:
            self._call = None
            return None
        if token == self._opens and self._call is None:
            self._call = position
        name = reply.name if reply.mode in _NAMED else ""
        call = Call(name, {}, Span(self._call or position, position + 1))
        trace = Trace(0, self._trace(), places=self._steps.spans())
        return guard.certain(call, trace=trace, policies=self._one.policies, messages=self._one.request.messages)

    def _trace(self) -> dict[str, tuple[float, ...]]:
        """The watched values of every token read so far."""
        if self._saes is not None:
            fresh = read_watched(self._tape, self._saes, self._one.wanted, self.row, self._seen)
            self._values = {name: self._values.get(name, ()) + values for name, values in fresh.items()}
            self._seen = max((len(values) for values in self._values.values()), default=0)
        return self._values
