"""No released call without its record: killed writers, and a page that is broken."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from steerkit.audit import Store, append_turn, verify
from steerkit.errors import AuditError, TamperError
from tests.audit.example import context, started, turn, write_run

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "audit_kill.py"


def test_killed_writers_lose_nothing(tmp_path: Path) -> None:
    """Six of three writers at a time are killed: every id that was said is there, the chain holds, runs stay open."""
    found = _kill(tmp_path / "a.db", kills=6, writers=3)
    assert found.missing == 0
    assert found.released > 0
    assert found.open_runs > 0
    write_run(started(tmp_path / "a.db"))
    assert verify(Store(tmp_path / "a.db")).records == found.records + 6


@pytest.mark.slow
def test_killed_runtimes_run_no_tool_without_a_record(tmp_path: Path) -> None:
    """Four agent loops are killed after a tool was run: each call is there as released. Another is missed."""
    script = _script()
    found = script.kill_runtimes(tmp_path / "a.db", kills=4, writers=2)
    assert found.missing == 0
    assert found.released >= 4
    assert found.open_runs == 4
    assert script.missing(Store(tmp_path / "a.db"), ["nobody's account"]) == 1


def _kill(path: Path, kills: int, writers: int) -> Any:
    return _script().kill(path, kills, writers, seed=1)


def _script() -> Any:
    spec = importlib.util.spec_from_file_location("audit_kill", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit_kill"] = module
    spec.loader.exec_module(module)
    return module


def test_a_full_disk_releases_nothing_that_is_not_on_it(small_disk: Path) -> None:
    """Where the file system is full the turn is refused, all said before is there, and with room it goes on."""
    other = small_disk / "other"
    other.write_bytes(bytes(600_000))
    store, said = started(small_disk / "a.db"), []

    def fill() -> None:
        while len(said) < 1_000:
            said.append(append_turn(store, turn(value="x" * 4_000), context()).record_id)

    with pytest.raises(AuditError, match="disk is full"):
        fill()
    assert 0 < len(said) < 1_000
    other.unlink()
    said.append(append_turn(store, turn(), context()).record_id)
    store.end_run()
    store.close()
    after = Store(small_disk / "a.db")
    assert [record.id for record in after.records() if record.content["kind"] == "turn"] == said
    assert verify(after).records == len(said) + 2
    after.close()


def test_a_broken_page_is_named(tmp_path: Path) -> None:
    """Whichever page is overwritten with noise, verification says so; the untouched store verifies."""
    path = tmp_path / "a.db"
    store = started(path)
    for _ in range(4):
        write_run(store)
    store.close()
    assert verify(Store(path, create=False)).records == 24
    whole = path.read_bytes()
    pages = len(whole) // 4096
    found = 0
    for page in range(pages):
        path.write_bytes(whole[: 4096 * page] + b"\xa5" * 4096 + whole[4096 * (page + 1) :])
        try:
            verify(Store(path, create=False))
        except (AuditError, TamperError):
            found += 1
    assert found == pages
