"""The SQLite file under a store: opened, checked, brought to this version, and written one transaction at a time."""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from steerkit.audit.log.private import make_file, make_folder, mend
from steerkit.audit.log.recovery import Recovery, recovery_of
from steerkit.audit.log.stored_record import APPLICATION_ID, SCHEMAS, UPGRADE, VERSION
from steerkit.audit.log.transaction import Session, Transaction, transact
from steerkit.errors import AuditError

_T = TypeVar("_T")

_LEFT: Final[list[sqlite3.Connection]] = []
"""Connections of a parent process: a child must neither use nor close them, lest the parent's locks are dropped."""

MAX_BYTES: Final = 1 << 28
"""Largest piece of a record; larger ones are neither written nor read."""

_EFFECTIVE: Final = os.access in os.supports_effective_ids
"""True if the system knows what this process may do, and not only the user who started it."""


class Database:
    """One connection, shared by the threads of a process and by all handles on a store.

    Raises:
        AuditError: the file cannot be opened, is no database, or is not an audit store.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path, self._writable = path, writable
        self.recovery = Recovery()
        self._begin()
        with self.clear_errors("opened"):
            if not writable:
                path.stat()
            if path.is_dir():
                raise AuditError(f"{path}: is a folder; expected an audit store (a .db file)")
            if writable:
                make_folder(path.parent)
                make_file(path)
                mend(path)
            self.recovery = recovery_of(path)
            self._connection = self._connect()
            try:
                self.version = self._prepare()
            except BaseException:
                self._connection.close()
                raise
        for line in self.recovery.warnings(path) if writable else ():
            warnings.warn(line, RuntimeWarning, stacklevel=3)

    @property
    def connection(self) -> sqlite3.Connection:
        """The open connection; after a fork, one of the child's own."""
        if self._pid != os.getpid():
            _LEFT.append(self._connection)
            self._begin()
            self._connection = self._connect()
            self._configure()
        return self._connection

    def transaction(self) -> Transaction:
        """One at a time over all threads; inside another one of the same thread, a part of it."""
        return Transaction(self._current(), partial(self._clear, "written"), writes=True)

    def transact(self, work: Callable[[], _T], what: str = "written") -> _T:
        """Do some work in a transaction, safe from being interrupted at every step; see `transaction`."""
        return transact(self._current(), partial(self._clear, what), work)

    def snapshot(self) -> Transaction:
        """Read the store as it is now, whatever others write meanwhile; errors are SQLite's own."""
        return Transaction(self._current(), lambda error: error, writes=False)

    def on_rollback(self, undo: Callable[[], None]) -> None:
        """Call this if the running transaction fails; it may be called twice."""
        self._session.on_rollback(undo)

    def on_commit(self, call: Callable[[], None]) -> None:
        """Call this once the running transaction is on disk."""
        self._session.on_commit(call)

    @contextmanager
    def clear_errors(self, what: str) -> Iterator[None]:
        """A block whose errors of SQLite and the system become one clear line. Raises AuditError."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._clear(what, error) from None
        except FileNotFoundError:
            raise AuditError(f"{self.path}: no such file; expected an audit store (a .db file)") from None
        except OSError as error:
            raise AuditError(
                f"{self.path}: the audit store cannot be {what}: {os.strerror(error.errno or 0)}"
            ) from None

    def _clear(self, what: str, error: BaseException) -> BaseException:
        if not isinstance(error, sqlite3.Error):
            return error
        reason = "it is not a database" if "not a database" in str(error) else str(error)
        return AuditError(f"{self.path}: the audit store cannot be {what}: {reason}; {_advice(reason)}")

    def close(self) -> None:
        """Close the file."""
        self.connection.close()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._session = Session(lambda: self.connection)

    def _current(self) -> Session:
        """The session of this process."""
        _ = self.connection
        return self._session

    def _connect(self) -> sqlite3.Connection:
        mode = "mode=rwc" if self._writable else "mode=ro&immutable=1" if self._is_at_rest() else "mode=ro"
        uri = f"{self.path.absolute().as_uri()}?{mode}"
        made = sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)
        made.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_BYTES)
        made.execute("PRAGMA trusted_schema=OFF")  # a store may come from anybody
        return made

    def _is_at_rest(self) -> bool:
        """True if the store is closed and in a folder that this user cannot write.

        SQLite would want to put a file beside it even for reading; as nothing waits to be written, it need not.
        """
        waiting = self.path.with_name(f"{self.path.name}-wal")
        return not os.access(self.path.parent, os.W_OK, effective_ids=_EFFECTIVE) and not waiting.exists()

    def _configure(self) -> None:
        if self._writable:
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute("PRAGMA secure_delete=ON")  # what is redacted must not lie on in free pages

    def _prepare(self) -> int:
        """Make the tables of a new store, add those an older one lacks; refuse any other database untouched."""
        if not self._writable or self._tables():
            version = self._kind()
            if not self._writable:
                return version
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._configure()
        self.transact(self._bring_up, "opened")
        return VERSION

    def _bring_up(self) -> None:
        if not self._tables():
            self._make(*SCHEMAS[VERSION], f"PRAGMA application_id={APPLICATION_ID}")
        elif self._kind() == 1:
            self._make(*UPGRADE)

    def _make(self, *statements: str) -> None:
        for statement in (*statements, f"PRAGMA user_version={VERSION}"):
            self._connection.execute(statement)

    def _tables(self) -> int:
        return int(self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def _kind(self) -> int:
        """The version of the store's tables."""
        application = self._connection.execute("PRAGMA application_id").fetchone()[0]
        version = int(self._connection.execute("PRAGMA user_version").fetchone()[0])
        if application != APPLICATION_ID or version not in SCHEMAS:
            raise AuditError(
                f"{self.path}: a database, but no audit store of version 1 to {VERSION} "
                f"(application {application:#x}, version {version}); "
                + (" ".join(self.recovery.warnings(self.path)) or "give another file")
            )
        return version


def _advice(reason: str) -> str:
    if "full" in reason:
        return "free some space; nothing was released"
    if "readonly" in reason:
        return "this user may not write it, or beside it; give another file, or look at a copy of all its files"
    if "locked" in reason:
        return "another process holds it; try again"
    return "give another file with --store or audit=…"
