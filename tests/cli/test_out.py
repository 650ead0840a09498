"""What commands print: nothing from outside reaches a terminal as more than text, in any encoding, on a full disk."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerkit.audit import ApprovalRecord, ModelIdentity, RunOpenedRecord, Store, append_turn
from steerkit.cli.main import run
from steerkit.report import event_text, ledger_text
from steerkit.report import out as out_module
from steerkit.report.out import console, json_text, say, say_line
from steerkit.report.text import call_text, reply_text, verdict_text
from steerkit.report.tokens import visible
from steerkit.types import Call, MalformedCall, Verdict
from tests.audit.example import context, started, turn

PACKAGE = Path(out_module.__file__).parents[1]
PRINTING = [path for room in ("cli", "report") for path in sorted((PACKAGE / room).rglob("*.py"))]
HOSTILE = {
    "ESC: a colour": "\x1b[32mALLOW\x1b[0m",
    "ESC: up and erase": "\x1b[1A\x1b[2KALLOW",
    "OSC: title": "\x1b]0;ALLOW\x07",
    "OSC 8: link": "\x1b]8;;https://example.org\x1b\\ALLOW\x1b]8;;\x1b\\",
    "OSC 52: clipboard": "\x1b]52;c;QUxMT1c=\x07",
    "C1 CSI": "\x9b2KALLOW",
    "C1 OSC": "\x9d0;ALLOW\x9c",
    "carriage return": "safe\rALLOW",
    "backspace": "DENY\b\b\b\bALLOW",
    "vertical tab and form feed": "a\x0bb\x0cc",
    "bell and delete": "a\x07b\x7fc",
    "shift out": "a\x0eb\x0fc",
    "next line": "a\x85ALLOW",
    "line and paragraph separator": "a\u2028b\u2029c",
    "a new line": "no\nguard   ALLOW  payments/default: no rule matched",
    "bidi override": "\u202eWOLLA\u202c",
    "bidi isolate": "\u2066ALLOW\u2069",
    "direction marks": "a\u200eb\u200fc\u061cd",
    "zero width": "trans\u200bfer\u200d\ufeffmoney\u2060",
    "soft hyphen": "trans\u00adfer",
    "tags": "a\U000e0041\U000e0042b",
    "half a character": "a\ud800b",
    "null": "a\x00b",
}
UNSAFE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
TAGS = re.compile("[\U000e0000-\U000e007f]")


def unsafe(text: str) -> list[str]:
    """Characters in a text that a terminal obeys or does not show; newlines are lines here."""
    return UNSAFE.findall(text) + TAGS.findall(text)


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed."""
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_cannot_be_seen_is_drawn(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """In one line, of the same length; through each of the ways out; as JSON it reads back."""
    assert unsafe(text) or "\n" in text  # the control: the text itself is not safe
    assert not unsafe(visible(text))
    assert "\n" not in visible(text)
    assert len(visible(text)) == len(text)
    say(text)
    say_line(text)
    console().print(text)
    console(stderr=True).print(visible(text))
    shown = printed(capsys)
    assert not unsafe(shown)
    assert not unsafe(json_text({text: [text]}))
    if "\ud800" not in text:
        assert json.loads(json_text({text: [text]})) == {text: [text]}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_values_of_records_stay_in_their_line(text: str) -> None:
    """A reason, a name, an argument, a note or a reply cannot begin a line of its own, nor repaint one."""
    call = Call(text, {text: text, "b": [text]})
    verdict = Verdict("deny", text, text, text)
    event = ApprovalRecord(turn=None, call_id="", call=call, decision="approve", by=text, note=text, error="")
    opened = RunOpenedRecord(run=text, model=ModelIdentity(text))
    shown = [
        call_text(call),
        call_text(MalformedCall("x", 0, text)),
        reply_text([], text),
        str(verdict_text(verdict)),
        event_text(event),
        ledger_text(opened),
    ]
    for line in shown:
        assert not unsafe(line)
        assert "\n" not in line


def test_text_that_is_seen_stays() -> None:
    """Letters of every script, marks above them, and symbols are no controls."""
    for text in ("naïve", "здравствуй", "你好", "مرحبا", "e\u0301", "▁▂▃", "“quoted”", "👍"):
        assert visible(text) == text
        assert json_text(text) == f'"{text}"'


def test_commands_have_one_way_out() -> None:
    """No file prints, echoes or makes a console but `report/out.py`: each would be a way around it.

    A text that is printed is one line there, so none is written with an end of line in it: it would be drawn.
    """
    found = []
    for path in PRINTING:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            bad = name in ("print", "typer.echo", "typer.secho", "Console", "sys.stdout.write", "sys.stderr.write")
            if bad or (name.endswith("out.print") and any(has_line_end(one) for one in node.args)):  # type: ignore[attr-defined]
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno} {name}")  # type: ignore[attr-defined]
    assert [one for one in found if not one.startswith("report/out.py:")] == []
    assert [one for one in found if one.startswith("report/out.py:")]  # the control: the walk finds what is there
    assert has_line_end(ast.parse("f'\\n{x}'", mode="eval").body)


