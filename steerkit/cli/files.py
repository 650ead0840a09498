"""Files that commands read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steerkit.errors import ToolError
from steerkit.files import read_json


def read_tools(path: Path | None) -> list[Any]:
    """The list of tools in a JSON file, those of the box for the name `box`; none without one. Raises ToolError."""
    if path is None:
        return []
    if str(path) == "box" and not path.exists():
        from steerkit.tiny.cases import TOOLS

        return list(TOOLS)
    tools = read_json(path, ToolError, "a JSON file with a list of tools")
    if not isinstance(tools, list):
        raise ToolError(f"{path}: got {type(tools).__name__}, expected a list of tools")
    return tools
