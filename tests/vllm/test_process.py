"""`steerkit serve --engine vllm` as a process, with vLLM's beside it."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from steerkit.audit import Store, verify
from tests.server.serving import BALANCE, PLAIN, TOOLS, http_client
from tests.server.test_process import CHAT, process

SMALL = ("--vllm", "kv_cache_memory_bytes=268435456", "--vllm", "max_model_len=1024", "--allow", "none")
LONG = {"model": "tiny:none", "messages": PLAIN, "temperature": 50.0, "max_tokens": 400}


def started_by(pid: int) -> list[int]:
    """Processes that a process has started, and theirs."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(one) for task in tasks for one in (task / "children").read_text().split()]
    return [one for child in children for one in (child, *started_by(child))]


def ports(pids: list[int]) -> set[int]:
    """Ports on which some processes listen."""
    inodes = set()
    for pid in pids:
        for handle in Path(f"/proc/{pid}/fd").iterdir():
            target = os.readlink(handle)
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                found.add(int(fields[1].rpartition(":")[2], 16))
    return found


def is_http(port: int) -> bool:
    """True if a port answers a request for models."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=2).status_code > 0
    except httpx.HTTPError:
        return False


def check_gone(pids: list[int]) -> None:
    """Some processes end within 20 seconds."""
    end = time.monotonic() + 20
    while alive := [pid for pid in pids if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, alive
        time.sleep(0.1)


@pytest.mark.slow
def test_it_serves_ends_in_order_and_leaves_nothing(tmp_path: Path) -> None:
    """No server but ours listens; Ctrl-C, which the whole group gets, lets what runs finish; no process stays."""
    with process(tmp_path, "--engine", "vllm", *SMALL) as one, http_client() as client, ThreadPoolExecutor() as pool:
        one.wait_ready()
        started = started_by(one.process.pid)
        assert started
        assert [port for port in ports([one.process.pid, *started]) if is_http(port)] == [
            int(one.url.rpartition(":")[2])
        ]
        reply = client.post(f"{one.url}{CHAT}", json={"model": "tiny", "messages": BALANCE, "tools": TOOLS})
        assert reply.status_code == 200, (reply.text, one.lines)
        running = pool.submit(client.post, f"{one.url}{CHAT}", json=LONG)
        while "num_requests_running 1.0" not in client.get(f"{one.url}/metrics").text:
            time.sleep(0.01)
        for pid in (one.process.pid, *started):
            os.kill(pid, signal.SIGINT)
        assert running.result().status_code == 200
        assert one.process.wait(timeout=60) in (0, 130), one.lines  # 130: as commands that Ctrl-C ends
    check_gone(started)
    assert verify(Store(tmp_path / "audit.db")).records == 4  # a run's opening and closing, and two turns


@pytest.mark.slow
def test_no_process_stays_after_a_sudden_death(tmp_path: Path) -> None:
    """vLLM's processes end with the server that is killed."""
    with process(tmp_path, "--engine", "vllm", *SMALL) as one:
        one.wait_ready()
        started = started_by(one.process.pid)
        one.process.kill()
        one.process.wait()
        check_gone(started)


@pytest.mark.slow
def test_an_engine_that_dies_is_said(tmp_path: Path) -> None:
    """What runs and what comes gets 503, the server is not ready any more, and ends when it is told to; nothing of what
    was cut off is on record."""
    with process(tmp_path, "--engine", "vllm", *SMALL) as one, http_client() as client, ThreadPoolExecutor() as pool:
        one.wait_ready()
        started = started_by(one.process.pid)
        running = pool.submit(client.post, f"{one.url}{CHAT}", json=LONG)
        while "num_requests_running 1.0" not in client.get(f"{one.url}/metrics").text:
            time.sleep(0.01)
        for pid in started:
            os.kill(pid, signal.SIGKILL)
        for reply in (running.result(), client.post(f"{one.url}{CHAT}", json=LONG), client.get(f"{one.url}/ready")):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "engine_failed"), reply.text
            assert "its processes have ended" in reply.text
        one.process.terminate()
        assert one.process.wait(timeout=60) in (0, -signal.SIGTERM), one.lines  # as the signal ends a process
    assert verify(Store(tmp_path / "audit.db")).records == 0