def has_line_end(node: ast.expr) -> bool:
    """Whether a text in the source holds an end of line."""
    parts = node.values if isinstance(node, ast.JoinedStr) else [node]
    return any(isinstance(one, ast.Constant) and "\n" in str(one.value) for one in parts)


@pytest.fixture
def attacked(tmp_path: Path) -> Path:
    """A store whose records hold hostile text wherever a record holds text from outside."""
    path = tmp_path / "attacked.db"
    bad = "".join(value for key, value in HOSTILE.items() if key != "half a character")
    with contextlib.closing(started(path)) as store:
        held = replace(turn("deny", tool="pay", rule=bad, value=bad), text=bad)
        record = append_turn(store, held, context(bad)).record_id
        call = held.calls[0]
        assert isinstance(call, Call)
        about: dict[str, Any] = {"turn": record, "call_id": bad, "call": call}
        store.append(ApprovalRecord(**about, decision="refuse", by=bad, note=bad, error=None))
        store.end_run()
    return path


@pytest.mark.parametrize("command", ["list", "query", "show 2", "show 3", "show 2 --json", "list --json"])
def test_an_attacked_record_repaints_nothing(
    command: str, attacked: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record holds the text as it was; what is shown of it holds no control, and each verdict has one line."""
    monkeypatch.setattr(sys, "argv", ["steerkit", "audit", *command.split(), "--store", str(attacked)])
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 0
    with contextlib.closing(Store(attacked, create=False)) as store:
        assert unsafe(str(store.get("2").content["text"]))  # the control
    shown = printed(capsys)
    assert "pay" in shown
    assert not unsafe(shown)
    assert not re.search(r"(?m)^guard   ALLOW", shown)


def test_an_encoding_without_bars_gets_ascii() -> None:
    """In cp1252 and ASCII the text comes out whole, with plain characters for what they lack; JSON as escapes."""
    code = (
        "from steerkit.report.out import any_encoding, print_json, say, say_line; any_encoding(); "
        "say('▁▄█ “x” … 你'); say_line('↵ 你'); print_json({'a': '你▁'})"
    )
    for encoding in ("cp1252", "ascii"):
        env = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
        assert done.returncode == 0, done.stderr
        first, second = done.stdout.decode(encoding).splitlines()
        assert first.startswith("_-#")
        assert json.loads(second) == {"a": "你▁"}
        assert done.stderr.decode(encoding).splitlines() == ["/ ?"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["policy", "schema"], ["audit", "list"]])
def test_a_full_disk_is_one_line(arguments: list[str], tmp_path: Path) -> None:
    """Output that cannot be written ends with one line and a status; the control ends well."""
    Store(tmp_path / "audit.db").close()
    command = [sys.executable, "-m", "steerkit", *arguments]
    env = {**os.environ, "STEERKIT_HOME": str(tmp_path)}
    assert subprocess.run(command, capture_output=True, env=env).returncode == 0
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=env)
    if arguments == ["audit", "list"]:
        return  # an empty store prints nothing
    assert done.returncode == 1
    assert done.stderr == "error: output: No space left on device\n"


def test_a_reader_that_goes_away_is_no_error_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """`steerkit … | head` ends quietly."""
    command = f"{sys.executable} -m steerkit policy schema | head -c 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""


def test_ctrl_c_says_what_stands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One line and status 130."""

    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steerkit.cli.main.app", interrupted)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130
    assert capsys.readouterr().err.startswith("interrupted: ")
    assert isinstance(sys.stdout, io.TextIOBase)


@pytest.mark.parametrize("arguments", [["-h"], ["--help"], ["audit", "-h"], ["audit", "show", "-h"], ["init", "-h"]])
def test_help_has_two_names(arguments: list[str]) -> None:
    """`-h` is `--help` at every level, `python -m steerkit` is the command, and metavars are words."""
    done = subprocess.run([sys.executable, "-m", "steerkit", *arguments], capture_output=True, text=True)
    assert done.returncode == 0
    assert "Usage: python -m steerkit" in done.stdout
