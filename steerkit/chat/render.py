"""From messages and tools to prompt tokens, through the tokenizer's template; text cannot forge structure.

Before the template sees it, every control token inside a text is replaced by a mark. After it, the rendered text is cut
at the marks: the structure between them is tokenized with control tokens on, the marked pieces with control tokens off.
The wire writes keys bare, so what is no letter, digit, `_`, `.` or `-` in a key of a result or an argument becomes `_`.
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
from steerkit.chat.history import in_call_order, template_messages
from steerkit.chat.tokenizer import Tokenizer, token_bytes
from steerkit.chat.wire import control_tokens
from steerkit.errors import MessageError
from steerkit.types import Messages, Tool

_PRIVATE = range(0xE000, 0xF900)
_TURN: Final = "<start_of_turn>"
_ENCODING: Final = threading.Lock()
"""Whether control tokens are read as such is a switch on the tokenizer: one thread encodes at a time."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads."""

    ids: tuple[int, ...]
    text: str
    """The same as text; forged control tokens in it are plain text to the model."""
    neutralized: int
    """How many control tokens were found in untrusted text and made plain."""
    open_model_turn: bool = False
    """Whether the model goes on in a turn it began earlier, as it does after a tool's result."""


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
        tools: what the model is told it may call.
        untrusted: `neutralize` makes control tokens in any text plain text, `refuse` raises.

    Raises:
        MessageError: a message the template cannot take, or a control token where they are refused.
        ToolError: a tool that cannot be declared.
    """
    if untrusted not in ("neutralize", "refuse"):
        raise MessageError(f"untrusted: got {untrusted!r}, expected neutralize or refuse")
    plain = template_messages(messages)
    told = [declared(tool) for tool in tools]
    structure = control_tokens(tokenizer)
    marks = _Marks(list(structure), [plain, told])
    try:
        if untrusted == "refuse":
            marks.refuse_messages(plain)
            marks.refuse(told, "tools")
        ordered = marks.replace(marks.with_plain_keys(in_call_order(plain)))
        rendered = _closed(_apply(tokenizer, ordered, marks.replace(told)))
        _check_turns(rendered, ordered)
    except RecursionError:
        raise MessageError("messages: got values nested too deeply to render; expected fewer levels") from None
    ids: list[int] = []
    pieces = marks.split(rendered)
    with _ENCODING:
        for n, piece in enumerate(pieces):
            ids += _literal(tokenizer, piece, structure) if n % 2 else _structure(tokenizer, piece, structure, marks)
    *_, last = rendered.rpartition(_TURN)
    return Prompt(tuple(ids), "".join(pieces), len(pieces) // 2, last.strip() != "model")


class _Marks:
    """Stand-ins for control tokens: a private character that occurs in no input, a number, the character again."""

    def __init__(self, control: Sequence[str], inputs: Any) -> None:
        said = json.dumps(inputs, ensure_ascii=False)
        free = next((chr(code) for code in _PRIVATE if chr(code) not in said), None)
        if free is None:
            raise MessageError("messages: got every private-use character of Unicode; expected at most some of them")
        self._char = free
        self._control = control
        self._numbers = {token: number for number, token in enumerate(control)}
        # Longest first: one control token's name may begin another's.
        self._found = re.compile("|".join(re.escape(token) for token in sorted(control, key=len, reverse=True)))
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
        """Structure and literals in turn: even entries as rendered, odd ones the control token a mark stands for."""
        pieces = self._mark.split(rendered)
        return [self._control[int(piece)] if number % 2 else piece for number, piece in enumerate(pieces)]

    def refuse_messages(self, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raise MessageError at the first control token or unwritable key in any message, naming its role."""
        for number, message in enumerate(messages):
            where = f"messages[{number}] ({message['role']})"
            self.refuse(message, where)
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
        return self._found.findall(text)


def _apply(tokenizer: Tokenizer, messages: Any, tools: Any) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # whatever a template written by somebody else raises
        raise MessageError(f"messages: the chat template refuses them: {str(error)[:200]}") from None
    return str(text)


def _closed(text: str) -> str:
    """The text with every turn closed before the next begins, as after calls that nobody answered."""
    first, *others = text.split(_TURN)
    for other in others:
        is_closed = _TURN not in first or first.rstrip().endswith("<end_of_turn>")
        first += ("" if is_closed else "<end_of_turn>\n") + _TURN + other
    return first


def _check_turns(text: str, messages: Sequence[Mapping[str, Any]]) -> None:
    """Raise MessageError if the template put a user's message elsewhere, where no rule at `user` would read it."""
    wrote, wanted = text.count(f"{_TURN}user\n"), sum(message["role"] == "user" for message in messages)
    if wrote < wanted:
        raise MessageError(f"messages: got {wrote} turns of the user from the chat template, expected {wanted}")


def _structure(tokenizer: Tokenizer, text: str, structure: Mapping[str, int], marks: _Marks) -> list[int]:
    """Tokens of a piece that the template wrote, with exactly the control tokens that stand in it."""
    ids = tokenizer.encode(text, add_special_tokens=False, split_special_tokens=False, verbose=False)
    known = set(structure.values())
    found = [token for token in ids if token in known]
    if found != [structure[name] for name in marks.written(text)]:
        raise MessageError(
            f"messages: got {len(found)} control tokens where the template wrote {len(marks.written(text))}; "
            f"the tokenizer cannot keep text apart from structure"
        )
    return ids


def _literal(tokenizer: Tokenizer, token: str, structure: Mapping[str, int]) -> list[int]:
    """Tokens of a control token that is only text.

    Where the tokenizer does not call it special, `split_special_tokens` leaves it whole; then it is cut by hand.
    """
    known = set(structure.values())
    table = token_bytes(tokenizer)
    for parts in ([token], [token[:1], token[1:]]):
        ids = [
            number
            for part in parts
            for number in tokenizer.encode(part, add_special_tokens=False, split_special_tokens=True, verbose=False)
        ]
        if known.isdisjoint(ids) and table.text(ids) == token:
            return ids
    raise MessageError(f"messages: got {token} in text, which this tokenizer cannot write as text; remove it")
