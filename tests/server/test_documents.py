"""What the server's document says: its commands are run as printed, and its table of fields is complete."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from steerkit.server import chat_request, read_keys, responses_request
from steerkit.server.endpoints import ROUTES
from tests.documents import ROOT, blocks
from tests.server.serving import Served

README = ROOT / "steerkit" / "server" / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_its_curl_commands_run(served: Served) -> None:
    """Each prints JSON of what the text says."""
    printed = []
    for line in "".join(blocks("sh", README)).splitlines():
        if line.startswith("curl"):
            words = [word.replace("http://127.0.0.1:8000", served.url) for word in shlex.split(line)]
            printed.append(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    assert ['"status":"held"' in text for text in printed] == [True, False, False]
    assert '"unlock_door"' in printed[1]
    assert '"id":"tiny:payments"' in printed[2]


def test_every_field_and_path_is_documented() -> None:
    """A field that is read or refused, and a path, stands in the text."""
    fields = {*chat_request.REFUSED, *responses_request.REFUSED, *chat_request.ChatRequest.model_fields}
    fields |= {*responses_request.ResponsesRequest.model_fields}
    named = set(re.findall(r"`([\w.]+)", TEXT))
    assert {name for name in fields if not any(one.split(".")[0] == name for one in named)} == set()
    assert [path for _, path, _ in ROUTES if path.partition("{")[0].rstrip("/") not in TEXT] == []


def test_its_key_file_is_one(tmp_path: Path) -> None:
    """The example is read, and its key has what it says."""
    (text,) = blocks("json", README)
    (tmp_path / "keys.json").write_text(text)
    (key,) = read_keys(tmp_path / "keys.json")
    assert (key.name, key.policies, key.per_minute, key.approves) == ("ann", {"payments"}, 60, False)
