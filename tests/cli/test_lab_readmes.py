"""The workshops' READMEs execute: their commands run, and print the lines that stand below them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.cli.main import run

ROOT = Path(__file__).parents[2]
READMES = sorted((ROOT / "steerkit" / "lab").glob("*/README.md"))


def blocks(readme: Path, language: str) -> list[str]:
    """Lines of a README's code blocks of a language."""
    found = re.findall(rf"```{language}\n(.*?)```", readme.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [line for block in found for line in block.splitlines()]


def shape(line: str) -> str:
    """A line without its numbers and the width of its columns."""
    return " ".join(re.sub(r"[+-]?\d[\d.,]*(e-?\d+)?", "N", line).split())


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.parent.name)
def test_commands_run_and_print_what_stands_there(
    readme: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line shown is printed, in order; `…` stands for others. The control: a changed line is not printed."""
    for name in ("examples", "policies"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    for command in blocks(readme, "sh"):
        program, *arguments = shlex.split(command)
        if program == "python":
            subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
            continue
        monkeypatch.setattr("sys.argv", [program, *arguments])
        with pytest.raises(SystemExit) as end:
            run()
        assert end.value.code == 0, command
    printed = [shape(line) for line in capsys.readouterr().out.splitlines()]
    shown = [shape(line) for line in blocks(readme, "text") if line.strip() and line != "…"]
    rest = iter(printed)
    assert [line for line in shown if line not in rest] == []
    assert shown
    assert f"{shown[0]} not" not in printed


def test_each_workshop_has_one_page() -> None:
    """Train, find, prove and explain, each in 80 lines."""
    assert [readme.parent.name for readme in READMES] == ["explain", "find", "prove", "train"]
    assert max(len(readme.read_text(encoding="utf-8").splitlines()) for readme in READMES) <= 80
