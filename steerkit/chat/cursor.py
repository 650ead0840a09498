"""One grammar cursor per sequence: advanced once per token, it says where the sequence stands, what was written and
which steps stood at each place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from steerkit.chat.parse import Event, Parsed, ReplyReader
from steerkit.chat.places import GrammarState, place_machine
from steerkit.chat.tokenizer import Tokenizer
from steerkit.types import Place, Span


class Segment(NamedTuple):
    """Adjacent tokens that stand at the same places."""

    start: int
    """Position of the first; the last is before the next segment."""
    places: frozenset[Place]


class Cursor:
    """The grammar of one sequence, prompt and reply, with each token read once.

        cursor = Cursor(tokenizer, len(prompt))
        cursor.read(prompt)
        events = cursor.read([token])

    Args:
        tokenizer: of the model.
        prompt_length: tokens of the prompt; the steps from its last token on are the reply's.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_length: int) -> None:
        self._machine = place_machine(tokenizer)
        self._last = prompt_length - 1
        self._segments: list[Segment] = []
        self._reply = ReplyReader(self._machine.dialect, prompt_length)
        self.position = 0
        """Tokens that were read."""
        self.state = GrammarState()
        """State after the last token: `reply` has the call's name as far as it was read."""

    def read(self, tokens: Iterable[int]) -> tuple[Event, ...]:
        """Read the next tokens; the events are those of the reply."""
        events: list[Event] = []
        for token in map(int, tokens):
            before = self.state
            self.state, here = self._machine.step(before, token, starts_reply=self.position == self._last)
            if not self._segments or self._segments[-1].places != here:
                self._segments.append(Segment(self.position, here))
            self.position += 1
            if before.reply is not None and self.state.reply is not None:
                events += self._reply.read(before.reply, token, self.state.reply)
        return tuple(events)

    def spans(self, steps: int | None = None) -> dict[Place, tuple[Span, ...]]:
        """The steps at each place, in runs: of all tokens read, or of the first `steps`.

        A finished reply's last token was written and never read by the model: its steps are all but one.
        """
        end = self.position if steps is None else steps
        found: dict[Place, list[Span]] = {}
        ends = [*(one.start for one in self._segments[1:]), end]
        for (start, here), after in zip(self._segments, ends, strict=True):
            stop = min(after, end)
            for place in here if start < stop else ():
                spans = found.setdefault(place, [])
                if spans and spans[-1].end == start:
                    spans[-1] = Span(spans[-1].start, stop)
                else:
                    spans.append(Span(start, stop))
        return {place: tuple(spans) for place, spans in sorted(found.items())}

    def parsed(self) -> Parsed:
        """The reply as it ends here: its text, its calls and what ended it. Later tokens may still be read."""
        return self._reply.parsed()


def steps_by_place(tokenizer: Tokenizer, prompt: Sequence[int], reply: Sequence[int]) -> dict[Place, tuple[Span, ...]]:
    """The steps of a finished turn at each place, as runs; the reply's last token is written but never read."""
    cursor = Cursor(tokenizer, len(prompt))
    cursor.read((*prompt, *reply[:-1]))
    return cursor.spans()
