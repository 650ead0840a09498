"""Paths of steerkit's own state."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path:
    """`$STEERKIT_HOME`, or the platform's folder for a user's data."""
    if chosen := os.environ.get("STEERKIT_HOME"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "steerkit"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "steerkit"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "steerkit"


def default_store() -> Path:
    """The audit store that is used where none is named."""
    return home() / "audit.db"
