"""Recorded turns read back from a store: with the opening of their run and all that a replay needs, and approvals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from steerkit.audit.log.commitments import TRACE
from steerkit.audit.log.reading import read_content, read_public
from steerkit.audit.log.run_log import OPENED
from steerkit.audit.log.store import Store, says
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.log.trace_codec import unpack
from steerkit.audit.schema import ApprovalRecord, Gone, PolicyIdentity, RunOpenedRecord, TurnRecord, path_of
from steerkit.errors import AuditError
from steerkit.types import Call, Trace

_NEEDED: Final = ("calls", "messages", "prompt_ids", "reply_ids", "tools")
"""Contents without which a turn cannot be replayed."""


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A turn as its record and its run's opening together say it."""

    id: str
    record: TurnRecord
    """With the policies' content and the libraries' versions that its run was opened with."""
    trace: Trace | None
    """None where it was redacted."""
    missing: tuple[str, ...]
    """Paths that the record lacks, because it is older or was redacted."""


def read_turn(store: Store, stored: StoredRecord) -> RecordedTurn:
    """A turn from its record.

    Raises:
        AuditError: the record is of no turn, or content without which it cannot be replayed was redacted.
    """
    turn = read_content(stored, dense=True)
    if not isinstance(turn, TurnRecord):
        raise AuditError(f"{store.path}: record {stored.id} is a {turn.kind}; expected a turn, or a run's id")
    if lost := [name for name in _NEEDED if _is_gone(turn, name)]:
        raise AuditError(
            f"{store.path}: record {stored.id}: its {', '.join(lost)} were redacted, so it cannot be replayed"
        )
    opening = opening_of(store, stored)
    turn = replace(turn, policies=policies_of(store, stored))
    if opening is not None:
        libraries = opening.libraries if turn.libraries is None else turn.libraries
        machine = opening.machine if turn.machine is None else turn.machine
        turn = replace(turn, libraries=libraries, machine=machine)
    packed = store.trace_of(stored)
    missing = [*_unsaid(turn), *redacted_paths(stored)]
    if not packed and TRACE in read_public(stored).committed:
        missing.append("trace")
    return RecordedTurn(stored.id, turn, unpack(packed) if packed else None, tuple(missing))


def _is_gone(turn: TurnRecord, name: str) -> bool:
    if name == "calls":
        parts = (call.arguments if isinstance(call, Call) else call.error for call in turn.calls)
        return any(isinstance(part, Gone) for part in parts)
    return isinstance(getattr(turn, name), Gone)


def _unsaid(turn: TurnRecord) -> list[str]:
    """Paths that older records lack of what shaped a turn."""
    said = {
        "model.template": turn.model.template or None,
        "libraries": turn.libraries,
        "machine": turn.machine,
        "batch": turn.batch,
    }
    return [name for name, value in said.items() if value is None]


def turns_of(store: Store, reference: str) -> list[StoredRecord]:
    """The turn with this id, number or beginning of an id; or all turns of the run with it, in order.

    Raises:
        AuditError: there is neither, or there are several.
    """
    run = _run_of(store, reference)
    if run is None:
        record = store.get(reference)
        public = read_public(record)
        if public.kind != OPENED or public.run is None:
            return [record]
        run = public.run
    return [*store.records(where=[says(run=run), says(kind=TurnRecord.kind)])]


def _run_of(store: Store, reference: str) -> str | None:
    """The run whose id begins so; None where none does."""
    if len(reference) < 4 or not reference.isalnum() or reference.isdecimal():
        return None
    begun, begins = says(run=reference)
    found = [*store.records(2, where=[(begun, begins.rstrip(b'"')), says(kind=OPENED)])]
    if len(found) > 1:
        raise AuditError(f"{store.path}: several runs begin with '{reference}'; give more of the id")
    return read_public(found[0]).run if found else None


def redacted_paths(record: StoredRecord) -> list[str]:
    """Paths of the contents that were redacted, such as `calls[0].arguments`; without the trace."""
    return [path_of(one) for one in _redacted(record)]


def _redacted(record: StoredRecord) -> list[Sequence[str | int]]:
    found: list[Sequence[str | int]] = []
    for name in read_public(record).committed:
        content = record.contents.get(name)
        if name != TRACE and (content is None or content.is_redacted):
            found.append([int(key) if key.isdecimal() else key for key in name.split("/")[1:]])
    return found


def opening_of(store: Store, record: StoredRecord) -> RunOpenedRecord | None:
    """The record that opened a record's run; None where it names no run."""
    public = read_public(record)
    if public.run is None:
        return None
    first = record.sequence - (public.number or 0)  # where it is if no other run wrote meanwhile, and else before
    for one in store.records(
        1, newest_first=True, where=[says(run=public.run), says(kind=OPENED), ("sequence <= ?", first)]
    ):
        found = read_content(one)
        return found if isinstance(found, RunOpenedRecord) else None
    return None


def policies_of(store: Store, record: StoredRecord) -> tuple[PolicyIdentity, ...]:
    """The policies of a turn with their content, taken from its run's opening where the turn only names them."""
    turn = read_public(record)
    named = turn.policies if isinstance(turn, TurnRecord) else ()
    if all(policy.content is not None for policy in named):
        return named
    opening = opening_of(store, record)
    known = {} if opening is None else {policy.fingerprint: policy for policy in opening.policies}
    return tuple(_filled(policy, known.get(policy.fingerprint)) for policy in named)


def _filled(policy: PolicyIdentity, opened: PolicyIdentity | None) -> PolicyIdentity:
    if policy.content is not None or opened is None:
        return policy
    return replace(policy, mode=policy.mode or opened.mode, content=opened.content)


def approvals_of(store: Store, turn: StoredRecord) -> list[tuple[StoredRecord, ApprovalRecord]]:
    """The approvals that were recorded of a turn's calls, each as it is stored and typed.

    Raises:
        AuditError: one after the turn cannot be read, whose ever it is.
    """
    approvals = store.records(after=turn.sequence, where=[says(kind=ApprovalRecord.kind)])
    later = ((one, read_content(one)) for one in approvals)
    return [(one, said) for one, said in later if isinstance(said, ApprovalRecord) and said.turn == turn.id]
