"""The audit store: one SQLite file in WAL mode, one row per record, each chained to the one before it."""

from __future__ import annotations

import atexit
import copy
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from steerkit.audit.log.canonical import canonical
from steerkit.audit.log.commitments import TRACE, Content, split
from steerkit.audit.log.database import Database
from steerkit.audit.log.run_log import RunLog
from steerkit.audit.log.stored_record import GENESIS, StoredRecord, new_id, record_hash
from steerkit.audit.log.transaction import Transaction
from steerkit.audit.schema import Record, accounted, record_json
from steerkit.errors import AuditError

OnRecord: TypeAlias = "Callable[[StoredRecord], None]"
"""A callback that gets each record once it is on disk; what it raises becomes a warning, and changes nothing."""

_COLUMNS = "sequence, id, time, previous, hash, body"
_KINDS = (int, str, str, str, str, bytes)


def says(**words: str) -> tuple[str, bytes]:
    """A condition in SQL that holds of every record whose body has such a key and text, wherever it is in there."""
    return "instr(body, ?)", canonical(words)[1:-1]


class Store:
    """An audit store that is open for writing, or read-only with `create=False`.

    Several processes and threads may append to one store; the chain stays one. A store of an older version is brought
    to this one when it is opened for writing: its records stay as they are.

    Raises:
        AuditError: the file cannot be opened, is no database, or is not an audit store.
    """

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self.path = Path(path)
        self.file = Database(self.path, writable=create)
        self.run: RunLog | None = None
        """The run that this handle's records belong to."""
        self._on_record: OnRecord | None = None
        self._open: list[Store] = []

    def within(self, run: RunLog | None, on_record: OnRecord | None = None) -> Store:
        """Another handle on this store; its records belong to a run (closed with the store, or at exit), or to none."""
        handle = copy.copy(self)
        handle.run, handle._on_record = run, on_record
        return handle

    def append(self, body: Record | Mapping[str, Any], trace: bytes = b"") -> StoredRecord:
        """Chain a record to the last one and put it on disk before returning; the first of a run opens the run.

        Raises:
            AuditError: it could not be written, and is not in the store. In a run that only warns of that, it returns a
                record with sequence 0 and no id.
        """
        try:
            return self.file.transact(partial(self._append, body, trace))
        except AuditError as error:
            if self.run is None or not self.run.warns:
                raise
            return self._lost(self.run, error)

    def _append(self, body: Record | Mapping[str, Any], trace: bytes) -> StoredRecord:
        if self.run is None:
            return self._write(record_json(body) if isinstance(body, Record) else body, trace)
        self.file.on_rollback(self.run.restorer())
        *opening, stamped = self.run.stamped(body)
        for one in opening:
            self._write(one, b"")
            self._remember()
        return self._write(stamped, trace)

    def end_run(self) -> None:
        """Write down that this handle's run is closed, with its counts; nothing where none is open.

        Raises:
            AuditError: it could not be written; the run stays open.
        """
        if self.run is not None:
            self.file.transact(partial(self._close, self.run))

    def _close(self, run: RunLog) -> None:
        self.file.on_rollback(run.restorer())
        closing = run.closed()
        if closing is not None:
            self._write(closing, b"")
            self.file.on_commit(self._forget)

    def exclusive(self) -> Transaction:
        """A `with` block to read and append in, nobody else in between; either all that it appends is kept or nothing.

        Raises:
            AuditError: the store cannot be locked or written.
        """
        return self.file.transaction()

    def records(
        self,
        limit: int | None = None,
        *,
        newest_first: bool = False,
        after: int = 0,
        where: Sequence[tuple[str, str | bytes | int]] = (),
    ) -> Iterator[StoredRecord]:
        """Records in the order of their sequence, those that come `after` one; `where` is SQL with a value for each."""
        order = "DESC" if newest_first else "ASC"
        conditions = " AND ".join(["sequence > ?", *(condition for condition, _ in where)])
        values = (after, *(value for _, value in where), -1 if limit is None else limit)
        with self.file.clear_errors("read"):
            query = f"SELECT {_COLUMNS} FROM records WHERE {conditions} ORDER BY sequence {order} LIMIT ?"
            for row in self.database.execute(query, values):
                yield self._record(row)

    @property
    def newest(self) -> int:
        """Sequence of the newest record; 0 in an empty store."""
        with self.file.clear_errors("read"):
            return int(self.database.execute("SELECT coalesce(max(sequence), 0) FROM records").fetchone()[0])

    def older_than(self, moment: datetime) -> int:
        """Sequence of a record that is older than a moment, and not much: all that are not older come after it.

        Found by halving, as the times of records rise; so a clock that was set back by less than a day changes nothing.
        """
        wanted = (moment - timedelta(days=1)).astimezone(UTC).isoformat(timespec="microseconds")
        low, high = 0, self.newest
        with self.file.clear_errors("read"):
            while low < high:
                middle = (low + high) // 2
                query = "SELECT time < ? FROM records WHERE sequence > ? ORDER BY sequence LIMIT 1"
                is_older = self.database.execute(query, (wanted, middle)).fetchone()[0]
                low, high = (middle + 1, high) if is_older else (low, middle)
        return low

    def __len__(self) -> int:
        with self.file.clear_errors("read"):
            return int(self.database.execute("SELECT count(*) FROM records").fetchone()[0])

    def get(self, reference: str) -> StoredRecord:
        """The record with this id, the only one whose id begins so, or the one with this sequence number.

        Raises:
            AuditError: there is none, or there are several.
        """
        number = int(reference) if reference.isascii() and reference.isdigit() and len(reference) < 19 else -1
        with self.file.clear_errors("read"):
            rows = self.database.execute(
                f"SELECT {_COLUMNS} FROM records WHERE sequence = ? OR (id >= ? AND id < ?) LIMIT 2",  # by its index
                (number, reference, f"{reference}\U0010ffff"),
            ).fetchall()
            rows = rows if reference else []
            if not rows:
                raise AuditError(f"{self.path}: no record '{reference}'; `steerkit audit list` shows what there is")
            if len(rows) > 1:
                raise AuditError(f"{self.path}: several records begin with '{reference}'; give more of the id")
            return self._record(rows[0])

    def trace_of(self, record: StoredRecord) -> bytes:
        """The packed trace beside a record; empty where it has none or it was redacted.

        Raises:
            AuditError: it should be there, and is gone.
        """
        with self.file.clear_errors("read"):
            row = self.database.execute("SELECT data FROM traces WHERE sequence = ?", (record.sequence,)).fetchone()
            if row is not None:
                return bytes(row[0])
            content = self.contents_of(record.sequence, traces=True).get(TRACE)
        if content is None and TRACE in accounted(record.public).committed:
            raise AuditError(f"{self.path}: the trace of record {record.sequence} is missing")
        return b"" if content is None or content.is_redacted else content.data

    def contents_of(self, sequence: int, *, traces: bool = False) -> dict[str, Content]:
        """Contents beside a record's body, by JSON Pointer; the packed trace only where it is asked for."""
        if self.file.version == 1:
            return {}
        query = "SELECT name, salt, data FROM contents WHERE sequence = ? AND (? OR name <> ?) ORDER BY name"
        rows = self.database.execute(query, (sequence, traces, TRACE))
        found = {}
        for name, salt, data in rows:
            if not isinstance(name, str) or (salt is not None and type(salt) is not bytes) or type(data) is not bytes:
                raise AuditError(f"{self.path}: a content of record {sequence} is not of the type that the table keeps")
            found[name] = Content(salt, data)
        return found

    def close(self) -> None:
        """Close the runs of its handles and the file; what was appended is on disk already."""
        for handle in [*self._open]:
            handle._end_quietly()
            handle._forget()
        self.file.close()

    @property
    def database(self) -> sqlite3.Connection:
        """The open connection, for verification."""
        return self.file.connection

    def _record(self, row: tuple[int, str, str, str, str, bytes]) -> StoredRecord:
        for name, kind, value in zip(_COLUMNS.split(", "), _KINDS, row, strict=True):
            if type(value) is not kind:
                what = f"its {name} is of type {type(value).__name__}, expected {kind.__name__}"
                raise AuditError(f"{self.path}: record {str(row[0])[:40]}: {what}")
        return StoredRecord(*row, self.contents_of(row[0]))

    def _write(self, body: Mapping[str, Any], trace: bytes) -> StoredRecord:
        public, contents = split(body, trace)
        data = canonical(public)
        execute = self.database.execute
        last = execute("SELECT sequence, hash FROM records ORDER BY sequence DESC LIMIT 1").fetchone()
        sequence, previous = (last[0] + 1, last[1]) if last else (1, GENESIS)
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        id = new_id()
        row = (sequence, id, time, previous, record_hash(sequence, id, time, previous, data), data)
        execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", row)
        rows = [(sequence, name, content.salt, content.data) for name, content in contents.items()]
        self.database.executemany("INSERT INTO contents VALUES (?, ?, ?, ?)", rows)
        contents.pop(TRACE, None)
        record = StoredRecord(*row, contents)
        if self._on_record is not None:
            self.file.on_commit(partial(self._tell, self._on_record, record))
        return record

    def _tell(self, on_record: OnRecord, record: StoredRecord) -> None:
        try:
            on_record(record)
        except Exception as error:
            warnings.warn(f"on_record raised {type(error).__name__}: {error}", RuntimeWarning, stacklevel=2)

    def _lost(self, run: RunLog, error: AuditError) -> StoredRecord:
        lost = run.lost()
        said = f"{error}; the record is lost (number {lost} in this run), as on_audit_failure is 'warn'"
        warnings.warn(said, RuntimeWarning, stacklevel=3)
        return StoredRecord(0, "", "", "", "", b"{}")

    def _remember(self) -> None:
        """Keep a handle whose run is open, so that it is closed at the end."""
        if self not in self._open:
            self._open.append(self)
            atexit.register(self._end_quietly)

    def _forget(self) -> None:
        if self in self._open:
            self._open.remove(self)
        atexit.unregister(self._end_quietly)

    def _end_quietly(self) -> None:
        """At exit there is nobody to tell: a run that cannot be closed stays visibly open."""
        try:
            self.end_run()
        except AuditError:
            return
