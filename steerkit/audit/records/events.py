"""What records say of a call after its turn: who approved it, and what became of it when it was run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from steerkit.audit.log.canonical import canonical
from steerkit.audit.log.store import Store, StoredRecord
from steerkit.audit.records.turn_record import FORMAT, about
from steerkit.types import Call


def append_approval(
    store: Store,
    call: Call,
    *,
    turn: str | None,
    call_id: str,
    approved: bool,
    by: str,
    note: str,
    error: str | None = None,
    conversation: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> StoredRecord:
    """Write down what was decided about a held call, before anything comes of it.

    Args:
        store: where to.
        call: the one that is held.
        turn: id of the turn's record.
        call_id: the call's id in the conversation.
        approved: whether it may be run.
        by: who decided.
        note: why.
        error: how asking failed, where it did; the call is refused then.
        conversation, metadata: those of the turn.

    Raises:
        AuditError: it could not be written.
    """
    decision = "approve" if approved else "refuse"
    body = {**_head("approval", call, turn, call_id), "decision": decision, "by": by, "note": note, "error": error}
    return store.append({**body, **about(conversation, metadata)})


def append_execution(
    store: Store,
    call: Call,
    *,
    turn: str | None,
    call_id: str,
    status: str,
    result: Any,
    seconds: float,
    conversation: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> StoredRecord:
    """Write down how a call was run, before the model is told; raises AuditError where it cannot.

    Of the result, as the model is told of it, only the hash is kept here: the next turn's record holds it whole.
    """
    digest = None if result is None else hashlib.sha256(canonical(result)).hexdigest()
    body = {**_head("execution", call, turn, call_id), "status": status, "result": digest, "seconds": seconds}
    return store.append({**body, **about(conversation, metadata)})


def approvals_of(store: Store, turn: StoredRecord) -> list[StoredRecord]:
    """The approvals that were recorded of a turn's calls."""
    later = (record for record in store.records(after=turn.sequence) if turn.id.encode() in record.body)
    return [one for one in later if one.content.get("kind") == "approval" and one.content.get("turn") == turn.id]


def _head(kind: str, call: Call, turn: str | None, call_id: str) -> dict[str, Any]:
    asked = {"name": call.name, "arguments": dict(call.arguments)}
    return {"format": FORMAT, "kind": kind, "turn": turn, "call_id": call_id, "call": asked}
