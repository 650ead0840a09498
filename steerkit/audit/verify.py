"""Checks a whole store: that nothing was edited, dropped, inserted or reordered. Reads only."""

from __future__ import annotations

import hashlib
import sqlite3
from typing import NamedTuple

from steerkit.audit.canonical import canonical, plain
from steerkit.audit.store import GENESIS, SCHEMA, Store, StoredRecord, record_hash
from steerkit.audit.trace import unpack
from steerkit.errors import AuditError, TamperError

_TABLES = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"


class Verified(NamedTuple):
    """What a clean store came to."""

    records: int
    head: str
    """Hash of the last record: who keeps it can later tell a store that was cut short or replaced."""


def verify(store: Store) -> Verified:
    """Recompute every hash and check every link.

    An attacker who can write the file can also recompute the hashes of all records after the one he changed; that is
    found by whoever kept a `head`. Everything short of that is found here.

    Raises:
        TamperError: the first thing that is wrong, and in which record.
    """
    try:
        _check_database(store)
        previous, count = GENESIS, 0
        for count, row in enumerate(_rows(store), start=1):
            previous = _check_record(store, count, previous, row)
    except sqlite3.DatabaseError as error:
        raise TamperError(f"{store.path}: the file is damaged: {error}") from None
    return Verified(count, previous)


def _check_database(store: Store) -> None:
    execute = store.database.execute
    problems = [str(row[0]) for row in execute("PRAGMA integrity_check(1)")]
    if problems != ["ok"]:
        raise TamperError(f"{store.path}: the file is damaged: {problems[0]}")
    if execute(_TABLES).fetchall() != _expected_tables():
        raise TamperError(f"{store.path}: the tables are not those of an audit store")
    strays = execute("SELECT count(*) FROM traces WHERE sequence NOT IN (SELECT sequence FROM records)").fetchone()[0]
    if strays:
        raise TamperError(f"{store.path}: {strays} traces belong to no record")


def _expected_tables() -> list[tuple[object, ...]]:
    """What SQLite itself notes of a store's tables and indexes."""
    database = sqlite3.connect(":memory:")
    try:
        for statement in SCHEMA:
            database.execute(statement)
        return database.execute(_TABLES).fetchall()
    finally:
        database.close()


def _rows(store: Store) -> sqlite3.Cursor:
    return store.database.execute(
        "SELECT r.sequence, r.id, r.time, r.previous, r.hash, r.body, t.data "
        "FROM records r LEFT JOIN traces t ON t.sequence = r.sequence ORDER BY r.sequence"
    )


def _check_record(store: Store, expected: int, previous: str, row: tuple[object, ...]) -> str:
    """The record's hash, once everything about it holds."""
    record, trace = StoredRecord(*row[:6]), row[6]  # type: ignore[arg-type]

    def refuse(what: str) -> TamperError:
        return TamperError(f"{store.path}: record {expected} (id {str(record.id)[:40]}): {what}", expected)

    if record.sequence != expected:
        raise TamperError(f"{store.path}: record {expected} is missing; the next one is {record.sequence}", expected)
    if not isinstance(trace, bytes):
        raise refuse("its trace is missing")
    if record.previous != previous:
        raise refuse("it does not follow the record before it")
    if record.hash != record_hash(record.sequence, record.id, record.time, record.previous, record.body, trace):
        raise refuse(
            f"its content does not match its hash (body sha256 {hashlib.sha256(record.body).hexdigest()[:16]}…)"
        )
    try:
        if canonical(plain(record.body)) != record.body:
            raise refuse("its body is not canonical JSON")
        if trace:
            unpack(trace)
    except TamperError:
        raise
    except AuditError as error:
        raise refuse(str(error)) from None
    return record.hash
