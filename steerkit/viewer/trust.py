"""Trust in a store: up to which record its chain is verified, checked beside the pages in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias

from steerkit.audit import Checkpoint, Store, Verified, VerifierKey, verify
from steerkit.errors import AuditError, TamperError

State: TypeAlias = Literal["checking", "verified", "broken", "unreadable"]
_PAUSE: Final = 5.0
"""Least seconds between two checks."""
_SHARE: Final = 10
"""A check waits this many times as long as the last one took."""


@dataclass(frozen=True)
class Kept:
    """Checkpoints that were kept away from the store, and the key that their signatures were checked by."""

    checkpoints: Sequence[Checkpoint] = ()
    key: VerifierKey | None = None


NOTHING: Final = Kept()
"""No checkpoint."""


@dataclass(frozen=True)
class Trust:
    """The last check of a store."""

    state: State
    checked: int = 0
    """Sequence up to which the chain was verified."""
    when: datetime | None = None
    found: Verified | None = None
    error: str = ""
    broken: int | None = None
    """Sequence of the first record that is wrong."""


class Checker:
    """Verifies a store, and again as it grows.

    Args:
        path: of the store.
        kept: what it is verified against.
    """

    def __init__(self, path: Path, kept: Kept) -> None:
        self._path, self.kept = path, kept
        self._lock = threading.Lock()
        self._last = Trust("checking")
        self._running = False
        self._next = 0.0

    def trust(self, newest: int) -> Trust:
        """The last check; begins another one where the store has grown since, and enough time has passed.

        Args:
            newest: sequence of the newest record now.
        """
        with self._lock:
            due = self._last.state == "checking" or newest != self._last.checked
            if due and not self._running and time.monotonic() >= self._next:
                self._running = True
                threading.Thread(target=self._check, name="steerkit-verify", daemon=True).start()
            return self._last

    def now(self) -> Trust:
        """A check that is waited for."""
        return self._checked()

    def _check(self) -> None:
        began = time.monotonic()
        last = self._checked()
        with self._lock:
            took = time.monotonic() - began
            self._last, self._running, self._next = last, False, time.monotonic() + max(_PAUSE, _SHARE * took)

    def _checked(self) -> Trust:
        now = datetime.now(UTC)
        try:
            store = Store(self._path, create=False)
            try:
                found = verify(store, checkpoints=self.kept.checkpoints, key=self.kept.key)
            finally:
                store.close()
        except TamperError as error:
            at = error.sequence
            return Trust("broken", 0 if at is None else at - 1, now, error=self._short(error), broken=at)
        except AuditError as error:
            return Trust("unreadable", 0, now, error=self._short(error))
        return Trust("verified", found.size, now, found)

    def _short(self, error: AuditError) -> str:
        return str(error).removeprefix(f"{self._path}: ")
