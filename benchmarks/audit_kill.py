"""Kills writers of one audit store at random moments, and looks for a call that was released without its record.

    python benchmarks/audit_kill.py [--kills 200] [--writers 8]
    python benchmarks/audit_kill.py --runtimes [--kills 20] [--writers 2]

Each writer is a process with four threads that append turns and say each id in a file once they have it, which is what
releasing a call is. It is killed with SIGKILL after a random time, and the next one starts on the same store. At the
end the store must verify, and hold every id that was ever said.

With --runtimes each process runs the agent loop on the model in the box, with a tool that says its argument as it is
run: every call that a tool was run with must stand in the store as a released call.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from steerkit.audit import Store, verify
from steerkit.decisions import RELEASED

WRITER = """
import os, sys, threading, time
from steerkit.audit import Context, ModelIdentity, RunLog, RunOpenedRecord, SamplingSettings, Store, append_turn
from steerkit.types import Call, Trace, Turn, Verdict

model = ModelIdentity("none")
store = Store(sys.argv[1]).within(RunLog(lambda: RunOpenedRecord(model=model)))
turn = Turn("x" * 200, (Call("f", {"a": 1}),), (Verdict("allow", "r", "why"),), Trace(), (1, 2), (3,), "tool_call")
context = Context([{"role": "user", "content": "y" * 200}], [], model, None, [], True, SamplingSettings(), {})

def write():
    while True:
        record_id = append_turn(store, turn, context).record_id
        os.write(1, (record_id + "\\n").encode())
        time.sleep(0.02)

for _ in range(4):
    threading.Thread(target=write).start()
"""


RUNNER = """
import itertools, os, sys
import steerkit

def get_balance(account: str) -> str:
    'Show a balance.\\n\\nArgs:\\n    account: Account'
    os.write(1, (account + "\\n").encode())
    return "1200 dollars"

runtime = steerkit.load("tiny", audit=sys.argv[1])
for number in itertools.count(int.from_bytes(os.urandom(1), "big")):
    runtime.loop([{"role": "user", "content": f"tell me how much money travel {number} has"}], [get_balance])
"""


class Outcome(NamedTuple):
    """What came of the kills."""

    kills: int
    released: int
    """Ids that writers said, or calls that tools were run with."""
    records: int
    open_runs: int
    missing: int
    """Of those, how many have no record: must be 0."""


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


def kill_runtimes(path: Path, kills: int, writers: int, seed: int = 0) -> Outcome:
    """As `kill`, of processes that run the agent loop; each has run a tool at least once before it is killed."""
    chance = random.Random(seed)
    started = [_start(path, RUNNER) for _ in range(min(writers, kills))]
    ran: list[str] = []
    for number in range(kills):
        process = started.pop(0)
        while not os.fstat(process.output.fileno()).st_size and process.poll() is None:  # type: ignore[attr-defined]  # set in _start
            time.sleep(0.02)
        time.sleep(chance.uniform(0.0, 0.5))
        ran += _lines(process)
        if number + len(started) + 1 < kills:
            started.append(_start(path, RUNNER))
    store = Store(path)
    found = verify(store)
    outcome = Outcome(kills, len(ran), found.records, len(found.open_runs), missing(store, ran))
    store.close()
    return outcome


def missing(store: Store, ran: Iterable[str]) -> int:
    """How many of the calls that a tool was run with stand in no turn as released."""
    turns = (record.content for record in store.records() if record.public["kind"] == "turn")
    pairs = (pair for turn in turns for pair in zip(turn["calls"], turn["verdicts"], strict=True))
    released = [call for call, verdict in pairs if verdict["decision"] in RELEASED]
    recorded = Counter(call["arguments"]["account"] for call in released if call["name"] == "get_balance")
    return (Counter(ran) - recorded).total()


def _start(path: Path, program: str = WRITER) -> subprocess.Popen[bytes]:
    output = tempfile.TemporaryFile()  # noqa: SIM115 - closed once its process was killed
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=output)
    process.output = output  # type: ignore[attr-defined]  # kept with its process
    return process


def _killed(process: subprocess.Popen[bytes]) -> set[str]:
    return set(_lines(process))


def _lines(process: subprocess.Popen[bytes]) -> list[str]:
    """Kill a process; the whole lines that it had written."""
    process.kill()
    process.wait()
    output = process.output  # type: ignore[attr-defined]  # set in _start
    output.seek(0)
    text = output.read().decode()
    output.close()
    return text[: text.rfind("\n") + 1].splitlines()


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runtimes", action="store_true")
    parser.add_argument("--kills", type=int)
    parser.add_argument("--writers", type=int)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "audit.db"
        if settings.runtimes:
            found = kill_runtimes(path, settings.kills or 20, settings.writers or 2)
        else:
            found = kill(path, settings.kills or 200, settings.writers or 8)
    print(" ".join(f"{name}={value}" for name, value in found._asdict().items()))
    sys.exit(1 if found.missing else 0)


if __name__ == "__main__":
    main()
