"""The record that opened a run, and what its turns take from there."""

from __future__ import annotations

from dataclasses import replace

from steerkit.audit.log.reading import read_content, read_public
from steerkit.audit.log.run_log import OPENED
from steerkit.audit.log.store import Store, says
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.schema import PolicyIdentity, RunOpenedRecord, TurnRecord


def opening_of(store: Store, record: StoredRecord) -> RunOpenedRecord | None:
    """The record that opened a record's run; None where it names no run."""
    run = read_public(record).run
    if run is None:
        return None
    for one in store.records(1, where=[says(run=run), says(kind=OPENED), ("sequence <= ?", record.sequence)]):
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
