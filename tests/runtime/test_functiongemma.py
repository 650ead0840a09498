"""FunctionGemma's real names, from download to a recorded turn, against a local hub with architecture-exact files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from tests.hub import hub
from tests.runtime.functiongemma import MODEL, write_model, write_saes

POLICY = """\
steerkit: 1
name: boost
features:
  low: {layer: 3, index: 100}
  high: {layer: 17, index: 4095}
steer:
  - name: push
    where: reply
    edit: {low: {clamp: 5}, high: {clamp: 5}}
guard: {default: hold}
trace: {watch: [low], top_k: 8, at: any}
"""

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
(LINES,) = (block for block in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if MODEL in block)

AFTER = """
import json
messages, tools = [{"role": "user", "content": "ping example.org"}], [ping]
runtime = steerkit.load(*names, policy="policy.yaml")
turn = runtime.run(messages, tools, max_new_tokens=6)
plain = runtime.run(messages, tools, policy=(), max_new_tokens=6)
print(json.dumps({"status": run.status, "record": turn.record_id, "reply": turn.reply_ids, "plain": plain.reply_ids,
      "layers": [top.layer for top in turn.trace.top], "dtype": str(runtime.loaded.model.dtype),
      "edited": sorted(edit.layer for edit in turn.trace.edits)}))
"""


def run(tmp_path: Path, **environment: str) -> dict[str, object]:
    """The README's lines in a process of their own: the hub's endpoint is read when its library is imported."""
    own = {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_TELEMETRY": "1", "STEERKIT_HOME": str(tmp_path)}
    command = [sys.executable, "-c", LINES + AFTER]
    env = {**os.environ, **own, **environment}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def test_from_download_to_a_recorded_turn_and_again_offline(tmp_path: Path) -> None:
    """Eighteen layers are downloaded, steered, traced and recorded; a second run offline says the same."""
    (tmp_path / "policy.yaml").write_text(POLICY)
    write_model(tmp_path / "hub")
    write_saes(tmp_path / "hub")
    with hub(tmp_path / "hub") as (endpoint, seen):
        first = run(tmp_path, HF_ENDPOINT=endpoint)
        assert sum("GET" in line and "sae_layer_" in line for line in seen) == 18
    second = run(tmp_path, HF_ENDPOINT="http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert first["status"] in ("answer", "length", "malformed")  # random weights
    assert first["dtype"] == "torch.bfloat16"
    assert first["layers"] == list(range(18))
    assert first["edited"] == [3, 17]
    assert first["reply"] == second["reply"]
    assert first["plain"] != first["reply"]
    assert first["record"] != second["record"]
