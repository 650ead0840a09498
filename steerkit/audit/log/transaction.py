"""Transactions on one connection: one at a time over all threads, each complete or undone wherever it is interrupted.

Ctrl+C, and whatever else a signal's handler raises, comes between any two steps, and that of a signal during `COMMIT`
once the record is on disk. So nothing here trusts its own notes of how far it came: SQLite says what is still open
(`in_transaction`), and only that is undone. What an interrupted clean-up leaves is cleaned up by whoever comes next.
"""

from __future__ import annotations

import inspect
import os
import sqlite3
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Final, NamedTuple, NoReturn, TypeVar

from steerkit.errors import AuditError

_READ: Final = "BEGIN"
_WRITE: Final = "BEGIN IMMEDIATE"
_PAUSES: Final = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

_T = TypeVar("_T")

Explain = Callable[[BaseException], BaseException]
"""One clear line for what SQLite raised; anything else as it is."""


class _Holder(NamedTuple):
    thread: int
    frame: FrameType
    """That the transaction began in."""
    writes: bool


class Session:
    """The transactions on a connection of this process.

    Args:
        connect: gives the connection.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self.pid: Final = os.getpid()
        self._connect = connect
        self._lock = threading.RLock()
        self._holder: _Holder | None = None
        self._committing = False
        self._undo: list[Callable[[], None]] = []
        self._after: list[Callable[[], None]] = []

    def on_rollback(self, undo: Callable[[], None]) -> None:
        """Call this if the running transaction fails; once more does no harm."""
        self._undo.append(undo)

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call this once the running transaction is on disk."""
        self._after.append(call)

    def holds(self, *, writes: bool) -> bool:
        """True if this thread is inside a transaction, so that its work is a part of that.

        Raises:
            AuditError: it is inside one that only reads, and wants to write.
        """
        holder = self._holder
        if holder is None or holder.thread != threading.get_ident() or not _is_running(holder.frame):
            return False
        if writes and not holder.writes:
            raise AuditError("the audit store is being read in this thread; append when the reading has ended")
        return True

    def begin(self, frame: FrameType, *, writes: bool) -> None:
        """Wait for all others, and begin; whatever was left open here is rolled back first."""
        self._lock.acquire()
        self._settle()
        self._holder = _Holder(threading.get_ident(), frame, writes)
        self._connect().execute(_WRITE if writes else _READ)

    def commit(self) -> None:
        """Put the transaction on disk; then those who wait for that are called."""
        self._committing = True
        try:
            self._connect().execute("COMMIT")
        except sqlite3.Error:
            self._committing = False  # on some errors SQLite rolls back by itself, and nothing is open then either
            raise
        self.leave()

    def leave(self) -> None:
        """Roll back what is still open, and let others in; harmless where nothing is, or somebody else is inside."""
        if self.pid != os.getpid() or not self._lock.acquire(blocking=False):
            return
        after: list[Callable[[], None]] = []
        try:
            self._settle()
            after, self._after = self._after, after
        finally:
            self._holder = None
            self._release()
        for call in after:
            call()

    def _settle(self) -> None:
        connection = self._connect()
        if connection.in_transaction:
            self._committing = False
            connection.rollback()
        if not self._committing:
            while self._undo:
                self._undo[-1]()
                self._undo.pop()
            self._after.clear()
        self._undo.clear()
        self._committing = False

    def _release(self) -> None:
        """Let go of the lock as often as this thread took it: an interrupted clean-up may have kept it.

        Asks the lock rather than waits for its error: an interrupt in a handler leaves the error with the thread.
        """
        while self._lock._is_owned():  # type: ignore[attr-defined]  # threading.Condition asks it, too
            self._lock.release()


class Transaction:
    """A `with` block that reads, or that reads and writes; inside another one of its thread, a part of that."""

    def __init__(self, session: Session, explain: Explain, *, writes: bool) -> None:
        self._session, self._explain, self._writes = session, explain, writes
        self._outermost = False

    def __enter__(self) -> None:
        if self._session.holds(writes=self._writes):
            return
        try:
            self._outermost = True
            self._session.begin(sys._getframe(1), writes=self._writes)
        except BaseException as error:
            self._session.leave()
            _raise(error, self._explain)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self._outermost and self._session.pid == os.getpid():
                if error is None and self._writes:
                    self._session.commit()
                else:
                    self._session.leave()
        except BaseException as failed:
            self._session.leave()
            _raise(failed, self._explain)
        if error is not None and (clear := self._explain(error)) is not error:
            raise clear from None


def transact(session: Session, explain: Explain, work: Callable[[], _T]) -> _T:
    """Do some work in a transaction that writes, and have it on disk; inside another one, as a part of it.

    Unlike a `with` block, whose end may be interrupted before its first step, this is safe at every one.
    """
    if session.holds(writes=True):
        return work()
    try:
        session.begin(sys._getframe(), writes=True)
        result = work()
        session.commit()
        return result
    except BaseException as error:
        session.leave()
        _raise(error, explain)


def _raise(error: BaseException, explain: Explain) -> NoReturn:
    clear = explain(error)
    if clear is error:
        raise error
    raise clear from None


def _is_running(frame: FrameType) -> bool:
    """True if a frame has not ended: it is in this thread's stack, or may be one that pauses."""
    if frame.f_code.co_flags & _PAUSES:
        return True
    at: FrameType | None = sys._getframe(1)
    while at is not None and at is not frame:
        at = at.f_back
    return at is not None
