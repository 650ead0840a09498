"""Records of a query a page at a time, newest first, from a store of any size."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.records.query import Query, fits, narrowed

_FIRST_STRETCH: Final = 500
_LONGEST_STRETCH: Final = 20_000
"""Records that one query of SQLite looks through, which cannot be stopped; those that do not fit cost little."""


class Page(NamedTuple):
    """Records that fit, and how far the store was looked through for them."""

    records: tuple[StoredRecord, ...]
    """Newest first."""
    reached: int
    """Sequence of the oldest record that was looked at: the next page comes `before` it. 1 or less: there is none."""

    @property
    def is_last(self) -> bool:
        """True if the whole store was looked through."""
        return self.reached <= 1


def page(store: Store, query: Query, limit: int = 50, *, before: int | None = None, seconds: float = 0.2) -> Page:
    """The newest records that fit a query.

    It reads the records themselves, a stretch at a time, and needs no index: whatever fits often is found at once, and
    what is rare is found in several pages, some of them empty, each within `seconds`.

    Args:
        store: where to look.
        query: what to look for.
        limit: most records of the page.
        before: only records older than the one with this sequence; None begins with the newest.
        seconds: about how long to look.

    Raises:
        AuditError: the store cannot be read.
    """
    ends = time.monotonic() + seconds
    top = store.newest + 1 if before is None else min(before, store.newest + 1)
    found: list[StoredRecord] = []
    stretch, where = _FIRST_STRETCH, narrowed(query)
    while top > 1:
        bottom = max(1, top - stretch)
        for record in store.records(newest_first=True, after=bottom - 1, where=[*where, ("sequence < ?", top)]):
            if fits(store, record, query):
                found.append(record)
            if len(found) == limit or time.monotonic() > ends:
                return Page(tuple(found), record.sequence)
        top = bottom
        if time.monotonic() > ends:
            break
        stretch = min(2 * stretch, _LONGEST_STRETCH)
    return Page(tuple(found), top)
