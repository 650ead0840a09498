"""The tools that an evaluation of a found policy counts as dangerous: those that its positive examples call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from steerkit.chat import parse, render
from steerkit.engine import LoadedModel
from steerkit.lab.corpus import Conversation, read_rows
from steerkit.lab.prove.dataset import read_conversations
from steerkit.lab.replies import replies
from steerkit.types import Call

_ANSWERED: Final = 16  # conversations of a file that the model answers where the file does not


def dangerous_tools(
    loaded: LoadedModel, positive: Path, negative: Path, *, limit: int | None = None, max_new_tokens: int = 128
) -> list[str]:
    """Tools that the positives call and the negatives do not, in their last messages or by the model's own answers.

    None where every row of `positive` says what is `dangerous`. Where both files call the same tools it is all that the
    positives call; where they call nothing, all that they declare. Raises SaeError where a file cannot be read.
    """
    if all(row.get("dangerous") for _, row in read_rows(positive)):
        return []
    sides = [read_conversations(path, limit) for path in (positive, negative)]
    called, elsewhere = ([name for names in _called(loaded, side, max_new_tokens) for name in names] for side in sides)
    declared = [tool.name for one in sides[0] for tool in one.tools]
    only = [name for name in called if name not in elsewhere]
    return list(dict.fromkeys(only or called or declared))


def _called(loaded: LoadedModel, some: list[Conversation], max_new_tokens: int) -> list[list[str]]:
    """Tools that each conversation calls after what is asked."""
    written = [[_name(call) for message in one.messages[len(one.asked) :] for call in _calls(message)] for one in some]
    if any(written):
        return written
    prompts = [render(loaded.tokenizer, one.asked, one.tools).ids for one in some[:_ANSWERED]]
    parsed = [parse(loaded.tokenizer, ids) for ids in replies(loaded, prompts, max_new_tokens)]
    return [[call.name for call in one.calls if isinstance(call, Call)] for one in parsed]


def _calls(message: Mapping[str, Any]) -> list[Any]:
    return [call for call in message.get("tool_calls") or () if isinstance(call, Mapping)]


def _name(call: Mapping[str, Any]) -> str:
    return str(call.get("function", call).get("name"))
