"""Stores that somebody else made: every command says one line of what it cannot read, and never a traceback."""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from steerkit.audit import Checkpoint, SignerKey, Store, canonical, checkpoint, parse_canonical, portable_record, prove
from steerkit.cli.main import app
from steerkit.errors import AuditError, SteerkitError
from tests.audit.example import started, write_run
from tests.audit.test_tampering import rehash

KEY = SignerKey("example.org/audit", bytes(range(32)))
DEEP = b"[" * 100_000 + b"]" * 100_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A closed store of six records, with a checkpoint and keys beside it."""
    store = started(tmp_path / "a.db")
    write_run(store)
    (tmp_path / "kept").write_text(checkpoint(store, KEY))
    store.close()
    (tmp_path / "key").write_text(str(KEY))
    (tmp_path / "pub").write_text(str(KEY.verifier))
    (tmp_path / "secret").write_text("ab" * 32)
    return tmp_path / "a.db"


def body(sequence: int, change: Callable[[dict[str, Any]], Any]) -> Callable[[sqlite3.Connection], None]:
    """An edit of a record's body, hashed anew with all that follow, as who knows the formula would."""

    def edit(database: sqlite3.Connection) -> None:
        old = database.execute("SELECT body FROM records WHERE sequence = ?", (sequence,)).fetchone()[0]
        value = change(parse_canonical(old))
        data = value if isinstance(value, bytes) else canonical(value)
        database.execute("UPDATE records SET body = ? WHERE sequence = ?", (data, sequence))
        rehash(database, sequence)

    return edit


def put(*keys: str | int, value: Any, sequence: int = 2) -> Callable[[sqlite3.Connection], None]:
    """Another value at a place of a record's body."""

    def change(content: dict[str, Any]) -> dict[str, Any]:
        at: Any = content
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value
        return content

    return body(sequence, change)


def sql(*statements: str) -> Callable[[sqlite3.Connection], None]:
    return lambda database: [database.execute(one) for one in statements] and None


def content_of(name: str, data: bytes) -> Callable[[sqlite3.Connection], None]:
    """Another content of record 2, with its commitment and all hashes anew."""

    def edit(database: sqlite3.Connection) -> None:
        import hashlib

        at = "sequence = 2 AND name = ?"
        database.execute(f"UPDATE contents SET data = ?, salt = ? WHERE {at}", (data, bytes(16), name))
        put("committed", name, value=hashlib.sha256(bytes(16) + data).hexdigest())(database)

    return edit


def untyped(**columns: str) -> Callable[[sqlite3.Connection], None]:
    """Tables that keep anything, with something else in some columns of the records."""

    def make(database: sqlite3.Connection) -> None:
        database.execute("CREATE TABLE loose AS SELECT * FROM records")
        database.execute("DROP TABLE records")
        database.execute("CREATE TABLE records (sequence, id, time, previous, hash, body)")
        database.execute("INSERT INTO records SELECT * FROM loose")
        database.execute("DROP TABLE loose")
        for name, value in columns.items():
            database.execute(f"UPDATE records SET {name} = {value} WHERE sequence = 2")

    return make


