"""A server under clients that misbehave: memory, handles and records after minutes of it.

    python benchmarks/serve_soak.py 10 16
    python benchmarks/serve_soak.py 5 16 --engine vllm
    VLLM_CPU_OMP_THREADS_BIND="0|1" python benchmarks/serve_soak.py 5 16 --engine vllm --vllm tensor_parallel_size=2

The first runs 10 minutes of 16 clients against `steerkit serve` on the box, the second on another engine, the third on
two workers of it that share each layer: chat and Responses, whole and streamed, under five choices of policies, a tenth
of the requests broken, a tenth cut off by their client, and one in fifty of a client that is killed. It prints a line a
minute, and fails where a reply or an event is not valid, a reply's record is missing, or the server holds on to memory
or handles.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from steerkit.audit import Store, verify
from steerkit.tiny import TOOLS

ASKED = (
    "tell me how much money travel 38 has",
    "please open the south cellar door",
    "I owe Lumes a payment of 740 dollars",
    "translate the word rikuta into Danish",
)
MODELS = ("tiny", "tiny:none", "tiny:people", "tiny:payments", "tiny:limits+orders")
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
MOST_GROWTH = 1.10
"""Memory at the end over memory after the first minute."""


class Soak:
    """The clients, and what they saw."""

    def __init__(self, url: str, end: float) -> None:
        self.url, self.end = url, end
        self.seen: Counter[str] = Counter()
        self.records: list[str] = []
        self.faults: list[str] = []

    def client(self, seed: int) -> None:
        """One client until the end, each request of a kind of its own."""
        chosen = random.Random(seed)
        while time.monotonic() < self.end:
            try:
                with httpx.Client(timeout=60, verify=False) as client:  # http: certificates would be loaded for nothing
                    self.seen[self.request(client, chosen)] += 1
            except Exception as error:
                self.faults.append(f"{type(error).__name__}: {error}"[:300])

    def request(self, client: httpx.Client, chosen: random.Random) -> str:
        """One request; its kind."""
        responses, streamed, kind = chosen.random() < 0.5, chosen.random() < 0.4, chosen.random()
        url = f"{self.url}/v1/{'responses' if responses else 'chat/completions'}"
        asked: dict[str, Any] = {"model": chosen.choice(MODELS), "stream": streamed}
        messages = [{"role": "user", "content": chosen.choice(ASKED)}]
        flat = [{"type": "function", **one["function"]} for one in TOOLS]
        asked |= {"input": messages, "tools": flat} if responses else {"messages": messages, "tools": list(TOOLS)}
        if kind < 0.1:
            broken = client.post(
                url, content=b'{"model": ' * chosen.randrange(1, 9), headers={"content-type": "application/json"}
            )
            assert broken.status_code == 400, broken.text
            return "broken"
        if kind < 0.2:
            try:
                client.post(url, json={**asked, "temperature": 50.0}, timeout=chosen.uniform(0.005, 0.2))
            except httpx.TimeoutException:
                return "cut off"
            return "whole"
        if kind < 0.22:
            killed(url, {**asked, "stream": True, "temperature": 50.0}, chosen.uniform(0.05, 0.3))
            return "killed"
        reply = client.post(url, json=asked)
        if reply.status_code == 429:
            assert reply.headers["retry-after"]
            time.sleep(0.2)
            return "told to come again"
        assert reply.status_code == 200, reply.text
        if streamed:
            events = [json.loads(line[6:]) for line in reply.text.split("\n") if line.startswith("data: {")]
            for event in events:
                if responses:
                    EVENT.validate_python(event, strict=True)
                else:
                    ChatCompletionChunk.model_validate(event, strict=True)
            last = events[-1]
            self.records.append((last.get("response") or last)["steerkit"]["record"])
            return "streamed"
        (Response if responses else ChatCompletion).model_validate_json(reply.text, strict=True)
        self.records.append(reply.headers["x-steerkit-record"])
        return "whole"


def killed(url: str, asked: dict[str, Any], seconds: float) -> None:
    """Ask for a stream as a process of its own, which is killed after some time."""
    words = ["curl", "-sN", url, "-H", "content-type: application/json", "-d", json.dumps(asked)]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL) as client:
        time.sleep(seconds)
        client.kill()


def main(minutes: float, count: int, engine: str, settings: list[str]) -> None:
    """Run it and say what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "audit.db"
        words = [sys.executable, "-m", "steerkit.cli.main", "serve", "--policy", "payments", "--port", "0"]
        words += ["--engine", engine, *(word for one in settings for word in ("--vllm", one))]
        words += [word for name in ("people", "limits", "orders", "none") for word in ("--allow", name)]
        env = {**os.environ, "STEERKIT_HOME": folder}
        with open(Path(folder) / "log", "w") as log:
            server = subprocess.Popen(
                [*words, "--store", str(store)], stdout=subprocess.PIPE, stderr=log, text=True, env=env
            )
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[2].partition("/v1")[0]
            with httpx.Client(verify=False) as client:
                while client.get(f"{url}/ready").status_code != 200:
                    time.sleep(0.1)
            soak = watched(url, server.pid, minutes, count)
        finally:
            server.terminate()
            server.wait()
        found = Store(store)
        verified, on_record = verify(found), {one.id for one in found.records()}
        missing = [one for one in soak.records if one not in on_record]
        print(f"{len(soak.records):,} replies, all valid; {verified.records:,} records verified; {dict(soak.seen)}")
        if missing or soak.faults:
            sys.exit(f"{len(missing)} records are missing; faults: {soak.faults[:5]}")


def watched(url: str, pid: int, minutes: float, count: int) -> Soak:
    """Run the clients, and print what the server holds every minute. Exits where that grows."""
    began = time.monotonic()
    soak = Soak(url, began + minutes * 60)
    threads = [threading.Thread(target=soak.client, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    rows: list[tuple[int, int, int]] = []
    print("minute  requests  resident MiB  handles  threads")
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(60.0, max(0.1, soak.end - time.monotonic())))
        rows.append(held(pid))
        minute = (time.monotonic() - began) / 60
        print(
            f"{minute:6.1f}  {sum(soak.seen.values()):8,}  {rows[-1][0]:12,}  {rows[-1][1]:7}  {rows[-1][2]:7}",
            flush=True,
        )
        if time.monotonic() > soak.end:
            for thread in threads:
                thread.join()
    if rows[-1][0] > rows[0][0] * MOST_GROWTH or held(pid)[1] > rows[0][1] + count:
        sys.exit(f"the server holds on to what it had: {rows[0]} became {rows[-1]}")
    return soak


def held(pid: int) -> tuple[int, int, int]:
    """Resident memory in MiB, open handles and threads of a process and of those that it has started."""
    of_each = [_held(one) for one in (pid, *started_by(pid))]
    return sum(one[0] for one in of_each), sum(one[1] for one in of_each), sum(one[2] for one in of_each)


def _held(pid: int) -> tuple[int, int, int]:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    handles = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return int(status["VmRSS"].split()[0]) >> 10, handles, int(status["Threads"])


def started_by(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    return [one for child in children for one in (child, *started_by(child))]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minutes", type=float)
    parser.add_argument("clients", type=int)
    parser.add_argument("--engine", choices=("transformers", "vllm"), default="transformers")
    parser.add_argument("--vllm", action="append", default=[], help="as `steerkit serve` takes it")
    given = parser.parse_args()
    main(given.minutes, given.clients, given.engine, given.vllm)
