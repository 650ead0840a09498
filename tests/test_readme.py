"""The README executes: its blocks run, its demo output is what the demo prints, and it names every command."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from steerkit.policy import loads
from tests.cli.test_commands import steerkit

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The README's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def shape(text: str) -> list[str]:
    """A demo's words, without what differs from run to run or machine to machine: ids, paths, digits and bars."""
    masked = re.sub(r"\b0[0-9a-z]{25}\b", "ID", text)
    masked = re.sub(r"--store \S+|policy check \S+", "PATH", masked)
    masked = re.sub(r"[▁-█]+", "BARS", masked)
    masked = re.sub(r"[+-]?\d+\.\d+", "N", masked)
    return [line.rstrip() for line in masked.strip().splitlines()]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_python_blocks_run(number: int, tmp_path: Path) -> None:
    """The loops and the wrapped `generate` run as printed, from a folder that has what the repository's root has."""
    for name in ("policies", "steerkit"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {**os.environ, "STEERKIT_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", blocks("python")[number]], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_demos_output_is_the_real_one(tmp_path: Path) -> None:
    """What the README shows is what `steerkit demo` prints today."""
    assert shape(blocks("text")[0]) == shape(steerkit("demo", home=tmp_path).stdout)


def test_the_policy_loads() -> None:
    """The example policy is a policy, and every field of the format stands in it."""
    assert loads(blocks("yaml")[0]).name == "example"
    for field in ("label", "for", "where", "at", "default", "after", "with", "tripwire", "top_k", "mode", "write_back"):
        assert field in blocks("yaml")[0]


def test_every_command_is_documented(tmp_path: Path) -> None:
    """Each command of the command line is named."""
    text = README.replace("\n", " ")
    for group in ("audit", "features", "policy", "sae"):
        shown = steerkit(group, "--help", home=tmp_path).stdout.split("Commands:")[1]
        commands = re.findall(r"^  (\w+) ", shown, flags=re.MULTILINE)
        (listed,) = re.findall(rf"`{group} (\w+(?: \| \w+)+)`", text)
        assert sorted(listed.split(" | ")) == sorted(commands)
    shown = steerkit("--help", home=tmp_path).stdout
    assert set(re.findall(r"^  (\w+) ", shown.split("Commands:")[1], flags=re.MULTILINE)) == {
        "demo",
        "init",
        "run",
        "eval",
        "calibrate",
        "audit",
        "features",
        "policy",
        "sae",
    }


def test_the_two_commands_are_those_of_ci() -> None:
    """CI installs as the README's test command does."""
    install, _, tests = blocks("sh")[-1].strip().partition(" && ")
    script = (ROOT / ".ci" / "run").read_text()
    assert install.replace("pip install", "pip install -q") in script
    assert tests in script
