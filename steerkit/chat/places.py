"""Where each step of a conversation stands: one state machine over token ids, for prompts and replies alike.

A step at position t reads token t and produces token t + 1. In the prompt a place says what the token is (`user`,
`tool_result`, …); in the reply it says what the step may produce, as far as the tokens read so far can tell: the step
that reads `call:get` may go on with the name, so it stands at `call.name` even if `{` comes next.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from steerkit.chat.tokenizer import TokenBytes, Tokenizer, token_bytes
from steerkit.chat.wire import Wire
from steerkit.types import Place, Span

NAME_BYTES: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_BLANK: Final = frozenset(b" \t\r\n")
_LONGEST_NAME: Final = 128
_REMEMBERED: Final = 200_000
_ROLES: Final = frozenset({"developer", "user", "model"})


class Reply(NamedTuple):
    """How far the reply's grammar has come."""

    mode: str = "text"
    """`text`, `head` (before the name), `open` (the name is next), `name`, `named` (after it), `key`, `value`,
    `between` (after a value), `closed` (after the object), `broken` or `done`."""
    word: str = ""
    """What was read of `call:` in `head`, the key in `key` and `value`."""
    depth: int = 0
    """Open braces and brackets inside a value."""
    in_string: bool = False
    name: str = ""
    """The call's name, as far as it was read."""


class Standing(NamedTuple):
    """Where a sequence stands after a token."""

    turn: str = ""
    """Role of the prompt's open turn; while the role is being read, `?` and what was read."""
    inside: str = ""
    """`declaration` or `tool_result`; with a trailing `.` at its last token."""
    reply: Reply | None = None


class PlaceMachine:
    """Reads tokens and says where each step stands; transitions are remembered, so a step costs a look-up."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        vocabulary = tokenizer.get_vocab()
        self._wire = Wire.of(tokenizer)
        self._bytes: TokenBytes = token_bytes(tokenizer)
        self._turn, self._end_turn = vocabulary["<start_of_turn>"], vocabulary["<end_of_turn>"]
        self._opens = {
            vocabulary["<start_function_declaration>"]: "declaration",
            vocabulary["<start_function_response>"]: "tool_result",
        }
        self._closes = {
            vocabulary["<end_function_declaration>"]: "declaration",
            vocabulary["<end_function_response>"]: "tool_result",
        }
        self._known: dict[tuple[Standing, int], Standing] = {}

    def read(self, before: Standing, token: int, *, starts_reply: bool = False) -> Standing:
        """Where the sequence stands after one more token; `starts_reply` at the prompt's last one."""
        key = (before, token)
        after = self._known.get(key)
        if after is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            after = self._read_prompt(before, token) if before.reply is None else self._read_reply(before.reply, token)
            self._known[key] = after
        return after._replace(reply=Reply()) if starts_reply else after

    def _read_prompt(self, before: Standing, token: int) -> Standing:
        turn, inside = before.turn, before.inside
        if token == self._turn:
            return Standing("?")
        if turn.endswith("."):
            turn = ""
        if inside.endswith("."):
            inside = ""
        if token == self._end_turn:
            return Standing(f"{turn}." if turn in _ROLES else "")
        if token in self._opens:
            return Standing(turn, self._opens[token])
        if token in self._closes:
            return Standing(turn, f"{inside}." if inside == self._closes[token] else "")
        if turn.startswith("?"):
            text = (turn[1:].encode() + self._bytes(token)).partition(b"\n")
            role = text[0].decode("utf-8", "replace")[:_LONGEST_NAME]
            turn = (role if role in _ROLES else "other") if text[1] else f"?{role}"
        return Standing(turn, inside)

    def _read_reply(self, before: Reply, token: int) -> Standing:
        wire = self._wire
        if token == wire.end_call:
            after = Reply()
        elif token in wire.stops:
            after = Reply("done")
        elif token == wire.call:
            after = Reply("head") if before.mode == "text" else before._replace(mode="broken")
        elif token == wire.escape:
            after = _escape(before)
        elif token in wire.control:
            after = before if before.mode == "text" else before._replace(mode="broken")
        else:
            after = before
            if before.mode not in ("text", "broken", "done"):
                for byte in self._bytes(token):
                    after = _byte(after, byte)
        return Standing(reply=after)


def _escape(state: Reply) -> Reply:
    if state.mode != "value":
        return state if state.mode == "text" else state._replace(mode="broken")
    if state.in_string and state.depth == 0:
        return Reply("between", name=state.name)
    return state._replace(in_string=not state.in_string)


