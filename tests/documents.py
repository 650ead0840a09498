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
from steerkit.cli.main import app

ROOT = Path(__file__).parent.parent
ROOMS = ("policies", "benchmarks", "examples", "steerkit")
DOCUMENTS = sorted([ROOT / "README.md", *(path for room in ROOMS for path in (ROOT / room).rglob("*.md"))])
"""All but the list of changes."""
SLOW = ("eval", "calibrate", "features find", "sae train", "sae health", "sae calibrate")
"""Commands that take more than seconds: `pytest -m slow` runs them."""
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


class Shell(NamedTuple):
    """A shell block: its commands, and what they print together where a `text` block stands right after it."""

    commands: list[list[str]]
    shown: str | None = None
    elsewhere: bool = False
    """It needs a hub, somebody's files or an hour, and is not run: it opens with `sh elsewhere`."""

    @property
    def is_slow(self) -> bool:
        """Takes more than seconds."""
        return any(name_of_command(words) in SLOW or words[0] == "python" for words in self.commands)


def name_of_command(words: Sequence[str]) -> str:
    """A command of steerkit without its arguments, such as `audit list`; empty for another program's."""
    return " ".join(path_of(words[1:])) if words[0] == "steerkit" else ""


def name_of(document: Path) -> str:
    """A document's path in the repository."""
    return document.relative_to(ROOT).as_posix()


def blocks_of(document: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    return [Block(*found) for found in FENCE.findall(document.read_text(encoding="utf-8"))]


def blocks(language: str, document: Path = ROOT / "README.md") -> list[str]:
    """Texts of a document's blocks in a language."""
    return [block.text for block in blocks_of(document) if block.language == language]


def shells_of(document: Path) -> Iterator[Shell]:
    """The shell blocks of a document."""
    found = blocks_of(document)
    for block, after in zip(found, [*found, Block("", "", "")][1:], strict=True):
        if block.language == "sh":
            lines = block.text.replace("\\\n", " ").splitlines()
            commands = [words for line in lines for words in _split(shlex.split(line, comments=True))]
            yield Shell(commands, after.text if after.language == "text" else None, block.note == "elsewhere")


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


def sandbox(folder: Path, patch: pytest.MonkeyPatch) -> Sandbox:
    """Enter an empty folder with the repository's rooms, `conversations.jsonl`, and a store with a recorded turn."""
    for room in ROOMS:
        (folder / room).symlink_to(ROOT / room)
    patch.chdir(folder)
    patch.setenv("STEERKIT_HOME", str(folder))
    patch.setenv("COLUMNS", "80")
    (folder / "conversations.jsonl").write_bytes((ROOT / "examples" / "conversations.jsonl").read_bytes())
    with steerkit.load("tiny", policy=("payments", "people")) as runtime:
        turn = runtime.run(DOOR, TOOLS, metadata={"user": "ann"})
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


def in_order(shown: str, output: str) -> bool:
    """Every line that is shown is printed, in order, numbers and the width of columns aside; `…` stands for others."""
    printed = iter([_words(line) for line in output.splitlines()])
    return all(_words(line) in printed for line in shown.splitlines() if line.strip() not in ("", "…"))


def _words(line: str) -> str:
    return " ".join(re.sub(r"[+-]?\d[\d.,]*(e-?\d+)?", "N", line).split())
