"""Chat completions as they are answered: whole, or in chunks."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from typing import Any, Final

from steerkit.audit import text_in_order
from steerkit.server.errors import ApiError
from steerkit.server.outcome import Outcome, Released, Status

_FINISH: Final[Mapping[Status, str]] = {
    "answer": "stop",
    "calls": "tool_calls",
    "held": "stop",
    "denied": "content_filter",
    "handoff": "content_filter",
    "stopped": "content_filter",
}


class ChatReply:
    """The forms of one reply: a completion, or the chunks of a stream.

    Args:
        request_id: of the request; ids of answers are made of it, as a stream begins before its record is written.
        model: as the request named it.
        fingerprint: of the model's weights.
        include_usage: a stream ends with the number of tokens.
        metadata: of the request, which a whole reply repeats.
    """

    def __init__(
        self, request_id: str, model: str, fingerprint: str, include_usage: bool, metadata: Mapping[str, Any] | None
    ) -> None:
        self._usage, self._metadata = include_usage, metadata
        self._head = {
            "id": f"chatcmpl-{request_id}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The completion."""
        refusal = outcome.reason if outcome.status in ("denied", "handoff") else ""
        message: dict[str, Any] = {"role": "assistant", "content": _content(outcome), "refusal": refusal or None}
        if outcome.released:
            message["tool_calls"] = [_call(one) for one in outcome.released]
        choice = {"index": 0, "message": message, "finish_reason": _finish(outcome), "logprobs": None}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(outcome),
            "metadata": self._metadata,
            "steerkit": outcome.told(),
        }

    def opening(self) -> Iterator[bytes]:
        """The first chunk, which says whose turn it is."""
        yield framed(self._chunk({"role": "assistant", "content": ""}))

    def text(self, text: str) -> Iterator[bytes]:
        """A chunk with more text."""
        yield framed(self._chunk({"content": text}))

    def ending(self, outcome: Outcome) -> Iterator[bytes]:
        """The chunks after the text: calls, each whole, the end, and the usage where it is wanted."""
        for chunk in self._last_chunks(outcome):
            yield framed(chunk)
        yield b"data: [DONE]\n\n"

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """The end of a stream that fails after its beginning."""
        yield framed(error.body())

    def _last_chunks(self, outcome: Outcome) -> Iterator[dict[str, Any]]:
        if outcome.held:
            yield self._chunk({"content": ("\n" if outcome.turn.text else "") + outcome.waiting})
        for index, one in enumerate(outcome.released):
            call = _call(one)
            arguments = call["function"]["arguments"]
            first = {**call, "index": index, "function": {**call["function"], "arguments": ""}}
            yield self._chunk({"tool_calls": [first]})
            yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": arguments}}]})
        if outcome.status in ("denied", "handoff"):
            yield self._chunk({"refusal": outcome.reason})
        yield {**self._chunk({}, _finish(outcome)), "steerkit": outcome.told()}
        if self._usage:
            yield {**self._chunk({}), "choices": [], "usage": _usage(outcome)}

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        usage = {"usage": None} if self._usage else {}
        return {**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage}


def framed(value: Mapping[str, Any], event: str | None = None) -> bytes:
    """A server-sent event."""
    head = b"" if event is None else f"event: {event}\n".encode()
    return head + b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def _content(outcome: Outcome) -> str | None:
    return "\n".join(text for text in (outcome.turn.text, outcome.waiting) if text) or None


def _finish(outcome: Outcome) -> str:
    return "length" if outcome.is_cut and not outcome.released else _FINISH[outcome.status]


def _call(one: Released) -> dict[str, Any]:
    function = {"name": one.call.name, "arguments": text_in_order(one.call.arguments)}
    return {"id": one.id, "type": "function", "function": function}


def _usage(outcome: Outcome) -> dict[str, Any]:
    prompt, reply = len(outcome.turn.prompt_ids), len(outcome.turn.reply_ids)
    counts = {"prompt_tokens": prompt, "completion_tokens": reply, "total_tokens": prompt + reply}
    return {**counts, "prompt_tokens_details": {"cached_tokens": outcome.turn.cached_tokens}}
