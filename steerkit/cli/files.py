"""Files that commands read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from steerkit.errors import SaeError, ToolError
from steerkit.files import read_json


def read_tools(path: Path | None) -> list[Any]:
    """The list of tools in a JSON file, those of the box for the name `box`; none without one. Raises ToolError."""
    if path is None:
        return []
    if str(path) == "box" and not path.exists():
        from steerkit.tiny.demo_requests import TOOLS

        return list(TOOLS)
    tools = read_json(path, ToolError, "a JSON file with a list of tools")
    if not isinstance(tools, list):
        raise ToolError(f"{path}: got {type(tools).__name__}, expected a list of tools")
    return tools


def check_conversations(path: Path | None, limit: int | None) -> None:
    """Read a file of conversations before a model is loaded for it. Raises SaeError where it cannot be read."""
    from steerkit.lab.prove.dataset import read_conversations

    if path is not None:
        read_conversations(path, limit)


def check_policy_out(path: Path | None, *, force: bool) -> None:
    """Raise SaeError where --write names a file that is there and may not be replaced, or that cannot be written."""
    from steerkit.lab.find.write_policy import refuse_present

    if path is not None:
        refuse_present(path, force=force)
        check_writable(path, "--write")


def check_writable(path: Path | None, option: str, *, folder: bool = False) -> None:
    """Raise SaeError where a file, or a folder that is made where it is not there, cannot be written; - is no file."""
    if path is None or str(path) == "-":
        return
    if path.is_dir() is not folder and path.exists():
        raise SaeError(f"{option}: {path} is a {_kind(not folder)}; expected a {_kind(folder)}")
    above = path if path.exists() and folder else path.parent
    while folder and not above.exists():
        above = above.parent
    if not above.is_dir():
        raise SaeError(f"{option}: {path} cannot be written, as there is no folder {above}; make it, or name another")
    if not os.access(above, os.W_OK) or (path.is_file() and not os.access(path, os.W_OK)):
        raise SaeError(f"{option}: {path} cannot be written (no permission); name another")


def _kind(folder: bool) -> str:
    return "folder" if folder else "file"
