"""A hub that does not answer, or answers with an error: one line after seconds, and the cache where it suffices."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from steerkit.engine import box_folder
from steerkit.sae import convert
from tests.hub import hub
from tests.sae.test_formats import planted, set_of

RUN = """
import contextlib, io, json, sys, time
import torch, transformers, steerkit.runtime
from steerkit.cli.main import run
for line in json.loads(sys.argv[1]):
    out, err, sys.argv = io.StringIO(), io.StringIO(), ["steerkit", *line.split()]
    start, status = time.monotonic(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run()
        except SystemExit as done:
            status = done.code
    print(json.dumps([status, err.getvalue().splitlines(), time.monotonic() - start]))
"""
COMMANDS = ("sae pull someone/plain", "sae push mine me/saes", "run hello --model someone/model --max-new-tokens 1")
SECONDS = 40.0
"""For a command; the libraries alone ask for 55 s where nobody listens, and for minutes where nobody answers."""


def commands(tmp_path: Path, endpoint: str, *lines: str, **more: str) -> list[tuple[int, list[str], float]]:
    """Status, lines on standard error and seconds of commands, one after the other in one process."""
    own = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1", "STEERKIT_HOME": str(tmp_path)}
    env = {
        **os.environ,
        **own,
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": "hf_x",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **more,
    }
    command = [sys.executable, "-c", RUN, json.dumps(lines)]
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    return [(status, errors, seconds) for status, errors, seconds in map(json.loads, done.stdout.splitlines())]


@contextmanager
def answering(status: int, body: bytes = b"", **headers: str) -> Iterator[str]:
    """A server with one answer for everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body if self.command == "GET" else b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *args: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def silent() -> Iterator[str]:
    """A port that accepts and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """A port where nobody listens."""
    yield "http://127.0.0.1:9"


HUBS = {
    "refused": (nobody, r"does not answer (ConnectError)"),
    "silent": (silent, r"does not answer (ReadTimeout)"),
    "500": (lambda: answering(500), "answers with HTTP 500"),
    "503": (lambda: answering(503), "answers with HTTP 503"),
    "429": (lambda: answering(429, **{"Retry-After": "300"}), "answers with HTTP 429, too many requests"),
    "401": (lambda: answering(401), "answers with HTTP 401; log in with `hf auth login`"),
    "403": (lambda: answering(403), "answers with HTTP 403; log in with `hf auth login`"),
    "404": (lambda: answering(404), "answers with HTTP 404"),
    "junk": (lambda: answering(200, b"<html>"), ""),
}


@pytest.mark.parametrize("kind", HUBS)
def test_a_hub_that_does_not_answer_is_one_line_after_seconds(tmp_path: Path, kind: str) -> None:
    """For SAEs, for a model, and for what is to be published."""
    convert(set_of(planted("relu")), tmp_path / "mine", "safetensors")
    serve, said = HUBS[kind]
    with serve() as endpoint:
        for line, (status, errors, seconds) in zip(COMMANDS, commands(tmp_path, endpoint, *COMMANDS), strict=True):
            assert (status, len(errors)) == (1, 1), (line, errors)
            assert errors[0].startswith("error: ")
            assert said in errors[0]
            assert line.split()[3 if " --model " in line or "push" in line else 2] in errors[0]
            assert seconds < SECONDS, (line, seconds)


def test_offline_mode_says_so(tmp_path: Path) -> None:
    """With nothing in the cache; and nobody is asked."""
    convert(set_of(planted("relu")), tmp_path / "mine", "safetensors")
    with silent() as endpoint:
        for status, errors, seconds in commands(tmp_path, endpoint, *COMMANDS, HF_HUB_OFFLINE="1"):
            assert (status, len(errors)) == (1, 1)
            assert "offline mode is on (HF_HUB_OFFLINE)" in errors[0]
            assert seconds < 3


def test_what_was_fetched_is_loaded_without_the_hub(tmp_path: Path) -> None:
    """SAEs and a model that were fetched once, where the hub then refuses, is silent or fails."""
    remote, box = tmp_path / "hub", box_folder("tiny")
    assert box is not None
    convert(set_of(planted("relu")), remote / "someone" / "plain", "functiongemma")
    shutil.copytree(box, remote / "someone" / "model", ignore=shutil.ignore_patterns("saes"))
    lines = (COMMANDS[0], COMMANDS[2])
    with hub(remote) as (endpoint, _):
        assert [(status, errors) for status, errors, _ in commands(tmp_path, endpoint, *lines)] == [(0, [])] * 2
    with ExitStack() as stack:
        for serve in (nobody, silent, lambda: answering(503)):
            for status, errors, seconds in commands(tmp_path, stack.enter_context(serve()), *lines):
                assert (status, errors) == (0, [])
                assert seconds < SECONDS
