"""Kills writers of one audit store at random moments, and looks for a call that was released without its record.

    python benchmarks/audit_kill.py [--kills 200] [--writers 8]

Each writer is a process with four threads that append turns and say each id in a file once they have it, which is what
releasing a call is. It is killed with SIGKILL after a random time, and the next one starts on the same store. At the
end the store must verify, and hold every id that was ever said.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from steerkit.audit import Store, verify

WRITER = """
import os, sys, threading, time
from steerkit.audit import Context, RunLog, Store, append_turn
from steerkit.types import Call, Trace, Turn, Verdict

opening = {"model": {"name": "none"}, "policies": [], "libraries": {}}
store = Store(sys.argv[1]).within(RunLog(lambda: opening))
turn = Turn("x" * 200, (Call("f", {"a": 1}),), (Verdict("allow", "r", "why"),), Trace(), (1, 2), (3,), "tool_call")
context = Context([{"role": "user", "content": "y" * 200}], [], {"name": "none"}, None, [], True, {}, {})

def write():
    while True:
        record_id = append_turn(store, turn, context).record_id
        os.write(1, (record_id + "\\n").encode())
        time.sleep(0.02)

for _ in range(4):
    threading.Thread(target=write).start()
"""


class Outcome(NamedTuple):
    """What came of the kills."""

    kills: int
    released: int
    """Ids that writers said."""
    records: int
    open_runs: int
    missing: int
    """Ids that were said and have no record: must be 0."""


def kill(path: Path, kills: int, writers: int, seed: int = 0) -> Outcome:
    """Kill so many writers, of so many at a time, and check the store; raises TamperError if it is broken."""
    chance = random.Random(seed)
    started = [_start(path) for _ in range(writers)]
    released: set[str] = set()
    for number in range(1, kills + 1):
        time.sleep(chance.uniform(0.0, 0.4))
        released |= _killed(started.pop(chance.randrange(len(started))))
        if number + len(started) < kills:
            started.append(_start(path))
        if not started:
            break
    store = Store(path)
    found = verify(store)
    there = {record.id for record in store.records()}
    store.close()
    return Outcome(number, len(released), found.records, len(found.open_runs), len(released - there))


def _start(path: Path) -> subprocess.Popen[bytes]:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed once its process was killed
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=output)
    process.output = output  # type: ignore[attr-defined]  # kept with its process
    return process


def _killed(process: subprocess.Popen[bytes]) -> set[str]:
    process.kill()
    process.wait()
    output = process.output  # type: ignore[attr-defined]  # set in _start
    output.seek(0)
    text = output.read().decode()
    output.close()
    return set(text[: text.rfind("\n") + 1].split())


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--writers", type=int, default=8)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = kill(Path(folder) / "audit.db", settings.kills, settings.writers)
    print(" ".join(f"{name}={value}" for name, value in found._asdict().items()))
    sys.exit(1 if found.missing else 0)


if __name__ == "__main__":
    main()
