"""What a loop of one's own writes down of a turn's calls: who approved them, and how they were run."""

from __future__ import annotations

from typing import Any

from steerkit.agent.calls import Approval, Execution, approval_of
from steerkit.agent.exchange import asked_in
from steerkit.agent.pending import Asked
from steerkit.agent.results import error_text, fitted
from steerkit.audit import Gone, Store, TurnRecord, append_approval, append_execution, read_content
from steerkit.errors import LoopError
from steerkit.types import Call, CallLike, Turn


def approved(store: Store | None, turn: Turn, call: Call, approval: Approval | bool) -> Approval:
    """The decision about a held call, written down."""
    one = _asked(turn, call)
    if not one.is_held:
        raise LoopError(f"{one.id} ({call.name}): got a call judged {one.verdict.decision}, expected a held one")
    found = approval_of(one.id, approval)
    if store is not None:
        append_approval(
            store,
            call,
            turn=turn.record_id,
            call_id=one.id,
            approved=found.approved,
            by=found.by,
            note=found.note,
            **_about(store, turn),
        )
    return found


def execution(
    turn: Turn, call: Call, result: Any, error: BaseException | str | None, seconds: float, max_result: int
) -> Execution:
    """What became of a call."""
    one = _asked(turn, call)
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < float("inf"):
        raise LoopError(f"seconds: got {seconds!r}, expected a number of seconds")
    if error is None:
        return Execution(one.id, one.call, "ok", fitted(result, max_result), float(seconds))
    if result is not None:
        raise LoopError(f"{one.id} ({call.name}): got a result and an error, expected one of them")
    said = error_text(error) if isinstance(error, BaseException) else error
    return Execution(one.id, one.call, "error", {"error": said}, float(seconds))


def executed(store: Store | None, turn: Turn, one: Execution) -> Execution:
    """The same, written down."""
    if store is not None:
        append_execution(
            store,
            one.call,
            turn=turn.record_id,
            call_id=one.id,
            status=one.status,
            result=one.result,
            seconds=one.seconds,
            **_about(store, turn),
        )
    return one


def _asked(turn: Turn, call: CallLike) -> Asked:
    """A call under its id."""
    pairs = list(zip(turn.calls, asked_in(turn), strict=True))
    same = [one for own, one in pairs if own is call] or [one for own, one in pairs if own == call]
    if not same or not isinstance(call, Call):
        known = ", ".join(one.call.name for _, one in pairs) or "none"
        raise LoopError(f"call: got {call!r}, which is no well-formed call of this turn; its calls are: {known}")
    return same[0]


def _about(store: Store, turn: Turn) -> dict[str, Any]:
    """Which conversation the turn belongs to and who asked, from its record."""
    if turn.record_id is None:
        return {}
    record = read_content(store.get(turn.record_id))
    metadata = None if isinstance(record.metadata, Gone) else record.metadata
    return {"conversation": record.conversation if isinstance(record, TurnRecord) else None, "metadata": metadata}