BOMB = b"SKT1" + zlib.compress(
    canonical({"start": 0, "watched": {}, "features": {}, "top": [[0, 0, -1, -1]]}) + b"\n12"
)
STORES: dict[str, Callable[[sqlite3.Connection], None]] = {
    "a body that is a list": body(2, lambda _: [1]),
    "a body that is a text": body(2, lambda _: "x"),
    "a body that is no JSON": body(2, lambda _: b"{"),
    "a body that is nested": body(2, lambda _: DEEP),
    "a body with NaN": body(2, lambda _: b'{"kind":"turn","seconds":NaN}'),
    "a body of infinite numbers": body(2, lambda content: b'{"kind":"turn","seconds":1e999}'),
    "an unknown decision": put("verdicts", 0, "decision", value="permit"),
    "a decision that is a list": put("verdicts", 0, "decision", value=["allow"]),
    "verdicts that are a number": put("verdicts", value=7),
    "calls without verdicts": put("verdicts", value=[]),
    "a call that is a text": put("calls", value=["x"]),
    "readings that are none": put("verdicts", 0, "readings", value=[{"name": 1}]),
    "a model that is a list": put("model", value=["m"]),
    "an edit without positions": put(
        "edits", value=[{"rule": "r", "policy": "p", "layer": 1, "positions": [], "norm": 1}]
    ),
    "huge numbers": put("sampling", value={"seed": 16**9000}),
    "a number that is none": put("attempt", value=2**70),
    "policies that are texts": put("policies", value=["p"]),
    "a commitment without a place": put("committed", "/calls/x/y", value="00"),
    "committed that is a list": put("committed", value=["/text"]),
    "a run that is a list": put("run", value=[1]),
    "a loss that is a text": put("lost_before", value="many"),
    "counts that are a text": put("counts", value="x", sequence=6),
    "content that is nested": content_of("/text", DEEP),
    "content that is no JSON": content_of("/messages", b"{"),
    "messages that are numbers": content_of("/messages", b"[1,2]"),
    "prompt ids that are a text": content_of("/prompt_ids", b'"x"'),
    "a trace that is none": content_of("/trace", b"SKT1x"),
    "a trace of negative size": content_of("/trace", BOMB),
    "approval by a list": content_of("/text", b"[]"),
    "a redaction of nothing": put("kind", value="redaction", sequence=5),
    "a tombstone of nothing": put("kind", value="retention", sequence=5),
    "retired rows that are no hex": sql("INSERT INTO retired VALUES (7, 'not a hash')"),
    "a retired row in capitals": sql(f"INSERT INTO retired VALUES (7, '{'A' * 64}')"),
    "ids that are numbers": untyped(id="7"),
    "times that are blobs": untyped(time="x'00ff'"),
    "a body that is NULL": untyped(body="NULL"),
    "a body that is a text cell": untyped(body="'{}'"),
    "a sequence that is a text": untyped(sequence="'two'"),
    "a hash that is an integer": untyped(hash="5"),
    "a text that is no UTF-8": untyped(id="CAST(x'ff' AS TEXT)"),
    "a view in the place of the records": sql(
        "DROP TABLE records",
        "CREATE VIEW records AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) "
        "SELECT i AS sequence, 'x' AS id, 'x' AS time, '' AS previous, '' AS hash, x'7b7d' AS body FROM n",
    ),
    "no tables but one": sql("DROP TABLE contents"),
}


def audit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def commands(path: Path) -> dict[str, list[str | Path]]:
    """Every command that reads a store."""
    folder = path.parent
    signed = ["--checkpoint", folder / "kept", "--key", folder / "pub"]
    return {
        "list": ["list"],
        "show": ["show", "2"],
        "query": ["query", "--tool", "unlock_door", "--meta", "user=ann"],
        "query --feature": ["query", "--feature", "p.f"],
        "query for nothing": ["query", "--tool", "unlock_dor"],
        **{
            f"export {table} {end}": ["export", folder / f"out.{end}", "--table", table]
            for table, end in (("records", "jsonl"), ("calls", "parquet"), ("features", "csv"))
        },
        "verify signed": ["verify", *signed],
        "replay --verdicts": ["replay", "2", "--verdicts"],
        "prove": ["prove", "2", *signed],
        "checkpoint": ["checkpoint", "--key", folder / "key"],
        "redact": ["redact", "2", "--key", folder / "secret"],
        "retain": ["retain", "--before", "2100-01-01", "--key", folder / "key"],
    }


def afresh(path: Path, data: bytes) -> None:
    """The file anew, without what a command left beside it."""
    for one in path.parent.glob(f"{path.name}*"):
        one.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("what", STORES)
def test_a_hostile_store_is_one_line(path: Path, what: str) -> None:
    """Each command ends well or with an error of ours in one line; verification never says ok; without it, all work."""
    database = sqlite3.connect(path)
    STORES[what](database)
    database.commit()
    database.close()
    whole = path.read_bytes()
    for name, arguments in commands(path).items():
        afresh(path, whole)
        done = audit(*arguments, "--store", path)
        error = done.exception
        assert error is None or isinstance(error, (SteerkitError, SystemExit)), (name, repr(error))
        assert "\n" not in str(error or "").strip(), name
        if name == "verify signed":
            assert done.exit_code != 0, (name, done.output)


