"""The record that opened a run, and what its turns take from there."""

from __future__ import annotations

from typing import Any

from steerkit.audit.log.run_log import OPENED
from steerkit.audit.log.schema import StoredRecord
from steerkit.audit.log.store import Store


def opening_of(store: Store, record: StoredRecord) -> StoredRecord | None:
    """The record that opened a record's run; None where it names no run."""
    run = record.public.get("run")
    if run is None:
        return None
    with store.file.told("read"):
        found = store.database.execute(
            "SELECT id FROM records WHERE sequence <= ? AND instr(body, ?) AND instr(body, ?) ORDER BY 1 LIMIT 1",
            (record.sequence, f'"run":"{run}"'.encode(), f'"kind":"{OPENED}"'.encode()),
        ).fetchone()
    return None if found is None else store.get(found[0])


def policies_of(store: Store, record: StoredRecord) -> list[dict[str, Any]]:
    """The policies of a turn with their whole content, taken from its run's opening where the turn only names them."""
    named: list[dict[str, Any]] = record.public.get("policies", [])
    if all("content" in policy for policy in named):
        return named
    opening = opening_of(store, record)
    known = {} if opening is None else {policy["fingerprint"]: policy for policy in opening.public["policies"]}
    return [policy if "content" in policy else {**known.get(policy["fingerprint"], {}), **policy} for policy in named]
