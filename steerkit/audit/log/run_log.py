"""A run: a chain of records from the one that opens it to the one that closes it, numbered from 0 without gaps.

It is opened by its first record and closed by whoever opened it. A process that dies leaves it open, and everything
that it wrote in place.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

from steerkit.audit.log.stored_record import new_id
from steerkit.audit.schema import Record, RunClosedRecord, RunOpenedRecord, Stamps, TurnRecord, as_json, record_json
from steerkit.errors import AuditError

OnFailure: TypeAlias = Literal["block", "warn"]
"""Handling of a call whose record cannot be written: it is not released, or it is, with a warning."""

OPENED: Final = RunOpenedRecord.kind
CLOSED: Final = RunClosedRecord.kind


@dataclass(frozen=True, slots=True)
class _Progress:
    """The state of an open run."""

    id: str
    pid: int
    number: int = 0
    """Number of the next record."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    decisions: Mapping[str, int] = field(default_factory=dict)


class RunLog:
    """Stamps records with their run and their number in it. Used under the store's lock.

    Args:
        opening: what shaped the run, asked for once, before its first record; the turns do not repeat the content of
            its `policies`.
        on_failure: whether a record that cannot be written is an error or a warning.
    """

    def __init__(self, opening: Callable[[], RunOpenedRecord], on_failure: OnFailure = "block") -> None:
        self._ask: Callable[[], RunOpenedRecord] | None = opening
        if on_failure not in ("block", "warn"):
            raise AuditError(f"on_audit_failure: got {on_failure!r}, expected 'block' or 'warn'")
        self.warns = on_failure == "warn"
        self._opened: RunOpenedRecord | None = None
        self._progress: _Progress | None = None
        self._lost = self._lost_before = 0

    @property
    def id(self) -> str | None:
        """The run's id; None while it is not open."""
        return None if self._progress is None else self._progress.id

    def stamped(self, body: Record | Mapping[str, Any]) -> list[dict[str, Any]]:
        """JSON of the record with its run and number; before it the one that opens the run, where it is the first."""
        found = []
        if self._progress is None or self._progress.pid != os.getpid():
            self._progress = _Progress(new_id(), os.getpid())
            found.append(self._numbered(self._opening))
        found.append(self._numbered(self._shortened(body) if isinstance(body, TurnRecord) else body))
        return found

    def closed(self) -> dict[str, Any] | None:
        """JSON of the record that closes the run; None where none is open in this process."""
        progress = self._progress
        if progress is None or progress.pid != os.getpid():
            return None
        closing = self._numbered(RunClosedRecord(counts=counts(progress.kinds, progress.decisions)))
        self._progress = None
        return closing

    def lost(self) -> int:
        """Count a record that could not be written; the next one says so. Returns how many there were."""
        self._lost += 1
        return self._lost

    def restorer(self) -> Callable[[], None]:
        """A function that brings the run back to its present state, for a transaction that fails."""
        before = (self._progress, self._lost_before)

        def restore() -> None:
            self._progress, self._lost_before = before

        return restore

    @property
    def _opening(self) -> RunOpenedRecord:
        if self._opened is None:
            assert self._ask is not None  # asked once
            self._opened = self._ask()
            self._ask = None  # it may hold a model, and a run outlives it until the process ends
        return self._opened

    @cached_property
    def _known(self) -> frozenset[str]:
        """Fingerprints of the policies whose content is in the opening."""
        return frozenset(policy.fingerprint for policy in self._opening.policies)

    def _shortened(self, turn: TurnRecord) -> TurnRecord:
        """The turn without what its run's opening has in full; names and fingerprints stay."""
        policies = tuple(
            replace(policy, content=None) if policy.fingerprint in self._known else policy for policy in turn.policies
        )
        opening = self._opening
        return replace(
            turn,
            policies=policies,
            libraries=None if turn.libraries == opening.libraries else turn.libraries,
            machine=None if turn.machine == opening.machine else turn.machine,
        )

    def _numbered(self, body: Record | Mapping[str, Any]) -> dict[str, Any]:
        assert self._progress is not None  # the callers opened it
        progress, lost = self._progress, self._lost - self._lost_before
        self._lost_before = self._lost
        kinds, decisions = progress.kinds, progress.decisions
        if isinstance(body, Record):
            verdicts = body.verdicts if isinstance(body, TurnRecord) else ()
            kinds, decisions = tally(kinds, decisions, body.kind, [verdict.decision for verdict in verdicts])
        self._progress = replace(progress, number=progress.number + 1, kinds=kinds, decisions=decisions)
        said = record_json(body) if isinstance(body, Record) else body
        return {**said, **as_json(Stamps(run=progress.id, number=progress.number, lost_before=lost))}


def tally(
    kinds: Mapping[str, int], decisions: Mapping[str, int], kind: str, made: Iterable[str]
) -> tuple[dict[str, int], dict[str, int]]:
    """Counts with one more record in them: records of each kind, and verdicts of each decision."""
    return dict(Counter(kinds) + Counter([kind])), dict(Counter(decisions) + Counter(made))


def counts(kinds: Mapping[str, int], decisions: Mapping[str, int]) -> dict[str, Any]:
    """Counts in a closing record: the run's turns, approvals and executions, and the turns' decisions."""
    by_kind = {f"{kind}s": kinds.get(kind, 0) for kind in ("turn", "approval", "execution")}
    return {**by_kind, "decisions": dict(decisions)}
