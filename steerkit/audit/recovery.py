"""What SQLite makes of a write-ahead log that was left behind: which of it counts, and which it drops without a word.

A record is committed to the log first (FILE-wal), in frames that each continue a checksum. Whoever opens the store next
reads them up to the first one that does not fit; everything after that is as if it had never been. A process that was
killed leaves nothing of that kind but the beginning of a transaction that nobody was told of. A bit that changed in the
log takes the records after it out of the store, with chain and all. What is counted here is what stood in the log when
the store was opened, against what SQLite then made of it (its wal-index, FILE-shm). See sqlite.org/walformat.html.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import Final, NamedTuple

_HEADER: Final = struct.Struct(">8I")
_FRAME: Final = struct.Struct(">4I")
_FRAME_BYTES: Final = 24


class Recovery(NamedTuple):
    """What was made of a log; all 0 where there was none."""

    frames: int = 0
    """That the log held, of its own generation: older ones behind them are left over from before."""
    recovered: int = 0
    """That SQLite counts."""
    transactions: int = 0
    """Finished ones that it does not count."""

    def told(self, path: Path) -> list[str]:
        """What a person should know of it: a line, or none."""
        if not self.transactions:
            return []
        what = f"{self.recovered} of {self.frames} frames were recovered, {self.transactions} finished transactions not"
        return [
            f"{path}-wal is damaged: {what}; the records in them are gone, and the chain does not show it. A "
            f"checkpoint made after them does (truncated). Copy the file before anything is written"
        ]


class _Frames(NamedTuple):
    salts: tuple[int, int]
    length: int
    """In frames."""
    commits: tuple[int, ...]
    """Numbers of the frames that end a transaction, from 1."""


def frames_of(path: Path) -> _Frames | None:
    """The frames in a store's log, not whether they fit; None where there is none, or it cannot be read."""
    try:
        with path.open("rb") as main, path.with_name(f"{path.name}-wal").open("rb") as log:
            size = int.from_bytes(main.read(18)[16:18], "big")
            size = 65536 if size == 1 else size
            head = log.read(_HEADER.size)
            if len(head) < _HEADER.size or size < 512:
                return None
            salts: tuple[int, int] = _HEADER.unpack(head)[4:6]
            commits, number, last = list[int](), 0, 0
            while True:
                number += 1
                log.seek(_HEADER.size + (number - 1) * (_FRAME_BYTES + size))
                frame = log.read(_FRAME.size)
                if len(frame) < _FRAME.size:
                    return _Frames(salts, last, tuple(commits))
                _, pages, *own = _FRAME.unpack(frame)
                if salts[0] == own[0] or salts[1] == own[1]:  # one of the two may be what changed
                    last = number
                    commits += [number] * bool(pages)
    except OSError:
        return None


def recovery_of(path: Path, before: _Frames | None) -> Recovery:
    """What was made of a log, once the store was read.

    Args:
        path: of the store.
        before: its log before it was opened.
    """
    if before is None or not before.length:
        return Recovery()
    try:
        with path.with_name(f"{path.name}-shm").open("rb") as index:
            head = index.read(40)
    except OSError:
        return Recovery()
    recovered, salts = int.from_bytes(head[16:20], sys.byteorder), struct.unpack(">2I", head[32:40].ljust(8, b"\0"))
    if salts not in (before.salts, (0, 0)):  # others have begun the log anew since; of one that is no log it says 0
        return Recovery()
    lost = sum(number > recovered for number in before.commits)
    return Recovery(before.length, min(recovered, before.length), lost)
