"""The room's README executes: its Python and its commands run in order on one store, and its table has every field."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

from typer.testing import CliRunner

import steerkit.audit
from steerkit.audit import RECORDS, Record
from steerkit.cli.audit.app import app

ROOM = Path(steerkit.audit.__file__).parent
TEXT = (ROOM / "README.md").read_text(encoding="utf-8")


def test_what_is_shown_runs(tmp_path: Path) -> None:
    """One turn is recorded by the Python block; each command then ends well, in the order of the page."""
    for name in ("policies", "steerkit"):
        (tmp_path / name).symlink_to(ROOM.parent.parent / name)
    env = {**os.environ, "STEERKIT_STORE": str(tmp_path / "audit.db")}
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n3\n")
    lines = [line for part in re.findall(r"```sh\n(.*?)```", TEXT, flags=re.DOTALL) for line in part.splitlines()]
    assert len(lines) == 16
    here = Path.cwd()
    try:
        os.chdir(tmp_path)
        for line in lines:
            command = shlex.split(line)
            assert command[:2] == ["steerkit", "audit"]
            found = CliRunner().invoke(app, command[2:], env=env)
            assert found.exit_code == 0, (line, found.output, found.exception)
    finally:
        os.chdir(here)
    assert (tmp_path / "calls.csv").exists()


def test_the_table_has_every_field() -> None:
    """A row per kind with its own fields in their order; the fields that all records have stand below it."""
    shared = {one.name for one in fields(Record)} - {"more"}
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", TEXT, flags=re.MULTILINE))
    assert rows.keys() == RECORDS.keys()
    for kind, record in RECORDS.items():
        own = [one.name for one in fields(record) if one.name not in shared | {"more"}]
        assert rows[kind].replace("`", "").split() == own
    (said,) = re.findall(r"Every record also has (.*?)\.", TEXT, flags=re.DOTALL)
    assert set(re.findall(r"`(\w+)`", said)) == {*shared, "kind"}
