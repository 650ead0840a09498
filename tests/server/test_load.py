"""Requests together: the same tokens as alone, bounded waiting, and readers that go away."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from steerkit.audit import Store, TurnRecord, read_content, verify
from steerkit.chat import TextDelta
from steerkit.errors import SettingError
from steerkit.hosts import listener
from steerkit.runtime import Request, Retried
from steerkit.server import Service, make_app
from steerkit.server.worker import Submitted
from steerkit.types import Turn
from tests.server.serving import BALANCE, BOTH, DOOR, PAY, PLAIN, TOOLS, Served, http_client, serving

CHAT = "/v1/chat/completions"


def hooks(served: Served) -> int:
    """Hooks on the model."""
    modules = served.runtime.loaded.model.modules()
    return sum(len(one._forward_hooks) + len(one._forward_pre_hooks) for one in modules)


def until(true: Callable[[], bool]) -> None:
    """Wait for something, for 10 seconds at most."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def body(messages: Any, model: str = "tiny", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": messages, "tools": TOOLS, **more}


def turns(served: Served) -> list[TurnRecord]:
    found = [read_content(one) for one in served.store.records()]
    return [one for one in found if isinstance(one, TurnRecord)]


def test_requests_batched_together_get_what_they_get_alone(served: Served) -> None:
    """Each under its own policies, streams beside whole replies; some of them were really in one batch."""
    asked = [body(one, model) for one in (BALANCE, DOOR, PAY, PLAIN, BOTH) for model in ("tiny", "tiny:none")]
    alone = [served.post(CHAT, one).json() for one in asked]
    done = len(turns(served))

    def streamed(number: int) -> Any:
        if number % 2:
            return served.post(CHAT, asked[number]).json()["steerkit"]["record"]
        *_, last = served.client().chat.completions.create(**asked[number], stream=True)
        return last.steerkit["record"]  # type: ignore[attr-defined]  # ours

    with ThreadPoolExecutor(10) as pool:
        together = list(pool.map(streamed, range(10)))
    records = [read_content(served.store.get(id)) for id in together]
    first = [read_content(served.store.get(one["steerkit"]["record"])) for one in alone]
    for before, after in zip(first, records, strict=True):
        assert isinstance(before, TurnRecord)
        assert isinstance(after, TurnRecord)
        assert (after.reply_ids, after.verdicts) == (before.reply_ids, before.verdicts)
    assert len(turns(served)) == done + 10
    assert max((one.batch or {})["size"] for one in turns(served)[done:]) > 1


def long_reply(served: Served) -> dict[str, Any]:
    """A request that takes a while: sampled so hot that it never ends by itself."""
    return body(PLAIN, "tiny:none", temperature=50.0, seed=1, max_tokens=3000)


def test_a_reader_that_goes_away_ends_its_generation(served: Served) -> None:
    """Streaming or not: the model is free soon, nothing is recorded, no hook is left; its neighbour gets its turn."""
    before, count = hooks(served), len(turns(served))
    for streamed in (True, False):
        with http_client() as client:
            request = client.build_request(
                "POST", f"{served.url}{CHAT}", json={**long_reply(served), "stream": streamed}
            )
            if streamed:
                response = client.send(request, stream=True)
                next(response.iter_lines())
                response.close()
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(request.url, content=request.content, headers=request.headers, timeout=0.5)
        until(lambda: served.service.loaded.generator.load == (0, 0))
        assert hooks(served) == before
    assert len(turns(served)) == count
    with http_client() as client, ThreadPoolExecutor(2) as pool:
        busy = pool.submit(served.post, CHAT, {**long_reply(served), "max_tokens": 600})
        until(lambda: served.service.loaded.generator.load[0] == 1)
        beside = pool.submit(served.post, CHAT, body(BALANCE))
        with pytest.raises(httpx.ReadTimeout):
            client.post(f"{served.url}{CHAT}", json=long_reply(served), timeout=0.2)
        assert beside.result().json()["choices"][0]["finish_reason"] == "tool_calls"
        assert not busy.done()  # it joined, and left before the longest
        assert busy.result().status_code == 200
    until(lambda: served.service.loaded.generator.load == (0, 0))
    assert hooks(served) == before
    assert len(turns(served)) == count + 2


