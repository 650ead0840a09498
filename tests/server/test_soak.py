"""Some hundred requests of all kinds at once: what a server holds on to does not grow."""

from __future__ import annotations

import gc
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from steerkit.audit import TurnRecord, read_content, verify
from tests.server.serving import BALANCE, DOOR, EXTRA, PAY, PLAIN, TOOLS, Served, http_client, serving
from tests.server.test_load import hooks, long_reply, until

MODELS = ("tiny", "tiny:none", "tiny:people", "tiny:deny-balance", "tiny:stop-balance")


def any_request(served: Served, seed: int) -> str | None:
    """One request of a kind that the seed chooses; the record of a reply."""
    chosen = random.Random(seed)
    url = f"{served.url}/v1/{chosen.choice(['chat/completions', 'responses'])}"
    asked: dict[str, Any] = {"model": chosen.choice(MODELS), "stream": chosen.random() < 0.4}
    messages = chosen.choice([BALANCE, DOOR, PAY, PLAIN])
    if url.endswith("responses"):
        asked |= {"input": messages, "tools": [{"type": "function", **one["function"]} for one in TOOLS]}
    else:
        asked |= {"messages": messages, "tools": TOOLS}
    kind = chosen.random()
    with http_client() as client:
        if kind < 0.1:
            assert (
                client.post(url, content=b'{"model": ', headers={"content-type": "application/json"}).status_code == 400
            )
            return None
        if kind < 0.2:
            try:
                client.post(f"{served.url}/v1/chat/completions", json=long_reply(served), timeout=0.05)
            except httpx.TimeoutException:
                return None
        reply = client.post(url, json=asked)
        assert reply.status_code == (403 if "run_stopped" in reply.text else 200), reply.text
        return reply.headers.get("x-steerkit-record")


def handles() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_nothing_grows(tmp_path: Path) -> None:
    """Hooks, threads and handles are as before, every record is there, and the chain verifies."""
    with (
        serving(tmp_path, ["payments"], ["people", "none"], more=EXTRA, most_waiting=200) as served,
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(lambda seed: any_request(served, seed), range(16)))
        before = None
        records: list[str | None] = []
        for block in range(1, 3):
            records += pool.map(lambda seed: any_request(served, seed), range(100 * block, 100 * block + 40))
            until(lambda: served.service.loaded.generator.load == (0, 0))
            gc.collect()
            now = (hooks(served), handles(), threading.active_count(), len(served.service.loaded.generator._waiting))
            if before is None:
                before = now
        assert now[0] == before[0]
        assert now[1] <= before[1] + 8  # connections of clients that went away close when the loop sees it
        assert now[2] <= before[2] + 8  # the event loop's own pool of threads
        stored = {one.id for one in served.store.records() if isinstance(read_content(one), TurnRecord)}
        assert {one for one in records if one} <= stored
        verify(served.store)
