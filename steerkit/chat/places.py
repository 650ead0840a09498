"""The place of each step in a conversation: one state machine over token ids, for prompts and replies alike.

A step at position t reads token t and produces token t + 1. In the prompt a place says what the token is (`user`,
`tool_result`, …); in the reply it says what the step may produce, as far as the tokens read so far can tell: the step
that reads `call:get` may continue the name, so it stands at `call.name` even if `{` comes next.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final, NamedTuple

from steerkit.chat.dialects import Dialect, Reply, dialect_of
from steerkit.chat.tokenizer import Tokenizer
from steerkit.types import Place

_LONGEST_ROLE: Final = 128
_REMEMBERED: Final = 200_000
_RESULTS: Final = "results"
"""The turn of a user once it holds a tool's result: what the frame writes around results is nobody's text."""
_BLANK: Final = b" \t\r\n"


class GrammarState(NamedTuple):
    """The place of a sequence in its conversation, after a token. Hashable, and all that the next token needs."""

    turn: str = ""
    """Role of the prompt's open turn; while the role is being read, `?` and what was read."""
    inside: str = ""
    """`declaration`, `tool_result` or `thought`; with a trailing `.` at its last token."""
    reply: Reply | None = None
    word: str = ""
    """The beginning of a mark of the prompt that is written as text."""


class PlaceMachine:
    """The grammar of a tokenizer's conversations. Transitions are remembered, so a step costs a look-up."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.dialect: Dialect = dialect_of(tokenizer)
        dialect, frame = self.dialect, self.dialect.frame
        self._roles = frame.roles
        self._end_role = None if frame.end_role == "\n" else dialect.names[frame.end_role]
        pairs = {"declaration": dialect.syntax.declaration, "tool_result": dialect.syntax.result}
        self._opens = {dialect.names[pair.begin]: name for name, pair in pairs.items() if pair.begin in dialect.names}
        self._closes = {dialect.names[pair.end]: name for name, pair in pairs.items() if pair.end in dialect.names}
        self._in_turn = {name: pair.turn for name, pair in pairs.items()}
        self._written = {name: pair for name, pair in pairs.items() if pair.begin in dialect.markup}
        self._known: dict[tuple[GrammarState, int], tuple[GrammarState, frozenset[Place]]] = {}

    def read(self, before: GrammarState, token: int, *, starts_reply: bool = False) -> GrammarState:
        """The state after one more token; `starts_reply` at the prompt's last one."""
        return self.step(before, token, starts_reply=starts_reply)[0]

    def step(
        self, before: GrammarState, token: int, *, starts_reply: bool = False
    ) -> tuple[GrammarState, frozenset[Place]]:
        """The state after one more token, and the places where the step that reads it stands, `reply.start` among them
        at the prompt's last one."""
        known = self._known.get((before, token))
        if known is None:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            if before.reply is None:
                after = self._read_prompt(before, token)
            else:
                after = GrammarState(reply=self.dialect.after_token(before.reply, token))
            self._known[before, token] = known = after, places_of(after)
        if not starts_reply:
            return known
        after = known[0]._replace(reply=Reply("thought" if known[0].inside == "thought" else "text"))
        return after, places_of(after) | {"prompt", "reply.start"}

    def _read_prompt(self, before: GrammarState, token: int) -> GrammarState:
        dialect, turn, inside = self.dialect, before.turn, before.inside
        if token == dialect.turn:
            return GrammarState("?")
        if turn.endswith("."):
            turn = ""
        if inside.endswith("."):
            inside = ""
        if token == dialect.end_turn:
            return GrammarState(f"{turn}." if turn and not turn.startswith("?") and turn != "other" else "")
        if token in self._opens and self._may_open(self._opens[token], turn):
            return self._opened(turn, self._opens[token])
        if token in self._closes:
            return GrammarState(turn, f"{inside}." if inside == self._closes[token] else "")
        opened, closed = dialect.thought
        if turn == "model" and token in (opened, closed):
            return GrammarState(turn, "thought" if token == opened else "")
        if turn.startswith("?"):
            return self._read_role(turn, token)
        return self._read_text(GrammarState(turn, inside, word=before.word), dialect.bytes(token))

    def _read_role(self, turn: str, token: int) -> GrammarState:
        if token == self._end_role:
            return GrammarState(self._roles.get(turn[1:], "other"))
        role, ended, rest = (turn[1:].encode() + self.dialect.bytes(token)).partition(b"\n")
        name = role.decode("utf-8", "replace")[:_LONGEST_ROLE]
        if self._end_role is not None or not ended:
            return GrammarState(f"?{name}")
        return self._read_text(GrammarState(self._roles.get(name, "other")), rest)

    def _read_text(self, state: GrammarState, text: bytes) -> GrammarState:
        """The state after text of a turn, in which marks may be written that the tokenizer has no token for."""
        for byte in text if self._written else b"":
            mark = self._awaited(state)
            if mark is None:
                break
            word = state.word + chr(byte)
            while word and not mark.startswith(word):
                word = word[1:]
            state = state._replace(word=word)
            if word == mark:
                inside = state.inside.rstrip(".")
                closed = state._replace(inside=f"{inside}.", word="")
                state = closed if inside else self._opened(state.turn, self._opens_by(state.turn))
        if state.turn == _RESULTS and not state.inside and not state.word and text.strip(_BLANK):
            return state._replace(turn="user")
        return state

    def _awaited(self, state: GrammarState) -> str | None:
        """The mark that would open or close something now."""
        inside = state.inside
        if inside and not inside.endswith("."):
            pair = self._written.get(inside)
            return None if pair is None else pair.end
        name = self._opens_by(state.turn)
        return self._written[name].begin if name else None

    def _opens_by(self, turn: str) -> str:
        """The part that a written mark opens in a turn."""
        return next((name for name in self._written if self._may_open(name, turn)), "")

    def _may_open(self, name: str, turn: str) -> bool:
        wanted = self._in_turn[name]
        return wanted is None or wanted == ("user" if turn == _RESULTS else turn)

    def _opened(self, turn: str, name: str) -> GrammarState:
        return GrammarState(_RESULTS if name == "tool_result" and turn == "user" else turn, name)


_IN_REPLY: Final[Mapping[str, tuple[str, ...]]] = {
    "text": ("text",),
    "thought": (),
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
def places_of(state: GrammarState) -> frozenset[Place]:
    """Every place that a step stands at, `any` among them; `reply.start` is at the prompt's last token alone."""
    found = {"any"}
    if state.reply is None or state.turn or state.inside:
        found.add("prompt")
        found |= {state.turn.rstrip("."), state.inside.rstrip(".")} & {
            "developer",
            "user",
            "declaration",
            "tool_result",
        }
    if state.reply is not None:
        reply = state.reply
        found |= {"reply", *_IN_REPLY[reply.mode]}
        if reply.mode == "value":
            found.add(f"call.arguments.{reply.word}")
    return frozenset(found)


@lru_cache(maxsize=8)
def place_machine(tokenizer: Tokenizer) -> PlaceMachine:
    """The machine of a tokenizer, built once, so that its transitions are kept."""
    return PlaceMachine(tokenizer)
