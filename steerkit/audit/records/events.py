"""Records of a call after its turn: who approved it, and how it was run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from steerkit.audit.log.canonical import canonical
from steerkit.audit.log.reading import read_content
from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.schema import ApprovalRecord, ExecutionRecord
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
    return store.append(
        ApprovalRecord(
            turn=turn,
            call_id=call_id,
            call=call,
            decision="approve" if approved else "refuse",
            by=by,
            note=note,
            error=error,
            conversation=conversation,
            metadata=metadata or None,
        )
    )


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
    """Write down how a call was run, before the model sees the result; raises AuditError where it cannot.

    The record has only the hash of the result: the next turn's messages have the result itself.
    """
    return store.append(
        ExecutionRecord(
            turn=turn,
            call_id=call_id,
            call=call,
            status=status,
            result=None if result is None else result_digest(result),
            seconds=seconds,
            conversation=conversation,
            metadata=metadata or None,
        )
    )


def result_digest(result: Any) -> str:
    """SHA-256 of a result's canonical JSON, in hex. Raises AuditError where it is no JSON."""
    return hashlib.sha256(canonical(result)).hexdigest()


def approvals_of(store: Store, turn: StoredRecord) -> list[tuple[StoredRecord, ApprovalRecord]]:
    """The approvals that were recorded of a turn's calls, each as it is stored and typed."""
    later = ((one, read_content(one)) for one in store.records(after=turn.sequence) if turn.id.encode() in one.body)
    return [(one, said) for one, said in later if isinstance(said, ApprovalRecord) and said.turn == turn.id]
