"""`steerkit audit query` and `export` as people use them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from steerkit.audit import append_turn
from steerkit.cli.main import app
from tests.audit.example import context, started, turn, write_run


def audit(*arguments: str | Path) -> str:
    """What a command prints, in this process."""
    done = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    return done.stdout if done.exit_code == 0 else f"error: {done.exception}"


def test_records_are_found_and_taken_out(tmp_path: Path) -> None:
    """By tool and time, as lines and as JSON; then the same records as tables, and one clear line for mistakes."""
    path = tmp_path / "a.db"
    store = started(path)
    write_run(store)
    at = ("--store", path)
    lines = audit("query", "--tool", "unlock_door", *at).splitlines()
    assert [line.split()[0] for line in lines] == ["4", "3", "2"]
    assert "run:ok" in lines[0]
    (found,) = map(json.loads, audit("query", "--verdict", "deny", "--json", *at).splitlines())
    assert (found["sequence"], found["calls"][0]["name"]) == (5, "transfer_money")
    assert audit("query", "--until", "2026-01-01", *at) == ""
    for ago, count in (("1d", 6), ("12h", 6), ("30m", 6), ("2w", 6), ("yesterday", 6), ("today", 6), ("1990-01-01", 6)):
        assert len(audit("query", "--since", ago, *at).splitlines()) == count
        assert audit("query", "--until", ago, *at) == ""
    assert len(audit("query", "--since", "2026-01-01T00:00+02:00", "--limit", "4", *at).splitlines()) == 4
    assert "--since: got 'soon', expected a date" in audit("query", "--since", "soon", *at)
    out = tmp_path / "calls.parquet"
    assert audit("export", out, "--table", "calls", "--rule", "p/large", *at) == f"ok: 1 rows in {out}\n"
    assert parquet.read_table(out).column("tool").to_pylist() == ["transfer_money"]
    out = tmp_path / "all.jsonl"
    assert "ok: 6 rows" in audit("export", out, *at)
    assert json.loads(out.read_text().splitlines()[1])["body"]["text"] == "a word"
    assert "format: got 'xml'" in audit("export", tmp_path / "a.xml", *at)


WRONG = {
    ("--verdict", "foo"): "--verdict: got 'foo', expected one of none, allow, flag, retry, hold, deny, handoff, stop",
    ("--verdict", "DENY"): "did you mean 'deny'?",
    ("--kind", "trun"): "--kind: got 'trun', expected one of turn, approval.*; did you mean 'turn'",
    ("--tool", "transfer_moni"): "--tool: no record of .* has 'transfer_moni'; did you mean 'transfer_money'",
    ("--tool", ""): "--tool: got an empty text",
    ("--rule", "p/lrge"): "--rule: no record of .* has 'p/lrge'; did you mean 'p/large'",
    ("--feature", "q.f"): "--feature: no record of .* has 'q.f'; did you mean 'p.f'",
    ("--status", "aproved"): "--status: no record of .* has 'aproved'; did you mean 'approve'",
    ("--since", "7x"): "--since: got '7x', expected a date such as",
    ("--since", ""): "--since: got ''",
    ("--since", "999999999w"): "--since: got '999999999w'",
    ("--until", "0001-01-01T00:00+14:00"): "--until: got",
    ("--since", "2026-02-01", "--until", "2026-01-01"): "--until: got 2026-01-01.*, expected a time after since",
}


@pytest.mark.parametrize("asked", WRONG, ids=" ".join)
def test_a_typo_is_no_empty_answer(tmp_path: Path, asked: tuple[str, ...]) -> None:
    """Of a closed set the members are listed, of a name the nearest that the store has seen; `export` says the same."""
    path = tmp_path / "a.db"
    write_run(started(path))
    out = tmp_path / "out.jsonl"
    for command in (("query",), ("export", str(out))):
        assert re.search(WRONG[asked], audit(*command, *asked, "--store", path)), audit(*command, *asked)
    assert not out.exists()


def test_what_is_known_and_not_there_is_said_on_the_side(tmp_path: Path) -> None:
    """Nothing on standard output, one line on standard error, and no failure."""
    path = tmp_path / "a.db"
    write_run(started(path))
    for asked in (("--verdict", "stop"), ("--kind", "redaction"), ("--status", "timeout"), ("--feature", "9:9")):
        done = CliRunner().invoke(app, ["audit", "query", *asked, "--store", str(path)])
        assert (done.exit_code, done.stdout, done.stderr) == (0, "", "no record fits\n")


TERMINAL = """
import os, pty, sys
sys.argv = ["steerkit", *sys.argv[1:]]
os.environ.update(COLUMNS="80", TERM="xterm", LANG="C.UTF-8")
pty.spawn([sys.executable, "-m", "steerkit.cli.main", *sys.argv[1:]])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pty")
def test_lines_fit_a_terminal_and_are_whole_in_a_pipe(tmp_path: Path) -> None:
    """At 80 columns each record is one line, cut where it must be; in a pipe nothing of it is missing."""
    path = tmp_path / "a.db"
    store = started(path)
    append_turn(store, turn(value="long " * 60), context())
    for command, lines in ((["list"], 2), (["query", "--kind", "turn"], 1)):
        arguments = ["audit", *command, "--store", str(path)]
        piped = CliRunner().invoke(app, arguments).stdout.splitlines()
        assert len(piped) == lines
        assert "long " * 60 in piped[0]
        done = subprocess.run([sys.executable, "-c", TERMINAL, *arguments], capture_output=True, text=True)
        shown = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout).splitlines()
        assert len(shown) == lines
        assert max(map(len, shown)) <= 80
        assert shown[0].rstrip().endswith("…")
    done = subprocess.run(
        [sys.executable, "-c", TERMINAL, "audit", "show", "2", "--store", str(path)], capture_output=True
    )
    shown = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout.decode()).splitlines()
    assert max(map(len, shown)) <= 80
    assert done.stdout.decode().count("long") >= 60


def test_facts_are_json_where_it_is_asked(tmp_path: Path) -> None:
    """Each command that tells something tells it as JSON too."""
    path, key, secret = tmp_path / "a.db", tmp_path / "key", tmp_path / "secret"
    write_run(started(path))
    at = ("--store", path, "--json")
    assert set(json.loads(audit("keygen", key, "--name", "n", "--json"))) == {"file", "public", "key"}
    assert json.loads(audit("keygen", secret, "--redaction", "--json")) == {"file": str(secret)}
    signed = json.loads(audit("checkpoint", "--key", key, *at))
    assert (signed["size"], signed["note"].splitlines()[0]) == (6, "n")
    told = json.loads(audit("redact", "2", "--key", secret, "--sign", key, "--field", "text", *at))
    assert (told["of"], told["fields"], told["signed"]) == (2, ["/text"], True)
    assert json.loads(audit("verify", *at, "--key", tmp_path / "key.pub"))["unsigned_redactions"] == 0
    assert json.loads(audit("redact", "2", "--key", secret, "--field", "messages", *at))["signed"] is False
    assert json.loads(audit("verify", *at, "--key", tmp_path / "key.pub"))["unsigned_redactions"] == 1
    assert json.loads(audit("export", tmp_path / "x.csv", *at))["rows"] == 8
    assert json.loads(audit("retain", "--before", "2000-01-01", "--key", key, *at)) == {"deleted": 0, "record": None}
