"""Responses as they are answered: whole, or as events in their order."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

from steerkit.audit import text_in_order
from steerkit.server.chat_reply import framed
from steerkit.server.errors import ApiError
from steerkit.server.outcome import Outcome

SERVER_LABEL: Final = "steerkit"
"""Label under which held calls ask for approval."""


class ResponsesReply:
    """The forms of one Response.

    Args:
        id: of the Response; a later one may continue from it.
        asked: fields of the request that a Response repeats.
        asks_approval: held calls are items that the client answers; else the text names them.
    """

    def __init__(self, id: str, asked: dict[str, Any], asks_approval: bool) -> None:
        self._id, self._asked, self._asks = id, asked, asks_approval
        self._created = int(time.time())
        self._number = 0
        self._text = ""
        self._opened = False

    def whole(self, outcome: Outcome) -> dict[str, Any]:
        """The Response."""
        text = "\n".join(one for one in (outcome.turn.text, self._waiting(outcome)) if one)
        output = self._output(outcome, text)
        return {**self._finished(outcome, output), "steerkit": outcome.told()}

    def released(self, calls: Sequence[tuple[str, str, str]], told: dict[str, Any]) -> dict[str, Any]:
        """The Response of calls that a person let run: ids, names, arguments as text. Nothing is generated for it."""
        output = [self._call(number, *call) for number, call in enumerate(calls)]
        usage = _usage(0, 0, 0)
        return {**self._head("completed", output), "usage": usage, "steerkit": told}

    def released_events(self, response: dict[str, Any]) -> Iterator[bytes]:
        """The same as events."""
        yield from self.opening()
        for index, item in enumerate(response["output"]):
            yield from self._call_events(index, item)
        yield self._event("completed", response=response)

    def opening(self) -> Iterator[bytes]:
        """The first events."""
        response = self._head("in_progress", [])
        yield self._event("created", response=response)
        yield self._event("in_progress", response=response)

    def text(self, text: str) -> Iterator[bytes]:
        """Events of more text; before the first those that open its message."""
        yield from self._open()
        self._text += text
        yield self._event("output_text.delta", **self._place(), delta=text, logprobs=[])

    def ending(self, outcome: Outcome) -> Iterator[bytes]:
        """Events after the text: the message closed, calls whole, those that wait, and the end."""
        if waiting := self._waiting(outcome):
            yield from self.text(f"\n{waiting}" if self._text else waiting)
        output = self._output(outcome, self._text)
        for index, item in enumerate(output):
            if item["type"] == "message":
                yield from self._close(item)
            elif item["type"] == "function_call":
                yield from self._call_events(index, item)
            else:
                yield self._event("output_item.added", output_index=index, item=item)
                yield self._event("output_item.done", output_index=index, item=item)
        response = {**self._finished(outcome, output), "steerkit": outcome.told()}
        yield self._event(response["status"], response=response)

    def failed(self, error: ApiError) -> Iterator[bytes]:
        """The end of a stream that fails after its opening."""
        code = "server_error" if error.status >= 500 else "invalid_prompt"
        response = {**self._head("failed", []), "error": {"code": code, "message": str(error)}}
        yield self._event("failed", response={**response, "steerkit": error.told or {"status": error.code}})

    def _waiting(self, outcome: Outcome) -> str:
        return "" if self._asks else outcome.waiting

    def _head(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "error": None,
            "incomplete_details": None,
            "output": output,
            "usage": None,
            **self._asked,
        }

    def _finished(self, outcome: Outcome, output: list[dict[str, Any]]) -> dict[str, Any]:
        why = None
        if outcome.status in ("denied", "handoff"):
            why = "content_filter"
        if outcome.is_cut and not outcome.released:
            why = "max_output_tokens"
        head = self._head("completed" if why is None else "incomplete", output)
        turn = outcome.turn
        usage = _usage(len(turn.prompt_ids), turn.cached_tokens, len(turn.reply_ids))
        return {**head, "usage": usage, "incomplete_details": None if why is None else {"reason": why}}

    def _output(self, outcome: Outcome, text: str) -> list[dict[str, Any]]:
        refusal = outcome.reason if outcome.status in ("denied", "handoff") else ""
        output: list[dict[str, Any]] = []
        if text or refusal or outcome.status == "answer":
            output.append(self._message(text, refusal))
        for one in outcome.released:
            output.append(self._call(len(output), one.id, one.call.name, text_in_order(one.call.arguments)))
        for held in outcome.held if self._asks else ():
            asked = {"type": "mcp_approval_request", "id": held.approval, "name": held.call.name}
            output.append({**asked, "arguments": text_in_order(held.call.arguments), "server_label": SERVER_LABEL})
        return output

    def _message(self, text: str, refusal: str, status: str = "completed") -> dict[str, Any]:
        parts: list[dict[str, Any]] = []
        if text or not refusal:
            parts.append({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
        if refusal:
            parts.append({"type": "refusal", "refusal": refusal})
        return {"type": "message", "id": self._item(0), "role": "assistant", "status": status, "content": parts}

    def _call(self, index: int, call_id: str, name: str, arguments: str) -> dict[str, Any]:
        said = {"type": "function_call", "id": self._item(index), "call_id": call_id, "name": name}
        return {**said, "arguments": arguments, "status": "completed"}

    def _item(self, index: int) -> str:
        return f"item_{self._id.removeprefix('resp_')}_{index}"

    def _open(self) -> Iterator[bytes]:
        if self._opened:
            return
        self._opened = True
        empty = {**self._message("", "", "in_progress"), "content": []}
        yield self._event("output_item.added", output_index=0, item=empty)
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        yield self._event("content_part.added", **self._place(), part=part)

    def _close(self, item: dict[str, Any]) -> Iterator[bytes]:
        if item["content"][0]["type"] == "output_text":
            yield from self._open()
            yield self._event("output_text.done", **self._place(), text=self._text, logprobs=[])
            yield self._event("content_part.done", **self._place(), part=item["content"][0])
        elif not self._opened:
            empty = {**item, "status": "in_progress", "content": []}
            yield self._event("output_item.added", output_index=0, item=empty)
        for number, part in enumerate(item["content"]):
            if part["type"] == "refusal":
                place, refusal = self._place(number), part["refusal"]
                yield self._event("content_part.added", **place, part={"type": "refusal", "refusal": ""})
                yield self._event("refusal.delta", **place, delta=refusal)
                yield self._event("refusal.done", **place, refusal=refusal)
                yield self._event("content_part.done", **place, part=part)
        yield self._event("output_item.done", output_index=0, item=item)

    def _call_events(self, index: int, item: dict[str, Any]) -> Iterator[bytes]:
        place = {"item_id": item["id"], "output_index": index}
        empty = {**item, "arguments": "", "status": "in_progress"}
        yield self._event("output_item.added", output_index=index, item=empty)
        yield self._event("function_call_arguments.delta", **place, delta=item["arguments"])
        yield self._event("function_call_arguments.done", **place, arguments=item["arguments"], name=item["name"])
        yield self._event("output_item.done", output_index=index, item=item)

    def _place(self, part: int = 0) -> dict[str, Any]:
        return {"item_id": self._item(0), "output_index": 0, "content_index": part}

    def _event(self, kind: str, **said: Any) -> bytes:
        kind = f"response.{kind}"
        number, self._number = self._number, self._number + 1
        return framed({"type": kind, "sequence_number": number, **said}, kind)


def _usage(prompt: int, cached: int, reply: int) -> dict[str, Any]:
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": reply,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": prompt + reply,
    }
