"""What cannot change unnoticed in a store's bytes."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from steerkit.audit import Store, verify
from steerkit.errors import AuditError
from tests.audit.example import started, write_run


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store of six records."""
    store = started(tmp_path / "a.db")
    write_run(store)
    store.close()
    return tmp_path / "a.db"


def content_of(path: Path) -> list[tuple[object, ...]] | None:
    """Every row of every table, or None where the file cannot be read."""
    database = sqlite3.connect(path)
    try:
        tables = ("records", "contents", "retired", "traces", "sqlite_master")
        return [tuple(row) for table in tables for row in database.execute(f"SELECT * FROM {table} ORDER BY 1, 2")]
    except sqlite3.DatabaseError:
        return None
    finally:
        database.close()


@pytest.mark.parametrize("step", [113, pytest.param(1, marks=pytest.mark.slow)])
def test_no_flipped_byte_changes_what_can_be_read(path: Path, tmp_path: Path, step: int) -> None:
    """Bytes of the file are flipped in turn: verification fails, or every row still reads as it was.

    What passes are bytes that hold nothing: the unused space of a page, SQLite's own counters and hints.
    """
    original, whole = path.read_bytes(), content_of(path)
    copy = tmp_path / "copy.db"
    found = unused = 0
    for offset in range(0, len(original), step):
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
    assert found > 5000 // step
    body = original.index(b'"decision":"deny"')
    for offset in range(body, body + 17):
        copy.write_bytes(original[:offset] + bytes([original[offset] ^ 0x01]) + original[offset + 1 :])
        with pytest.raises(AuditError):
            verify(Store(copy, create=False))
    shutil.copy(path, copy)
    assert verify(Store(copy, create=False)).records == 6
