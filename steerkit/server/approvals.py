"""Decisions about held calls, by the holder of a key."""

from __future__ import annotations

from steerkit.audit import Approvals, HeldEntry
from steerkit.server.errors import ApiError
from steerkit.server.keys import Key


def decided_by(key: Key, approvals: Approvals, id: str, *, approve: bool, by: str = "", note: str = "") -> HeldEntry:
    """Write down a decision, once.

    Raises:
        ApiError: the key may not decide.
        ApprovalError: no such call that the key sees, or one that was decided on or has expired.
        AuditError: it could not be written; nothing is decided then.
    """
    if not key.approves:
        raise ApiError(403, f"the key of {key.name!r} may not decide about held calls", code="may_not_approve")
    by = by if not key.name or by == key.name else f"{by} (key {key.name})" if by else key.name
    return approvals.decide(id, key.sees, approve=approve, by=by, note=note)
