"""Requests per second and time to the first token at 1, 8 and 32 clients, beside one by one and `transformers serve`.

    python benchmarks/serve_load.py
    python benchmarks/serve_load.py --model MODEL --policy none --requests 16 --tokens 24

Clients send their next request when the last reply is complete; all replies are streams of text. Arms take turns at
each number of clients: `runtime.stream` in this process, one by one, whoever comes waits; `steerkit serve`;
`transformers serve`, as it is by default and with its continuous batching. Steerkit's arms are under the policy, traced
and recorded; transformers' generate and nothing else. CPU time is that of the process that generates: other work on the
machine hardly changes it. On the box it takes about three minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
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
THEIRS = ("transformers serve", "transformers serve --continuous-batching")
WARM = 4
"""Requests before the clock runs."""


class Reply(NamedTuple):
    """One request's times in seconds, and its length."""

    first: float
    """Until the first text."""
    whole: float
    tokens: int


class Arm(NamedTuple):
    """A way to have requests answered."""

    ask: Callable[[int], Reply]
    pid: int
    """The process that generates."""


class Measured(NamedTuple):
    """One arm at one number of clients."""

    rate: float
    """Requests per second."""
    first: float
    """Median seconds to the first token."""
    cpu: float
    """Seconds of a processor for a request."""


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
    """Streams of a server, each client on a connection of its own that it keeps."""
    kept = threading.local()

    def ask(number: int) -> Reply:
        if not hasattr(kept, "client"):
            kept.client = httpx.Client(timeout=600, verify=False)  # http: certificates would be loaded for nothing
        body = {"model": model, "messages": messages(number), "tools": list(TOOLS), "stream": True, **more}
        began, first, usage, pieces = time.perf_counter(), 0.0, 0, 0
        asked = {**body, "max_tokens": tokens}
        with kept.client.stream("POST", f"{url}/v1/chat/completions", json=asked) as reply:
            if reply.status_code != 200:
                raise RuntimeError(reply.read().decode())
            for line in lines_of(reply):
                if not line.startswith("data: {"):
                    continue
                if line.startswith('data: {"error"'):  # transformers' own form, with line feeds as they are
                    raise RuntimeError(line[6:300])
                chunk = json.loads(line[6:])
                if chunk.get("choices") and chunk["choices"][0]["delta"].get("content"):
                    first, pieces = first or time.perf_counter() - began, pieces + 1
                usage = (chunk.get("usage") or {}).get("completion_tokens", usage)
        return Reply(first, time.perf_counter() - began, usage or pieces)

    return ask


def lines_of(reply: httpx.Response) -> Iterator[str]:
    """Lines of a stream; httpx would part them at other separators too, which text may hold."""
    rest = ""
    for piece in reply.iter_text():
        *lines, rest = (rest + piece).split("\n")
        yield from lines


@contextmanager
def serving(words: list[str], url: str, ready: str, log: Path) -> Iterator[int]:
    """A server of its own process, whose id this is, from when it answers."""
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
        yield server.pid
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


def cpu_seconds(pid: int) -> float:
    """Seconds of a processor that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, arm: Arm, clients: int, requests: int) -> Measured:
    """One arm at one number of clients; prints its row."""
    before = cpu_seconds(arm.pid)
    seconds, replies = loaded(arm.ask, clients, requests)
    cpu = (cpu_seconds(arm.pid) - before) / requests
    firsts = sorted(one.first for one in replies if one.first) or [math.nan]  # a call leaves whole, and has no text
    found = Measured(requests / seconds, median(firsts), cpu)
    slow = firsts[min(len(firsts) - 1, int(0.9 * len(firsts)))]
    tokens = mean(one.tokens for one in replies)
    times = f"{1e3 * found.first:.0f} | {1e3 * slow:.0f} | {1e3 * cpu:.0f}"
    print(f"| {clients} | {name} | {found.rate:.2f} | {times} | {tokens:.1f} |", flush=True)
    return found


def arms(settings: argparse.Namespace, folder: Path) -> dict[str, AbstractContextManager[Arm]]:
    """The arms by name."""
    model, port, tokens = settings.model, settings.port, settings.tokens
    source = str(Path(steerkit.__file__).parent / "tiny" / "box") if model == "tiny" else model
    policy = [] if settings.policy == "none" else [settings.policy]

    @contextmanager
    def one_by_one() -> Iterator[Arm]:
        with closing(steerkit.load(model, settings.saes, policy or None, audit=folder / "one.db")) as runtime:
            yield Arm(in_process(runtime, tokens), os.getpid())

    @contextmanager
    def ours() -> Iterator[Arm]:
        url = f"http://127.0.0.1:{port}"
        words = [sys.executable, "-m", "steerkit.cli.main", "serve", "--model", model, "--port", str(port)]
        words += [*(["--saes", settings.saes] if settings.saes else []), "--store", str(folder / "ours.db")]
        words += ["--name", "served", "--batch-size", str(settings.rows)]
        words += ["--policy", policy[0]] if policy else []
        with serving(words, url, "/ready", folder / "ours.log") as pid:
            yield Arm(over_http(url, "served", tokens, stream_options={"include_usage": True}), pid)

    @contextmanager
    def theirs(at: int, *more: str) -> Iterator[Arm]:
        url = f"http://localhost:{at}"
        words = ["transformers", "serve", source, "--device", "cpu", "--port", str(at), *more]
        with serving(words, url, "/health", folder / f"{at}.log") as pid:
            yield Arm(over_http(url, source, tokens), pid)

    return {
        "one by one, in process": one_by_one(),
        "steerkit serve": ours(),
        THEIRS[0]: theirs(port + 1),
        THEIRS[1]: theirs(port + 2, "--continuous-batching"),
    }


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
    parser.add_argument("--ours", action="store_true", help="without the arms of transformers")
    settings = parser.parse_args()
    print("| clients | arm | requests/s | first token, ms (median) | (90 %) | CPU ms a request | tokens of a reply |")
    print("|---|---|---|---|---|---|---|")
    found: dict[str, dict[int, Measured]] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        os.environ["STEERKIT_HOME"] = folder
        chosen = {
            name: arm for name, arm in arms(settings, Path(folder)).items() if name not in THEIRS or not settings.ours
        }
        open_arms = {name: stack.enter_context(arm) for name, arm in chosen.items()}
        for name, arm in list(open_arms.items()):
            try:
                loaded(arm.ask, 1, WARM)
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                del open_arms[name]
        for clients in settings.clients:
            for name, arm in open_arms.items():
                found.setdefault(name, {})[clients] = measure(name, arm, clients, settings.requests)
    alone, ours = found["one by one, in process"], found["steerkit serve"]
    for clients in settings.clients:
        one, many, idle = alone[clients], ours[clients], alone[settings.clients[0]]
        print(
            f"{clients} clients: {many.rate / one.rate:.2f} times the requests per second of one by one "
            f"({one.cpu / many.cpu:.2f} by CPU time); first token after {many.first / one.first:.2f} of its time with "
            f"as many callers, and {many.first / idle.first:.2f} of that with {settings.clients[0]}"
        )


if __name__ == "__main__":
    main()
