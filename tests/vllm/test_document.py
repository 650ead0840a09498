"""The engine's document runs as printed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.documents import ROOT, blocks


def test_the_block_runs(tmp_path: Path) -> None:
    """In a process of its own, from a file, as vLLM's processes import it."""
    (block,) = blocks("python", ROOT / "steerkit" / "engine" / "vllm" / "README.md")
    script = tmp_path / "batch.py"
    script.write_text(block)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "STEERKIT_HOME": str(tmp_path), "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run([sys.executable, str(script)], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("["), done.stdout
