"""A small server that speaks the Hugging Face hub's protocol, over folders that a test made: downloads, which may break
off, and commits by whoever brings the token."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_test"  # of whoever may write here


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, root: Path, seen: list[str], breaks: dict[str, int], *args: object) -> None:
        self.root, self.seen, self.breaks = root, seen, breaks
        super().__init__(*args)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.seen.append(f"POST {path}")
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "Invalid username or password.")
            return
        parts = path.strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(data)
            repo = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            (self.root / repo).mkdir(parents=True, exist_ok=True)
            self._json({"url": f"http://{self.headers['Host']}/{repo}", "id": "0"})
        elif parts[4:5] == ["preupload"]:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(data)["files"]
            ]
            self._json({"files": files})
        elif parts[4:5] == ["commit"]:
            self._commit("/".join(parts[2:4]), data)
        else:
            self._json({"errors": [], "warnings": []})  # of the README's metadata, where it is asked to look at it

    def _commit(self, repo: str, data: bytes) -> None:
        for line in data.splitlines():
            part = json.loads(line)
            if part["key"] == "file":
                path = self.root / repo / part["value"]["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(part["value"]["content"]))
        self._json(
            {
                "commitUrl": f"http://{self.headers['Host']}/{repo}/commit/{COMMIT}",
                "commitOid": COMMIT,
                "pullRequestUrl": None,
            }
        )

    def log_message(self, *args: object) -> None:
        """Quiet."""

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.seen.append(f"{self.command} {path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) >= 4:
            self._api("/".join(parts[2:4]), parts[4:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._file("/".join(parts[:2]), "/".join(parts[4:]), body)
        else:
            self._missing("RepoNotFound")

    def _api(self, repo: str, rest: list[str]) -> None:
        folder = self.root / repo
        if not folder.is_dir():
            self._missing("RepoNotFound")
            return
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        names = [str(path.relative_to(folder)) for path in files]
        if rest[:1] == ["tree"]:
            self._json(
                [
                    {"type": "file", "path": n, "size": p.stat().st_size, "oid": "0" * 40}
                    for n, p in zip(names, files, strict=True)
                ]
            )
            return
        self._json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]})

    def _file(self, repo: str, name: str, body: bool) -> None:
        path = self.root / repo / name
        if not path.is_file():
            self._missing("EntryNotFound" if (self.root / repo).is_dir() else "RepoNotFound")
            return
        data, size = path.read_bytes(), path.stat().st_size
        first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
        self.send_header("ETag", f'"{hashlib.sha1(f"{name}{len(data)}".encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(size - first))
        self.end_headers()
        if body and self.breaks.get(name, 0) > 0:
            self.breaks[name] -= 1
            self.wfile.write(data[first : first + (size - first) // 2])
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif body:
            self.wfile.write(data[first:])

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _refuse(self, status: int, message: str) -> None:
        data = json.dumps({"error": message}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _missing(self, code: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", "not found")
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def hub(root: Path, breaks: dict[str, int] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve `root/owner/name/…` on loopback; yields the endpoint and the list of requests seen.

    `breaks` says of a file how many of its downloads break off half way; a download that asks for the rest gets it.
    """
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, root, seen, breaks or {}))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()
