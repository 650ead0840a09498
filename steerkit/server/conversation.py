"""Conversations of Responses: items become messages, and an earlier Response is continued from its record."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from steerkit.agent import Approval, exchange
from steerkit.audit import ASKER, Approvals, Gone, HeldEntry, Query, Store, TurnRecord, find, read_content
from steerkit.errors import SteerkitError
from steerkit.server.approvals import decided_by
from steerkit.server.chat_request import called, text_of
from steerkit.server.errors import ApiError
from steerkit.server.keys import Key
from steerkit.types import Trace, Turn

_IGNORED: Final = ("id", "status", "phase", "created_by", "steerkit", "type")
"""Keys of items that say nothing to the model, as clients send replies back."""
_ID: Final = re.compile("[0-9a-hjkmnp-tv-z]{26}")
_BASE_32: Final = str.maketrans("0123456789abcdefghjkmnpqrstvwxyz", "0123456789abcdefghijklmnopqrstuv")
_LAST: Final = 32_503_680_000_000
"""Milliseconds up to the year 3000."""


@dataclass(frozen=True)
class Earlier:
    """A turn that a Response continues from."""

    record: TurnRecord
    turn: Turn
    request_id: str

    @classmethod
    def of(cls, store: Store | None, id: str, key: Key) -> Earlier:
        """The turn of an earlier Response, found by its conversation. Raises ApiError where there is none."""
        conversation, _, request = id.removeprefix("resp_").partition(".")
        request = request.partition(".")[0]
        since = _begun(conversation)
        query = Query(
            kind=TurnRecord.kind, conversation=conversation or "-", meta=(("request_id", request),), since=since
        )
        for stored in () if store is None or since is None else find(store, query, 1, newest_first=True):
            record = read_content(stored)
            metadata = record.metadata or {}
            if not isinstance(record, TurnRecord) or isinstance(metadata, Gone):
                break
            if not key.may_see(str(metadata.get(ASKER, ""))) or metadata.get("store") is False:
                break
            if isinstance(record.messages, Gone) or isinstance(record.text, Gone):
                break
            turn = Turn(
                record.text, tuple(record.calls), record.verdicts, Trace(), (), (), record.finish,
                record_id=stored.id, call_ids=record.call_ids,
            )  # fmt: skip
            return cls(record, turn, request)
        raise ApiError(
            404,
            f"previous_response_id: got {id!r:.120}, which is no Response on record that this key may continue",
            code="previous_response_not_found",
            param="previous_response_id",
        )

    def messages(self, instructions: str | None) -> list[Mapping[str, Any]]:
        """The conversation before the turn; its instructions are replaced where there are new ones, else left out."""
        had = bool((self.record.metadata or {}).get("instructions"))
        rest = list(self.record.messages)[1:] if had else list(self.record.messages)
        return _instructed(instructions, rest)


def _begun(conversation: str) -> datetime | None:
    """Time that a conversation's id was made at; None of what is no such id. It bounds what is searched for it."""
    if not _ID.fullmatch(conversation):
        return None
    number = int(conversation.translate(_BASE_32), 32)
    return datetime.fromtimestamp(min(number >> 80, _LAST) / 1000, UTC) - timedelta(seconds=1)


@dataclass
class Conversation:
    """The messages of a request, and the calls that a person let run for it."""

    messages: list[Mapping[str, Any]]
    released: list[HeldEntry] = field(default_factory=list)
    """Approved calls that have no result yet: they are the whole answer."""


def conversation_of(
    items: Sequence[Mapping[str, Any]],
    instructions: str | None,
    earlier: Earlier | None,
    approvals: Approvals | None,
    key: Key,
) -> Conversation:
    """The conversation of a request. Decisions in it are written down.

    Raises:
        ApiError: an item that cannot be read, a result that is missing or belongs to no call, a decision that cannot
            be made.
    """
    results = {str(one.get("call_id")): one for one in items if one.get("type") == "function_call_output"}
    entries = {
        number: _decided(one, f"input[{number}]", approvals, key)
        for number, one in enumerate(items)
        if one.get("type") == "mcp_approval_response"
    }
    calls = {str(one.get("call_id")) for one in items if one.get("type") == "function_call"}
    waiting = [one for one in entries.values() if one.state == "approved" and one.call_id not in results.keys() | calls]
    if waiting:
        return Conversation([], waiting)
    if earlier is None:
        return Conversation(_instructed(instructions, _messages(items, entries)))
    own = set(earlier.turn.call_ids)
    rest = [
        (number, one)
        for number, one in enumerate(items)
        if not (one.get("type") == "function_call_output" and str(one.get("call_id")) in own) and number not in entries
    ]
    before = earlier.messages(instructions)
    before += _exchanged(earlier, results, approvals)
    return Conversation([*before, *_messages([one for _, one in rest], {}, [number for number, _ in rest])])


