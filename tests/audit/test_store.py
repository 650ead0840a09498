"""The store: appending, reading, several processes, and files that cannot be used."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import rfc8785

from steerkit.audit import Store, verify
from steerkit.errors import AuditError


def filled(path: Path, count: int = 6) -> Store:
    """A store with some records and traces."""
    store = Store(path)
    for number in range(count):
        verdicts = [{"decision": "deny", "rule": "r", "reason": "x" * 40}]
        body = {"kind": "turn", "number": number, "text": f"text {number}", "verdicts": verdicts}
        store.append(body, b"")
    return store


def test_records_are_chained_as_the_documentation_says(tmp_path: Path) -> None:
    """A few lines of hashlib and rfc8785 recompute the chain and its commitments without this package."""
    store = filled(tmp_path / "a.db")
    store.close()
    previous = "0" * 64
    database = sqlite3.connect(tmp_path / "a.db")
    for sequence, id, time, said, digest, body in database.execute(
        "SELECT * FROM records ORDER BY sequence"
    ).fetchall():
        head = {"format": 2, "sequence": sequence, "id": id, "time": time, "previous": previous}
        head |= {"body": hashlib.sha256(body).hexdigest()}
        for name, commitment in json.loads(body)["committed"].items():
            row = "SELECT salt, data FROM contents WHERE sequence = ? AND name = ?"
            salt, data = database.execute(row, (sequence, name)).fetchone()
            assert (len(salt), hashlib.sha256(salt + data).hexdigest()) == (16, commitment)
        assert said == previous
        assert digest == hashlib.sha256(rfc8785.dumps(head)).hexdigest()
        previous = digest
    database.close()
    assert verify(Store(tmp_path / "a.db")).head == previous


def test_records_are_found_by_id_beginning_and_number(tmp_path: Path) -> None:
    """An id, enough of one, or a sequence number; what is ambiguous or missing is said."""
    store = filled(tmp_path / "a.db")
    third = store.get("3")
    assert store.get(third.id) == third
    assert store.get(third.id[:25]) == third
    assert [record.sequence for record in store.records(2, newest_first=True)] == [6, 5]
    assert len(store) == 6
    with pytest.raises(AuditError, match="no record 'zzz'"):
        store.get("zzz")
    with pytest.raises(AuditError, match="several records begin with '0"):
        store.get(third.id[:3])


def test_the_store_writes_ahead_and_syncs(tmp_path: Path) -> None:
    """WAL mode and full synchronisation are on, so a record that was returned survives the process."""
    store = filled(tmp_path / "a.db", 1)
    assert store.database.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert store.database.execute("PRAGMA synchronous").fetchone()[0] == 2
    script = "import os, sys; from steerkit.audit import Store; Store(sys.argv[1]).append({'n': 2}); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.db")]).returncode == 9
    assert verify(Store(tmp_path / "a.db", create=False)).records == 2


def _append(path: Path) -> None:
    store = Store(path)
    for number in range(25):
        store.append({"number": number})


def test_several_processes_write_one_chain(tmp_path: Path) -> None:
    """Four processes with 25 records each leave a chain of 100 that verifies."""
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(tmp_path / "a.db",)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert verify(Store(tmp_path / "a.db")).records == 100


def test_files_that_are_no_store_are_named(tmp_path: Path) -> None:
    """A folder, a text, a foreign database and a missing file: one clear line each, and nothing is written."""
    (tmp_path / "text.db").write_text("hello, I am no database, but I am long enough to look at. " * 40)
    foreign = sqlite3.connect(tmp_path / "foreign.db")
    foreign.execute("CREATE TABLE t (x)")
    foreign.commit()
    foreign.close()
    before = (tmp_path / "foreign.db").read_bytes()
    cases = {"": "is a folder", "text.db": "it is not a database", "foreign.db": "no audit store of version 1 to 2"}
    for name, error in cases.items():
        for create in (True, False):
            with pytest.raises(AuditError, match=error):
                Store(tmp_path / name, create=create)
    with pytest.raises(AuditError, match="no such file"):
        Store(tmp_path / "none.db", create=False)
    assert not (tmp_path / "none.db").exists()
    assert (tmp_path / "foreign.db").read_bytes() == before


FULL = """
import resource, signal, sys
from steerkit.audit import Store
from steerkit.errors import AuditError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(sys.argv[1])
store.append({"n": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    for n in range(100):
        store.append({"n": n, "text": "x" * 20_000})
except AuditError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_and_leaves_the_chain_whole(tmp_path: Path) -> None:
    """When the file can grow no more, appending fails with one line, and what was returned before still verifies."""
    path = tmp_path / "a.db"
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "the audit store cannot be written" in done.stdout
    found = verify(Store(path))
    assert 1 <= found.records < 100
