"""The grammar of `{"name": N, "arguments": {…}}` as transitions over bytes."""

from __future__ import annotations

from typing import Final

from steerkit.chat.dialects.reply import BLANK, BROKEN, LONGEST_NAME, NAME_BYTES, Reply

_HEAD: Final = '{"name":"'
_TO_ARGUMENTS: Final = ',"arguments":{'


def after_byte(state: Reply, byte: int) -> Reply:
    """The state after one more byte of text inside a call."""
    char, name = chr(byte), state.name
    match state.mode:
        case "value":
            return _in_value(state, char)
        case "open" | "name" if byte in NAME_BYTES and len(name) < LONGEST_NAME:
            return Reply("name", name=name + char)
        case "name" if char == '"':
            return Reply("named", name=name)
        case "key" if state.word:
            return _in_key(state, byte, char)
    if byte in BLANK and state.mode not in ("open", "name"):
        return state
    match state.mode:
        case "head":
            word = state.word + char
            return Reply("open") if word == _HEAD else Reply("head", word) if _HEAD.startswith(word) else BROKEN
        case "named" if char == "}" and not state.word:
            return Reply("closed", name=name)
        case "named" if _TO_ARGUMENTS.startswith(state.word + char):
            word = state.word + char
            return Reply("key", name=name) if word == _TO_ARGUMENTS else Reply("named", word, name=name)
        case "key" if char == '"':
            return state._replace(word=char, in_string=True)
        case "key" if char == "}":
            return Reply("closed", depth=1, name=name)
        case "between" if char in ",}":
            return _after_value(char, name)
        case "closed" if char == "}" and state.depth:
            return Reply("closed", name=name)
    return state._replace(mode="broken")


def _in_key(state: Reply, byte: int, char: str) -> Reply:
    """Inside a key's quotes, or after them: its `word` keeps the quote in front until the value begins."""
    if state.in_string:
        if byte in NAME_BYTES and len(state.word) <= LONGEST_NAME:
            return state._replace(word=state.word + char)
        if char == '"' and len(state.word) > 1:
            return state._replace(in_string=False)
    elif char == ":":
        return state._replace(mode="value", word=state.word[1:])
    elif byte in BLANK:
        return state
    return state._replace(mode="broken")


def _in_value(state: Reply, char: str) -> Reply:
    if state.escaped:
        return state._replace(escaped=False)
    if state.in_string:
        if char == "\\":
            return state._replace(escaped=True)
        if char == '"':
            return state._replace(in_string=False) if state.depth else Reply("between", name=state.name)
        return state
    if char == '"':
        return state._replace(in_string=True)
    if char in "{[":
        return state._replace(depth=state.depth + 1)
    if state.depth and char in "}]":
        return Reply("between", name=state.name) if state.depth == 1 else state._replace(depth=state.depth - 1)
    if state.depth == 0 and char in ",}":
        return _after_value(char, state.name)
    return state


def _after_value(char: str, name: str) -> Reply:
    return Reply("key", name=name) if char == "," else Reply("closed", depth=1, name=name)
