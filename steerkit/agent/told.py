"""What became of a call, in the form in which a prompt can carry it and within the length that it may have there."""

from __future__ import annotations

from dataclasses import replace

from steerkit.agent.calls import Execution
from steerkit.agent.exchange import result_text, told
from steerkit.agent.results import cut, error_text, unshown
from steerkit.chat import Tokenizer, render
from steerkit.errors import MessageError
from steerkit.types import Json


def as_told(one: Execution, tokenizer: Tokenizer, untrusted: str, max_result: int) -> Execution:
    """The execution as the model is told of it: a note in place of a result that no prompt can carry, and no more than
    `max_result` tokens of one that takes more of them than it has characters."""
    try:
        return _within(one, tokenizer, untrusted, max_result)
    except MessageError as error:
        why = error_text(error).partition(": ")[2]
    said = "no prompt can carry it"
    for text in (f"{said}: {why}", said):
        found = replace(one, result=unshown(text) if one.status == "ok" else {"error": text})
        try:
            _length(found, tokenizer, untrusted)
        except MessageError:
            continue
        break
    return found


def _within(one: Execution, tokenizer: Tokenizer, untrusted: str, most: int) -> Execution:
    """The execution with its result cut to so many tokens, those of an empty one and of the note not counted."""
    length = _length(one, tokenizer, untrusted)
    if length <= most:
        return one
    text = _text(one.result)
    note = cut("x", 0).replace("0", str(len(text)))
    bare = _length(replace(one, result={"value": note}), tokenizer, untrusted)
    keep, found = len(text), one
    while length - bare > most and keep:
        keep = min(keep - 1, keep * most // (length - bare))
        found = replace(one, result={"value": cut(text, keep)})
        length = _length(found, tokenizer, untrusted)
    return found


def _text(result: dict[str, Json]) -> str:
    """A result as the text that is cut: of a value that is text, that."""
    value = result.get("value")
    return value if isinstance(value, str) and len(result) == 1 else result_text(result)


def _length(one: Execution, tokenizer: Tokenizer, untrusted: str) -> int:
    """Tokens of the messages that tell of a call. Raises MessageError where no prompt can."""
    messages = [{"role": "user", "content": "-"}, *told("", [one])]
    return len(render(tokenizer, messages, untrusted=untrusted).ids)
