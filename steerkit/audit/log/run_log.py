"""A run: a chain of records from the one that opens it to the one that closes it, numbered from 0 without gaps.

It is opened by its first record and closed by whoever opened it. A process that dies leaves it open, and everything
that it wrote in place.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Literal, TypeAlias

from steerkit.audit.log.schema import FORMAT, new_id
from steerkit.errors import AuditError

OnFailure: TypeAlias = Literal["block", "warn"]
"""What becomes of a call whose record cannot be written: it is not released, or it is, with a warning."""

OPENED: Final = "run_opened"
CLOSED: Final = "run_closed"


@dataclass(frozen=True, slots=True)
class _Standing:
    """How far an open run has come."""

    id: str
    pid: int
    number: int = 0
    """Of the next record."""
    kinds: Mapping[str, int] = field(default_factory=dict)
    decisions: Mapping[str, int] = field(default_factory=dict)


class RunLog:
    """Stamps records with their run and their number in it. Used under the store's lock.

    Args:
        opening: what shaped the run, asked for once, before its first record; of its `policies`, the content is not
            said again in the turns.
        on_failure: whether a record that cannot be written is an error or a warning.
    """

    def __init__(self, opening: Callable[[], Mapping[str, Any]], on_failure: OnFailure = "block") -> None:
        self._ask: Callable[[], Mapping[str, Any]] | None = opening
        if on_failure not in ("block", "warn"):
            raise AuditError(f"on_audit_failure: got {on_failure!r}, expected 'block' or 'warn'")
        self.warns = on_failure == "warn"
        self._opened: Mapping[str, Any] | None = None
        self._standing: _Standing | None = None
        self._lost = self._lost_before = 0

    @property
    def id(self) -> str | None:
        """The run's id; None while it is not open."""
        return None if self._standing is None else self._standing.id

    def stamped(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The body with its run and number; before it the one that opens the run, where it is the first."""
        found = []
        if self._standing is None or self._standing.pid != os.getpid():
            self._standing = _Standing(new_id(), os.getpid())
            found.append(self._numbered({"format": FORMAT, "kind": OPENED, **self._opening}))
        found.append(self._numbered(self._shortened(body)))
        return found

    def closed(self) -> dict[str, Any] | None:
        """The record that closes the run; None where none is open in this process."""
        standing = self._standing
        if standing is None or standing.pid != os.getpid():
            return None
        closing = self._numbered({"format": FORMAT, "kind": CLOSED, **counts(standing.kinds, standing.decisions)})
        self._standing = None
        return closing

    def lost(self) -> int:
        """Count a record that could not be written; the next one says so. Returns how many there were."""
        self._lost += 1
        return self._lost

    def restorer(self) -> Callable[[], None]:
        """Brings the run back to where it stands now, for a transaction that fails."""
        before = (self._standing, self._lost_before)

        def restore() -> None:
            self._standing, self._lost_before = before

        return restore

    @property
    def _opening(self) -> Mapping[str, Any]:
        if self._opened is None:
            assert self._ask is not None  # asked once
            self._opened = self._ask()
            self._ask = None  # it may hold a model, and a run outlives it until the process ends
        return self._opened

    @cached_property
    def _told(self) -> frozenset[str]:
        """Fingerprints of the policies whose content stands in the opening."""
        return frozenset(policy["fingerprint"] for policy in self._opening.get("policies", ()))

    def _shortened(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body without what its run's opening says in full; names and fingerprints stay."""
        short = dict(body)
        if "policies" in body:
            short["policies"] = [
                {key: value for key, value in policy.items() if key != "content"}
                if policy.get("fingerprint") in self._told
                else policy
                for policy in body["policies"]
            ]
        for key in ("libraries", "machine"):
            if key in body and body[key] == self._opening.get(key):
                del short[key]
        return short

    def _numbered(self, body: dict[str, Any]) -> dict[str, Any]:
        assert self._standing is not None  # the callers opened it
        standing = self._standing
        found = {**body, "run": standing.id, "number": standing.number}
        if self._lost > self._lost_before:
            found["lost_before"], self._lost_before = self._lost - self._lost_before, self._lost
        kinds, decisions = tally(standing.kinds, standing.decisions, body)
        self._standing = replace(standing, number=standing.number + 1, kinds=kinds, decisions=decisions)
        return found


def tally(
    kinds: Mapping[str, int], decisions: Mapping[str, int], body: Mapping[str, Any]
) -> tuple[dict[str, int], dict[str, int]]:
    """Counts with one more record in them: how many of each kind, and of each decision."""
    made = [verdict["decision"] for verdict in body.get("verdicts", ())]
    return dict(Counter(kinds) + Counter([body["kind"]])), dict(Counter(decisions) + Counter(made))


def counts(kinds: Mapping[str, int], decisions: Mapping[str, int]) -> dict[str, Any]:
    """What a closing record says of its run's records: turns, approvals, executions, and the turns' decisions."""
    by_kind = {f"{kind}s": kinds.get(kind, 0) for kind in ("turn", "approval", "execution")}
    return {"counts": {**by_kind, "decisions": dict(decisions)}}
