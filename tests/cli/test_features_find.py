"""`steerkit features find` as people use it."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from rich.console import Console

import steerkit.lab.find.search as find_module
from steerkit.agent import Runtime
from steerkit.cli.main import run
from steerkit.lab.find.causal import causes
from steerkit.lab.find.decisions import Decisions
from steerkit.lab.find.search import find
from steerkit.lab.material import read_material
from steerkit.lab.prove.dataset import read_conversations, read_dataset
from steerkit.policy import load
from steerkit.report.found_features import show_causes, show_found
from steerkit.tiny.world.conversations import sample
from tests.lab.planted_truth import cases

PAYMENTS = Path(__file__).parents[2] / "policies" / "payments.yaml"


class Ran(NamedTuple):
    """What a command printed."""

    out: str
    err: str


Command = Callable[..., Ran]


@pytest.fixture
def steerkit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command in this process, as starting torch takes longer than all that is tested here."""

    def command(*arguments: str | Path, status: int = 0) -> Ran:
        monkeypatch.setattr("sys.argv", ["steerkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            run()
        printed = Ran(*capsys.readouterr())
        assert end.value.code == status, printed.err
        return printed

    return command


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two small files of conversations."""
    folder = tmp_path_factory.mktemp("examples")
    found = []
    for name, kind in (("pos", "dangerous:transfer_money"), ("neg", "benign")):
        lines = [{"messages": list(one.messages), "tools": list(one.tools)} for one in sample(kind, "select", 20)]
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        found.append(path)
    return found[0], found[1]


def test_two_files_become_a_policy(steerkit: Command, files: tuple[Path, Path], tmp_path: Path) -> None:
    """One command finds features, says what they cause, and writes a policy that the check accepts."""
    policy = tmp_path / "a folder" / "money.yaml"
    policy.parent.mkdir()
    sets = ("--positive", files[0], "--negative", files[1])
    more = ("--top", "3", "--most", "2", "--causal", "--candidates", "4", "--write", policy)
    done = steerkit("features", "find", *sets, *more, "--json")
    found = json.loads(done.out)
    assert found["place"] == "reply.start"
    assert found["held_out"] == [10, 10]
    assert found["features"][0]["measured"]["auroc"] > 0.95
    assert set(found["features"][0]["measured"]["recall"]) == {"hits", "count", "share", "interval"}
    assert {one["verdict"] for one in found["causal"]["candidates"]} <= {
        "causes",
        "opposes",
        "only correlates",
        "cannot tell",
    }
    assert len(found["causal"]["candidates"]) == 4
    assert "ok:" in steerkit("policy", "check", policy, "--model", "tiny").out
    assert "mode: shadow" in policy.read_text()
    (said,) = [line for line in done.err.splitlines() if line.startswith("next: ")]
    following = shlex.split(said[said.index("steerkit eval") :])
    assert following[-2:] == ["--dangerous", "transfer_money"]
    quick = ("--limit", "1", "--seeds", "0", "--doses", "1", "--pairs", "0", "--max-new-tokens", "8", "--json", "-")
    proved = json.loads(steerkit(*following[1:], *quick).out)
    assert proved["dangerous"] == ["transfer_money"]
    raw = found["raw"]
    assert [one["layer"] for one in raw["direction"]] == [0, 1, 2, 3]
    assert ("found_activations" in load(policy).directions) is raw["prevails"]
    assert any("probe on raw activations of layer 0, layer 1" in line for line in found["said"]["probe"])
    turned = found["turned"]
    assert turned["proven"]
    assert turned["turned"]["share"] == 1
    assert turned["turned_random"]["share"] == 0
    (rule,) = load(policy).steer
    assert {name: edit.clamp for name, edit in rule.edit.items()} == {
        f"l{one['layer']}_{one['index']}": pytest.approx(one["value"], rel=1e-4) for one in turned["edits"]
    }
    beside = policy.with_name("other-found.safetensors")
    beside.touch()
    refused = steerkit("features", "find", *sets, "--write", policy.with_name("other.yaml"), status=1)
    assert refused.err.startswith(f"error: {beside}: already there; give --force")
    before = policy.read_bytes()
    refused = steerkit("features", "find", *sets, "--write", policy, status=1)
    assert refused.err == f"error: {policy}: already there; give --force to replace it, or --write another file\n"
    assert policy.read_bytes() == before


def test_a_table_is_shown(steerkit: Command, files: tuple[Path, Path], tmp_path: Path) -> None:
    """Without --json people get tables, and the sentence that says how much was looked at."""
    done = steerkit("features", "find", "--positive", files[0], "--negative", files[1], "--top", "2")
    assert "AUROC (95 %)" in done.out
    assert "features tell the sets apart (Benjamini-Hochberg" in done.out
    assert "probe of" in done.out
    assert "Verdict" not in done.out
    assert "clamped together" not in done.out
    more = ("--top", "2", "--causal", "--candidates", "2", "--strength", "0")
    done = steerkit("features", "find", "--positive", files[0], "--negative", files[1], *more)
    assert "clamped together, strength 0: the" in done.out


def test_mistakes_are_one_line(steerkit: Command, files: tuple[Path, Path], tmp_path: Path) -> None:
    """A place that is none, a file that is none and sets too small are named."""
    sets = ("features", "find", "--positive", files[0], "--negative", files[1])
    for options, said in (
        (("--at", "nowhere"), "--at: got 'nowhere', expected one of any, prompt"),
        (("--at", "tool_result"), "positive: got 0 conversations with a step at the place, expected at least 10"),
        (("--negative", tmp_path / "none.jsonl"), "cannot be read"),
        (("--write", tmp_path / "no" / "a.yaml"), f"--write: {tmp_path / 'no' / 'a.yaml'} cannot be written"),
    ):
        done = steerkit(*sets, *options, status=1)
        assert said in done.err
        assert done.err.count("\n") == 1


@pytest.mark.parametrize("width", [80, 200])
def test_tables_are_as_wide_as_the_terminal(capsys: pytest.CaptureFixture[str], box: Runtime, width: int) -> None:
    """At 80 columns no line is longer and none is folded inside a number; where there is room it is one table."""
    assert box.saes is not None
    sets = [cases(box.loaded, kind, 20) for kind in ("dangerous:transfer_money", "benign")]
    material = read_material(box.loaded, box.saes, *sets)
    found = find(box.loaded, box.saes, material, "reply.start", top=4, most=3)
    out = Console(width=width, highlight=False, emoji=False, markup=False)
    show_found(out, found, 0)
    show_causes(out, causes(Decisions(box.loaded, box.saes, material, "reply.start"), found, candidates=3))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("Feature")
    assert ("Effect" in lines[0]) is (width == 200)
    assert any(
        re.fullmatch(r"l\d+_\d+( lower)? +[\d.]+ \([\d.]+ to [\d.]+\)( +\d+ % \(\d+ to \d+\)){2} .*", one)
        for one in lines
    )
    assert any(line.startswith("sorted by AUROC") for line in lines)


def test_what_cannot_be_told_is_said_before_it_is_tried(
    steerkit: Command, files: tuple[Path, Path], tmp_path: Path
) -> None:
    """Copies and contradictions are noted, and so is how many conversations --causal takes."""
    short, again = tmp_path / "short.jsonl", tmp_path / "again.jsonl"
    lines = files[0].read_text().splitlines(keepends=True)
    short.write_text("".join([*lines[:12], lines[0]]))
    again.write_text("".join([*files[1].read_text().splitlines(keepends=True), lines[1]]))
    sets = ("--positive", short, "--negative", again, "--top", "1", "--causal", "--candidates", "20")
    done = steerkit("features", "find", *sets, "--json")
    notes = done.err.splitlines()
    assert notes[0] == "note: positive: 1 of 13 conversations are copies of others; dropped"
    assert notes[1].startswith("note: 1 conversations stand in both sets")
    assert "with 6 held-out positives and 20 candidates the smallest corrected p possible is 0.31" in notes[-1]
    assert "it takes 9 held-out positives, about 18 positive conversations" in notes[-1]
    found = json.loads(done.out)
    assert {one["verdict"] for one in found["causal"]["candidates"]} == {"cannot tell"}
    assert found["notes"][0] == notes[0].removeprefix("note: ")


BAD = {
    "a list": (b'[{"messages": []}]\n', ":1: got list, expected an object"),
    "a list over lines": (b'[\n{"messages": []}\n]\n', ":1: not JSON"),
    "a number": (b"3\n", ":1: got int, expected an object"),
    "empty": (b"", ": got no rows"),
    "blank": (b"\n \r\n", ": got no rows"),
    "latin 1": (b'{"messages": []}\n"\xe9"\n', ":1: messages: expected a list of at least one"),
    "not UTF-8": (b'\n\n{"text": "\xe9"}\n', ": not UTF-8 text (byte 11 of line 3)"),
    "UTF-16": ('{"messages": []}'.encode("utf-16"), ": not UTF-8 text (UTF-16"),
    "nested": (b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n", ":1: JSON that is nested too deeply"),
    "NaN": (b'{"messages": [{"role": "user", "content": NaN}]}\n', ":1: not JSON (NaN is no JSON number)"),
    "half a character": (b'{"messages": [{"role": "user", "content": "\\ud800"}]}\n', ":1: holds half a character"),
    "a huge number": (b'{"messages": ' + b"9" * 5_000 + b"}\n", ":1: not JSON"),
    "messages no list": (b'\n{"messages": "x"}\n', ":2: messages: expected a list of at least one, got str"),
    "a message no object": (b'{"messages": ["x"]}\n', ":1: messages[0]: expected an object"),
    "a role that is none": (b'{"messages": [{"role": 3}]}\n', ":1: messages[0]: expected an object"),
    "a group that is none": (b'{"messages": [{"role": "user"}], "group": [1]}\n', ":1: group: got list"),
    "tools that are none": (b'{"messages": [{"role": "user"}], "tools": {"a": 1}}\n', ":1: tools: got dict"),
    "nested tools": (
        b'{"messages": [{"role": "user"}], "tools": "' + b"[" * 100_000 + b'"}\n',
        ":1: tools: got a text",
    ),
    "texts": (b'{"text": "x"}\n', ":1: messages: expected a list of at least one, got none"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("command", ["find", "calibrate", "eval"])
def test_bad_files_are_named_before_a_model_is_loaded(
    steerkit: Command, files: tuple[Path, Path], tmp_path: Path, case: str, command: str
) -> None:
    """One line with file and line; the model that is named does not exist, so nothing was loaded."""
    content, said = BAD[case]
    bad = tmp_path / "bad.jsonl"
    bad.write_bytes(content)
    options = {
        "find": ("features", "find", "--positive", files[0], "--negative", bad),
        "calibrate": ("calibrate", PAYMENTS, "--data", bad),
        "eval": ("eval", "--policy", PAYMENTS, "--harmful", files[0], "--benign", bad),
    }
    done = steerkit(*options[command], "--model", tmp_path / "no model", status=1)
    assert f"{bad}{said}" in done.err
    assert done.err.count("\n") == 1


def test_marks_and_carriage_returns_are_read(tmp_path: Path) -> None:
    """A byte order mark, CRLF and blank lines change nothing."""
    plain = tmp_path / "plain.jsonl"
    marked = tmp_path / "marked.jsonl"
    plain.write_bytes(b'{"messages": [{"role": "user", "content": "x"}]}\n')
    marked.write_bytes(b'\xef\xbb\xbf\r\n{"messages": [{"role": "user", "content": "x"}]}\r\n\r\n')
    assert read_conversations(marked) == read_conversations(plain)


def test_the_format_that_is_written_down_is_read(tmp_path: Path) -> None:
    """The example of the document, as a file."""
    document = (Path(find_module.__file__).parents[1] / "README.md").read_text()
    example = tmp_path / "example.jsonl"
    example.write_text(document.split("```json\n")[1].split("```")[0])
    one, other = read_conversations(example)
    assert (one.group, other.group, one.tools[0].name, len(one.asked)) == ("wire", "7", "transfer_money", 1)
    conversation = read_dataset(example, example, load(PAYMENTS))[0]
    assert conversation.dangerous == {"transfer_money"}


@pytest.mark.parametrize("command", ["find", "calibrate", "eval"])
def test_a_stop_says_what_stands(
    steerkit: Command, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """Ctrl-C while the model works: one sentence with what is kept and the command that goes on, and exit 130."""

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("steerkit.lab.material.place_maxima", stop)
    monkeypatch.setattr("steerkit.lab.prove.calibration.value_of", stop)
    monkeypatch.setattr("steerkit.lab.prove.calibration._traces", stop)
    # the door exports a function of the module's name
    monkeypatch.setattr(import_module("steerkit.lab.prove.evaluate"), "run_variants", stop)
    out = tmp_path / "an out"
    options = {
        "find": ("features", "find", "--positive", files[0], "--negative", files[1]),
        "calibrate": ("calibrate", PAYMENTS, "--data", files[1]),
        "eval": ("eval", "--policy", PAYMENTS, "--harmful", files[0], "--benign", files[1], "--out", out),
    }
    done = steerkit(*options[command], status=130)
    assert "stopped: " in done.err
    assert shlex.join(["steerkit", *map(str, options[command])]) in done.err
    if command == "eval":
        assert f"0 finished arms stand in {out}; go on with" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("features", "find", "--positive", "none", "--negative", "none", "--at", "reply.start"),
        ("calibrate", "none", "--data", "none"),
    ],
)
def test_without_the_extra_one_line_names_it(
    steerkit: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Commands that need scikit-learn or scipy say so before they read a file; with them, the control, one is read."""
    assert "none" in steerkit(*arguments, status=1).err
    monkeypatch.setitem(sys.modules, "sklearn", None)
    (line,) = steerkit(*arguments, status=1).err.splitlines()
    assert "needs the extra 'lab': pip install -e '.[lab]'" in line
