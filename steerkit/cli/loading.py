"""Inputs and outputs that commands share: files, a model with its SAEs, a progress bar, and what Ctrl-C leaves."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerkit.errors import SaeError, ToolError
from steerkit.files import read_json
from steerkit.report import console, say_line

if TYPE_CHECKING:
    from steerkit.engine import LoadedModel
    from steerkit.sae import SaeSet


def load_with_saes(
    model: str, saes: str | None, device: str | None, dtype: str | None, engine: Any = "transformers"
) -> tuple[LoadedModel, SaeSet]:
    """A model and a set that fits it. Raises SaeError and what loading raises."""
    from steerkit.agent import load

    runtime = load(model, saes, device=device, dtype=dtype, engine=engine, audit=False)
    if runtime.saes is None:
        raise SaeError(f"{model}: it brings no SAEs; name their folder or repository with --saes")
    return runtime.loaded, runtime.saes


@contextmanager
def stoppable(standing: Callable[[], str]) -> Iterator[None]:
    """Report on Ctrl-C what is finished and how to resume."""
    try:
        yield
    except KeyboardInterrupt:
        say_line("")
        say_line(f"stopped: {standing()}")
        raise


def this_command() -> str:
    """The command that runs, as a shell takes it."""
    return shlex.join(["steerkit", *sys.argv[1:]])


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[..., None]]:
    """A progress bar on a terminal, nothing in a pipe; its callback takes the count done, and perhaps the total."""
    from rich.progress import Progress

    out = console(stderr=True)
    with Progress(console=out, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, *of: bar.update(task, completed=done, total=of[0] if of else None)


def read_tools(path: Path | None) -> list[Any]:
    """The list of tools in a JSON file, those of the box for the name `box`; none without one. Raises ToolError."""
    if path is None:
        return []
    if str(path) == "box" and not path.exists():
        from steerkit.tiny import TOOLS

        return list(TOOLS)
    tools = read_json(path, ToolError, "a JSON file with a list of tools")
    if not isinstance(tools, list):
        raise ToolError(f"{path}: got {type(tools).__name__}, expected a list of tools")
    return tools


def check_conversations(path: Path | None, limit: int | None) -> None:
    """Read a file of conversations before a model is loaded for it. Raises SaeError where it cannot be read."""
    from steerkit.lab.prove import read_conversations

    if path is not None:
        read_conversations(path, limit)


def check_place(at: str) -> None:
    """Raise SaeError where --at names no place of a policy."""
    from pydantic import TypeAdapter, ValidationError

    from steerkit.policy import PlaceName

    try:
        TypeAdapter(PlaceName).validate_python(at)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise SaeError(f"--at: got {at!r}, {expected}") from None


def check_policy_out(path: Path | None, *, force: bool) -> None:
    """Raise SaeError where --write names a file that is there and may not be replaced, or that cannot be written."""
    from steerkit.lab.find import refuse_present

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
