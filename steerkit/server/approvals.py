"""Held calls and decisions about them, read from the audit store: there is no state beside it, so both survive.

An approval's id names the turn's record, the call and a digest of the two with the call's content: whoever decides on
the id decides on that very call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, TypeAlias

from steerkit.audit import (
    ApprovalRecord,
    Gone,
    Query,
    Store,
    StoredRecord,
    TurnRecord,
    approvals_of,
    canonical,
    find,
    read_content,
)
from steerkit.decisions import ending
from steerkit.errors import AuditError
from steerkit.server.errors import ApiError
from steerkit.server.keys import Key
from steerkit.types import Call, Verdict

ENDPOINT: Final = "endpoint"
"""Key of the metadata of turns that a server made: held calls of a loop are decided on by `resume`."""
State: TypeAlias = Literal["pending", "approved", "refused", "expired"]


@dataclass(frozen=True)
class HeldEntry:
    """A held call and what was decided about it."""

    id: str
    record: str
    """Id of the turn's record."""
    call_id: str
    call: Call
    verdict: Verdict
    created: datetime
    expires: datetime
    state: State
    asker: str
    """Name of the key that asked; empty where there was none."""
    conversation: str | None
    metadata: dict[str, Any]
    by: str = ""
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """The entry for whoever decides; where it is approved, with the call that may run now."""
        found: dict[str, Any] = {
            "object": "steerkit.approval",
            "id": self.id,
            "status": self.state,
            "record": self.record,
            "call_id": self.call_id,
            "name": self.call.name,
            "arguments": dict(self.call.arguments),
            "policy": self.verdict.policy,
            "rule": self.verdict.rule,
            "reason": self.verdict.reason,
            "created": self.created.isoformat(timespec="seconds"),
            "expires": self.expires.isoformat(timespec="seconds"),
            "by": self.by,
            "note": self.note,
        }
        if self.state != "approved":
            return found
        function = {"name": self.call.name, "arguments": canonical(dict(self.call.arguments)).decode()}
        return {**found, "call": {"id": self.call_id, "type": "function", "function": function}}


def approval_id(record: str, call_id: str, call: Call) -> str:
    """Id of a held call: of its record, itself, and 16 hex digits of the digest over both and its content."""
    said = canonical([record, call_id, call.name, dict(call.arguments)])
    return f"apr_{record}.{call_id}.{hashlib.sha256(said).hexdigest()[:16]}"


class Approvals:
    """Held calls of a store.

    Args:
        store: of the turns.
        seconds: how long a held call waits for a decision.
    """

    def __init__(self, store: Store, seconds: float) -> None:
        self._store, self._wait = store, timedelta(seconds=seconds)

    def pending(self, key: Key) -> list[HeldEntry]:
        """The calls that wait, oldest first, as far as a key may see them."""
        since = datetime.now(UTC) - self._wait
        decided = {
            (said.turn, said.call_id)
            for stored in find(self._store, Query(kind=ApprovalRecord.kind, since=since))
            if isinstance(said := read_content(stored), ApprovalRecord)
        }
        return [
            entry
            for stored in find(self._store, Query(kind=TurnRecord.kind, verdict="hold", since=since))
            for entry in self._entries(stored)
            if (entry.record, entry.call_id) not in decided and may_see(key, entry.asker) and entry.state == "pending"
        ]

    def get(self, id: str, key: Key) -> HeldEntry:
        """One held call with its state. Raises ApiError where there is none that the key may see."""
        entry, stored = self._found(id, key)
        said = [one for _, one in approvals_of(self._store, stored) if one.call_id == entry.call_id]
        if not said:
            return entry
        by, note = ("" if isinstance(text, Gone) else text for text in (said[0].by, said[0].note))
        return replace(entry, state="approved" if said[0].decision == "approve" else "refused", by=by, note=note)

    def of_call(self, record: str, call_id: str, key: Key) -> HeldEntry | None:
        """The held call of a turn's record with an id in its conversation; None where it is none."""
        entries = self._entries(self._store.get(record))
        return next((self.get(one.id, key) for one in entries if one.call_id == call_id), None)

    def decide(self, id: str, key: Key, *, approve: bool, by: str = "", note: str = "") -> HeldEntry:
        """Write down a decision, once.

        Raises:
            ApiError: no such call, one that was decided on or has expired, or the key may not decide.
            AuditError: it could not be written; nothing is decided then.
        """
        if not key.approves:
            raise ApiError(403, f"the key of {key.name!r} may not decide about held calls", code="may_not_approve")
        by = by if not key.name or by == key.name else f"{by} (key {key.name})" if by else key.name
        with self._store.exclusive():
            entry = self.get(id, key)
            if entry.state == "expired":
                raise ApiError(
                    409, f"{id}: it waited until {entry.expires:%Y-%m-%d %H:%M:%S} UTC; ask the model again",
                    code="approval_expired",
                )  # fmt: skip
            if entry.state != "pending":
                raise ApiError(
                    409, f"{id}: it was {entry.state} by {entry.by or 'somebody'}; a decision is made once",
                    code="approval_decided",
                )  # fmt: skip
            self._store.append(
                ApprovalRecord(
                    turn=entry.record,
                    call_id=entry.call_id,
                    call=entry.call,
                    decision="approve" if approve else "refuse",
                    by=by,
                    note=note,
                    error=None,
                    conversation=entry.conversation,
                    metadata=entry.metadata or None,
                )
            )
        return replace(entry, state="approved" if approve else "refused", by=by, note=note)

    def _found(self, id: str, key: Key) -> tuple[HeldEntry, StoredRecord]:
        record = id.removeprefix("apr_").partition(".")[0]
        try:
            stored = self._store.get(record)
            for entry in self._entries(stored):
                if entry.id == id and may_see(key, entry.asker):
                    return entry, stored
        except AuditError:
            pass
        raise ApiError(404, f"{id[:120]}: no such held call; GET /v1/steerkit/approvals lists them", code="not_found")

    def _entries(self, stored: StoredRecord) -> Iterator[HeldEntry]:
        """The held calls of a turn that a server made and that still stands."""
        turn = read_content(stored)
        if not isinstance(turn, TurnRecord) or isinstance(turn.metadata, Gone) or ENDPOINT not in (turn.metadata or {}):
            return
        said = [one.decision for one in turn.verdicts]
        if "retry" in said or ending(said):
            return
        metadata = dict(turn.metadata or {})
        created = datetime.fromisoformat(stored.time)
        state: State = "pending" if datetime.now(UTC) < created + self._wait else "expired"
        for call_id, call, verdict in zip(turn.call_ids, turn.calls, turn.verdicts, strict=False):
            if verdict.decision == "hold" and isinstance(call, Call) and not isinstance(call.arguments, Gone):
                yield HeldEntry(
                    approval_id(stored.id, call_id, call),
                    stored.id,
                    call_id,
                    call,
                    verdict,
                    created,
                    created + self._wait,
                    state,
                    str(metadata.get("api_key", "")),
                    turn.conversation,
                    metadata,
                )


def may_see(key: Key, asker: str) -> bool:
    """True if a key may see what another's request led to, or its own did."""
    return key.reads_all or asker == key.name
