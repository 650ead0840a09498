"""From messages and tools to prompt tokens, through the tokenizer's template; text cannot forge structure.

Before the template sees it, every control token inside a text is replaced by a mark. After it, the rendered text is cut
at the marks: the structure between them is tokenized with control tokens on, the marked pieces with control tokens off.
Structure that a tokenizer has no token for (hermes' `<tools>`, Qwen2.5's `<tool_response>`) is changed in text, as no
token tells it apart: `<` becomes `&lt;`. Where a dialect writes keys bare, what is no letter, digit, `_`, `.` or `-` in
a key of a result or an argument becomes `_`.
"""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from steerkit.chat.declare import declared
from steerkit.chat.dialects import Dialect, Frame, dialect_of
from steerkit.chat.messages import template_messages
from steerkit.chat.tokenizer import Tokenizer, token_bytes
from steerkit.errors import MessageError
from steerkit.types import Messages, Tool

_PRIVATE = range(0xE000, 0xF900)
_ENCODING: Final = threading.Lock()
"""Held while encoding: the use of control tokens is a switch on the tokenizer, so one thread encodes at a time."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt."""

    ids: tuple[int, ...]
    text: str
    """The ids as text; forged control tokens in it are plain text to the model."""
    neutralized: int
    """Count of control tokens that were found in untrusted text and made plain."""
    open_model_turn: bool = False
    """True if the model continues a turn it began earlier, as Gemma's do after a tool's result."""


