"""The audit store: one SQLite file in WAL mode, one row per record, each chained to the one before.

A record's hash is SHA-256 over the canonical JSON of

    {"sequence": …, "id": …, "time": …, "previous": …, "body": sha256(body), "trace": sha256(trace)}

with all hashes in lower-case hex and `previous` the hash of the record before, 64 zeros for the first.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from steerkit.audit.canonical import canonical, plain
from steerkit.errors import AuditError

GENESIS: Final = "0" * 64
APPLICATION_ID: Final = 0x534B4954  # "SKIT"
VERSION: Final = 1

SCHEMA: Final = (
    "CREATE TABLE records (sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, time TEXT NOT NULL, "
    "previous TEXT NOT NULL, hash TEXT NOT NULL, body BLOB NOT NULL) STRICT",
    "CREATE TABLE traces (sequence INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT",
)

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record as it lies in the store."""

    sequence: int
    """From 1, without gaps."""
    id: str
    time: str
    """UTC, ISO 8601."""
    previous: str
    hash: str
    body: bytes
    """Canonical JSON."""

    @property
    def content(self) -> dict[str, Any]:
        """The body's value."""
        value: dict[str, Any] = plain(self.body)
        return value


def record_hash(sequence: int, id: str, time: str, previous: str, body: bytes, trace: bytes) -> str:
    """The hash that covers a record and its place in the chain."""
    head = {
        "sequence": sequence,
        "id": id,
        "time": time,
        "previous": previous,
        "body": hashlib.sha256(body).hexdigest(),
        "trace": hashlib.sha256(trace).hexdigest(),
    }
    return hashlib.sha256(canonical(head)).hexdigest()


class Store:
    """An audit store that is open for writing, or read-only with `create=False`.

    Several processes and threads may append to one store; the chain stays one.

    Raises:
        AuditError: the file cannot be opened, is no database, or is not an audit store.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path)
        self._writable = create
        self._lock = threading.RLock()
        self._inside = False
        if not create and not self.path.exists():
            raise AuditError(f"{self.path}: no such file; expected an audit store (a .db file)")
        if self.path.is_dir():
            raise AuditError(f"{self.path}: is a folder; expected an audit store (a .db file)")
        with self._told("opened"):
            if create:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            self._database = self._connect()
            self._prepare()

    def append(self, body: Mapping[str, Any], trace: bytes = b"") -> StoredRecord:
        """Chain a record to the last one and put it on disk before returning.

        Raises:
            AuditError: it could not be written, and is not in the store.
        """
        data = canonical(body)
        with self._told("written"), self._transaction():
            last = self._database.execute(
                "SELECT sequence, hash FROM records ORDER BY sequence DESC LIMIT 1"
            ).fetchone()
            sequence, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
            time = datetime.now(UTC).isoformat(timespec="microseconds")
            record = StoredRecord(sequence, _new_id(), time, previous, "", data)
            digest = record_hash(sequence, record.id, time, previous, data, trace)
            row = (sequence, record.id, time, previous, digest, data)
            self._database.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", row)
            self._database.execute("INSERT INTO traces VALUES (?, ?)", (sequence, trace))
        return StoredRecord(*row)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Read and append with nobody else appending in between; what is appended inside is kept whole or not at all.

        Raises:
            AuditError: the store cannot be locked or written.
        """
        with self._told("written"), self._transaction():
            yield

    def records(
        self, limit: int | None = None, *, newest_first: bool = False, after: int = 0
    ) -> Iterator[StoredRecord]:
        """Records in the order of their sequence, those that come `after` one."""
        order = "DESC" if newest_first else "ASC"
        with self._told("read"):
            query = f"SELECT * FROM records WHERE sequence > ? ORDER BY sequence {order} LIMIT ?"
            for row in self._database.execute(query, (after, -1 if limit is None else limit)):
                yield StoredRecord(*row)

    def __len__(self) -> int:
        with self._told("read"):
            return int(self._database.execute("SELECT count(*) FROM records").fetchone()[0])

    def get(self, reference: str) -> StoredRecord:
        """The record of an id, of the beginning of one, or of a sequence number.

        Raises:
            AuditError: no record, or more than one, answers to it.
        """
        with self._told("read"):
            number = int(reference) if reference.isdecimal() and len(reference) < 10 else -1
            rows = self._database.execute(
                "SELECT * FROM records WHERE sequence = ? OR id = ? OR substr(id, 1, ?) = ? LIMIT 2",
                (number, reference, len(reference) or 1, reference),
            ).fetchall()
        if not rows:
            raise AuditError(f"{self.path}: no record '{reference}'; `steerkit audit list` shows what there is")
        if len(rows) > 1:
            raise AuditError(f"{self.path}: several records begin with '{reference}'; give more of the id")
        return StoredRecord(*rows[0])

    def trace_of(self, record: StoredRecord) -> bytes:
        """The packed trace beside a record. Raises AuditError if it is gone."""
        with self._told("read"):
            row = self._database.execute("SELECT data FROM traces WHERE sequence = ?", (record.sequence,)).fetchone()
        if row is None:
            raise AuditError(f"{self.path}: the trace of record {record.sequence} is missing")
        return bytes(row[0])

    def close(self) -> None:
        """Close the file; what was appended is on disk already."""
        self._database.close()

    @property
    def database(self) -> sqlite3.Connection:
        """The open connection, for verification."""
        return self._database

    def _connect(self) -> sqlite3.Connection:
        mode = "rwc" if self._writable else "ro"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        return sqlite3.connect(uri, uri=True, timeout=30, isolation_level=None, check_same_thread=False)

    def _prepare(self) -> None:
        """Make the tables of a new store; refuse any other database before it is touched."""
        if not self._writable or self._tables():
            self._check_kind()
        if self._writable:
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            with self._transaction():
                if not self._tables():
                    for statement in SCHEMA:
                        self._database.execute(statement)
                    self._database.execute(f"PRAGMA application_id={APPLICATION_ID}")
                    self._database.execute(f"PRAGMA user_version={VERSION}")

    def _tables(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def _check_kind(self) -> None:
        application = self._database.execute("PRAGMA application_id").fetchone()[0]
        version = self._database.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID or version != VERSION:
            raise AuditError(
                f"{self.path}: a database, but no audit store of version {VERSION} "
                f"(application {application:#x}, version {version}); give another file"
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """One at a time over all threads; inside another one of the same thread, a part of it."""
        with self._lock:
            if self._inside:
                yield
                return
            self._database.execute("BEGIN IMMEDIATE")
            self._inside = True
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                self._database.rollback()
                raise
            finally:
                self._inside = False

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Turn what SQLite and the system say into one clear line."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            reason = "it is not a database" if "not a database" in str(error) else str(error)
            raise AuditError(f"{self.path}: the audit store cannot be {what}: {reason}; {_advice(reason)}") from None
        except OSError as error:
            raise AuditError(
                f"{self.path}: the audit store cannot be {what}: {os.strerror(error.errno or 0)}"
            ) from None


def _advice(reason: str) -> str:
    if "full" in reason:
        return "free some space; nothing was released"
    if "locked" in reason:
        return "another process holds it; try again"
    return "give another file with --store or audit=…"


def _new_id() -> str:
    """26 characters: 48 bits of time in milliseconds, then 80 random bits, so that ids sort by time."""
    number = int(datetime.now(UTC).timestamp() * 1000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
