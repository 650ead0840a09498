"""Requests per second and time to the first token at 1, 8 and 32 clients, beside one by one and `transformers serve`.

    python benchmarks/serve_load.py
    python benchmarks/serve_load.py --model MODEL --policy none --requests 16 --tokens 24

Clients send their next request when the last reply is complete; all replies are streams of text. Arms, one after the
other at each number of clients: `runtime.stream` in this process, one by one, whoever comes waits; `steerkit serve`;
`transformers serve`, as it is by default and with its continuous batching. Steerkit's arms are under the policy, traced
and recorded; transformers' generate and nothing else. On the box it takes about three minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any, NamedTuple

import httpx

import steerkit
from steerkit.agent import Runtime
from steerkit.chat import TextDelta
from steerkit.tiny import TOOLS
from steerkit.types import Turn

WORDS = ("rikuta", "solimane", "partoli", "gremuda", "lasorin", "telmira", "vandoka", "morelis")
LANGUAGES = ("Danish", "Greek", "Dutch", "Czech")
WARM = 4
"""Requests before the clock runs."""


class Reply(NamedTuple):
    """One request's times in seconds, and its length."""

    first: float
    """Until the first text."""
    whole: float
    tokens: int


Ask = Callable[[int], Reply]


def messages(number: int) -> list[dict[str, Any]]:
    """A request that no tool fits, so that the reply is text."""
    word, language = WORDS[number % len(WORDS)], LANGUAGES[number // len(WORDS) % len(LANGUAGES)]
    return [{"role": "user", "content": f"translate the word {word} into {language}"}]


def in_process(runtime: Runtime, tokens: int) -> Ask:
    """Turns of this process, one at a time: a generation holds the model, and threads wait."""

    def ask(number: int) -> Reply:
        began, first = time.perf_counter(), 0.0
        for event in runtime.stream(messages(number), TOOLS, max_new_tokens=tokens):
            if isinstance(event, TextDelta):
                first = first or time.perf_counter() - began
            elif isinstance(event, Turn):
                return Reply(first, time.perf_counter() - began, len(event.reply_ids))
        raise AssertionError("a stream ends with its turn")

    return ask


def over_http(url: str, model: str, tokens: int, **more: Any) -> Ask:
    """Streams of a server."""

    def ask(number: int) -> Reply:
        body = {"model": model, "messages": messages(number), "tools": list(TOOLS), "stream": True, **more}
        began, first, usage = time.perf_counter(), 0.0, 0
        with (
            httpx.Client(timeout=600) as client,
            client.stream("POST", f"{url}/v1/chat/completions", json={**body, "max_tokens": tokens}) as reply,
        ):
            if reply.status_code != 200:
                raise RuntimeError(reply.read().decode())
            for line in reply.iter_lines():
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line[6:])
                if chunk.get("choices") and chunk["choices"][0]["delta"].get("content"):
                    first = first or time.perf_counter() - began
                usage = (chunk.get("usage") or {}).get("completion_tokens", usage)
        return Reply(first, time.perf_counter() - began, usage)

    return ask


