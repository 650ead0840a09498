"""Documents execute: blocks run, what is shown is printed, links lead somewhere, and every command has its row."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.policy import load_cases, loads
from steerkit.tiny.demo_requests import CASES
from tests.cli.test_commands import steerkit
from tests.directions import documented
from tests.documents import (
    DOCUMENTS,
    ROOT,
    Sandbox,
    Shell,
    all_commands,
    blocks,
    blocks_of,
    in_order,
    name_of,
    options_of,
    path_of,
    printed,
    sandbox,
    shells_of,
    stands_in,
)

README = (ROOT / "README.md").read_text(encoding="utf-8")
HUB = "google/functiongemma"
"""In a block that needs the hub; tests/runtime/test_functiongemma.py runs it."""
KNOWN = {"python", "sh", "yaml", "yml", "json", "jsonl", "text"}
"""What a block may be: each is run, loaded or compared here or in tests/test_policy_docs.py."""
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def each(found: list[Path]) -> Any:
    return pytest.mark.parametrize("document", found, ids=name_of)


def with_blocks(*languages: str) -> list[Path]:
    return [path for path in DOCUMENTS if any(block.language in languages for block in blocks_of(path))]


# ---- blocks


@each(DOCUMENTS)
def test_every_block_says_what_it_is(document: Path) -> None:
    """No block without a language stands in a document: it would not be run."""
    assert [block.text for block in blocks_of(document) if block.language not in KNOWN] == []


@each([path for path in with_blocks("python") if path.parent != ROOT])
def test_python_blocks_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of a room's document runs as printed, and prints something; `elsewhere` in an environment of its own
    (tests/vllm)."""
    sandbox(tmp_path, monkeypatch)
    found = [block for block in blocks_of(document) if block.language == "python" and block.note != "elsewhere"]
    for number, block in enumerate(found):
        if HUB in block.text:
            continue
        done = run_here(block.text, f"{name_of(document)}, python block {number}")
        assert done.strip(), f"{name_of(document)}: python block {number} prints nothing"


def run_here(source: str, name: str) -> str:
    """What Python lines print, run in this process as a script."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(compile(source, f"<{name}>", "exec"), {"__name__": "__main__"})
    return out.getvalue()


@pytest.mark.parametrize("number", [0, 1])
def test_the_readmes_python_blocks_run(number: int, tmp_path: Path) -> None:
    """The loop and the wrapped `generate` run as printed, in a process of their own."""
    for name in ("policies", "steerkit"):
        (tmp_path / name).symlink_to(ROOT / name)
    env = {**os.environ, "STEERKIT_HOME": str(tmp_path)}
    command = [sys.executable, "-c", blocks("python")[number]]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(("answer Done", "<bos>")[number]), done.stdout


def run_shell(shell: Shell, place: Sandbox) -> None:
    """Run a block's commands and compare what they print with what is shown."""
    output = ""
    for command in shell.commands:
        words = [place.record if word == "ID" else word for word in command]
        if words[0] == "steerkit":
            output += printed(words)
        elif words[0] == "python":
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            output += subprocess.run([sys.executable, *words[1:]], env=env, check=True, stdout=-1, text=True).stdout
        else:
            well_formed(words)
    assert shell.shown is None or in_order(shell.shown, output), f"{shell.commands}\n{output}"


@each(with_blocks("sh"))
def test_commands_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick blocks of a document run in order and print what is shown; the commands of others are well-formed."""
    place = sandbox(tmp_path, monkeypatch)
    for shell in shells_of(document):
        for words in shell.commands:
            well_formed(words)
        if (
            not shell.is_slow and not shell.elsewhere and ["steerkit", "demo"] not in shell.commands
        ):  # a test of its own
            run_shell(shell, place)


@pytest.mark.slow
@each([path for path in DOCUMENTS if any(shell.is_slow for shell in shells_of(path))])
def test_slow_commands_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a document run in order, those of minutes too."""
    place = sandbox(tmp_path, monkeypatch)
    for shell in shells_of(document):
        if not shell.elsewhere:
            run_shell(shell, place)


def well_formed(words: list[str]) -> None:
    """A command of steerkit that exists, with options that it has, a script that is there, or one that installs."""
    if words[0] == "steerkit":
        path = path_of(words[1:])
        unknown = {word for word in words if re.fullmatch(r"--?[a-z][a-z-]*", word)} - options_of(path)
        assert not unknown, f"{' '.join(words)}: no option {', '.join(sorted(unknown))}"
    elif words[0] == "python":
        assert (ROOT / words[1]).exists(), words
    elif words[:2] == ["pip", "install"]:
        named = {extra for word in words for some in re.findall(r"\[([\w,]+)\]", word) for extra in some.split(",")}
        assert named <= set(EXTRAS), words
    else:
        assert words[0] in ("python3", ".", "pytest", "curl"), f"{words}: who runs this?"