def test_a_blob_without_end_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece of a record that is larger than any is refused by its size; one byte smaller it would be read."""
    monkeypatch.setattr("steerkit.audit.log.database.MAX_BYTES", 2_000_000)
    for size, error in ((1_900_000, "cannot be read: a record is no canonical JSON"), (2_100_000, "too big")):
        database = sqlite3.connect(path)
        database.execute("UPDATE records SET body = zeroblob(?) WHERE sequence = 2", (size,))
        database.commit()
        database.close()
        assert error in str(audit("show", "2", "--store", path).exception)
        assert audit("verify", "--store", path).exit_code == 1


def test_an_honest_store_goes_through_all_of_them(path: Path) -> None:
    """The control: where nothing is wrong, only what asks for nothing, or for what is not there, ends with an error."""
    whole = path.read_bytes()
    failed = set()
    for name, arguments in commands(path).items():
        afresh(path, whole)
        if audit(*arguments, "--store", path).exit_code:
            failed.add(name)
    assert failed == {"query", "query for nothing", "replay --verdicts"}


def test_a_bad_record_among_good_ones_is_listed_as_damaged(path: Path) -> None:
    """The others are shown as ever; `show` of it, and an export with it, are an error that names it."""
    database = sqlite3.connect(path)
    put("verdicts", 0, "decision", value="permit")(database)
    database.commit()
    database.close()
    lines = audit("list", "--store", path).stdout.splitlines()
    assert [line.split()[3] for line in lines] == ["run_closed", "deny", "run:ok", "approved", "damaged", "run_opened"]
    expected = 'verdicts[0].decision: got "permit", expected one of none, allow, flag'
    assert expected in lines[4]
    assert expected in str(audit("show", "2", "--store", path).exception)
    assert str(audit("export", path.parent / "x.csv", "--store", path).exception).startswith("record 2 (id 0")
    assert not (path.parent / "x.csv").exists()
    assert audit("show", "3", "--store", path).exit_code == 0


def edited(data: dict[str, Any], *keys: str, value: Any) -> dict[str, Any]:
    at = data
    for key in keys[:-1]:
        at = at[key]
    at[keys[-1]] = value
    return data


PROOFS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda _: [1],
    "a number": lambda _: 7,
    "nothing": lambda _: {},
    "a record that is a list": lambda data: edited(data, "record", value=[]),
    "a sequence that is a list": lambda data: edited(data, "record", "sequence", value=[1]),
    "a sequence that is infinite": lambda data: edited(data, "record", "sequence", value=float("inf")),
    "a body that is a list": lambda data: edited(data, "record", "body", value="[]"),
    "a body that is nested": lambda data: edited(data, "record", "body", value=DEEP.decode()),
    "contents that are a text": lambda data: edited(data, "record", "contents", value="x"),
    "an index that is a text": lambda data: edited(data, "proof", "index", value="0"),
    "an index that is a list": lambda data: edited(data, "proof", "index", value=[]),
    "a path that is a number": lambda data: edited(data, "proof", "path", value=5),
    "a path of short hashes": lambda data: edited(data, "proof", "path", value=["AA=="]),
    "a size that is nothing": lambda data: edited(data, "proof", "size", value=None),
}


@pytest.mark.parametrize("what", PROOFS)
def test_a_hostile_proof_is_one_line(path: Path, what: str) -> None:
    """Whatever stands in it; as it was made, it is checked."""
    store = Store(path, create=False)
    record, signed = store.get("2"), Checkpoint.parse((path.parent / "kept").read_text(), KEY.verifier)
    data = {"record": portable_record(store, record), "proof": prove(store, record, signed.size)}
    store.close()
    at = ("--checkpoint", path.parent / "kept", "--key", path.parent / "pub")
    file = path.parent / "proof"
    file.write_text(json.dumps(data))
    assert audit("check", file, *at).exit_code == 0
    file.write_text(json.dumps(PROOFS[what](data)))
    done = audit("check", file, *at)
    assert isinstance(done.exception, AuditError), repr(done.exception)
    assert "\n" not in str(done.exception)


@pytest.mark.parametrize("data", [b"", b"\xff\xfe", b"\xff", b"\0" * 9, DEEP, b"x" * 100], ids=range(6))
def test_files_that_are_no_keys_checkpoints_or_proofs(path: Path, data: bytes) -> None:
    """One line that names the file."""
    folder = path.parent
    file = folder / "noise"
    file.write_bytes(data)
    for arguments in (
        ["verify", "--store", path, "--checkpoint", file, "--key", folder / "pub"],
        ["verify", "--store", path, "--checkpoint", folder / "kept", "--key", file],
        ["checkpoint", "--store", path, "--key", file],
        ["redact", "2", "--store", path, "--key", file],
        ["check", file, "--checkpoint", folder / "kept", "--key", folder / "pub"],
    ):
        error = audit(*arguments).exception
        assert isinstance(error, AuditError), arguments
        assert str(file) in str(error) or "key: got 0 bytes" in str(error)
