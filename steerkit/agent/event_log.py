"""Approvals and executions, written down: by a loop, and for a loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from steerkit.agent.calls import Approval, Execution, approval_of
from steerkit.agent.exchange import asked_in
from steerkit.agent.pending import Asked
from steerkit.agent.results import error_text, fitted
from steerkit.audit import ApprovalRecord, ExecutionRecord, Gone, Store, TurnRecord, digest, read_content
from steerkit.errors import LoopError
from steerkit.types import Call, CallLike, Turn


@dataclass(frozen=True, slots=True)
class EventLog:
    """The store of a conversation's approvals and executions; without a store nothing is written."""

    store: Store | None
    conversation: str | None = None
    """Its id in the records."""
    metadata: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, store: Store | None, turn: Turn) -> EventLog:
        """The log of the conversation that a turn's record names."""
        if store is None or turn.record_id is None:
            return cls(store)
        record = read_content(store.get(turn.record_id))
        metadata = None if isinstance(record.metadata, Gone) else record.metadata
        return cls(store, record.conversation if isinstance(record, TurnRecord) else None, metadata)

    def approved(
        self, id: str, call: Call, record_id: str | None, approval: Approval, error: str | None = None
    ) -> None:
        """Write down what was decided about a call of a recorded turn. Raises AuditError."""
        if self.store is not None:
            self.store.append(
                ApprovalRecord(
                    turn=record_id,
                    call_id=id,
                    call=call,
                    decision="approve" if approval.approved else "refuse",
                    by=approval.by,
                    note=approval.note,
                    error=error,
                    conversation=self.conversation,
                    metadata=self.metadata or None,
                )
            )

    def executed(self, one: Execution, record_id: str | None) -> None:
        """Write down a call that was run, or only begun. Raises AuditError."""
        if self.store is not None:
            self.store.append(
                ExecutionRecord(
                    turn=record_id,
                    call_id=one.id,
                    call=one.call,
                    status=one.status,
                    result=None if one.status == "interrupted" else digest(one.result),
                    seconds=one.seconds,
                    conversation=self.conversation,
                    metadata=self.metadata or None,
                )
            )


def held_call(turn: Turn, call: Call, approval: Approval | bool) -> tuple[Asked, Approval]:
    """A held call of a turn, and what was decided about it. Raises LoopError for another."""
    one = _asked(turn, call)
    if not one.is_held:
        raise LoopError(f"{one.id} ({call.name}): got a call judged {one.verdict.decision}, expected a held one")
    return one, approval_of(one.id, approval)


def execution_of(
    turn: Turn, call: Call, result: Any, error: BaseException | str | None, seconds: float, max_result: int
) -> Execution:
    """The execution of a turn's call by somebody else. Raises LoopError for a call of no such turn."""
    one = _asked(turn, call)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
        raise LoopError(f"seconds: got {seconds!r}, expected a number of seconds")
    if error is None:
        return Execution(one.id, one.call, "ok", fitted(result, max_result), float(seconds))
    if result is not None:
        raise LoopError(f"{one.id} ({call.name}): got a result and an error, expected one of them")
    said = error_text(error) if isinstance(error, BaseException) else error
    return Execution(one.id, one.call, "error", {"error": said}, float(seconds))


def _asked(turn: Turn, call: CallLike) -> Asked:
    """A call under its id."""
    pairs = list(zip(turn.calls, asked_in(turn), strict=True))
    same = [one for own, one in pairs if own is call] or [one for own, one in pairs if own == call]
    if not same or not isinstance(call, Call):
        known = ", ".join(one.call.name for _, one in pairs) or "none"
        raise LoopError(f"call: got {call!r}, which is no well-formed call of this turn; its calls are: {known}")
    return same[0]
