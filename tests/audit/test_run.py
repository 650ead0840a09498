"""Runs: opened by their first record, numbered without gaps, closed with counts, visibly open after a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from steerkit.audit import RunLog, Store, append_turn, as_json, opening_of, policies_of, verify
from steerkit.errors import AuditError
from tests.audit.example import LIBRARIES, MODEL, OTHER, POLICY, context, opening, started, turn, write_run


def kinds(store: Store) -> list[str]:
    return [record.public["kind"] for record in store.records()]


def test_a_run_is_a_chain_from_opened_to_closed(tmp_path: Path) -> None:
    """Every record names its run and counts up in it; the last says how many turns, approvals and executions it had."""
    store = started(tmp_path / "a.db")
    assert (len(store), store.run.id if store.run else "?") == (0, None)
    write_run(store)
    assert kinds(store) == ["run_opened", "turn", "approval", "execution", "turn", "run_closed"]
    records = [record.content for record in store.records()]
    assert [one["number"] for one in records] == [0, 1, 2, 3, 4, 5]
    assert len({one["run"] for one in records}) == 1
    assert records[-1]["counts"] == {"turns": 2, "approvals": 1, "executions": 1, "decisions": {"hold": 1, "deny": 1}}
    assert records[0]["model"] == as_json(MODEL)
    assert verify(store).open_runs == ()


def test_a_turn_is_checkable_alone_and_says_nothing_twice(tmp_path: Path) -> None:
    """Fingerprints stand in the turn, the policy's content once in the opening; another policy's stands in its turn."""
    store = started(tmp_path / "a.db")
    append_turn(store, turn(), context(policies=(POLICY, OTHER)))
    record = list(store.records())[1]
    first, second = record.content["policies"]
    assert first == {"name": "p", "fingerprint": "sha256:aa", "mode": "enforce"}
    assert second == as_json(OTHER)
    assert record.content["model"]["fingerprint"] == "sha256:m"
    assert "libraries" not in record.content
    assert policies_of(store, record) == (POLICY, OTHER)
    found = opening_of(store, record)
    assert found is not None
    assert found.libraries == LIBRARIES
    apart = Store(tmp_path / "b.db")
    append_turn(apart, turn(), context(policies=(POLICY, OTHER)))
    assert next(apart.records()).content["policies"] == as_json((POLICY, OTHER))


def test_runs_of_one_store_are_told_apart(tmp_path: Path) -> None:
    """Two runs may interleave; after closing, a handle begins a new run; closing twice writes nothing."""
    base = Store(tmp_path / "a.db")
    one, other = base.within(RunLog(opening)), base.within(RunLog(opening))
    for _ in range(2):
        for store in (one, other):
            append_turn(store, turn(), context())
    one.end_run()
    one.end_run()
    append_turn(one, turn(), context())
    assert len({record.public["run"] for record in base.records()}) == 3
    assert len(verify(base).open_runs) == 2
    base.close()
    reopened = verify(Store(tmp_path / "a.db"))
    assert (reopened.open_runs, reopened.records) == ((), 11)


CRASH = """
import os, sys
from pathlib import Path
from tests.audit.example import *
write_run(started(Path(sys.argv[1])), close=False)
{end}
"""


@pytest.mark.parametrize(("end", "left_open"), [("os._exit(9)", 1), ("raise SystemExit(3)", 0), ("1 / 0", 0)])
def test_a_crash_leaves_the_run_visibly_open(tmp_path: Path, end: str, left_open: int) -> None:
    """Killed, it stays open, with the chain intact; ended in an orderly way, even by an error, it is closed."""
    path = tmp_path / "a.db"
    subprocess.run([sys.executable, "-c", CRASH.format(end=end), str(path)], capture_output=True, check=False)
    found = verify(Store(path, create=False))
    assert len(found.open_runs) == left_open
    assert found.records == 6 - left_open
    write_run(started(path))
    assert len(verify(Store(path)).open_runs) == left_open


def test_a_transaction_that_fails_takes_the_run_back(tmp_path: Path) -> None:
    """What is rolled back was never opened or counted, so the numbers have no gap afterwards."""
    store = started(tmp_path / "a.db")

    def fail() -> None:
        with store.exclusive():
            append_turn(store, turn(), context())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert len(store) == 0
    append_turn(store, turn(), context())
    with pytest.raises(KeyError):
        fail()
    append_turn(store, turn(), context())
    store.end_run()
    assert [record.public["number"] for record in store.records()] == [0, 1, 2, 3]
    assert verify(store).records == 4


def test_threads_share_a_run(tmp_path: Path) -> None:
    """Eight threads with ten turns each make one run of 80 turns without a gap."""
    store = started(tmp_path / "a.db")

    def write() -> None:
        for _ in range(10):
            append_turn(store, turn(), context())

    work = [threading.Thread(target=write) for _ in range(8)]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    store.end_run()
    assert verify(store).records == 82


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_writes_a_run_of_its_own(tmp_path: Path) -> None:
    """The child neither continues nor closes its parent's run, and the parent's goes on as if nothing had been."""
    store = started(tmp_path / "a.db")
    append_turn(store, turn(), context())
    child = os.fork()
    if child == 0:
        try:
            append_turn(store, turn(), context())
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    append_turn(store, turn(), context())
    store.end_run()
    assert kinds(store) == ["run_opened", "turn", "run_opened", "turn", "turn", "run_closed"]
    assert len(verify(store).open_runs) == 1


def test_losing_a_record_blocks_unless_only_a_warning_is_wanted(tmp_path: Path) -> None:
    """By default it is an error; with `warn` the turn has no record, and the next record says how many were lost."""
    for on_failure in ("block", "warn"):
        path = tmp_path / f"{on_failure}.db"
        store = started(path, on_failure=on_failure)
        append_turn(store, turn(), context())
        store.database.execute("PRAGMA query_only=ON")
        if on_failure == "block":
            with pytest.raises(AuditError, match="cannot be written"):
                append_turn(store, turn(), context())
        else:
            for lost in (1, 2):
                with pytest.warns(RuntimeWarning, match=rf"lost \(number {lost} in this run\)"):
                    assert append_turn(store, turn(), context()).record_id is None
        store.database.execute("PRAGMA query_only=OFF")
        assert append_turn(store, turn(), context()).record_id
        assert verify(store).lost == (0 if on_failure == "block" else 2)
        assert verify(store).records == 3


def test_a_listener_hears_of_what_is_on_disk_and_cannot_harm_it(tmp_path: Path) -> None:
    """It is told after the transaction, of nothing that was rolled back; what it raises is a warning."""
    heard: list[int] = []
    base = Store(tmp_path / "a.db")
    store = base.within(RunLog(opening), lambda record: heard.append(record.sequence))
    with store.exclusive():
        append_turn(store, turn(), context())
        assert heard == []
    assert heard == [1, 2]

    def fail() -> None:
        with store.exclusive():
            append_turn(store, turn(), context())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert heard == [1, 2]
    broken = base.within(RunLog(opening), lambda record: 1 / 0)
    with pytest.warns(RuntimeWarning, match="on_record raised ZeroDivisionError"):
        append_turn(broken, turn(), context())
    with pytest.warns(RuntimeWarning, match="on_record raised"):
        broken.end_run()
    assert verify(base).records == 5
