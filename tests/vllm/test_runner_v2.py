"""vLLM's runner V2, which it takes wherever Triton is, thus on every GPU: here with Triton interpreted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.agent import Runtime
from tests.documents import ROOT
from tests.vllm.interpreted_v2 import SOME
from tests.vllm.test_tokens import TOKENS


@pytest.mark.slow
def test_each_request_gets_what_it_gets_alone(box: Runtime, tmp_path: Path) -> None:
    """16 requests under four policies, prompts in chunks beside decodes, few blocks: tokens, and where rules acted."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    words = [sys.executable, "-m", "tests.vllm.interpreted_v2", str(tmp_path)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=600, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    runner, found = json.loads(done.stdout.splitlines()[-1])
    assert runner == "V2"
    alone = [box.run(one.messages, one.tools, one.policy, max_new_tokens=TOKENS) for one in SOME]
    assert found == [[list(turn.reply_ids), len(turn.trace.edits)] for turn in alone]
    assert any(edits for _, edits in found)