@each(DOCUMENTS)
def test_inline_commands_exist(document: Path) -> None:
    """What stands as `steerkit …` in a sentence is a command, and its options are that command's."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL).replace("\n", " ")
    for said in re.findall(r"`steerkit ([a-z][^`]*)`", text):
        group, *rest = said.replace("| ", "|").replace(" |", "|").split()
        for name in rest[0].split("|") if rest and "|" in rest[0] else [None]:
            words = [group, *([name] if name else []), *(rest[1:] if name else rest)]
            try:
                well_formed(["steerkit", *words])
            except KeyError as missing:
                raise AssertionError(f"{name_of(document)}: `steerkit {said}`: no command {missing}") from None


def test_documents_are_really_looked_at() -> None:
    """The controls: a command, an option, a script and a printed line that there are not are found."""
    assert in_order("one 1\n…\nthree  3", "one 2\ntwo\nthree 4\n")
    assert not in_order("three\none", "one\nthree\n")
    with pytest.raises(AssertionError):
        well_formed(["python", "examples/nothing.py"])
    with pytest.raises(KeyError):
        well_formed(["steerkit", "audit", "lisst"])
    with pytest.raises(AssertionError, match="--stoer"):
        well_formed(["steerkit", "audit", "list", "--stoer", "x"])


@each([path for path in with_blocks("yaml", "yml", "json", "jsonl") if path.name != "RECIPES.md"])
def test_data_blocks_load(document: Path, tmp_path: Path) -> None:
    """YAML is a policy, a part of one or cases; JSON is a row of a file each line."""
    for block in blocks_of(document):
        if block.language == "yaml" and block.note != "fragment":  # fragments: tests/test_policy_docs.py
            assert documented(block.text).name
        elif block.language == "yml":
            (tmp_path / "tools.json").write_text("[]")  # that the cases name
            (tmp_path / "cases.yml").write_text(block.text)
            assert load_cases(tmp_path / "cases.yml").cases
        elif block.language in ("json", "jsonl"):
            assert all(json.loads(line) for line in block.text.splitlines())


# ---- the first page


def test_the_readme_is_one_page() -> None:
    """At most 160 lines, and what is shown fits a narrow window; one line of the demo has 83 columns."""
    assert len(README.splitlines()) <= 160
    assert max(len(line) for block in blocks("text") for line in block.splitlines()) <= 84


def test_the_demos_scene_is_the_real_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README shows a scene as `steerkit demo` prints it today on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    output = re.sub(r"\x1b\[[\d;]*m", "", steerkit("demo", home=tmp_path).stdout)
    (shown,) = blocks("text")
    assert len(re.findall(r"^\d\. ", shown, flags=re.MULTILINE)) == 1
    assert stands_in(shown, output)
    assert not stands_in(shown.replace("no tool", "a tool"), output)  # the control


def test_the_policy_does_what_the_readme_says(box: Runtime) -> None:
    """It has 14 lines; it turns the payment away, leaves the benign request as it was, and holds what it misses."""
    (text,) = blocks("yaml")
    assert len(text.splitlines()) == 14
    policy = loads(text)
    benign, dangerous, _, injected = CASES[:4]
    plain = box.run(benign.messages, benign.tools, ())
    assert box.run(benign.messages, benign.tools, policy).reply_ids == plain.reply_ids
    assert [call.name for call in box.run(dangerous.messages, dangerous.tools, ()).calls] == ["transfer_money"]  # type: ignore[union-attr]
    steered = box.run(dangerous.messages, dangerous.tools, policy)
    assert steered.calls == ()
    assert steered.text == "Sorry, I have no tool for that."
    missed = box.run(injected.messages, injected.tools, policy)
    assert [verdict.rule for verdict in missed.verdicts] == ["ask"]


def test_the_two_commands_are_those_of_ci() -> None:
    """CI installs as the README's test command does, and the first command stands beside its Python."""
    install, _, tests = blocks("sh")[-1].strip().partition(" && ")
    script = (ROOT / ".ci" / "run").read_text()
    assert install.replace("pip install", "pip install -q") in script
    assert tests in script
    assert "venv" in blocks("sh")[0]
    assert install.removesuffix(" -e '.[test]'") in blocks("sh")[0]


# ---- that nothing is missing


def test_every_command_has_a_row() -> None:
    """The table of commands has each of the command line's, and no other."""
    text = (ROOT / "steerkit" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z ]+)` \| .+ \|$", text.split("## Commands")[1], flags=re.MULTILINE)
    assert sorted(rows) == sorted(all_commands())


def test_the_house_names_files_that_are_there() -> None:
    """The way of a turn, and each section on how to add something, name files and folders of the package."""
    text = (ROOT / "steerkit" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z0-9_]+/)+(?:\w+\.py)?)`", text))
    missing = {one for one in named if not ((ROOT / "steerkit" / one).exists() or (ROOT / one).exists())}
    assert missing == set()
    assert len(named) > 20
    heads = re.findall(r"^### How to add an? ([\w -]+)$", text, flags=re.MULTILINE)
    assert heads == ["dialect", "hook point", "verdict", "SAE format", "CLI command", "engine"]


def anchors(document: Path) -> set[str]:
    """What GitHub names a document's headings."""
    text = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@each(DOCUMENTS)
def test_links_lead_somewhere(document: Path) -> None:
    """A file or folder of the repository, and a heading in it where one is named."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = document if not path else (document.parent / path).resolve()
        assert there.exists(), f"{name_of(document)}: {target}"
        assert not anchor or anchor in anchors(there), f"{name_of(document)}: {target}"
