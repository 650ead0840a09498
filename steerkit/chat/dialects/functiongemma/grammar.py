"""The grammar of `call:NAME{key:value}` as transitions over bytes."""

from __future__ import annotations

from steerkit.chat.dialects.reply import BLANK, BROKEN, LONGEST_NAME, NAME_BYTES, Reply


def after_quote(state: Reply) -> Reply:
    """The state after the control token that opens and closes strings."""
    if state.mode != "value":
        return state if state.mode == "text" else state._replace(mode="broken")
    if state.in_string and state.depth == 0:
        return Reply("between", name=state.name)
    return state._replace(in_string=not state.in_string)


def after_byte(state: Reply, byte: int) -> Reply:
    """The state after one more byte of text inside a call."""
    if state.mode == "value":
        return _in_value(state, byte)
    if byte in BLANK:
        return state._replace(mode="named") if state.mode == "name" else state
    char, name = chr(byte), state.name
    match state.mode:
        case "head":
            word = state.word + char
            return Reply("open") if word == "call:" else Reply("head", word) if "call:".startswith(word) else BROKEN
        case "open" | "name" if byte in NAME_BYTES and len(name) < LONGEST_NAME:
            return Reply("name", name=name + char)
        case "name" | "named" if char == "{":
            return Reply("key", name=name)
        case "key" if byte in NAME_BYTES and len(state.word) < LONGEST_NAME:
            return state._replace(word=state.word + char)
        case "key" if char == ":" and state.word:
            return state._replace(mode="value")
        case "key" if char == "}" and not state.word:
            return Reply("closed", name=name)
        case "between" if char in ",}":
            return Reply("key" if char == "," else "closed", name=name)
    return state._replace(mode="broken")


def _in_value(state: Reply, byte: int) -> Reply:
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