def test_more_than_may_wait_are_told_to_come_again(tmp_path: Path) -> None:
    """429 with `retry-after`; what was taken in is finished when the server ends, and the chain verifies."""
    with serving(tmp_path, allowed=["none"], batch_size=1, most_waiting=2) as served, ThreadPoolExecutor(8) as pool:
        load = served.service.loaded.generator
        long = {**long_reply(served), "max_tokens": 200}
        running = [pool.submit(served.post, CHAT, long)]
        until(lambda: load.load == (1, 0))
        running += [pool.submit(served.post, CHAT, long) for _ in range(2)]
        until(lambda: load.load == (1, 2))
        with pytest.raises(openai.RateLimitError) as caught:
            served.client().chat.completions.create(**long)
        assert caught.value.response.headers["retry-after"]
        store = served.store.path
    assert [one.result().status_code for one in running] == [200, 200, 200]
    assert verify(Store(store)).records == 5  # a run's opening and closing, and three turns


def test_text_is_sent_before_the_next_step(served: Served) -> None:
    """The generating thread lets the event loop take what it was told; the control, without giving way, goes on."""
    prepared = served.runtime.prepare(Request(PLAIN))

    async def taken(gives: bool) -> int:
        one, seen, before = Submitted(prepared), list[object](), list[int]()

        def work() -> None:
            for number in range(50):
                if gives:
                    one.tell_all([(one, TextDelta(str(number)))])
                else:
                    one.tell(TextDelta(str(number)))
                before.append(len(seen))
            one.tell(Retried(Turn.__new__(Turn)))

        working = asyncio.create_task(asyncio.to_thread(work))
        async for event in one.events():
            if isinstance(event, Retried):
                break
            seen.append(event)
        await working
        return sum(count == number for number, count in enumerate(before, 1))

    assert asyncio.run(taken(gives=True)) > max(45, asyncio.run(taken(gives=False)))


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_small_writes_are_sent_at_once(host: str) -> None:
    """No chunk waits until the reader acknowledged the one before, for which its kernel takes 40 ms."""

    async def at_once() -> bool:
        accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
        with listener(host, 0, SettingError) as listening:
            async with await asyncio.start_server(lambda _, writer: accepted.set_result(writer), sock=listening):
                _, writer = await asyncio.open_connection(*listening.getsockname()[:2])
                served = await accepted
                found = served.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
                for one in (writer, served):
                    one.close()
                    await one.wait_closed()
        return bool(found)

    assert asyncio.run(at_once())


def test_it_is_not_ready_while_it_loads(served: Served) -> None:
    """503 with a time to come again, for `/ready` and for requests alike; `/health` answers."""
    app = make_app(Service(served.service.options, served.service.names, lambda: served.runtime))

    async def statuses() -> list[tuple[int, str | None]]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            found = [await client.get("/health"), await client.get("/ready"), await client.post(CHAT, json=body(PLAIN))]
        return [(one.status_code, one.headers.get("retry-after")) for one in found]

    assert asyncio.run(statuses()) == [(200, None), (503, "2"), (503, "2")]


def test_it_is_not_ready_while_records_cannot_be_written(tmp_path: Path) -> None:
    """A store that is gone makes it 503, and a request fails with a code of its own; nothing is released."""
    with serving(tmp_path) as served:
        assert served.get("/ready").status_code == 200
        served.store.file.connection.execute("PRAGMA query_only=ON")
        assert served.get("/ready").status_code == 503
        reply = served.post(CHAT, body(BALANCE))
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "record_not_written")
        assert "travel" not in reply.text
        with pytest.raises(openai.APIError) as caught:
            list(served.client().chat.completions.create(**body(PLAIN), stream=True))
        assert caught.value.code == "record_not_written"
        *_, last = served.client().responses.create(model="tiny", input=PLAIN, stream=True)  # type: ignore[arg-type]
        assert last.type == "response.failed"
        served.store.file.connection.execute("PRAGMA query_only=OFF")
        assert served.get("/ready").status_code == 200
        assert served.post(CHAT, body(BALANCE)).status_code == 200