@contextmanager
def serving(words: list[str], url: str, ready: str, log: Path) -> Iterator[str]:
    """A server of its own process, from when it answers."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with log.open("w") as out:
        server = subprocess.Popen(words, stdout=out, stderr=out, env=env)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"{url}{ready}").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            if server.poll() is not None or time.monotonic() > end:
                sys.exit(f"{words[:4]} does not answer:\n{log.read_text()[-2000:]}")
            time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait()


def loaded(ask: Ask, clients: int, requests: int) -> tuple[float, list[Reply]]:
    """Seconds that clients take for some requests between them, and the replies."""
    numbers, replies, faults = iter(range(requests)), list[Reply](), list[BaseException]()
    lock = threading.Lock()

    def client() -> None:
        while not faults:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                replies.append(ask(number))
            except Exception as error:
                faults.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return time.perf_counter() - began, replies


def measure(name: str, ask: Ask, settings: argparse.Namespace) -> dict[int, tuple[float, float]]:
    """Requests per second and median seconds to the first token of one arm, by number of clients; prints its rows."""
    loaded(ask, 1, WARM)
    found = {}
    for clients in settings.clients:
        seconds, replies = loaded(ask, clients, settings.requests)
        firsts = sorted(one.first for one in replies)
        found[clients] = settings.requests / seconds, median(firsts)
        slow = firsts[min(len(firsts) - 1, int(0.9 * len(firsts)))]
        tokens = mean(one.tokens for one in replies)
        cells = (f"{found[clients][0]:.2f}", f"{1e3 * median(firsts):.0f}", f"{1e3 * slow:.0f}", f"{tokens:.1f}")
        print(f"| {name} | {clients} | {' | '.join(cells)} |", flush=True)
    return found


def arms(settings: argparse.Namespace, folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Names of the arms, and a context for each with what asks."""
    model, store, port = settings.model, folder / "audit.db", settings.port
    source = str(Path(steerkit.__file__).parent / "tiny" / "box") if model == "tiny" else model
    policy = [] if settings.policy == "none" else [settings.policy]

    @contextmanager
    def one_by_one() -> Iterator[Ask]:
        with closing(steerkit.load(model, settings.saes, policy or None, audit=folder / "one.db")) as runtime:
            yield in_process(runtime, settings.tokens)

    @contextmanager
    def ours() -> Iterator[Ask]:
        words = [sys.executable, "-m", "steerkit.cli.main", "serve", "--model", model, "--port", str(port)]
        words += [*(["--saes", settings.saes] if settings.saes else []), "--store", str(store), "--name", "served"]
        words += ["--batch-size", str(settings.rows), *(["--policy", policy[0]] if policy else [])]
        with serving(words, f"http://127.0.0.1:{port}", "/ready", folder / "ours.log") as url:
            yield over_http(url, "served", settings.tokens, stream_options={"include_usage": True})

    @contextmanager
    def theirs(*more: str) -> Iterator[Ask]:
        words = ["transformers", "serve", source, "--device", "cpu", "--port", str(port + 1), *more]
        with serving(words, f"http://localhost:{port + 1}", "/health", folder / "theirs.log") as url:
            yield over_http(url, source, settings.tokens)

    yield "one by one, in process", one_by_one
    yield "steerkit serve", ours
    yield "transformers serve", theirs
    yield "transformers serve --continuous-batching", lambda: theirs("--continuous-batching")


def main() -> None:
    """Run the arms and say how far they are apart."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--saes")
    parser.add_argument("--policy", default="payments")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, default=96, help="of each arm at each number of clients")
    parser.add_argument("--tokens", type=int, default=32, help="longest reply")
    parser.add_argument("--rows", type=int, default=32, help="rows that steerkit serve decodes together")
    parser.add_argument("--port", type=int, default=8431)
    settings = parser.parse_args()
    print("| arm | clients | requests/s | first token, ms (median) | (90 %) | tokens of a reply |")
    print("|---|---|---|---|---|---|")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEERKIT_HOME"] = folder
        for name, arm in arms(settings, Path(folder)):
            try:
                with arm() as ask:
                    found[name] = measure(name, ask, settings)
            except (RuntimeError, httpx.HTTPError) as error:
                print(f"| {name} | | failed: {str(error)[:200]} | | | |", flush=True)
    alone, ours = found["one by one, in process"], found["steerkit serve"]
    for clients in settings.clients:
        waiting, idle = alone[clients], alone[settings.clients[0]]
        times = [
            f"{ours[clients][0] / waiting[0]:.2f}",
            *(f"{ours[clients][1] / one[1]:.2f}" for one in (waiting, idle)),
        ]
        print(
            f"{clients} clients: {times[0]} times the requests per second of one by one; first token after {times[1]} "
            f"of its time with as many callers, and {times[2]} of that with {settings.clients[0]}"
        )


if __name__ == "__main__":
    main()
