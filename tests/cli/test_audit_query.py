"""`steerkit audit query` and `export` as people use them."""

from __future__ import annotations

import json
from pathlib import Path

from pyarrow import parquet
from typer.testing import CliRunner

from steerkit.cli.main import app
from tests.audit.example import started, write_run


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
    assert len(audit("query", "--since", "2026-01-01T00:00+02:00", "--limit", "4", *at).splitlines()) == 4
    assert "--since: got 'soon', expected a date" in audit("query", "--since", "soon", *at)
    out = tmp_path / "calls.parquet"
    assert audit("export", out, "--table", "calls", "--rule", "p/large", *at) == f"ok: 1 rows in {out}\n"
    assert parquet.read_table(out).column("tool").to_pylist() == ["transfer_money"]
    out = tmp_path / "all.jsonl"
    assert "ok: 6 rows" in audit("export", out, *at)
    assert json.loads(out.read_text().splitlines()[1])["body"]["text"] == "a word"
    assert "format: got 'xml'" in audit("export", tmp_path / "a.xml", *at)