def _exchanged(
    earlier: Earlier, results: Mapping[str, Mapping[str, Any]], approvals: Approvals | None
) -> list[dict[str, Any]]:
    """Messages of the earlier turn: its calls with their results, and why others were not run. Raises ApiError."""
    turn = earlier.turn
    told = {id: text_of(results[id].get("output"), "input.output") or "" for id in turn.call_ids if id in results}
    held = approvals.of_turn(turn.record_id) if approvals is not None and turn.record_id is not None else ()
    decisions = {
        one.call_id: Approval(one.state == "approved", by=one.by, note=one.note)
        for one in held
        if one.state in ("approved", "refused")
    }
    try:
        messages = exchange(turn, told, decisions)
    except SteerkitError as error:
        raise ApiError(400, f"input: {error}", param="input") from None
    return [{**one, "content": told.get(one.get("tool_call_id", ""), one.get("content"))} for one in messages]


def _decided(item: Mapping[str, Any], where: str, approvals: Approvals | None, key: Key) -> HeldEntry:
    """The held call that an item decides on, decided: now by this key, or before by whoever may."""
    id, approve, reason = item.get("approval_request_id"), item.get("approve"), item.get("reason") or ""
    if not isinstance(id, str) or not isinstance(approve, bool) or not isinstance(reason, str):
        raise ApiError(400, f"{where}: expected approval_request_id, approve and perhaps reason", param=where)
    if approvals is None:
        raise ApiError(400, f"{where}: nothing is recorded here, so nothing can be approved", param=where)
    entry = approvals.get(id, key.sees)
    if entry.state == "pending":
        return decided_by(key, approvals, id, approve=approve, note=reason)
    if entry.state != ("approved" if approve else "refused"):
        by = f" by {entry.by}" if entry.by else ""
        raise ApiError(409, f"{where}: {id} is {entry.state}{by}", code=f"approval_{entry.state}", param=where)
    return entry


def _messages(
    items: Sequence[Mapping[str, Any]], entries: Mapping[int, HeldEntry], numbers: Sequence[int] | None = None
) -> list[Mapping[str, Any]]:
    """Items as messages: calls stand in the assistant's message before them. Raises ApiError."""
    found: list[dict[str, Any]] = []
    for number, item in enumerate(items):
        where = f"input[{number if numbers is None else numbers[number]}]"
        kind = item.get("type", "message")
        if kind == "message":
            found.append(_message(item, where))
        elif kind == "function_call":
            _called(found, str(item.get("call_id")), item.get("name"), item.get("arguments", ""), where)
        elif kind == "function_call_output":
            output = text_of(item.get("output"), f"{where}.output") or ""
            found.append({"role": "tool", "tool_call_id": str(item.get("call_id")), "content": output})
        elif kind == "mcp_approval_response" and entries[number].state == "refused":
            entry = entries[number]
            _called(found, entry.call_id, entry.call.name, dict(entry.call.arguments), where)
            told = json.dumps({"error": entry.not_run})
            found.append({"role": "tool", "tool_call_id": entry.call_id, "content": told})
        elif kind not in ("mcp_approval_request", "mcp_approval_response"):
            raise ApiError(
                400,
                f"{where}.type: got {kind!r:.60}, expected message, function_call, function_call_output, "
                f"mcp_approval_request or mcp_approval_response",
                param=f"{where}.type",
            )
    return list(found)


def _message(item: Mapping[str, Any], where: str) -> dict[str, Any]:
    role = item.get("role")
    if role not in ("user", "assistant", "system", "developer"):
        raise ApiError(
            400, f"{where}.role: got {role!r:.40}, expected user, assistant, system or developer", param=f"{where}.role"
        )
    if strange := [key for key in item if key not in (*_IGNORED, "role", "content")]:
        raise ApiError(
            400,
            f"{where}.{strange[0]}: got a field that is not known here; leave it out",
            code="unknown_parameter",
            param=f"{where}.{strange[0]}",
        )
    return {"role": role, "content": text_of(item.get("content"), f"{where}.content") or ""}


def _called(found: list[dict[str, Any]], id: str, name: Any, arguments: Any, where: str) -> None:
    """Put a call into the assistant's message that ends the conversation so far, or into one of its own."""
    if not isinstance(name, str) or not isinstance(arguments, (str, dict)):
        raise ApiError(400, f"{where}: expected call_id, name and arguments", param=where)
    if not found or found[-1]["role"] != "assistant":
        found.append({"role": "assistant", "content": None})
    calls = found[-1].setdefault("tool_calls", [])
    calls.append({"id": id, "type": "function", "function": called(name, arguments)})


def _instructed(instructions: str | None, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [*([{"role": "developer", "content": instructions}] if instructions else []), *messages]
