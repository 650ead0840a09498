"""Interrupted anywhere, a store stays what it was: nothing half-written, nothing counted that is not there, no lock."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import steerkit.audit
from steerkit.audit import SignerKey, Store, append_turn, redact, retain, verify
from steerkit.errors import AuditError
from tests.audit.example import context, started, turn, write_run

KEY = SignerKey("example.org/audit", bytes(range(32)))
ROOM = Path(steerkit.audit.__file__).parent
FILES = ("log/database", "log/transaction", "log/store", "log/run_log", "integrity/redaction")
KEEPING = {str(ROOM / f"{name}.py") for name in FILES}
"""The files that keep a state; the rest of the room only makes values."""


class Stopped(BaseException):
    """What a signal's handler may raise."""


class Interrupting:
    """A connection that is interrupted after one of its statements, by a signal or an error raised there."""

    def __init__(self, real: sqlite3.Connection, after: int, stop: Callable[[], None]) -> None:
        self._real, self._left, self._stop = real, after, stop
        self.done: list[str] = []
        self.execute = partial(self._counted, real.execute)
        self.executemany = partial(self._counted, real.executemany)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def _counted(self, call: Callable[..., Any], sql: str, *values: Any) -> Any:
        found = call(sql, *values)
        self.done.append(sql.split()[0])
        self._left -= 1
        if self._left == 0:
            self._stop()
        return found


def by_signal() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def by_exit() -> None:
    raise SystemExit(3)  # as a handler of SIGTERM does


def by_anything() -> None:
    raise Stopped


STOPS: dict[str, tuple[Callable[[], None], type[BaseException]]] = {
    "SIGINT": (by_signal, KeyboardInterrupt),
    "SystemExit": (by_exit, SystemExit),
    "another": (by_anything, Stopped),
}


def is_whole(store: Store, path: Path) -> int:
    """Holds a store to all it promises after an interrupt; how many records it has."""
    others = sqlite3.connect(path, timeout=0.1)
    others.execute("BEGIN IMMEDIATE")  # nobody else finds it locked
    others.rollback()
    others.close()
    worker = threading.Thread(target=append_turn, args=(store, turn(), context()), daemon=True)
    worker.start()  # nor does another thread
    worker.join(10)
    assert not worker.is_alive()
    id = append_turn(store, turn(), context()).record_id
    reader = Store(path, create=False)
    assert reader.get(str(id)).id == id  # what was returned is on disk
    found = verify(reader)
    reader.close()
    return found.records - 2


@pytest.mark.parametrize("first", [True, False], ids=["opens the run", "within the run"])
@pytest.mark.parametrize("how", sorted(STOPS))
def test_interrupted_after_any_statement(tmp_path: Path, how: str, first: bool) -> None:
    """A record is there whole or not at all, the run counts on, nobody is locked out; after COMMIT it is there."""
    stop, kind = STOPS[how]
    seen = []
    for after in range(1, 12):
        path = tmp_path / f"{after}.db"
        store = started(path)
        if not first:
            append_turn(store, turn(), context())
        before = len(store)
        real = store.file._connection
        wrapped: Any = Interrupting(real, after, stop)
        store.file._connection = wrapped
        try:
            append_turn(store, turn(), context())
        except kind:
            store.file._connection = real
            seen.append(wrapped.done[-1])
            added = (2 if first else 1) if seen[-1] == "COMMIT" else 0
            assert not real.in_transaction
            assert is_whole(store, path) == before + added + (first and not added)
            store.close()
            assert verify(Store(path, create=False)).open_runs == ()
            continue
        store.file._connection = real
        store.close()
        break
    assert (seen[0], seen[-1]) == ("BEGIN", "COMMIT")
    assert len(seen) == (8 if first else 5)


def counted(work: Callable[[], object], at: int, again: int = 0) -> int:
    """Do some work and be interrupted before its line or call number `at` in those files, and `again` steps after that.

    Returns:
        How many steps were taken.
    """
    taken = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal taken
        if frame.f_code.co_filename not in KEEPING:
            return None
        if event in ("line", "call"):
            taken += 1
            if taken == at or (again and taken == at + again):
                raise Stopped
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    except Stopped:
        pass
    finally:
        sys.settrace(before)
    return taken


def prepared(path: Path) -> Store:
    store = started(path)
    write_run(store)
    append_turn(store, turn(), context())
    return store


def append(store: Store) -> None:
    append_turn(store, turn(), context())


def fresh(store: Store) -> None:
    append_turn(store.within(started(store.path).run), turn(), context())


