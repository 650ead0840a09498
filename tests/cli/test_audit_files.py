"""What `steerkit audit` writes and reads: keys, checkpoints, proofs, tables, and who may open them."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from steerkit.audit import Store, append_turn, exposed_files, pack, record_of
from steerkit.cli.main import app
from steerkit.types import Call
from tests.audit.example import context, started, turn, write_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="modes as POSIX has them")


def audit(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["audit", *map(str, arguments)])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_store_is_its_owners_alone(tmp_path: Path) -> None:
    """The file, what SQLite puts beside it and the folders made for it; a folder that was there stays as it is."""
    tmp_path.chmod(0o755)
    old = os.umask(0o000)
    try:
        store = started(tmp_path / "new" / "home" / "a.db")
        write_run(store)
        assert {mode(one) for one in store.path.parent.iterdir()} == {0o600}
        assert len([*store.path.parent.iterdir()]) == 3
        assert [mode(one) for one in (store.path.parent, store.path.parent.parent, tmp_path)] == [0o700, 0o700, 0o755]
        (tmp_path / "theirs").mkdir(0o755)
        assert mode(Store(tmp_path / "theirs" / "a.db").path) == 0o600
        assert mode(tmp_path / "theirs") == 0o755
    finally:
        os.umask(old)


def test_an_open_store_is_mended_or_said(tmp_path: Path) -> None:
    """One that everybody may read is mended when it is written; one for a group stays, and `verify` says it."""
    store = started(tmp_path / "a.db")
    write_run(store)
    store.close()
    for before, after in ((0o644, 0o600), (0o666, 0o600), (0o640, 0o640), (0o600, 0o600)):
        store.path.chmod(before)
        assert any(line.startswith(f"{store.path}: others") for line in exposed_files(store.path)) == (before != 0o600)
        said = audit("verify", "--store", store.path).stdout
        assert (f"mode {before:04o}" in said) == (before != 0o600)
        Store(store.path).close()
        assert mode(store.path) == after


BYTES: dict[str, Callable[[str], bytes]] = {
    "as it was": str.encode,
    "CRLF": lambda text: text.replace("\n", "\r\n").encode(),
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "PowerShell 5": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "PowerShell 5, console of 437": lambda text: text.encode().decode("cp437").replace("\n", "\r\n").encode("utf-16"),
    "PowerShell 5, console of 850": lambda text: text.encode().decode("cp850").replace("\n", "\r\n").encode("utf-16"),
    "UTF-16, big-endian": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "another line at the end": lambda text: (text + "\r\n").encode(),
    "no line break at the end": lambda text: text.rstrip("\n").encode(),
}


@pytest.mark.parametrize("how", BYTES)
def test_files_are_read_as_other_programs_leave_them(tmp_path: Path, how: str) -> None:
    """Key, checkpoint and proof; a letter of the checkpoint changed is found all the same."""
    store, key, pub, kept, proof = (tmp_path / name for name in ("a.db", "key", "key.pub", "kept", "proof"))
    log = started(store)
    write_run(log)
    log.close()
    assert audit("keygen", key, "--name", "example.org/audit").exit_code == 0
    assert audit("checkpoint", "--key", key, "--store", store, "--out", kept).stdout == f"ok: 6 records in {kept}\n"
    data = kept.read_bytes()
    assert data.count(b"\n") == 5
    assert b"\r" not in data
    assert audit("checkpoint", "--key", key, "--store", store).stdout_bytes == data
    at = ("--checkpoint", kept, "--key", pub)
    assert audit("prove", "2", "--store", store, *at, "--out", proof).exit_code == 0
    for one in (key, pub, kept, proof):
        one.write_bytes(BYTES[how](one.read_text(encoding="utf-8")))
    assert "1 checkpoints hold" in audit("verify", "--store", store, *at).stdout
    assert json.loads(audit("check", proof, *at).stdout)["text"] == "a word"
    assert audit("checkpoint", "--key", key, "--store", store).exit_code == 0
    kept.write_bytes(BYTES[how](data.decode().replace("\n6\n", "\n5\n")))
    assert "does not hold" in str(audit("verify", "--store", store, *at).exception)


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """A device is written to, and a link leads to its file; both stay what they are."""
    store = started(tmp_path / "a.db")
    write_run(store)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    assert audit("export", pipe, "--format", "csv", "--table", "features", "--store", store.path).exit_code == 0
    assert os.read(reader, 10_000).startswith(b'"sequence"')
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    link = tmp_path / "link.jsonl"
    link.symlink_to(tmp_path / "real.jsonl")
    assert audit("export", link, "--store", store.path).exit_code == 0
    assert link.is_symlink()
    assert len((tmp_path / "real.jsonl").read_text().splitlines()) == 6


FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "\uff1d1"]


def test_csv_runs_nothing_and_says_the_rest_exactly(tmp_path: Path) -> None:
    """A text that a spreadsheet would run gets an apostrophe, controls are escapes; numbers and other texts stay."""
    store = started(tmp_path / "a.db")
    texts = [*FORMULAS, "plain = 1", 'a "quoted", text\nof two lines', "\x1b[2Jx\u202ey", "é", ""]
    for text in texts:
        append_turn(store, replace(turn(), text=text, calls=(Call("f", {"a": -1}),)), context())
    done = audit("export", "-", "--format", "csv", "--table", "calls", "--store", store.path)
    found = [*csv.DictReader(io.StringIO(done.stdout_bytes.decode(), newline=""))]
    cells = [row["text"] for row in found]
    assert cells[: len(FORMULAS)] == [f"'{text}".replace("\r", "\\r") for text in FORMULAS]
    assert cells[len(FORMULAS) :] == [*texts[-5:-3], "\\x1b[2Jx\\u202ey", "é", ""]
    assert {(row["arguments"], row["call"], row["released"]) for row in found} == {('{"a": -1}', "0", "true")}
    path = tmp_path / "a.CSV"
    assert audit("export", path, "--table", "calls", "--store", store.path).exit_code == 0
    assert path.read_bytes() == done.stdout_bytes
    lines = audit("export", "-", "--table", "calls", "--store", store.path).stdout.splitlines()
    assert [json.loads(line)["text"] for line in lines] == texts


def test_who_asked_is_found_shown_and_taken_out(tmp_path: Path) -> None:
    """By equality or as one of a list; all that are given must hold; it can be redacted like any content."""
    store = started(tmp_path / "a.db")
    for user, tags in (("ann", ["a", "b"]), ("bob", ["b"])):
        body = replace(record_of(turn(), context()), metadata={"user": user, "tags": tags})
        store.append(body, pack(turn().trace))
    append_turn(store, turn(), context())
    at = ("--store", store.path)
    for asked, expected in ((["user=ann"], ["2"]), (["tags=b"], ["3", "2"]), (["tags=b", "user=bob"], ["3"])):
        options = [word for one in asked for word in ("--meta", one)]
        assert [line.split()[0] for line in audit("query", *options, *at).stdout.splitlines()] == expected
    assert "metadata tags=a,b  user=ann" in audit("show", "2", *at).stdout
    rows = audit("export", "-", "--table", "calls", "--meta", "user=ann", *at).stdout
    assert json.loads(json.loads(rows)["metadata"]) == {"user": "ann", "tags": ["a", "b"]}
    assert "no record fits" in audit("query", "--meta", "user=eve", *at).stderr
    assert "did you mean 'user'" in str(audit("query", "--meta", "usr=ann", *at).exception)
    assert "expected KEY=VALUE" in str(audit("query", "--meta", "ann", *at).exception)
    (tmp_path / "secret").write_text("ab" * 32)
    assert audit("redact", "2", "--key", tmp_path / "secret", "--field", "metadata", *at).exit_code == 0
    assert "(redacted)" in audit("show", "2", *at).stdout
    assert audit("query", "--meta", "user=ann", *at).stdout == ""


LEFT = "import os, sys; from tests.audit.example import *; write_run(started(Path(sys.argv[1]))); os._exit(0)"


@pytest.mark.parametrize(
    ("place", "records"),
    [(None, 6), (0.0, 0), (9, 0), (17, 0), (20, 0), (0.5, None), (0.98, 5)],
    ids=["untouched", "magic", "page size", "salt", "other salt", "middle", "last frame"],
)
def test_a_bit_in_an_unfinished_log_is_said(tmp_path: Path, place: float | None, records: int | None) -> None:
    """What SQLite drops of a log is counted and said, and a kept checkpoint finds it; an untouched log says nothing."""
    path, key = tmp_path / "a.db", tmp_path / "key"
    subprocess.run([sys.executable, "-c", LEFT, str(path)], check=True)
    log = path.with_name("a.db-wal")
    data = bytearray(log.read_bytes())
    audit("keygen", key, "--name", "n")
    kept = audit("checkpoint", "--key", key, "--store", path).stdout_bytes
    (tmp_path / "kept").write_bytes(kept)
    if place is not None:
        data[int(place * len(data)) if isinstance(place, float) else place] ^= 1
    main = path.read_bytes()
    for one in tmp_path.glob("a.db*"):
        one.unlink()
    path.write_bytes(main)
    log.write_bytes(data)
    done = audit("verify", "--store", path)
    signed = audit("verify", "--store", path, "--checkpoint", tmp_path / "kept", "--key", tmp_path / "key.pub")
    said = f"{done.stdout}{done.exception or ''}"
    assert ("-wal is damaged" in said) == (place is not None)
    assert (signed.exit_code == 0) == (place is None)
    if place is None:
        return
    assert "frames were recovered" in str(signed.exception)
    if records:
        assert f"ok: {records} records" in said
        assert "truncated" in str(signed.exception)
    if done.exit_code == 0:
        with pytest.warns(RuntimeWarning, match="-wal is damaged"):
            Store(path).close()
