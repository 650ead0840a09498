"""Texts that end a reply: found in its text as it comes, of which nothing leaves that may be the beginning of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steerkit.chat import Event, TextDelta, ThoughtDelta


class StopTexts:
    """Watches the text of one reply; calls and thoughts are not looked into."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        """Text that may be the beginning of one."""
        self._said: list[str] = []
        self.found = False
        """True once one has come; what follows is no part of the reply."""

    @property
    def text(self) -> str:
        """The reply's text before the stop."""
        return "".join(self._said)

    def read(self, events: Sequence[Event]) -> tuple[Event, ...]:
        """The events with the text that is known to be none of a stop."""
        if not self._stops:
            return tuple(events)
        return tuple(self._read(events))

    def rest(self) -> tuple[Event, ...]:
        """The text that was held back, once the reply has ended."""
        held, self._held = self._held, ""
        return tuple(self._say(held))

    def _read(self, events: Sequence[Event]) -> Iterator[Event]:
        for event in events:
            if self.found:
                return
            if isinstance(event, TextDelta):
                yield from self._read_text(self._held + event.text)
                continue
            if not isinstance(event, ThoughtDelta):
                yield from self.rest()  # a stop does not go on behind a call
            yield event

    def _read_text(self, text: str) -> Iterator[Event]:
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        self.found = bool(places)
        end = min(places) if places else len(text) - self._begun(text)
        self._held = "" if self.found else text[end:]
        yield from self._say(text[:end])

    def _begun(self, text: str) -> int:
        """Characters at the end that are the beginning of a stop."""
        longest = max(map(len, self._stops)) - 1
        sizes = range(min(longest, len(text)), 0, -1)
        return next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)

    def _say(self, text: str) -> Iterator[Event]:
        if text:
            self._said.append(text)
            yield TextDelta(text)
