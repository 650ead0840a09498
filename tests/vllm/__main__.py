"""Makes the environment that vLLM needs, once, and runs its tests in it: `python -m tests.vllm [arguments of pytest]`.

It lies in `$STEERKIT_VLLM_ENV`, or `.vllm-env` in the checkout. vLLM 0.32 wants torch 2.13 and transformers below 5.20,
and pip takes builds of torchvision, torchaudio and torchcodec that do not fit torch's for the CPU: they are taken off.
`--make` makes it and runs nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parent.parent.parent
UNFIT: Final = ("torchvision", "torchaudio", "torchcodec")
MOST_SECONDS: Final = 900
"""Time for all of pip's runs together."""


def main(given: list[str]) -> int:
    """Run the tests; the exit status of pytest."""
    folder = Path(os.environ.get("STEERKIT_VLLM_ENV", ROOT / ".vllm-env"))
    if not (folder / "complete").exists():
        try:
            make(folder)
        except (subprocess.SubprocessError, OSError) as error:
            said = getattr(error, "stderr", None) or str(error)
            last = (said.decode() if isinstance(said, bytes) else said).strip().splitlines()[-1][:300]
            sys.stderr.write(f"no environment for vLLM, so that its tests are left out: {last}\n")
            return 1
    if given == ["--make"]:
        return 0
    pytest = [str(folder / "bin" / "python"), "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q"]
    env = {"VLLM_LOGGING_LEVEL": "ERROR", **os.environ}
    return subprocess.run([*pytest, "tests/vllm", *given], cwd=ROOT, env=env, check=False).returncode


def make(folder: Path) -> None:
    """Make the environment anew. Raises SubprocessError and OSError."""
    end = time.monotonic() + MOST_SECONDS
    venv.create(folder, with_pip=True, clear=True)
    for words in (
        ("install", "torch==2.13.0"),
        ("install", "-e", f"{ROOT}[vllm,serve,lab,ray]", "openai>=2", "pytest>=8", "hypothesis>=6.100"),
        ("uninstall", "-y", *UNFIT),
    ):
        pip = [str(folder / "bin" / "python"), "-m", "pip", words[0], "-q", *words[1:]]
        subprocess.run(pip, check=True, timeout=max(1.0, end - time.monotonic()), capture_output=True)
    (folder / "complete").touch()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