def _byte(state: Reply, byte: int) -> Reply:
    """The reply's state after one more byte of text inside a call."""
    if state.mode == "value":
        return _value_byte(state, byte)
    if byte in _BLANK:
        return state._replace(mode="named") if state.mode == "name" else state
    char, name = chr(byte), state.name
    match state.mode:
        case "head":
            word = state.word + char
            return Reply("open") if word == "call:" else Reply("head", word) if "call:".startswith(word) else _BROKEN
        case "open" | "name" if byte in NAME_BYTES and len(name) < _LONGEST_NAME:
            return Reply("name", name=name + char)
        case "name" | "named" if char == "{":
            return Reply("key", name=name)
        case "key" if byte in NAME_BYTES and len(state.word) < _LONGEST_NAME:
            return state._replace(word=state.word + char)
        case "key" if char == ":" and state.word:
            return state._replace(mode="value")
        case "key" if char == "}" and not state.word:
            return Reply("closed", name=name)
        case "between" if char in ",}":
            return Reply("key" if char == "," else "closed", name=name)
    return state._replace(mode="broken")


def _value_byte(state: Reply, byte: int) -> Reply:
    char = chr(byte)
    if state.in_string:
        return state
    if char in "{[":
        return state._replace(depth=state.depth + 1)
    if state.depth and char in "}]":
        return Reply("between", name=state.name) if state.depth == 1 else state._replace(depth=state.depth - 1)
    if state.depth == 0 and char in ",}":
        return Reply("key" if char == "," else "closed", name=state.name)
    return state


_BROKEN: Final = Reply("broken")
_IN_REPLY: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("text",),
    "head": ("call",),
    "open": ("call", "call.open", "call.name"),
    "name": ("call", "call.name"),
    "named": ("call",),
    "key": ("call", "call.arguments"),
    "value": ("call", "call.arguments"),
    "between": ("call", "call.arguments"),
    "closed": ("call",),
    "broken": ("call",),
    "done": (),
}


@lru_cache(maxsize=4096)
def places_of(standing: Standing) -> frozenset[Place]:
    """Every place that a step stands at, `any` among them; `reply.start` is at the prompt's last token alone."""
    found = {"any"}
    if standing.reply is None or standing.turn or standing.inside:
        found.add("prompt")
        found |= {standing.turn.rstrip("."), standing.inside.rstrip(".")} & {
            "developer",
            "user",
            "declaration",
            "tool_result",
        }
    if standing.reply is not None:
        reply = standing.reply
        found |= {"reply", *_IN_REPLY[reply.mode]}
        if reply.mode == "value":
            found.add(f"call.arguments.{reply.word}")
    return frozenset(found)


@lru_cache(maxsize=8)
def place_machine(tokenizer: Tokenizer) -> PlaceMachine:
    """The machine of a tokenizer; made once, so that what it learned is kept."""
    return PlaceMachine(tokenizer)


class StepPlaces:
    """Collects, token by token, the steps of one sequence at each place, as runs."""

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int]) -> None:
        self._machine = place_machine(tokenizer)
        self._runs: dict[Place, list[Span]] = {}
        self._last, self._position = len(prompt) - 1, 0
        self.standing = Standing()
        """Where the sequence stands now."""
        self.read(prompt)

    def read(self, tokens: Sequence[int]) -> None:
        """Add the next tokens."""
        for token in tokens:
            position, starts = self._position, self._position == self._last
            self.standing = self._machine.read(self.standing, token, starts_reply=starts)
            here = places_of(self.standing)
            for place in here | {"prompt", "reply.start"} if starts else here:
                spans = self._runs.setdefault(place, [])
                if spans and spans[-1].end == position:
                    spans[-1] = Span(spans[-1].start, position + 1)
                else:
                    spans.append(Span(position, position + 1))
            self._position += 1

    def spans(self) -> dict[Place, tuple[Span, ...]]:
        """The steps so far, by place."""
        return {place: tuple(spans) for place, spans in sorted(self._runs.items())}


def steps_by_place(tokenizer: Tokenizer, prompt: Sequence[int], reply: Sequence[int]) -> dict[Place, tuple[Span, ...]]:
    """The steps of a finished turn at each place, as runs; the reply's last token is written but never read."""
    steps = StepPlaces(tokenizer, prompt)
    steps.read(reply[:-1])
    return steps.spans()
