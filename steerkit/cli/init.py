"""`steerkit init`: a policy, tools and a first script in a folder of one's own."""

from __future__ import annotations

import shlex
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Final

import typer

from steerkit.errors import SteerkitError
from steerkit.report import say

_FILES: Final = {"policy.yaml": "policy.yaml", "tools.json": "tools.json", "first.py": "first.py.txt"}


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Made if it is not there.")] = Path("."),
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
) -> None:
    """Write a policy, tools and a first script into a folder; they run on the model in the box."""
    there = [str(folder / name) for name in _FILES if (folder / name).exists()]
    if there and not force:
        raise SteerkitError(f"{', '.join(there)}: already there; expected a folder without them, or --force")
    if folder.exists() and not folder.is_dir():
        raise SteerkitError(f"{folder}: got a file, expected a folder to write into")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, source in _FILES.items():
            content = files("steerkit.cli").joinpath("starter", source).read_bytes()
            (folder / name).write_bytes(content)
    except OSError as error:
        raise SteerkitError(f"{folder}: cannot be written ({error.strerror}); name another folder") from None
    policy, tools, script = (shlex.quote(str(folder / name)) for name in _FILES)
    say(f"wrote {policy}, {tools} and {script}\n\nNext:")
    say(f"   python {script}")
    say(f"   steerkit policy check {policy} --tools {tools}")
    say(f'   steerkit run "tell me how much money travel 38 has" --policy {policy} --tools {tools}')