def close(store: Store) -> None:
    store.end_run()


def hide(store: Store) -> None:
    redact(store, next(store.records(1, newest_first=True)), b"k" * 32, signer=KEY)


def forget(store: Store) -> None:
    retain(store, datetime.now(UTC), KEY)


WORKS = {"append": append, "a new run": fresh, "end_run": close, "redact": hide, "retain": forget}


@pytest.mark.parametrize("again", [0, 1, 2, 3, 5, 8], ids=lambda again: f"and {again} steps later" if again else "once")
@pytest.mark.parametrize("work", sorted(WORKS))
def test_interrupted_at_any_step(tmp_path: Path, work: str, again: int) -> None:
    """Between any two lines of the room, and again while it cleans up, the store stays whole."""
    steps = counted(lambda: WORKS[work](prepared(tmp_path / "count.db")), -1)
    store, path = prepared(tmp_path / "a.db"), tmp_path / "a.db"
    taken = counted(lambda: WORKS[work](store), -1)
    assert 10 < taken <= steps
    at, stride = 1, 1 if again == 0 and work == "append" else max(1, taken // 25)
    while at <= taken:
        WORKS["append"](store)
        counted(lambda: WORKS[work](store), at, again)
        append_turn(store, turn(), context())
        assert not store.file._connection.in_transaction, at
        if (at // stride) % 12 == 0:
            is_whole(store, path)
        at += stride
    assert verify(store).records > 1
    store.close()


def test_a_transaction_that_was_left_open_is_rolled_back(tmp_path: Path) -> None:
    """Whoever left it, the next append begins anew; within it, what it would have written is not there."""
    store = started(tmp_path / "a.db")
    append_turn(store, turn(), context())
    store.file._connection.execute("BEGIN IMMEDIATE")
    store.file._connection.execute("DELETE FROM records")
    append_turn(store, turn(), context())
    assert is_whole(store, tmp_path / "a.db") == 3


def test_nothing_is_written_inside_a_reading(tmp_path: Path) -> None:
    """What would be thrown away with the snapshot is refused; a snapshot within a transaction is a part of that."""
    store = started(tmp_path / "a.db")
    with store.file.snapshot(), pytest.raises(AuditError, match="is being read in this thread"):
        append_turn(store, turn(), context())
    with store.exclusive():
        append_turn(store, turn(), context())
        with store.file.snapshot():
            assert len(store) == 2
    assert is_whole(store, tmp_path / "a.db") == 2


def test_who_listens_hears_of_a_record_whose_return_was_interrupted(tmp_path: Path) -> None:
    """It is on disk, so it is told of."""
    heard: list[int] = []
    store = started(tmp_path / "a.db")
    store = store.within(store.run, lambda record: heard.append(record.sequence))
    real = store.file._connection
    wrapped: Any = Interrupting(real, 8, by_signal)
    store.file._connection = wrapped
    with pytest.raises(KeyboardInterrupt):
        append_turn(store, turn(), context())
    store.file._connection = real
    assert heard == [1, 2]
    assert wrapped.done[-1] == "COMMIT"


TIMED = """
import signal, sys, time
from pathlib import Path
from tests.audit.example import *
def stop(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGALRM, stop)
store, said = started(Path(sys.argv[1])), []
begun = time.perf_counter()
for _ in range(20):
    said.append(append_turn(store, turn(), context()).record_id)
takes = (time.perf_counter() - begun) / 20
for number in range(int(sys.argv[2])):
    try:
        signal.setitimer(signal.ITIMER_REAL, takes * (0.05 + number % 40 / 20))
        while True:
            said.append(append_turn(store, turn(), context()).record_id)
    except KeyboardInterrupt:
        pass
store.end_run()
there = {record.id for record in store.records()}
print(len(said), len(set(said) - there))
store.close()
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_interrupted_by_a_clock(tmp_path: Path) -> None:
    """After 120 timed interrupts every record that was returned is there, and the store verifies."""
    path = tmp_path / "a.db"
    done = subprocess.run([sys.executable, "-c", TIMED, str(path), "120"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said, missing = map(int, done.stdout.split())
    assert (said >= 20, missing) == (True, 0)
    found = verify(Store(path, create=False))
    assert found.records >= said + 2
    assert found.open_runs == ()


def test_no_interrupt_stays_with_the_thread() -> None:
    """The tests above end with no exception being handled: libraries that ask for one's cause would find it there."""
    assert sys.exc_info() == (None, None, None)
