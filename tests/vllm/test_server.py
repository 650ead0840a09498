"""The server on this engine: its own tests, and what is of vLLM."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import Any, Final

import httpx
import pytest

from steerkit.audit import TurnRecord, read_content, read_turn, verify
from steerkit.engine import VllmEngine
from tests.server import test_chat, test_refusals, test_responses, test_shapes
from tests.server.serving import (
    BALANCE,
    BOTH,
    BOTH_TOOLS,
    DOOR,
    EXTRA,
    PAY,
    PLAIN,
    RETRY,
    TOOLS,
    Served,
    http_client,
    serving,
)

CHAT = "/v1/chat/completions"
SAME: Final[dict[ModuleType, set[str]]] = {
    test_chat: {"test_usage_says_what_the_prefix_cache_knew"},  # it empties the cache of transformers
    test_responses: set(),
    test_shapes: set(),
    test_refusals: {"test_a_base_policy_cannot_be_left", "test_keys_let_in_and_bound", "test_an_open_door_needs_keys"},
}
"""The server's tests that run here, and of each file those that are of another server than `served`."""
for module, left in SAME.items():
    globals().update({name: one for name, one in vars(module).items() if name.startswith("test_") and name not in left})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The same on transformers."""
    with serving(tmp_path_factory.mktemp("plain"), ["payments", "people"], ["none"], more=[*EXTRA, RETRY]) as found:
        yield found


def bodies() -> list[dict[str, Any]]:
    """Requests of many kinds: policies, greedy and sampled, held to grammars, ended by a text."""
    models = ("", ":none", ":payments", ":people", ":payments+hold-balance", ":people+again")
    asked = [(BALANCE, TOOLS), (DOOR, TOOLS), (PAY, TOOLS), (PLAIN, TOOLS), (BOTH, BOTH_TOOLS)]
    more: list[dict[str, Any]] = [
        {},
        {"temperature": 0.9, "top_p": 0.95, "seed": 7},
        {"tool_choice": "required"},
        {"stop": ["no", " to"]},
    ]
    return [
        {
            "model": f"tiny{models[number % 6]}",
            "messages": messages,
            "tools": tools,
            "max_tokens": 60,
            **more[number % 4],
        }
        for number, (messages, tools) in enumerate(asked * 5)
    ]


def told(reply: Any) -> Any:
    """What two replies to one request have in common, whoever generated them."""
    (choice,), ours = reply["choices"], reply["steerkit"]
    calls = [one["function"] for one in choice["message"].get("tool_calls") or ()]
    forced = ours["forced_by_grammar"]
    text = re.sub(r"apr_[\w.]+", "apr", choice["message"]["content"] or "")
    said = (text, choice["message"].get("refusal"), calls, choice["finish_reason"])
    held = [(one["name"], one["arguments"]) for one in ours["held"]]
    verdicts = [(one["name"], one["decision"], one["rule"]) for one in ours["verdicts"]]
    return said, ours["status"], verdicts, held, forced, len(ours["edits"]), reply["usage"]["completion_tokens"]


def test_many_clients_get_what_they_get_of_transformers(served: Served, plain: Served) -> None:
    """25 requests by 16 clients at once; each released call is on record, and the chain verifies."""
    expected = [told(plain.post(CHAT, one).json()) for one in bodies()]
    with ThreadPoolExecutor(16) as pool:
        replies = list(pool.map(lambda one: served.post(CHAT, one).json(), bodies()))
    assert [told(one) for one in replies] == expected
    assert {said[1] for said in expected} >= {"answer", "calls", "held"}
    for reply in replies:
        machine = read_turn(served.store, served.store.get(reply["steerkit"]["record"])).record.machine
        assert machine is not None
        assert machine["engine"] == "vllm"
    assert max((record.batch or {})["size"] for record in turns(served)) > 4
    verify(served.store)


def turns(served: Served) -> list[TurnRecord]:
    found = [read_content(one) for one in served.store.records()]
    return [one for one in found if isinstance(one, TurnRecord)]


def until(true: Callable[[], bool]) -> None:
    """Wait for something, for 10 seconds at most."""
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_goes_away_frees_its_place(served: Served) -> None:
    """Streaming or not: vLLM runs nothing of it soon, nothing is recorded; the control: it does run before."""
    engine = served.runtime.engine
    assert isinstance(engine, VllmEngine)
    long = {"model": "tiny:none", "messages": PLAIN, "temperature": 50.0, "seed": 1, "max_tokens": 800}
    count, running = len(turns(served)), engine._llm._running
    for streamed in (True, False):
        with http_client() as client:
            request = client.build_request("POST", f"{served.url}{CHAT}", json={**long, "stream": streamed})
            if streamed:
                response = client.send(request, stream=True)
                next(response.iter_lines())
                assert len(running) == 1
                response.close()
            else:
                with pytest.raises(httpx.ReadTimeout):
                    client.post(request.url, content=request.content, headers=request.headers, timeout=0.3)
        until(lambda: served.service.loaded.generator.load == (0, 0) and not running)
    assert len(turns(served)) == count


@pytest.mark.parametrize(
    "path",
    [
        "/v1/completions", "/v1/messages", "/v1/embeddings", "/v1/chat/completions/batch", "/v1/responses/batch",
        "/inference/v1/generate", "/generate", "/invocations", "/tokenize", "/v1/load_lora_adapter", "/pooling",
    ],
)  # fmt: skip
def test_no_route_goes_round_the_guard(served: Served, path: str) -> None:
    """The routes of vLLM's own server are not there."""
    reply = served.post(path, {"model": "tiny", "messages": PLAIN, "prompt": "hello", "input": "hello"})
    assert reply.status_code == 404
    assert "there are POST /v1/chat/completions" in reply.json()["error"]["message"]


def test_fields_of_vllm_are_refused(served: Served) -> None:
    """Its extra arguments carry our policies inside, and nobody's from outside."""
    for field in ({"vllm_xargs": {"steerkit": "none"}}, {"cache_salt": "a"}, {"n": 2}, {"min_p": 0.5}):
        reply = served.post(CHAT, {"model": "tiny", "messages": PLAIN, **field})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, next(iter(field)))


def test_an_unknown_policy_is_named_and_the_server_lives(served: Served) -> None:
    """On either route, by any of the ways to name one."""
    for wrong in ({"model": "tiny:nobodys"}, {"model": "tiny", "steerkit": {"policy": ["nobodys"]}}):
        for path, body in ((CHAT, {"messages": PLAIN}), ("/v1/responses", {"input": PLAIN})):
            reply = served.post(path, {**wrong, **body})
            assert reply.status_code in (400, 404)
            assert "nobodys" in reply.json()["error"]["message"]
    assert served.post(CHAT, {"model": "tiny", "messages": BALANCE, "tools": TOOLS}).status_code == 200