def render(
    tokenizer: Tokenizer,
    messages: Messages,
    tools: Sequence[Tool] = (),
    *,
    untrusted: Literal["neutralize", "refuse"] | str = "neutralize",
) -> Prompt:
    """The prompt up to the point where the model writes.

    Args:
        tokenizer: its chat template is the authority on the format.
        messages: OpenAI style; tool results may name their call by `tool_call_id`.
        tools: what the model may call.
        untrusted: `neutralize` makes control tokens in any text plain text, `refuse` raises.

    Raises:
        MessageError: a message the template cannot take, or a control token where they are refused.
        ModelError: the tokenizer's dialect is not known.
        ToolError: a tool that cannot be declared.
    """
    if untrusted not in ("neutralize", "refuse"):
        raise MessageError(f"untrusted: got {untrusted!r}, expected neutralize or refuse")
    dialect = dialect_of(tokenizer)
    plain = template_messages(messages)
    shown = [declared(tool, dialect) for tool in tools]
    marks = _Marks(dialect, [plain, shown])
    try:
        if untrusted == "refuse":
            marks.refuse_messages(plain)
            marks.refuse(shown, "tools")
        kept = marks.with_plain_keys(plain) if dialect.syntax.written.bare_keys else plain
        ordered = _marked_results(tokenizer, marks.replace(dialect.syntax.prepare(kept)), dialect)
        rendered = _closed(_apply(tokenizer, ordered, marks.replace(shown)), dialect.frame)
        _check_turns(rendered, ordered, dialect)
    except RecursionError:
        raise MessageError("messages: got values nested too deeply to render; expected fewer levels") from None
    ids: list[int] = []
    pieces = marks.split(rendered)
    with _ENCODING:
        for n, piece in enumerate(pieces):
            ids += _literal(tokenizer, piece, dialect) if n % 2 else _structure(tokenizer, piece, dialect, marks)
    return Prompt(tuple(ids), "".join(pieces), len(pieces) // 2, not _begins_turn(rendered, dialect))


class _Marks:
    """Stand-ins for control tokens: a private character that occurs in no input, a number, the character again."""

    def __init__(self, dialect: Dialect, inputs: Any) -> None:
        control = [*dialect.names, *dialect.markup]
        said = json.dumps(inputs, ensure_ascii=False)
        free = next((chr(code) for code in _PRIVATE if chr(code) not in said), None)
        if free is None:
            raise MessageError("messages: got every private-use character of Unicode; expected at most some of them")
        self._char = free
        self._literals = [*dialect.names, *(text.replace("<", "&lt;", 1) for text in dialect.markup)]
        self._names, self._bare_keys = dialect.names, dialect.syntax.written.bare_keys
        self._numbers = {token: number for number, token in enumerate(control)}
        self._found = dialect.structure
        self._mark = re.compile(f"{free}([0-9]+){free}")
        self._strange = re.compile(f"({self._found.pattern})|[^A-Za-z0-9_.-]")

    def replace(self, value: Any) -> Any:
        """The value with marks for control tokens in all its strings, keys included."""
        if isinstance(value, str):
            return self._found.sub(lambda match: f"{self._char}{self._numbers[match[0]]}{self._char}", value)
        if isinstance(value, Mapping):
            return {self.replace(key): self.replace(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.replace(item) for item in value]
        return value

    def with_plain_keys(self, value: Any) -> Any:
        """The value with keys that the grammar can write; of those that become one, all but the first are numbered.
        Control tokens are kept.
        """
        if isinstance(value, Mapping):
            plain = {key: self._strange.sub(lambda match: match[1] or "_", key) or "_" for key in value}
            taken, counts = {key for key in value if plain[key] == key}, Counter[str]()
            found: dict[str, Any] = {}
            for key, item in value.items():
                name, base = plain[key], plain[key].rstrip("_")
                while name != key and name in taken:
                    counts[base] += 1
                    name = f"{base}_{counts[base] + 1}"
                taken.add(name)
                found[name] = self.with_plain_keys(item)
            return found
        return [self.with_plain_keys(item) for item in value] if isinstance(value, (list, tuple)) else value

    def split(self, rendered: str) -> list[str]:
        """Structure and literals in turn: even entries as rendered, odd ones the text that a mark stands for."""
        pieces = self._mark.split(rendered)
        return [self._literals[int(piece)] if number % 2 else piece for number, piece in enumerate(pieces)]

    def refuse_messages(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raise MessageError at the first control token or unwritable key in any message, naming its role."""
        for number, message in enumerate(messages):
            where = f"messages[{number}] ({message['role']})"
            self.refuse({key: value for key, value in message.items() if key != "texts"}, where)
            if self._bare_keys:
                self._refuse_keys(message, where)

    def refuse(self, value: Any, path: str) -> None:
        """Raise MessageError at the first control token in any string."""
        if isinstance(value, str):
            if found := self._found.search(value):
                raise MessageError(
                    f"{path}: got the control token {found[0]} in text; expected none (untrusted: refuse)"
                )
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.refuse(key, f"{path} key")
                self.refuse(item, f"{path}.{key}")
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                self.refuse(item, f"{path}[{number}]")

    def _refuse_keys(self, value: Any, path: str) -> None:
        if isinstance(value, Mapping):
            for key, item in value.items():
                if self._strange.search(key) or not key:
                    raise MessageError(
                        f"{path}: got the key {key!r}, expected letters, digits, '_', '.' and '-' (untrusted: refuse)"
                    )
                self._refuse_keys(item, f"{path}.{key}")
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                self._refuse_keys(item, f"{path}[{number}]")

    def written(self, text: str) -> list[str]:
        """Control tokens in a text, in order."""
        return [name for name in self._found.findall(text) if name in self._names]


def _apply(tokenizer: Tokenizer, messages: Any, tools: Any) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # whatever a template written by somebody else raises
        raise MessageError(f"messages: the chat template refuses them: {str(error)[:200]}") from None
    return str(text)


def _marked_results(tokenizer: Tokenizer, messages: list[dict[str, Any]], dialect: Dialect) -> list[dict[str, Any]]:
    """The messages, with results in their marks where they are text and the template does not write these.

    Else a result would stand in the user's turn as the user's own words.
    """
    begin, end, turn = dialect.syntax.result
    if turn is None or begin in str(getattr(tokenizer, "chat_template", "")):
        return messages
    return [
        {**message, "content": f"{begin}\n{message['content']}\n{end}"} if message["role"] == "tool" else message
        for message in messages
    ]


def _closed(text: str, frame: Frame) -> str:
    """The text with every turn closed before the next begins, as after calls that nobody answered, and a turn of the
    model's at its end."""
    first, *others = text.split(frame.begin)
    for other in others:
        is_closed = frame.begin not in first or first.rstrip().endswith(frame.end)
        first += ("" if is_closed else f"{frame.end}\n") + frame.begin + other
    return first + frame.opening("model")[0] if first.rstrip().endswith(frame.end) else first


def _check_turns(text: str, messages: Sequence[Mapping[str, Any]], dialect: Dialect) -> None:
    """Raise MessageError if the template put a user's message or a result elsewhere, where no rule at `user` or
    `tool_result` would read it."""
    result = dialect.syntax.result
    wanted = sum(message["role"] == "user" for message in messages)
    if result.turn == "user":
        results = sum(message["role"] == "tool" for message in messages)
        if text.count(result.begin) < results:
            got = text.count(result.begin)
            raise MessageError(f"messages: got {got} results of tools from the chat template, expected {results}")
    openings = dialect.frame.opening("user")
    wrote = sum(
        text.count(opening) - len(re.findall(f"{re.escape(opening)}\\s*{re.escape(result.begin)}", text))
        for opening in openings
    )
    if wrote < wanted:
        raise MessageError(f"messages: got {wrote} turns of the user from the chat template, expected {wanted}")


def _begins_turn(text: str, dialect: Dialect) -> bool:
    """True if the text ends with the beginning of a turn of the model's in which nothing was said yet."""
    *_, last = text.rpartition(dialect.frame.begin)
    role, _, said = last.partition(dialect.frame.end_role)
    for mark in dialect.syntax.thought[:2] if dialect.syntax.thought else ():
        said = said.replace(mark, "")
    return dialect.frame.roles.get(role.strip()) == "model" and said.strip() in ("", "thought")


def _structure(tokenizer: Tokenizer, text: str, dialect: Dialect, marks: _Marks) -> list[int]:
    """Tokens of a piece that the template wrote, with exactly the control tokens that stand in it."""
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False, verbose=False)
    found = [token for token in ids if token in dialect.control]
    if found != [dialect.names[name] for name in marks.written(text)]:
        raise MessageError(
            f"messages: got {len(found)} control tokens where the template wrote {len(marks.written(text))}; "
            f"the tokenizer cannot keep text apart from structure"
        )
    return ids


def _literal(tokenizer: Tokenizer, token: str, dialect: Dialect) -> list[int]:
    """Tokens of a control token that is only text.

    Where the tokenizer does not call it special, `split_special_tokens` leaves it uncut; then it is cut by hand.
    """
    table = token_bytes(tokenizer)
    for parts in ([token], [token[:1], token[1:]]):
        ids = [
            number
            for part in parts
            for number in tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ]
        if dialect.control.isdisjoint(ids) and table.text(ids) == token:
            return ids
    raise MessageError(f"messages: got {token} in text, which this tokenizer cannot write as text; remove it")
