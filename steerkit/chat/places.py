"""Where a place of the conversation stands in token positions."""

from __future__ import annotations

from steerkit.types import NOWHERE, Call, Place, Span


def positions(place: Place, *, prompt_length: int, length: int, call: Call | None = None) -> range:
    """Steps that stand at a place: a step at position t reads token t and produces token t + 1.

    Args:
        place: places of a call are those of `call`, and empty without one or if it was not read from tokens.
        prompt_length: tokens of the prompt.
        length: tokens of prompt and reply. The reply's last token is written but never read, so no step stands there.
    """
    last = length - 1
    match place:
        case "any":
            return range(last)
        case "prompt":
            return range(min(prompt_length, last))
        case "reply":
            return range(prompt_length - 1, last)
        case "reply.start":
            return range(prompt_length - 1, prompt_length)
    if call is None or call.span == NOWHERE:
        return range(0)
    match place:
        case "call":
            return _producing(call.span)
        case "call.open":
            return _producing(Span(call.name_span.start, call.name_span.start + 1))
        case "call.name":
            return _producing(call.name_span)
        case "call.arguments":
            return _producing(Span(call.name_span.end, call.span.end - 1))
    raise ValueError(f"unknown place {place!r}")


def _producing(span: Span) -> range:
    return range(span.start - 1, span.end - 1)
