"""Files that commands read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from steerkit.errors import ToolError


def read_tools(path: Path | None) -> list[Any]:
    """The list of tools in a JSON file, those of the box for the name `box`; none without one. Raises ToolError."""
    if path is None:
        return []
    if str(path) == "box" and not path.exists():
        from steerkit.tiny.cases import TOOLS

        return list(TOOLS)
    try:
        tools = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ToolError(
            f"{path}: cannot be read ({error.strerror}); expected a JSON file with a list of tools"
        ) from None
    except ValueError as error:
        raise ToolError(f"{path}: not JSON ({error}); expected a list of tools") from None
    if not isinstance(tools, list):
        raise ToolError(f"{path}: got {type(tools).__name__}, expected a list of tools")
    return tools
