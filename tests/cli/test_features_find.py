"""`steerkit features find` as people use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from steerkit.cli.main import run
from steerkit.policy import load
from steerkit.tiny.conversations import sample


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
    policy = tmp_path / "money.yaml"
    sets = ("--positive", files[0], "--negative", files[1])
    more = ("--top", "3", "--most", "2", "--causal", "--candidates", "4", "--write", policy)
    done = steerkit("features", "find", *sets, *more, "--json")
    found = json.loads(done.out)
    assert found["place"] == "reply.start"
    assert found["held_out"] == [10, 10]
    assert found["features"][0]["measured"]["auroc"] > 0.95
    assert set(found["features"][0]["measured"]["recall"]) == {"hits", "count", "share", "interval"}
    assert {one["verdict"] for one in found["causal"]["candidates"]} <= {"causes", "opposes", "only correlates"}
    assert len(found["causal"]["candidates"]) == 4
    assert "ok:" in steerkit("policy", "check", policy, "--model", "tiny").out
    assert "mode: shadow" in policy.read_text()
    turned = found["turned"]
    assert turned["proven"]
    assert turned["turned"]["share"] == 1
    assert turned["turned_random"]["share"] == 0
    (rule,) = load(policy).steer
    assert {name: edit.clamp for name, edit in rule.edit.items()} == {
        f"l{one['layer']}_{one['index']}": pytest.approx(one["value"], rel=1e-4) for one in turned["edits"]
    }
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
    ):
        done = steerkit(*sets, *options, status=1)
        assert said in done.err
        assert done.err.count("\n") == 1
