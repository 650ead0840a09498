"""What workers are given to do in tests, without a model; a module of its own, so that they load nothing more."""

from __future__ import annotations

import os
import signal
import warnings
from pathlib import Path
from typing import Any

from steerkit.errors import PolicyError


def load() -> Any:
    """Something that stands where a runtime stands."""
    return "loaded"


def job(folder: Path, runtime: Any, piece: str) -> tuple[str, Any]:
    """Note whose process it is done in, and do what the piece says."""
    with (folder / piece).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if piece == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == "warns":
        warnings.warn("something is garbled", stacklevel=2)
    if piece == "wrong":
        raise PolicyError(["a: got 1", "b: got 2"])
    return piece, runtime
