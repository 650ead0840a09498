"""FunctionGemma's wire format: its control tokens, looked up by name, and how a call is written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from steerkit.chat.tokenizer import Tokenizer
from steerkit.errors import MessageError, ModelError
from steerkit.types import Json

NAME: Final = re.compile(r"[A-Za-z0-9_.-]+")
"""Names of tools and keys of objects."""

MAX_DIGITS: Final = 1000
"""Digits of an integer in a call: Python's own bound is 4,300."""

CONTROL: Final = (
    "<start_of_turn>",
    "<end_of_turn>",
    "<start_function_declaration>",
    "<end_function_declaration>",
    "<start_function_call>",
    "<end_function_call>",
    "<start_function_response>",
    "<end_function_response>",
    "<escape>",
)


@lru_cache(maxsize=8)
def control_tokens(tokenizer: Tokenizer) -> Mapping[str, int]:
    """Every token of a tokenizer that is structure and never text, with its id.

    These are the wire format's, and whatever else the tokenizer calls special. Added tokens that are only text (Gemma's
    `<table>`) are not among them.
    """
    vocabulary = tokenizer.get_vocab()
    flagged = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    names = sorted({*CONTROL, *tokenizer.all_special_tokens, *flagged})
    return {name: vocabulary[name] for name in names if name in vocabulary}


@dataclass(frozen=True, slots=True)
class Wire:
    """Ids of the control tokens that shape a reply."""

    call: int
    """`<start_function_call>`"""
    end_call: int
    escape: int
    response: int
    """`<start_function_response>`: the model waits for a result."""
    stops: frozenset[int]
    """`<end_of_turn>`, `<start_function_response>` and eos."""
    control: frozenset[int]
    """Every token that is structure and never text."""
    pad: int
    """What sequences are padded with."""

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, tokenizer: Tokenizer) -> Wire:
        """The wire format of a tokenizer.

        Raises:
            ModelError: it lacks control tokens; it is not FunctionGemma's.
        """
        vocabulary = tokenizer.get_vocab()
        missing = [token for token in CONTROL if token not in vocabulary]
        if missing:
            raise ModelError(
                f"the tokenizer has no {', '.join(missing)}; expected a model with FunctionGemma's control tokens"
            )
        eos = vocabulary.get(str(tokenizer.eos_token))
        stops = {vocabulary["<end_of_turn>"], vocabulary["<start_function_response>"]} | (
            {eos} if eos is not None else set()
        )
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else vocabulary["<end_of_turn>"]
        return cls(
            vocabulary["<start_function_call>"],
            vocabulary["<end_function_call>"],
            vocabulary["<escape>"],
            vocabulary["<start_function_response>"],
            frozenset(stops),
            frozenset(control_tokens(tokenizer).values()),
            pad,
        )


def encode_call(name: str, arguments: Mapping[str, Json]) -> str:
    """A call as the model writes it, control tokens included.

    Raises:
        MessageError: what the parser would refuse: a name or key outside `[A-Za-z0-9_.-]+`, a string that holds a
            control token, a number that is not finite or has more than `MAX_DIGITS` digits, a value that is no JSON.
    """
    return f"<start_function_call>call:{_name(name)}{_value(dict(arguments))}<end_function_call>"


def _value(value: Json) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return _number(value)
    if isinstance(value, str):
        held = next((token for token in CONTROL if token in value), None)
        if held is not None:
            raise MessageError(f"got the string {value[:80]!r}, which holds {held}; the wire format cannot carry it")
        return f"<escape>{value}<escape>"
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{_name(key)}:{_value(item)}" for key, item in value.items()) + "}"
    raise MessageError(f"got {type(value).__name__}, expected a JSON value")


def _number(value: int | float) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        raise MessageError(f"got {value!r}, expected a finite number; the wire format has no other")
    if isinstance(value, int) and abs(value) >= 10**MAX_DIGITS:
        raise MessageError(f"got an integer of more than {MAX_DIGITS} digits, expected at most {MAX_DIGITS}")
    return repr(value)


def _name(name: str) -> str:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise MessageError(f"got the name {str(name)[:80]!r}, expected letters, digits, '_', '.' and '-'")
    return name
