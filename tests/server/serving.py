"""A server in a thread of the test's process, on a real socket."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from openai import DefaultHttpxClient, OpenAI

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store
from steerkit.engine import Engine
from steerkit.policy import Policy, loads
from steerkit.runtime import read_policies
from steerkit.server import Names, Options, Service, make_app
from steerkit.tiny import TOOLS as BOX
from steerkit.tiny.tools import tool

TOOLS = [{"type": "function", "function": one["function"]} for one in BOX]
BALANCE = [{"role": "user", "content": "tell me how much money travel 38 has"}]
DOOR = [{"role": "user", "content": "please open the south cellar door"}]
PAY = [{"role": "user", "content": "I owe Lumes a payment of 740 dollars"}]
PLAIN = [{"role": "user", "content": "translate the word rikuta into Danish"}]
BOTH = [{"role": "user", "content": "get the weather of Borsiton and play Plabird"}]
BOTH_TOOLS = [tool(name) for name in ("play_music", "get_weather", "run_command")]


def guarded(name: str, rules: str) -> Policy:
    """A policy with these rules."""
    return loads(f"steerkit: 1\nname: {name}\nguard:\n  default: allow\n  rules:\n{rules}")


def rule(tool: str, then: str) -> str:
    """A rule that decides on every call of a tool."""
    return f"    - {{name: all-{then}, tool: {tool}, then: {then}, reason: a test says {then}}}\n"


EXTRA = [guarded(f"{then}-balance", rule("get_balance", then)) for then in ("deny", "stop", "handoff", "hold")]
RETRY = loads(
    "steerkit: 1\nname: again\nfeatures: {paying: {layer: 3, index: 72}}\n"
    "steer: [{name: push, when: {feature: paying, above: 1000000}, where: text, edit: {paying: {shift: 0.001}}}]\n"
    "guard:\n  default: allow\n  rules:\n"
    "    - {name: once-more, tool: get_balance, then: retry, with: push, attempts: 1, reason: a test wants it again}\n"
)


@dataclass
class Served:
    """A server that runs."""

    url: str
    service: Service
    runtime: Runtime
    http: httpx.Client
    """For requests by hand; closed with the server."""
    clients: list[OpenAI] = field(default_factory=list)

    @property
    def store(self) -> Store:
        """Its audit store."""
        assert self.runtime.store is not None
        return self.runtime.store

    def client(self, key: str = "none", **settings: Any) -> OpenAI:
        """A client of openai's, closed with the server."""
        http = DefaultHttpxClient(verify=False)
        self.clients.append(OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, http_client=http, **settings))
        return self.clients[-1]

    def post(self, path: str, body: Any, **settings: Any) -> httpx.Response:
        """A request by hand."""
        return self.http.post(f"{self.url}{path}", json=body, **settings)

    def get(self, path: str, **settings: Any) -> httpx.Response:
        """A request by hand."""
        return self.http.get(f"{self.url}{path}", **settings)


def http_client(timeout: float = 30) -> httpx.Client:
    """A client without certificates: reading those of all authorities takes longer than most requests here."""
    return httpx.Client(verify=False, timeout=timeout)


@cache
def box() -> Runtime:
    """The model and the SAEs that all servers here share."""
    return steerkit.load("tiny", audit=False)


@contextmanager
def serving(
    folder: Path,
    policy: Sequence[str | Policy] = (),
    allowed: Sequence[str] = (),
    base: Sequence[str | Policy] = (),
    more: Sequence[Policy] = (),
    ui: Callable[[Path], Any] | None = None,
    engine: Engine | None = None,
    **options: Any,
) -> Iterator[Served]:
    """A server on the box; `more` are policies that requests may choose, `ui` makes its pages, `engine` generates."""
    default, under = read_policies(list(policy)), read_policies(list(base))
    names = Names.of("tiny", default, allowed, under)
    names = Names(names.model, {**names.policies, **{one.name: one for one in more}}, names.base, names.allows_nothing)
    made: list[Runtime] = []

    def load() -> Runtime:
        model, saes = (box().loaded, box().saes) if engine is None else (engine, None)
        made.append(Runtime(model, saes, default, base=under, store=Store(folder / "audit.db")))
        return made[0]

    service = Service(Options(**{"batch_size": 4, **options}), names, load)
    config = uvicorn.Config(
        make_app(service, ui=ui), port=0, log_config=None, access_log=False, timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        with http_client() as http:
            while http.get(f"{url}/ready").status_code == 503 and service.failure is None:
                time.sleep(0.02)
            found = Served(url, service, made[0], http)
            yield found
            for client in found.clients:
                client.close()
    finally:
        server.should_exit = True
        thread.join()
        made[0].store.close()  # type: ignore[union-attr]  # it has one
