"""Ids of a reply's calls, by which their results are found in the conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerkit.types import CallLike, MalformedCall


def next_ids(messages: Sequence[Mapping[str, Any]], count: int) -> tuple[str, ...]:
    """Ids for the next calls of a conversation: `call_N`, counting on, and none that an earlier call has."""
    lists = [message.get("tool_calls") for message in messages]
    calls = [call for some in lists if isinstance(some, (list, tuple)) for call in some]
    taken = {str(call.get("id")) for call in calls if isinstance(call, Mapping)}
    found: list[str] = []
    number = len(calls)
    while len(found) < count:
        number += 1
        if f"call_{number}" not in taken:
            found.append(f"call_{number}")
    return tuple(found)


def call_ids(messages: Sequence[Mapping[str, Any]], calls: Sequence[CallLike]) -> tuple[str, ...]:
    """Ids for a reply's calls that no call of the conversation has; well-formed calls get the first of them."""
    first = sorted(range(len(calls)), key=lambda number: isinstance(calls[number], MalformedCall))
    found = dict(zip(first, next_ids(messages, len(calls)), strict=True))
    return tuple(found[number] for number in range(len(calls)))
