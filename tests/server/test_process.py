"""The server as a process: the command, its end, and its sudden death under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerkit.audit import Store, verify
from steerkit.errors import SteerkitError
from tests.documents import printed
from tests.server.serving import BALANCE, DOOR, PLAIN, TOOLS, http_client

CHAT = "/v1/chat/completions"


class Process:
    """`steerkit serve` in a process of its own, on a store."""

    def __init__(self, folder: Path, *options: str, policy: str = "people") -> None:
        words = [sys.executable, "-m", "steerkit.cli.main", "serve", "--policy", policy, "--port", "0"]
        words += ["--store", str(folder / "audit.db"), *options]
        env = {**os.environ, "STEERKIT_HOME": str(folder), "PYTHONFAULTHANDLER": "1"}
        self.process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
        self.lines: list[str] = []
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        self.lines.append(first)
        self.url = json.loads(first)["url"] if first.startswith("{") else ""
        threading.Thread(target=self.lines.extend, args=(self.process.stderr,), daemon=True).start()

    def wait_ready(self) -> None:
        """Return once it takes requests."""
        with http_client() as client:
            while client.get(f"{self.url}/ready").status_code != 200:
                time.sleep(0.05)


@contextmanager
def process(folder: Path, *options: str, policy: str = "people") -> Iterator[Process]:
    """A server that is killed at the end, if it still lives."""
    found = Process(folder, *options, policy=policy)
    try:
        yield found
    finally:
        found.process.kill()
        found.process.communicate()


def body(messages: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": messages, "tools": TOOLS}


def refuses(served: Process) -> bool:
    """True if nobody is answered any more."""
    try:
        httpx.get(f"{served.url}/health")
    except httpx.TransportError:  # of a connection that it took and does not serve, too
        return True
    return False


def ends_in_order(served: Process) -> None:
    """SIGTERM refuses what comes and finishes what runs; its logs are JSON without content."""
    asked = {**body(PLAIN), "stream": True, "temperature": 50.0, "max_tokens": 400, "seed": 1}
    with http_client() as client, client.stream("POST", f"{served.url}{CHAT}", json=asked) as reply:
        lines = reply.iter_lines()
        first = next(lines)
        assert httpx.get(f"{served.url}/health").status_code == 200
        served.process.send_signal(signal.SIGTERM)
        assert any(refuses(served) for _ in iter(served.process.poll, 0))
        rest = [line for line in lines if line]
    assert first.startswith("data: {")
    assert rest[-1] == "data: [DONE]"
    served.process.wait(timeout=20)
    said = [json.loads(line) for line in served.lines]
    assert said[0]["message"] == "listening"
    assert any(one.get("path") == CHAT and one["status"] == 200 and one["record"] for one in said)
    assert "Danish" not in "".join(served.lines)


def test_a_mistake_is_an_error() -> None:
    """Before it listens, or once loading has failed, which ends it."""
    for words, said in (
        (["--host", "0.0.0.0"], "without keys"),
        (["--policy", "nobody"], "no such file"),
        (["--model", "./nowhere", "--port", "0"], "nowhere"),
    ):
        with pytest.raises(SteerkitError, match=said):
            printed(["steerkit", "serve", *words])


def released(served: Process, ids: list[str], held: set[str], count: int) -> None:
    """Kill a server under load, once so many more records were told of: of calls, and of held ones."""

    def ask(messages: Any) -> None:
        with http_client(60) as client:  # a killed server ends a request at once
            while True:
                try:
                    told = client.post(f"{served.url}{CHAT}", json=body(messages)).json()["steerkit"]
                except (httpx.HTTPError, ValueError):
                    return
                ids.append(told["record"])
                held.update(one["id"] for one in told["held"])

    threads = [threading.Thread(target=ask, args=(one,)) for one in (BALANCE, DOOR, BALANCE)]
    for thread in threads:
        thread.start()
    goal = len(ids) + count
    while len(ids) < goal:
        time.sleep(0.01)
    served.process.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("kills", [1, pytest.param(50, marks=pytest.mark.slow)])
def test_a_sudden_death_and_an_orderly_end(tmp_path: Path, kills: int) -> None:
    """Killed under load: every call that a client saw is on record, and held calls are still there. The next process
    ends as it should.
    """
    seen: list[str] = []
    held: set[str] = set()
    path = tmp_path / "audit.db"
    for _ in range(kills):
        with process(tmp_path) as served:
            served.wait_ready()
            released(served, seen, held, 12)
        store = Store(path)
        verify(store)
        on_record = {record.id for record in store.records()}
        store.close()
        assert set(seen) <= on_record
    with process(tmp_path) as served:
        assert httpx.get(f"{served.url}/health").status_code == 200
        served.wait_ready()
        waiting = {one["id"] for one in httpx.get(f"{served.url}/v1/steerkit/approvals").json()["data"]}
        assert held <= waiting
        ends_in_order(served)
    store = Store(path, create=False)
    last = [*store.records()][-3:]
    assert verify(store).records > len(set(seen)) + kills
    assert [one.content["kind"] for one in last] == ["run_opened", "turn", "run_closed"]
    store.close()
