"""Models that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Final

BOXES: Final = {"tiny": "tiny/box"}
"""Their folders in it, by name."""


def box_folder(name: str) -> Path | None:
    """Folder of a model that comes with the package, or None if it is not one."""
    return Path(str(files("steerkit"))) / BOXES[name] if name in BOXES else None
