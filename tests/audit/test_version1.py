"""Stores of version 1, as steerkit wrote them before: `version1.sqlite` was written by that code."""

from __future__ import annotations

import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest

from steerkit.audit import (
    Checkpoint,
    SignerKey,
    Store,
    approvals_of,
    check_inclusion,
    checkpoint,
    policies_of,
    portable_record,
    prove,
    redact,
    retain,
    unpack,
    verify,
)
from steerkit.errors import AuditError, TamperError
from tests.audit.example import started, write_run

OLD = Path(__file__).parent / "version1.sqlite"
HEAD = sqlite3.connect(f"{OLD.as_uri()}?mode=ro&immutable=1", uri=True)
LAST = HEAD.execute("SELECT hash FROM records ORDER BY sequence DESC").fetchone()[0]
HEAD.close()
KEY = SignerKey("example.org/audit", bytes(range(32)))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A copy of the old store."""
    return Path(shutil.copy(OLD, tmp_path / "old.db"))


def test_an_old_store_is_read_and_verified_as_it_is(path: Path) -> None:
    """Read-only, nothing of it changes; its turns, traces and approvals read as they did."""
    store = Store(path, create=False)
    found = verify(store)
    assert (found.records, found.head) == (5, LAST)
    first, held = store.get("1"), store.get("2")
    assert first.content["calls"][0]["arguments"] == {"account": "travel 38"}
    assert unpack(store.trace_of(first)).watched
    assert (policies_of(store, first)[0].content or {})["name"]
    assert [approval.by for _, approval in approvals_of(store, held)] == ["ann"]
    store.close()
    assert path.read_bytes() == OLD.read_bytes()


def test_an_old_store_is_written_on_and_its_records_stay(path: Path) -> None:
    """Opened for writing it becomes version 2 in place: the old rows are the same bytes, and new runs follow them."""
    rows = "SELECT * FROM records WHERE sequence <= 5 ORDER BY sequence"
    before = sqlite3.connect(path).execute(rows).fetchall()
    store = started(path)
    write_run(store)
    assert store.database.execute(rows).fetchall() == before
    assert store.database.execute("PRAGMA user_version").fetchone() == (2,)
    assert store.get("6").previous == LAST
    assert verify(store).records == 11
    note = Checkpoint.parse(checkpoint(store, KEY), KEY.verifier)
    for number in ("2", "7"):
        record = store.get(number)
        proof, data = prove(store, record, note.size), portable_record(store, record)
        assert check_inclusion(proof, data, note) == record.content


def test_tampering_with_old_records_is_still_found(path: Path) -> None:
    """After the upgrade too: an edited body, a changed trace, a trace that is gone."""
    Store(path).close()
    for statement in (
        "UPDATE records SET body = CAST(replace(CAST(body AS TEXT), 'allow', 'flag') AS BLOB) WHERE sequence = 1",
        "UPDATE traces SET data = x'00' WHERE sequence = 1",
        "DELETE FROM traces WHERE sequence = 1",
    ):
        database = sqlite3.connect(shutil.copy(path, path.with_name("copy.db")), isolation_level=None)
        database.execute(statement)
        database.close()
        with pytest.raises(TamperError, match=r"record 1 .*edited: its content does not match its hash"):
            verify(Store(path.with_name("copy.db"), create=False))


def test_old_records_cannot_be_redacted_but_retired(path: Path) -> None:
    """Their content is in the hashed body: redaction says so, retention takes them out whole."""
    store = Store(path)
    with pytest.raises(AuditError, match="it is of format 1, and can only be retired whole"):
        redact(store, store.get("1"), b"k" * 32)
    assert retain(store, datetime.now(UTC), KEY)
    found = verify(store, key=KEY.verifier)
    assert (found.records, found.retired, found.size) == (1, 5, 6)
    assert b"south cellar" not in path.read_bytes()


def test_a_store_of_a_later_version_is_refused(path: Path) -> None:
    """Version 3 is not guessed at, and not touched."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=3")
    database.close()
    before = path.read_bytes()
    for create in (True, False):
        with pytest.raises(AuditError, match=r"no audit store of version 1 to 2 .*version 3"):
            Store(path, create=create)
    assert path.read_bytes() == before
