"""The script that trains the stand-in's SAEs, on the model in the box."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.agent import Runtime
from steerkit.lab import read_corpus
from steerkit.tiny.world.conversations import sample

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "real_model" / "saes.py"


def script(*arguments: str | Path) -> str:
    """What the script prints."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_saes_are_trained_beside_the_published_table(tmp_path: Path, box: Runtime) -> None:
    """A stopped run goes on and ends; the published numbers stand beside ours; nothing is computed twice."""
    data, out = tmp_path / "data.jsonl", tmp_path / "out"
    rows = [{"messages": list(one.messages), "tools": list(one.tools)} for one in sample("benign", "train", 24)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    sizes = ("--tokens", "1500", "--epochs", "1", "--held-out", "12", "--layers", "2-3", "--calls", "0")
    given = (out, "--model", "tiny", "--data", data, *sizes, "--recipes", "topk", "seed", "--against", "tiny")
    assert "the time is up; the same command goes on" in script(*given, "--minutes", "0.05")
    printed = script(*given)
    assert "| 2 | 0.1182 |" in printed
    assert "loss: rank correlation" in printed
    found = json.loads((out / "saes.json").read_text())
    assert list(found) == ["topk", "seed"]
    assert [one["changed"] for one in found["seed"]["drift"]] == [0, 0]
    texts = {name: read_corpus(out / f"{name}.jsonl", box.loaded) for name in ("train", "held_out")}
    assert 1000 < texts["train"].tokens <= 1500
    assert len(texts["held_out"].texts) == 12
    kept = [{json.dumps(one.messages) for one in corpus.conversations} for corpus in texts.values()]
    assert not kept[0] & kept[1]
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    script(*given)
    assert {path: path.stat().st_mtime_ns for path in before} == before
