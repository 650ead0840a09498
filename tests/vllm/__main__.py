"""Makes the environment that vLLM needs, once, and runs its tests in it: `python -m tests.vllm [arguments of pytest]`.

It lies in `$STEERKIT_VLLM_ENV`, or `.vllm-env` in the checkout. vLLM 0.32 wants torch 2.13 and transformers below 5.20,
and pip takes builds of torchvision, torchaudio and torchcodec that do not fit torch's for the CPU: they are taken off.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
UNFIT: Final = ("torchvision", "torchaudio", "torchcodec")


def main() -> int:
    """Run the tests; the exit status of pytest."""
    folder = Path(os.environ.get("STEERKIT_VLLM_ENV", ROOT / ".vllm-env"))
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(python), "-m", "pip"]
        subprocess.run([*pip, "install", "-q", "torch==2.13.0"], check=True)
        subprocess.run([*pip, "install", "-q", "-e", f"{ROOT}[vllm]", "pytest>=8", "hypothesis>=6.100"], check=True)
        subprocess.run([*pip, "uninstall", "-q", "-y", *UNFIT], check=True)
        (folder / "complete").touch()
    tests = [str(python), "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q", "tests/vllm", *sys.argv[1:]]
    return subprocess.run(tests, cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
