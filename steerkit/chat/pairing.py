"""Pairs of calls and results: by id, or by the calls' order, and never by the content of a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steerkit.errors import MessageError


@dataclass(slots=True)
class _Asked:
    name: str
    id: str | None
    answered: bool = False


class Pairing:
    """The calls of a conversation, message by message, and those of them that wait for a result.

    Results follow their calls: once somebody else speaks, or the model answers, no earlier call waits any more.
    """

    def __init__(self) -> None:
        self._calls: list[_Asked] = []
        self._open = 0
        """Number of the first call that may still be answered."""

    def asked(self, calls: Sequence[Mapping[str, Any]], where: str) -> None:
        """Read the calls of one message.

        Raises:
            MessageError: two of those that wait have one id, so that nobody can tell whose a result is.
        """
        for number, call in enumerate(calls):
            waiting = {one.id for one in self._calls[self._open :] if not one.answered}
            if "id" in call and call["id"] in waiting:
                raise MessageError(f"{where}[{number}].id: got {call['id']!r:.80} a second time; expected its own id")
            self._calls.append(_Asked(call["function"]["name"], call.get("id")))

    def closed(self) -> None:
        """Read a message that ends the calls before it."""
        self._open = len(self._calls)

    def answered(self, reference: Any, name: Any, where: str) -> tuple[int, str]:
        """The number and the name of the call that a result answers, which no other result does then.

        Args:
            reference: its `tool_call_id`; None takes the first waiting call of that name.
            name: its `name`; None takes it from the call.
            where: the message, for errors.

        Raises:
            MessageError: no such call waits, or the id and the name are of two tools.
        """
        key, sought = ("name", name) if reference is None else ("tool_call_id", str(reference))
        for number in self._waiting():
            call = self._calls[number]
            if (call.name if reference is None else call.id) == sought:
                if name not in (None, call.name):
                    raise MessageError(f"{where}.name: got {name!r:.80}, expected {call.name!r}, which that call asked")
                call.answered = True
                return number, call.name
        what = "the id of an earlier call" if key == "tool_call_id" else "the name of an earlier call's tool"
        raise MessageError(f"{where}.{key}: got {sought!r:.80}, expected {what} that still waits for its result")

    def next_in_turn(self, name: Any, where: str) -> int:
        """The number of the call that waits next, if it is of this name. Raises MessageError."""
        number = next(iter(self._waiting()), None)
        if number is None or self._calls[number].name != name:
            expected = "no result, as no call waits" if number is None else f"{self._calls[number].name!r}, asked next"
            hint = "a result is its call's by tool_call_id, whatever it holds"
            raise MessageError(f"{where}: got the tool name {name!r:.80}, expected {expected}; {hint}")
        self._calls[number].answered = True
        return number

    def _waiting(self) -> list[int]:
        return [n for n in range(self._open, len(self._calls)) if not self._calls[n].answered]
