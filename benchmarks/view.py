"""How long the viewer takes to answer, on a store of a million records and on a turn of 4,096 tokens.

    python benchmarks/view.py [records]      # some minutes on one core, and 3 GB of disk for a million

The store: a run of 1,000 records that is written as every run is, and copies of it with their own ids and runs, chained
anew; it verifies. The turn: 4,096 tokens, each with the 32 strongest features of 18 layers, three watched ones, and
calls. Timed is a whole request over a socket; the first of each, when nothing of it is in memory, and the median and
the least of the next five. The store is verified in a thread beside them, as always.
"""

from __future__ import annotations

import random
import sqlite3
import statistics
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import uvicorn

from steerkit.audit import (
    Context,
    ModelIdentity,
    PolicyIdentity,
    RunLog,
    RunOpenedRecord,
    SamplingSettings,
    Store,
    append_turn,
    new_id,
    verify,
)
from steerkit.audit.log.stored_record import record_hash
from steerkit.sites import Feature, Site
from steerkit.types import Call, Reading, TopK, Trace, Turn, Verdict
from steerkit.viewer import make_viewer

RUN: Final = 1000
TOKENS, LAYERS, STRONGEST = 4096, 18, 32
MODEL: Final = ModelIdentity("tiny", "sha256:m", "sha256:t", device="cpu", dtype="float32")
POLICY: Final = PolicyIdentity("p", "sha256:aa", "enforce", {"name": "p", "guard": {"default": "allow"}})
TOOLS: Final = ("get_balance", "get_weather", "play_music", "transfer_money", "unlock_door")
TRACE: Final = Trace(0, {"p.paying": tuple(0.1 * at for at in range(40))}, {"p.paying": Feature(3, 72)})


def handle(path: Path) -> Store:
    """A store with a run of its own."""
    return Store(path).within(RunLog(lambda: RunOpenedRecord(model=MODEL, policies=(POLICY,))))


def context(text: str) -> Context:
    """How a turn came about."""
    messages = [{"role": "developer", "content": "You may call tools. " * 12}, {"role": "user", "content": text}]
    return Context(messages, [], MODEL, None, (POLICY,), True, SamplingSettings(seed=7), {}, 0.25, conversation="c1")


def write_run(path: Path) -> None:
    """The run that the others are copies of; its record 500 calls a tool that is called once in a thousand."""
    chance, store = random.Random(7), handle(path)
    with store.exclusive():
        for number in range(RUN - 2):
            tool = "erase_disk" if number == 498 else chance.choice(TOOLS)
            decision = "deny" if tool == "transfer_money" and chance.random() < 0.3 else "allow"
            verdict = Verdict(decision, "large" if decision == "deny" else "default", "a reason", "p")
            call = Call(tool, {"to": "Lumes", "amount": chance.randrange(1000)})
            prompt = tuple(range(160))
            turn = Turn("", (call,), (verdict,), TRACE, prompt, tuple(range(20)), "tool_call", call_ids=("call_1",))
            append_turn(store, turn, context(f"request {number}"))
    store.end_run()
    store.close()


