"""Verification: every tampering that a chain alone can show, and what cannot change unnoticed in the file's bytes."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from steerkit.audit import Store, canonical, pack, plain, verify
from steerkit.audit.store import record_hash
from steerkit.errors import AuditError, TamperError
from steerkit.types import TopK, Trace

TRACE = Trace(0, {"p.f": (0.25, 0.5)}, {}, (TopK(0, 0, 1, 1, b"\x01\x00", b"\x00\x3c"),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store of six records with traces."""
    store = Store(tmp_path / "a.db")
    for number in range(6):
        store.append({"number": number, "verdicts": [{"decision": "deny ", "rule": "r"}]}, pack(TRACE))
    store.close()
    return tmp_path / "a.db"


def rehash(database: sqlite3.Connection, sequence: int) -> None:
    """Recompute a record's own hash, as an attacker who knows the formula would."""
    row = database.execute("SELECT id, time, previous, body FROM records WHERE sequence = ?", (sequence,)).fetchone()
    trace = database.execute("SELECT data FROM traces WHERE sequence = ?", (sequence,)).fetchone()[0]
    digest = record_hash(sequence, *row, trace)
    database.execute("UPDATE records SET hash = ? WHERE sequence = ?", (digest, sequence))


def allow(database: sqlite3.Connection) -> None:
    """Turn record 3's denial into an allowance of the same length, in canonical form."""
    body = database.execute("SELECT body FROM records WHERE sequence = 3").fetchone()[0]
    content = plain(body)
    content["verdicts"][0]["decision"] = "allow"
    database.execute("UPDATE records SET body = ? WHERE sequence = 3", (canonical(content),))


def allow_and_rehash(database: sqlite3.Connection) -> None:
    allow(database)
    rehash(database, 3)


def swap(database: sqlite3.Connection) -> None:
    database.execute("UPDATE records SET sequence = 100 WHERE sequence = 2")
    database.execute("UPDATE records SET sequence = 2 WHERE sequence = 3")
    database.execute("UPDATE records SET sequence = 3 WHERE sequence = 100")


def insert(database: sqlite3.Connection) -> None:
    row = database.execute("SELECT time, hash, body FROM records WHERE sequence = 6").fetchone()
    database.execute("INSERT INTO records VALUES (8, 'new', ?, ?, 'x', ?)", row)
    database.execute("INSERT INTO traces VALUES (8, x'')")


def drop(database: sqlite3.Connection) -> None:
    for table in ("records", "traces"):
        database.execute(f"DELETE FROM {table} WHERE sequence = 2")


def sql(statement: str) -> Callable[[sqlite3.Connection], None]:
    """A change that is one statement."""

    def change(database: sqlite3.Connection) -> None:
        database.execute(statement)

    return change


TAMPERING: dict[str, tuple[Callable[[sqlite3.Connection], None], str]] = {
    "deny to allow": (allow, r"record 3 .*does not match its hash"),
    "deny to allow, rehashed": (allow_and_rehash, r"record 4 .*does not follow the record before it"),
    "deleted": (sql("DELETE FROM records WHERE sequence = 2"), "traces belong to no record"),
    "deleted with its trace": (drop, "record 2 is missing"),
    "reordered": (swap, r"record 2 .*does not follow"),
    "inserted": (insert, "record 7 is missing"),
    "time": (
        sql("UPDATE records SET time = '2020-01-01T00:00:00+00:00' WHERE sequence = 5"),
        "record 5 .*match its hash",
    ),
    "id": (sql("UPDATE records SET id = 'x' WHERE sequence = 5"), "record 5 .*match its hash"),
    "trace": (sql("UPDATE traces SET data = x'00' WHERE sequence = 4"), "record 4 .*match its hash"),
    "trace gone": (sql("DELETE FROM traces WHERE sequence = 4"), "record 4 .*its trace is missing"),
    "trigger": (
        sql("CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM traces; END"),
        "the tables are not those of an audit store",
    ),
    "table": (sql("CREATE TABLE more (x)"), "the tables are not those"),
}


@pytest.mark.parametrize("case", TAMPERING)
def test_tampering_is_found_and_named(path: Path, case: str) -> None:
    """The untouched store verifies; the changed one does not, and the first wrong record is named."""
    assert verify(Store(path, create=False)).records == 6
    change, error = TAMPERING[case]
    database = sqlite3.connect(path)
    change(database)
    database.commit()
    database.close()
    with pytest.raises(TamperError, match=error):
        verify(Store(path, create=False))


def test_the_last_record_is_held_by_a_kept_head(path: Path) -> None:
    """Who can write the file can rehash its last record; only a head that was kept elsewhere shows it."""
    kept = verify(Store(path)).head
    database = sqlite3.connect(path)
    database.execute("UPDATE records SET body = ? WHERE sequence = 6", (canonical({"number": 6}),))
    rehash(database, 6)
    database.commit()
    database.close()
    assert verify(Store(path, create=False)).head != kept


def content_of(path: Path) -> list[tuple[object, ...]] | None:
    """Every row of every table, or None where the file cannot be read."""
    database = sqlite3.connect(path)
    try:
        tables = ("records", "traces", "sqlite_master")
        return [tuple(row) for table in tables for row in database.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
    except sqlite3.DatabaseError:
        return None
    finally:
        database.close()


def test_no_flipped_byte_changes_what_can_be_read(path: Path, tmp_path: Path) -> None:
    """Each byte of the file is flipped in turn: verification fails, or every row still reads as it was.

    What passes are bytes that hold nothing: the unused space of a page, SQLite's own counters and hints.
    """
    original, whole = path.read_bytes(), content_of(path)
    copy = tmp_path / "copy.db"
    found = unused = 0
    for offset in range(0, len(original), 3):
        copy.write_bytes(original[:offset] + bytes([original[offset] ^ 0x41]) + original[offset + 1 :])
        try:
            store = Store(copy, create=False)
            try:
                verify(store)
            finally:
                store.close()
        except AuditError:
            found += 1
        else:
            assert content_of(copy) == whole, f"byte {offset} changed what is read"
            unused += 1
        for left in tmp_path.glob("copy.db-*"):
            left.unlink()
    assert found > 800
    body = original.index(b'"decision":"deny "')
    for offset in range(body, body + 18):
        copy.write_bytes(original[:offset] + bytes([original[offset] ^ 0x01]) + original[offset + 1 :])
        with pytest.raises(AuditError):
            verify(Store(copy, create=False))
    shutil.copy(path, copy)
    assert verify(Store(copy, create=False)).records == 6
