"""Says what was done to a record that is not what its place in the chain asks for."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import record_hash
from steerkit.errors import TamperError

_NEAR = 1000
"""Places to either side that are tried for a record that was moved."""


class Row(NamedTuple):
    """One place of the chain as it is read: a record, or what is left of a retired one (only sequence and hash)."""

    sequence: int
    id: str
    time: str
    previous: str
    hash: str
    body: bytes | None
    trace: bytes | None
    """Trace of a record of format 1; else None."""


def hash_of(row: Row, sequence: int | None = None) -> str:
    """The hash that a record's content asks for, at its own place or another."""
    place = row.sequence if sequence is None else sequence
    trace = None if row.trace is None else hashlib.sha256(row.trace).hexdigest()
    return record_hash(place, row.id, row.time, row.previous, row.body or b"", trace)


def refusal(store: Store, place: int, row: Row, kind: str, what: str) -> TamperError:
    """An error that names the record."""
    return TamperError(f"{store.path}: record {place} (id {str(row.id)[:40]}): {kind}: {what}", place, kind)


def misplaced(store: Store, place: int, previous: str, row: Row) -> TamperError:
    """The error about a record whose hash or link does not hold: what was done to it."""
    if row.hash == hash_of(row):
        return _unlinked(store, place, previous, row)
    origin = _origin(place, row)
    if origin is None:
        assert row.body is not None  # retired ones have no hash to recompute
        digest = hashlib.sha256(row.body).hexdigest()[:16]
        return refusal(store, place, row, "edited", f"its content does not match its hash (body sha256 {digest}…)")
    if origin < place:
        what = f"this was record {origin} and was moved down; what stands before it is not of this chain"
        return refusal(store, place, row, "inserted", what)
    if _place_of(store, row.previous) is None:
        what = f"this was record {origin}; {origin - place} before it were taken out, and the rest counted anew"
        return refusal(store, place, row, "deleted", what)
    return refusal(store, place, row, "reordered", f"its place is {origin}")


def _unlinked(store: Store, place: int, previous: str, row: Row) -> TamperError:
    follows = _place_of(store, row.previous)
    if follows is not None:
        what = f"it does not follow the record before it, but record {follows}"
        return refusal(store, place, row, "reordered", what)
    what = (
        f"it does not follow the record before it: record {place - 1} was changed and hashed again (now "
        f"{previous[:16]}…), or the log was forked there"
    )
    return refusal(store, place, row, "forked", what)


def _origin(place: int, row: Row) -> int | None:
    """The place at which the record's hash would hold."""
    near = range(max(1, place - _NEAR), place + _NEAR)
    return next((other for other in near if hash_of(row, other) == row.hash), None)


def _place_of(store: Store, digest: str) -> int | None:
    """Place of the record with this hash."""
    found = store.database.execute("SELECT sequence FROM records WHERE hash = ?", (digest,)).fetchone()
    return None if found is None else int(found[0])
