"""The repository's documents, their blocks, and a folder in which what they say can be done."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer.main

import steerkit
from examples.danger_sets import files as danger_sets
from steerkit.cli.main import app
from steerkit.policy import load as load_policy
from steerkit.runtime import Request

ROOT = Path(__file__).parent.parent
ROOMS = ("policies", "benchmarks", "examples", "steerkit")
DOCUMENTS = sorted([ROOT / "README.md", *(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))])
"""All but the list of changes."""
SLOW = ("eval", "calibrate", "features find", "sae train", "sae health", "sae calibrate")
"""Commands that take more than seconds: `pytest -m slow` runs them."""
LIMITED = ("eval", "features find", "sae health")
"""Slow ones that look at a few conversations alone when they are tested."""
CLI: Any = typer.main.get_command(app)
TOOLS = json.loads((ROOT / "examples" / "tools.json").read_text(encoding="utf-8"))
DOOR = [{"role": "user", "content": "please open the south cellar door"}]
FENCE = re.compile(r"^```(\w*) ?([^\n]*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A fenced block of a document."""

    language: str
    note: str
    """The rest of the line that opens it."""
    text: str


class Command(NamedTuple):
    """A line of a shell block."""

    words: list[str]
    shown: str | None = None
    """The `text` block after it, as its output."""
    elsewhere: bool = False
    """It needs a hub or somebody's files and is not run: its block opens with `sh elsewhere`."""

    @property
    def is_slow(self) -> bool:
        """Takes more than seconds."""
        return self.name in SLOW

    @property
    def name(self) -> str:
        """A command of steerkit without its arguments, such as `audit list`; empty for another program's."""
        return " ".join(path_of(self.words[1:])) if self.words[:1] == ["steerkit"] else ""


def name_of(document: Path) -> str:
    """A document's path in the repository."""
    return document.relative_to(ROOT).as_posix()


def blocks_of(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    return [Block(*found) for found in FENCE.findall(document.read_text(encoding="utf-8"))]


def blocks(language: str, document: Path = ROOT / "README.md") -> list[str]:
    """Texts of a document's blocks in a language."""
    return [block.text for block in blocks_of(document) if block.language == language]


def commands_of(document: Path) -> Iterator[Command]:
    """The commands of a document's shell blocks; the output of the last one in a block may stand right after it."""
    found = blocks_of(document)
    for block, after in zip(found, [*found, Block("", "", "")][1:], strict=True):
        if block.language != "sh":
            continue
        text = block.text.replace("\\\n", " ")
        lines = [words for line in text.splitlines() for words in _split(shlex.split(line, comments=True))]
        for words in lines:
            last = words is lines[-1] and after.language == "text"
            yield Command(words, after.text if last else None, block.note == "elsewhere")


def _split(words: Sequence[str]) -> Iterator[list[str]]:
    """The commands between `&&`, without assignments before them."""
    command: list[str] = []
    for word in (*words, "&&"):
        if word == "&&":
            if command:
                yield command
            command = []
        elif command or not re.fullmatch(r"[A-Z_]+=.*", word):
            command.append(word)


def path_of(words: Sequence[str]) -> list[str]:
    """The words that lead to a command; raises KeyError where there is none."""
    command, path = CLI, list[str]()
    while hasattr(command, "commands") and words[len(path) :]:
        command = command.commands[words[len(path)]]
        path.append(words[len(path)])
    return path


def options_of(path: Sequence[str]) -> set[str]:
    """All options of a command or a group."""
    command = CLI
    for word in path:
        command = command.commands[word]
    options = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return options | {"--help", "-h", "--install-completion"}


def all_commands() -> dict[str, str]:
    """Every command by its words, with the first line of its help."""
    found: dict[str, str] = {}

    def walk(command: Any, path: tuple[str, ...]) -> None:
        for name, one in command.commands.items():
            if hasattr(one, "commands"):
                walk(one, (*path, name))
            else:
                found[" ".join((*path, name))] = one.help.splitlines()[0]

    walk(CLI, ())
    return found


def printed(words: Sequence[str]) -> str:
    """What a command of steerkit prints, run in this process; it must not fail."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        try:
            status = app(list(words[1:]), standalone_mode=False)
        except SystemExit as stopped:  # a verdict that is told by the exit status
            status = stopped.code
    assert not status, f"{shlex.join(words)}: exit status {status}\n{out.getvalue()}"
    return out.getvalue()


class Sandbox(NamedTuple):
    """A folder with what the documents' blocks take for granted."""

    folder: Path
    record: str
    """Id of a turn in its store; stands in for `ID`."""


def sandbox(folder: Path, patch: pytest.MonkeyPatch, *, data: bool = False) -> Sandbox:
    """Enter a folder with the repository's files, a store with a recorded turn, and files of conversations.

    Args:
        folder: an empty one.
        patch: leaves it.
        data: also `pos.jsonl`, `neg.jsonl`, `harmful.jsonl` and `benign.jsonl`, and turns in shadow mode.
    """
    for room in ROOMS:
        (folder / room).symlink_to(ROOT / room)
    patch.chdir(folder)
    patch.setenv("STEERKIT_HOME", str(folder))
    patch.setenv("COLUMNS", "80")
    (folder / "conversations.jsonl").write_bytes((ROOT / "examples" / "conversations.jsonl").read_bytes())
    if data:
        for made, name in zip(danger_sets(folder, "money", 330), ("pos", "neg", "harmful", "benign"), strict=True):
            made.rename(folder / f"{name}.jsonl")
    with steerkit.load("tiny", policy=("payments", "people")) as runtime:
        turn = runtime.run(DOOR, TOOLS, metadata={"user": "ann"})
        if data:
            shadow = load_policy("payments").model_copy(update={"mode": "shadow"})
            rows = map(json.loads, (folder / "benign.jsonl").read_text(encoding="utf-8").splitlines())
            runtime.run_batch([Request(row["messages"], row["tools"], shadow) for row in rows])
    assert turn.record_id is not None
    return Sandbox(folder, turn.record_id)


def shape(text: str) -> list[str]:
    """Printed words, without what differs from run to run or machine to machine: ids, paths, digits and bars."""
    masked = re.sub(r"\b0[0-9a-z]{25}\b", "ID", text)
    masked = re.sub(r"--store \S+|policy check \S+", "PATH", masked)
    masked = re.sub(r"[▁-█]+", "BARS", masked)
    masked = re.sub(r"[+-]?\d+\.\d+", "N", masked)
    return [line.rstrip() for line in masked.strip().splitlines()]


def stands_in(shown: str, output: str) -> bool:
    """Every paragraph of a text block is lines of the output, in one run."""
    lines = shape(output)
    paragraphs = [shape(one) for one in re.split(r"\n\s*\n", shown.strip("\n"))]
    return all(any(lines[at : at + len(one)] == one for at in range(len(lines) - len(one) + 1)) for one in paragraphs)
