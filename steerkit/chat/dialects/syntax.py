"""The seam: all that tells one family's calls and turns from another's, as one frozen value."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from steerkit.chat.dialects.reply import Reply
from steerkit.chat.dialects.symbols import Symbol
from steerkit.types import Call, Json, Span

Role: TypeAlias = Literal["developer", "user", "model"]


class Frame(NamedTuple):
    """A way to write the turns of a prompt."""

    begin: str
    """The control token that begins a turn; the role follows it."""
    end: str
    """The control token that ends a turn."""
    roles: Mapping[str, Role]
    """The roles as they are written, and whose they are."""
    end_role: str = "\n"
    """The end of the role: an end of line, or a control token."""

    def opening(self, role: Role) -> tuple[str, ...]:
        """The ways to begin a turn of this role."""
        return tuple(f"{self.begin}{name}{self.end_role}" for name, whose in self.roles.items() if whose == role)


class Pair(NamedTuple):
    """Two marks around a part of a turn: control tokens, or text where the tokenizer has no token for them."""

    begin: str
    end: str
    turn: Role | None = None
    """The turn that it is looked for in; None: in any."""


def _json_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class Written(NamedTuple):
    """The one way in which a family's template writes calls, as a grammar lays it over decoding; the default is JSON's.

    Strings stand between the syntax's quotes, or are JSON's where it has none.
    """

    begin: str = ""
    """Text of a call before its name."""
    between: str = ""
    """Text between the name and the arguments' object."""
    end: str = ""
    """Text after that object."""
    comma: str = ", "
    colon: str = ": "
    nulls: tuple[str, ...] = ("null",)
    """The words for null."""
    bare_keys: bool = False
    """Keys are written without quotes, so that untrusted ones must be names."""
    string: Callable[[str], str] = _json_text
    """A text as a string of JSON."""


@dataclass(frozen=True, slots=True)
class Syntax:
    """One family's call syntax."""

    name: str
    """Name, as users write it."""
    models: str
    """The family's, for errors: "FunctionGemma's"."""
    call: Pair
    """The control tokens around a call."""
    frames: tuple[Frame, ...]
    """Ways to write turns; a tokenizer has the tokens of one."""
    declaration: Pair
    result: Pair
    read_call: Callable[[Sequence[Symbol], Span], Call]
    """A call of the characters between its control tokens, with its span. Raises CallSyntaxError."""
    encode_call: Callable[[str, Mapping[str, Json]], str]
    """A call as the model writes it, control tokens included. Raises MessageError where `read_call` would refuse it."""
    after_byte: Callable[[Reply, int], Reply]
    """The grammar's state after one more byte of text inside a call."""
    prepare: Callable[[Sequence[dict[str, Any]]], list[dict[str, Any]]]
    """Puts the messages of `template_messages` into the form that the family's chat templates take."""
    named: re.Pattern[str]
    """Finds the complete name at the beginning of a call's text, in its one group."""
    written: Written
    """How a call is written, for the grammar of constrained decoding."""
    required: tuple[str, ...] = ()
    """Control tokens that a tokenizer must have, beside those of the call and the frame."""
    optional: tuple[str, ...] = ()
    """Texts that are structure where the tokenizer has a token for them."""
    quote: str | None = None
    """The control token that opens and closes strings."""
    after_quote: Callable[[Reply], Reply] = lambda state: state
    """The grammar's state after a `quote` inside a call."""
    thought: Pair | None = None
    """The control tokens around what the model thinks before it speaks."""
    declares: Literal["words", "schema"] = "words"
    """A tool's schema as the template is given it: in the few words that Gemma's templates have, or as it is."""
    layout: bool = False
    """Blanks beside calls and thoughts are layout and no text."""
    asks_by_end: bool = False
    """A reply that ends after a call waits for its result, as no token says so."""
    foreign: tuple[str, ...] = ()
    """Texts of a chat template that writes calls in another way, with the same control tokens."""
