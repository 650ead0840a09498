"""Redaction and retention: content goes for good, the chain and its checkpoints hold."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from steerkit.audit import Checkpoint, SignerKey, Store, append_turn, canonical, checkpoint, redact, retain, verify
from steerkit.errors import AuditError, TamperError
from tests.audit.example import context, started, turn, write_run

KEY = SignerKey("example.org/audit", bytes(range(32)))
SECRET = b"s" * 32


def on_disk(path: Path) -> bytes:
    """Everything that lies in the store's files."""
    return b"".join(file.read_bytes() for file in sorted(path.parent.glob(f"{path.name}*")))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two runs; in the first, one turn speaks of a secret."""
    store = started(tmp_path / "a.db")
    append_turn(store, turn(value="Elsinore"), context("my name is Yorick"))
    store.end_run()
    write_run(store)
    return store


def test_redacted_content_is_gone_from_the_disk_and_the_chain_holds(store: Store) -> None:
    """Nothing of it is left in the file or its log; in its place stands its HMAC; what was public stays."""
    signed = Checkpoint.parse(checkpoint(store, KEY), KEY.verifier)
    record = store.get("2")
    assert b"Yorick" in on_disk(store.path)
    assert b"Elsinore" in on_disk(store.path)
    redact(store, record, SECRET, by="ann", note="asked to")
    assert b"Yorick" not in on_disk(store.path)
    assert b"Elsinore" not in on_disk(store.path)
    content = store.get("2").content
    expected = hmac.new(SECRET, canonical([{"role": "user", "content": "my name is Yorick"}]), hashlib.sha256)
    assert content["messages"] == {"redacted": expected.hexdigest()}
    assert content["calls"][0]["name"] == "unlock_door"
    assert (content["verdicts"][0]["decision"], content["finish"]) == ("allow", "tool_call")
    assert store.trace_of(record) == b""
    found = verify(store, checkpoints=[signed])
    assert found.redacted == 8
    last = list(store.records())[-1].content
    assert (last["kind"], last["of"], last["by"], last["note"]) == ("redaction", 2, "ann", "asked to")


def test_one_field_is_redacted_and_then_another(store: Store) -> None:
    """Only what was named goes; equal content has equal hashes under one key; twice is refused."""
    redact(store, store.get("2"), SECRET, ["messages"])
    content = store.get("2").content
    assert (content["text"], set(content["messages"])) == ("a word", {"redacted"})
    redact(store, store.get("2"), SECRET, ["text", "calls"])
    redact(store, store.get("5"), SECRET, ["text"])
    assert store.get("2").content["text"] == store.get("5").content["text"]
    assert verify(store).redacted == 4
    with pytest.raises(AuditError, match="nothing to redact"):
        redact(store, store.get("2"), SECRET, ["messages"])
    with pytest.raises(AuditError, match="got 'texts' to redact, but its content is: calls, messages"):
        redact(store, store.get("2"), SECRET, ["texts"])
    with pytest.raises(AuditError, match="nothing to redact"):
        redact(store, store.get("1"), SECRET)
    with pytest.raises(AuditError, match="got 3 bytes, expected at least 32"):
        redact(store, store.get("6"), b"key")


def test_a_redaction_vouches_for_what_it_hashes(store: Store) -> None:
    """Content that was edited is not redacted, lest the edit be hidden; a hash that was edited later is found."""
    edit = "UPDATE contents SET data = ? WHERE sequence = 2 AND name = '/text'"
    before = store.database.execute("SELECT data FROM contents WHERE sequence = 2 AND name = '/text'").fetchone()
    store.database.execute(edit, (b'"other"',))
    with pytest.raises(TamperError, match="'/text' is not what it commits to"):
        redact(store, store.get("2"), SECRET)
    store.database.execute(edit, before)
    redact(store, store.get("2"), SECRET)
    assert verify(store)
    store.database.execute(edit, (bytes(32),))
    with pytest.raises(TamperError, match="the redacted content '/text' of record 2 is another"):
        verify(store)


def test_old_runs_are_retired_whole_under_a_signed_tombstone(store: Store) -> None:
    """Closed runs go with all their content, open ones stay; chain, checkpoints and later records hold."""
    append_turn(store, turn(), context("still going on"))
    signed = Checkpoint.parse(checkpoint(store, KEY), KEY.verifier)
    records = verify(store).records
    assert retain(store, datetime.now(UTC) - timedelta(days=1), KEY) is None
    assert retain(store, datetime.now(UTC), KEY, by="ann")
    assert b"Yorick" not in on_disk(store.path)
    kinds = [record.public["kind"] for record in store.records()]
    assert kinds == ["run_opened", "turn", "retention"]
    append_turn(store, turn(), context())
    found = verify(store, checkpoints=[signed], key=KEY.verifier)
    assert (found.records, found.retired, found.size, found.unsigned) == (4, records - 2, records + 2, 0)
    assert verify(store).unsigned == 1
    store.end_run()
    assert retain(store, datetime.now(UTC), KEY)
    assert (verify(store, checkpoints=[signed], key=KEY.verifier).records) == 2


def test_runs_that_interleave_are_retired_apart(tmp_path: Path) -> None:
    """Of two runs that were written in turns, one closed and one open, only the closed one goes."""
    one, other = started(tmp_path / "a.db"), started(tmp_path / "a.db")
    for number in range(3):
        append_turn(one, turn(), context(f"one {number}"))
        append_turn(other, turn(), context(f"other {number}"))
    one.end_run()
    tombstone = retain(other, datetime.now(UTC), KEY)
    assert tombstone is not None
    assert tombstone.public["ranges"] == [[1, 2], [5, 5], [7, 7], [9, 9]]
    assert verify(other, key=KEY.verifier).records == 5


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("UPDATE retired SET hash = '%s' WHERE sequence = 2" % ("0" * 64), "does not|what is left"),
        ("DELETE FROM retired WHERE sequence = 2", "record 2 is missing"),
        ("INSERT INTO retired SELECT sequence, hash FROM records LIMIT 1", "inserted"),
    ],
)
def test_tampering_with_what_is_left_is_found(store: Store, statement: str, error: str) -> None:
    """The hashes that stand for retired records are held by the tombstone and by the chain."""
    assert retain(store, datetime.now(UTC), KEY)
    assert verify(store)
    store.database.execute(statement)
    with pytest.raises(TamperError, match=error):
        verify(store)


def test_nothing_is_deleted_from_a_store_that_does_not_verify(store: Store) -> None:
    """Else retention would hide what was done before."""
    store.database.execute("UPDATE records SET time = 'x' WHERE sequence = 2")
    with pytest.raises(TamperError, match="record 2"):
        retain(store, datetime.now(UTC), KEY)
    assert store.database.execute("SELECT count(*) FROM retired").fetchone() == (0,)


def test_a_reader_holds_back_the_wiping_and_it_is_said(store: Store) -> None:
    """While another process reads, the old content stays in the write-ahead log; a warning says so."""
    reader = sqlite3.connect(store.path)
    reader.execute("BEGIN")
    assert reader.execute("SELECT count(*) FROM records").fetchone()
    store.database.execute("PRAGMA busy_timeout=10")
    with pytest.warns(RuntimeWarning, match="the old content still lies in"):
        redact(store, store.get("2"), SECRET)
    reader.close()
    redact(store, store.get("5"), SECRET)
    assert b"Yorick" not in on_disk(store.path)
