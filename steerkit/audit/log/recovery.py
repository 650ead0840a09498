"""Recovery of a write-ahead log that was left behind: frames that SQLite counts, and those that it drops silently.

A record is committed to the log first (FILE-wal), in frames that each continue a checksum. Whoever opens the store next
reads them up to the first one that does not fit; everything after that is as if it had never been. A process that was
killed leaves nothing of that kind but the beginning of a transaction that was never reported. A bit that changed in the
log takes the records after it out of the store, with chain and all. What is counted here is what stands in the log
against what SQLite's rule (sqlite.org/walformat.html) makes of it. Only the log is opened: to close the store itself or
its FILE-shm would drop the locks that SQLite has on them in this process.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO, Final, NamedTuple

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">6I")
_MAGIC: Final = (0x377F0682, 0x377F0683)
_PAGE: Final = 4096
"""Bytes of a page, where the log's own word is broken."""


class Recovery(NamedTuple):
    """Counts of a log's frames; all 0 where there was none."""

    frames: int = 0
    """That the log held, of its own generation: older ones behind them are left over from before."""
    recovered: int = 0
    """That SQLite counts."""
    transactions: int = 0
    """Finished ones that it does not count."""

    def warnings(self, path: Path) -> list[str]:
        """A line that a person should read, or none."""
        if not self.transactions:
            return []
        what = f"{self.recovered} of {self.frames} frames were recovered, {self.transactions} finished transactions not"
        return [
            f"{path}-wal is damaged: {what}; the records in them are gone, and the chain does not show it. A "
            f"checkpoint made after them does (truncated). Copy the file before anything is written"
        ]


def recovery_of(path: Path) -> Recovery:
    """Counts of the log beside a store, as SQLite recovers it; all 0 where there is none.

    A log that others begin anew meanwhile is passed over: they have read it.
    """
    try:
        with path.with_name(f"{path.name}-wal").open("rb") as log:
            head = log.read(_HEADER.size)
            if len(head) < _HEADER.size:
                return Recovery()
            found = _read(log, head)
            log.seek(0)
            return found if log.read(_HEADER.size) == head else Recovery()
    except OSError:
        return Recovery()


def _read(log: IO[bytes], head: bytes) -> Recovery:
    magic, _, size, _, *salts, first, second = _HEADER.unpack(head)
    order = ">" if magic & 1 else "<"
    running = _checksum(head[:24], order, (0, 0))
    fits = magic in _MAGIC and running == (first, second)
    size = size if size in (1 << power for power in range(9, 17)) else _PAGE
    frames = recovered = transactions = number = 0
    while len(frame := log.read(_FRAME.size)) == _FRAME.size and len(page := log.read(size)) == size:
        number += 1
        _, pages, *own, first, second = _FRAME.unpack(frame)
        if fits:
            running = _checksum(frame[:8] + page, order, running)
            fits = own == salts and running == (first, second)
        if own[0] != salts[0] and own[1] != salts[1]:  # left over from before; of a changed one, the other is the same
            continue
        frames = number
        if pages and fits:
            recovered = number
        transactions += bool(pages) and not fits
    return Recovery(frames, recovered, transactions)


def _checksum(data: bytes, order: str, start: tuple[int, int]) -> tuple[int, int]:
    first, second = start
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one, other in zip(words, words, strict=True):
        first = first + one + second & 0xFFFFFFFF
        second = second + other + first & 0xFFFFFFFF
    return first, second
