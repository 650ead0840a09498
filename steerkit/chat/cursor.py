"""One grammar cursor per sequence: advanced once per token, it says where the sequence stands, what was written and
which steps stood at each place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from steerkit.chat.parse import Event, Parsed, ReplyReader
from steerkit.chat.places import GrammarState, place_machine, places_of
from steerkit.chat.tokenizer import Tokenizer
from steerkit.types import Place, Span


class Bookmark(NamedTuple):
    """The state of a cursor inside a prompt, to resume from. Hashable; it may be kept with the prompt's prefix."""

    position: int = 0
    """Tokens that were read."""
    state: GrammarState = GrammarState()
    runs: tuple[tuple[Place, tuple[Span, ...]], ...] = ()
    """The steps so far, by place."""


START: Final = Bookmark()
"""Before the first token."""


class Cursor:
    """The grammar of one sequence, prompt and reply, with each token read once.

        cursor = Cursor(tokenizer, len(prompt))
        cursor.read(prompt)
        events = cursor.read([token])

    A prompt of which a beginning was read before is read from there: `Cursor(tokenizer, len(prompt), mark)` and then
    `read(prompt[mark.position :])`.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_length: int, start: Bookmark = START) -> None:
        """Stand before a prompt's first token, or where a bookmark was made in the same prompt.

        Args:
            tokenizer: of the model.
            prompt_length: tokens of the prompt; the steps from its last token on are the reply's.
            start: made by `bookmark` on a cursor over a prompt with the same first tokens; before this prompt's end.
        """
        self._machine = place_machine(tokenizer)
        self._last = prompt_length - 1
        self._first = self._position = start.position
        self._runs: dict[Place, list[Span]] = {place: list(spans) for place, spans in start.runs}
        self._here: list[frozenset[Place]] = []
        self._reply = ReplyReader(self._machine.dialect, prompt_length)
        self.state = start.state
        """State after the last token: `reply` has the call's name as far as it was read."""

    @property
    def position(self) -> int:
        """Tokens that were read."""
        return self._position

    def read(self, tokens: Iterable[int]) -> tuple[Event, ...]:
        """Read the next tokens; the events are those of the reply."""
        events: list[Event] = []
        for token in map(int, tokens):
            position, starts, before = self._position, self._position == self._last, self.state
            self.state = self._machine.read(before, token, starts_reply=starts)
            here = places_of(self.state)
            self._here.append(here)
            for place in here | {"prompt", "reply.start"} if starts else here:
                spans = self._runs.setdefault(place, [])
                if spans and spans[-1].end == position:
                    spans[-1] = Span(spans[-1].start, position + 1)
                else:
                    spans.append(Span(position, position + 1))
            if before.reply is not None and self.state.reply is not None:
                events += self._reply.read(before.reply, token, self.state.reply)
            self._position += 1
        return tuple(events)

    def places(self, start: int, end: int) -> Sequence[frozenset[Place]]:
        """The places of the tokens at `start` to `end`, all read by this cursor and none before its bookmark.
        `reply.start` is not among them: it is the place of one position.
        """
        return self._here[start - self._first : end - self._first]

    def spans(self, steps: int | None = None) -> dict[Place, tuple[Span, ...]]:
        """The steps at each place, in runs: of all tokens read, or of the first `steps`.

        A finished reply's last token was written and never read by the model: its steps are all but one.
        """
        end = self._position if steps is None else steps
        found = {
            place: tuple(Span(span.start, min(span.end, end)) for span in spans if span.start < end)
            for place, spans in sorted(self._runs.items())
        }
        return {place: spans for place, spans in found.items() if spans}

    def parsed(self) -> Parsed:
        """The reply as it ends here: its text, its calls and what ended it. Later tokens may still be read."""
        return self._reply.parsed()

    def bookmark(self) -> Bookmark:
        """The cursor's state, inside the prompt: where a reply began, its text and calls would be lost."""
        return Bookmark(self._position, self.state, tuple(self.spans().items()))


def steps_by_place(tokenizer: Tokenizer, prompt: Sequence[int], reply: Sequence[int]) -> dict[Place, tuple[Span, ...]]:
    """The steps of a finished turn at each place, as runs; the reply's last token is written but never read."""
    cursor = Cursor(tokenizer, len(prompt))
    cursor.read(prompt)
    cursor.read(reply[:-1])
    return cursor.spans()
