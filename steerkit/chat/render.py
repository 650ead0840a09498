"""From messages and tools to prompt tokens, through the tokenizer's template; text cannot forge structure.

Before the template sees it, every control token inside a text is replaced by a mark. After it, the rendered text is cut
at the marks: the structure between them is tokenized with control tokens on, the marked pieces with control tokens off.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from steerkit.chat.history import template_messages
from steerkit.chat.tokenizer import Tokenizer
from steerkit.chat.tools import openai
from steerkit.chat.wire import CONTROL
from steerkit.errors import MessageError
from steerkit.types import Messages, Tool

_PRIVATE = range(0xE000, 0xF900)


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the model reads."""

    ids: tuple[int, ...]
    text: str
    """The same as text; forged control tokens in it are plain text to the model."""
    neutralized: int
    """How many control tokens were found in untrusted text and made plain."""


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
    """
    if untrusted not in ("neutralize", "refuse"):
        raise MessageError(f"untrusted: got {untrusted!r}, expected neutralize or refuse")
    plain = template_messages(messages)
    declared = [openai(tool) for tool in tools]
    structure = _control_tokens(tokenizer)
    control = list(structure)
    marks = _Marks(control, [plain, declared])
    if untrusted == "refuse":
        marks.refuse(plain, "messages")
        marks.refuse(declared, "tools")
    rendered = _apply(tokenizer, marks.replace(plain), marks.replace(declared))
    ids: list[int] = []
    text = []
    for number, piece in enumerate(marks.split(rendered)):
        literal = number % 2 == 1
        part = control[int(piece)] if literal else piece
        text.append(part)
        ids += tokenizer.encode(part, add_special_tokens=False, split_special_tokens=literal)
    _verify(structure, marks, rendered, ids)
    return Prompt(tuple(ids), "".join(text), len(marks.split(rendered)) // 2)


class _Marks:
    """Stand-ins for control tokens: a private character that occurs in no input, a number, the character again."""

    def __init__(self, control: Sequence[str], inputs: Any) -> None:
        said = json.dumps(inputs, ensure_ascii=False, default=str)
        free = next((chr(code) for code in _PRIVATE if chr(code) not in said), None)
        if free is None:
            raise MessageError("messages: got every private-use character of Unicode; expected at most some of them")
        self._char = free
        self._numbers = {token: number for number, token in enumerate(control)}
        # Longest first: one control token's name may begin another's.
        self._found = re.compile("|".join(re.escape(token) for token in sorted(control, key=len, reverse=True)))
        self._mark = re.compile(f"{free}([0-9]+){free}")

    def replace(self, value: Any) -> Any:
        """The value with marks for control tokens in all its strings, keys included."""
        if isinstance(value, str):
            return self._found.sub(lambda match: f"{self._char}{self._numbers[match[0]]}{self._char}", value)
        if isinstance(value, Mapping):
            return {self.replace(key): self.replace(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.replace(item) for item in value]
        return value

    def split(self, rendered: str) -> list[str]:
        """Structure and numbers of marks in turn: even entries are text, odd ones numbers."""
        return self._mark.split(rendered)

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

    def count(self, text: str) -> int:
        """Control tokens in a text."""
        return len(self._found.findall(text))


@lru_cache(maxsize=8)
def _control_tokens(tokenizer: Tokenizer) -> dict[str, int]:
    """Every token of the tokenizer that could be structure, and its id; -1 where it has none."""
    added = tokenizer.get_added_vocab()
    named = [token for token in added if token.startswith("<") and token.endswith(">")]
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary.get(token, -1) for token in sorted({*CONTROL, *tokenizer.all_special_tokens, *named})}


def _apply(tokenizer: Tokenizer, messages: Any, tools: Any) -> str:
    try:
        text = tokenizer.apply_chat_template(messages, tools=tools or None, add_generation_prompt=True, tokenize=False)
    except Exception as error:  # whatever a template written by somebody else raises
        raise MessageError(f"messages: the chat template refuses them: {str(error)[:200]}") from None
    return str(text)


def _verify(structure: Mapping[str, int], marks: _Marks, rendered: str, ids: Sequence[int]) -> None:
    """Fail closed unless the tokens hold exactly the structure that the template wrote."""
    known = set(structure.values())
    written = sum(marks.count(piece) for piece in marks.split(rendered)[::2])
    found = sum(token in known for token in ids)
    if found != written:
        raise MessageError(
            f"messages: the prompt has {found} control tokens where the template wrote {written}; "
            f"the tokenizer cannot keep text apart from structure"
        )