def copy_runs(path: Path, records: int) -> None:
    """Copies of the first run, until there are so many records."""
    file = sqlite3.connect(path)
    run = file.execute("SELECT json_extract(body, '$.run') FROM records LIMIT 1").fetchone()[0].encode()
    rows = file.execute("SELECT sequence, body FROM records ORDER BY sequence").fetchall()
    contents = file.execute("SELECT sequence, name, salt, data FROM contents ORDER BY sequence, name").fetchall()
    previous = file.execute("SELECT hash FROM records ORDER BY sequence DESC LIMIT 1").fetchone()[0]
    for copy in range(1, records // RUN):
        own, made = new_id().encode(), []
        for number, body in rows:
            sequence, id, data = copy * RUN + number, new_id(), body.replace(run, own)
            moment = f"2026-{1 + copy % 11:02d}-01T00:00:00.000000+00:00"
            digest = record_hash(sequence, id, moment, previous, data)
            made.append((sequence, id, moment, previous, digest, data))
            previous = digest
        file.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", made)
        moved = [(copy * RUN + number, *rest) for number, *rest in contents]
        file.executemany("INSERT INTO contents VALUES (?, ?, ?, ?)", moved)
        file.commit()
    file.close()


def write_long_turn(path: Path) -> None:
    """One turn of many tokens with everything recorded."""
    chance, store = random.Random(7), handle(path)
    count = TOKENS * STRONGEST
    tops = []
    for layer in range(LAYERS):
        index = struct.pack(f"<{count}H", *(chance.randrange(1 << 15) for _ in range(count)))
        value = struct.pack(f"<{count}e", *(chance.random() * 20 for _ in range(count)))
        tops.append(TopK(Site(layer), 0, TOKENS, STRONGEST, index, value))
    watched = {f"p.{name}": tuple(chance.random() * 9 for _ in range(TOKENS)) for name in ("paying", "urgent", "self")}
    features = {name: Feature(3, 72 + at) for at, name in enumerate(watched)}
    trace = Trace(0, watched, features, tuple(tops))
    verdict = Verdict("deny", "large", "a reason", "p", (Reading("paying", 8.0, 1.5, TOKENS - 9),))
    ids = tuple(chance.randrange(2000) for _ in range(TOKENS))
    call = Call("transfer_money", {"to": "Lumes", "amount": 740})
    turn = Turn("", (call,), (verdict,), trace, ids[:-64], ids[-64:], "tool_call", call_ids=("call_1",))
    append_turn(store, turn, context("pay"))
    store.end_run()
    store.close()


@contextmanager
def served(path: Path) -> Iterator[httpx.Client]:
    """A viewer of a store on a socket."""
    server = uvicorn.Server(uvicorn.Config(make_viewer(path), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600) as client:
        yield client
    server.should_exit = True
    thread.join()


def timed(client: httpx.Client, what: str, address: str) -> None:
    """Print the time of the first request, and the median and the least of the next."""
    took = []
    for _ in range(6):
        began = time.perf_counter()
        answer = client.get(address).raise_for_status()
        took.append(1000 * (time.perf_counter() - began))
    size = len(answer.content) / 1024
    print(f"| {what} | {took[0]:.0f} | {statistics.median(took[1:]):.0f} | {min(took):.0f} | {size:.0f} |", flush=True)


def main(records: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        path, long = Path(folder) / "audit.db", Path(folder) / "long.db"
        write_run(path)
        copy_runs(path, records)
        write_long_turn(long)
        size = path.stat().st_size / (1 << 30)
        print(f"{records:,} records, {size:.1f} GiB; long turn {long.stat().st_size / (1 << 20):.0f} MiB")
        if records <= 10_000:
            verify(Store(path, create=False))
        print("| page | first ms | median ms | least ms | KiB |\n|---|---|---|---|---|")
        with served(path) as client:
            timed(client, "newest", "/")
            timed(client, f"older than record {records // 2:,}", f"/?before={records // 2}")
            timed(client, "denied", "/?verdict=deny")
            timed(client, "a tool that is called once in a thousand records", "/?tool=erase_disk")
            timed(client, "a tool that no record has: as far as one page looks", "/?tool=none_such")
            timed(client, "feature above 3.5", "/?feature=paying&above=3.5")
            timed(client, "a turn", f"/r/{records // 2 + 3}")
            timed(client, "held calls", "/decide")
        with served(long) as client:
            timed(client, f"a turn of {TOKENS:,} tokens, {LAYERS} layers, top {STRONGEST}", "/r/2")
            timed(client, "the same, shaded by another feature", "/r/2?show=5:1234")
            timed(client, "one of its tokens", "/r/2/t/2000")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
