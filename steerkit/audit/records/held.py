"""Held calls and decisions about them, read from a store: there is no state beside it, so both survive.

An approval's id names the turn's record, the call and a digest of the two with the call's content: whoever decides on
the id decides on that very call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from steerkit.audit.log.canonical import canonical, text_in_order
from steerkit.audit.log.reading import read_content
from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.records.query import Query, find
from steerkit.audit.records.recorded import approvals_of
from steerkit.audit.schema import ApprovalRecord, Gone, TurnRecord
from steerkit.decisions import ending
from steerkit.errors import ApprovalError, AuditError
from steerkit.types import Call, Turn, Verdict

ENDPOINT: Final = "endpoint"
"""Key of the metadata of turns whose held calls wait here, with what asked for them: those of a loop are decided on by
`resume`."""
ASKER: Final = "api_key"
"""Key of the metadata with the name of the API key that asked."""
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
    """Name of the API key that asked; empty where there was none."""
    conversation: str | None
    metadata: dict[str, Any]
    by: str = ""
    note: str = ""

    @property
    def not_run(self) -> str:
        """What the model is told of a call that was not approved."""
        said = f"refused: {self.note}" if self.note else "refused" if self.state == "refused" else "nobody decided"
        return f"not run: {self.verdict.reason}; {said}"

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
        function = {"name": self.call.name, "arguments": text_in_order(self.call.arguments)}
        return {**found, "call": {"id": self.call_id, "type": "function", "function": function}}


def approval_id(record: str, call_id: str, call: Call) -> str:
    """Id of a held call: of its record, itself, and 16 hex digits of the digest over both and its content."""
    said = canonical([record, call_id, call.name, dict(call.arguments)])
    return f"apr_{record}.{call_id}.{hashlib.sha256(said).hexdigest()[:16]}"


class HeldCall(NamedTuple):
    """A call of a turn that waits for a person."""

    id: str
    """Its own, in the conversation."""
    call: Call
    verdict: Verdict
    approval: str
    """Id under which it is decided on; empty where nothing is recorded, and nobody can."""

    def to_json(self) -> dict[str, Any]:
        """The call for whoever asked."""
        named = {"id": self.approval, "call_id": self.id, "name": self.call.name}
        return {**named, "arguments": dict(self.call.arguments), "reason": self.verdict.reason}


def held_calls(turn: Turn) -> tuple[HeldCall, ...]:
    """The held calls of a turn; none where a rule ended the run."""
    if ending([one.decision for one in turn.verdicts]):
        return ()
    record = turn.record_id
    return tuple(
        HeldCall(id, call, verdict, "" if record is None else approval_id(record, id, call))
        for id, call, verdict in zip(turn.call_ids, turn.calls, turn.verdicts, strict=True)
        if isinstance(call, Call) and verdict.decision == "hold"
    )


class Approvals:
    """Held calls of a store. An `asker` sees those of its own requests alone; None sees all.

    Args:
        store: of the turns.
        seconds: how long a held call waits for a decision.
    """

    def __init__(self, store: Store, seconds: float = 3600.0) -> None:
        self._store, self._wait = store, timedelta(seconds=seconds)

    def pending(self, asker: str | None = None) -> list[HeldEntry]:
        """The calls that wait, oldest first, without those of `damaged` turns.

        Raises:
            AuditError: a decision cannot be read: it may be about any call, and none is to be decided on twice.
        """
        since = datetime.now(UTC) - self._wait
        after = self._store.older_than(since)
        decided = {
            (said.turn, said.call_id)
            for stored in find(self._store, Query(kind=ApprovalRecord.kind, since=since), after=after)
            if isinstance(said := read_content(stored), ApprovalRecord)
        }
        return [
            entry
            for entries, _ in self._held(since)
            for entry in entries
            if (entry.record, entry.call_id) not in decided and _sees(asker, entry) and entry.state == "pending"
        ]

    def damaged(self) -> list[str]:
        """What is wrong with each turn in the waiting time that cannot be read; no call of it can be decided on."""
        return [problem for _, problem in self._held(datetime.now(UTC) - self._wait) if problem]

    def _held(self, since: datetime) -> Iterator[tuple[list[HeldEntry], str]]:
        """The held calls of each turn since then, and what is wrong with it."""
        asked = Query(kind=TurnRecord.kind, verdict="hold", since=since)
        for stored in find(self._store, asked, after=self._store.older_than(since)):
            try:
                yield list(self._entries(stored)), ""
            except AuditError as error:
                yield [], str(error)

    def get(self, id: str, asker: str | None = None) -> HeldEntry:
        """One held call with its state. Raises ApprovalError where there is none that the asker sees."""
        entry, stored = self._found(id, asker)
        said = [one for _, one in approvals_of(self._store, stored) if one.call_id == entry.call_id]
        if not said:
            return entry
        by, note = ("" if isinstance(text, Gone) else text for text in (said[0].by, said[0].note))
        return replace(entry, state="approved" if said[0].decision == "approve" else "refused", by=by, note=note)

    def of_turn(self, record: str) -> list[HeldEntry]:
        """The held calls of a turn's record, each with its state. Raises AuditError where there is no such record."""
        return [self.get(one.id) for one in self._entries(self._store.get(record))]

    def decide(self, id: str, asker: str | None = None, *, approve: bool, by: str = "", note: str = "") -> HeldEntry:
        """Write down a decision, once.

        Raises:
            ApprovalError: no such call, or one that was decided on or has expired.
            AuditError: it could not be written; nothing is decided then.
        """
        with self._store.exclusive():
            entry = self.get(id, asker)
            if entry.state == "expired":
                until = f"{entry.expires:%Y-%m-%d %H:%M:%S} UTC"
                raise ApprovalError(f"{id}: it waited until {until}; ask the model again", "expired")
            if entry.state != "pending":
                who = entry.by or "somebody"
                raise ApprovalError(f"{id}: it was {entry.state} by {who}; a decision is made once", "decided")
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

    def _found(self, id: str, asker: str | None) -> tuple[HeldEntry, StoredRecord]:
        record = id.removeprefix("apr_").partition(".")[0]
        with suppress(AuditError):
            stored = self._store.get(record)
            for entry in self._entries(stored):
                if entry.id == id and _sees(asker, entry):
                    return entry, stored
        raise ApprovalError(f"{id[:120]}: no such held call; `steerkit approvals list` shows those that wait")

    def _entries(self, stored: StoredRecord) -> Iterator[HeldEntry]:
        """The held calls of a turn that waits here and still stands."""
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
                    str(metadata.get(ASKER, "")),
                    turn.conversation,
                    metadata,
                )


def _sees(asker: str | None, entry: HeldEntry) -> bool:
    return asker is None or asker == entry.asker
