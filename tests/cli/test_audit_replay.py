"""`steerkit audit replay` as people use it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store
from steerkit.cli.main import app
from steerkit.tiny.demo_requests import CASES, policy_files
from tests.cli.two_turns import two_turns


@pytest.fixture(scope="module")
def path(box: Runtime, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run of two turns: a denied call, and a turn that steering turned away."""
    return two_turns(box, tmp_path_factory.mktemp("replay") / "a.db")


def audit(*arguments: str | Path, status: int = 0) -> str:
    """What a command prints, in this process."""
    done = CliRunner().invoke(app, ["audit", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done.stdout


def test_a_run_is_made_again(path: Path) -> None:
    """By the number of its first record: a line per turn, and nothing that differs."""
    lines = audit("replay", "1", "--store", path).splitlines()
    assert len(lines) == 2
    assert all(line.startswith("ok ") and "the same" in line for line in lines)
    told = json.loads(audit("replay", "2", "--store", path, "--json"))
    assert (told["same"], told["tokens"], told["verdicts"], told["changed"]) == (True, True, True, [])


def test_json_has_what_was_made(path: Path) -> None:
    """The reply with its calls; with --alternatives the likeliest tokens at each step, the first of which it wrote."""
    record = Store(path, create=False).get("2").content
    plain = json.loads(audit("replay", "2", "--store", path, "--json"))
    assert (plain["report"], plain["how"], plain["alternatives"]) == ("replay", "again", [])
    assert (plain["made"]["reply_ids"], plain["made"]["calls"]) == (record["reply_ids"], record["calls"])
    assert set(plain["made"]["layers"]) == {f"attn_out.{layer}" for layer in range(4)}
    steps = json.loads(audit("replay", "2", "--store", path, "--json", "--alternatives", "3"))["alternatives"]
    assert [step[0]["id"] for step in steps] == record["reply_ids"]
    for step in steps:
        chances = [one["probability"] for one in step]
        assert len(step) == 3
        assert chances == sorted(chances, reverse=True)
        assert sum(chances) <= 1.000001
    without = json.loads(audit("replay", "3", "--store", path, "--json", "--without-steering"))
    assert (without["how"], without["made"]) == ("without steering", without["other"])


def test_turns_are_made_again_with_the_weights_laid_out_as_they_were(tmp_path: Path) -> None:
    """Turn by turn, of one store and one model: nothing has changed for any of them."""
    case, store = CASES[1], Store(tmp_path / "both.db")
    for wanted in (False, True, True, False):
        steerkit.load("tiny", audit=store, prepack=wanted).run(case.messages, case.tools)
    turns = [record.id for record in store.records() if record.content["kind"] == "turn"]
    told = [json.loads(line) for line in audit("replay", *turns, "--store", store.path, "--json").splitlines()]
    assert [(one["same"], one["changed"]) for one in told] == [(True, [])] * 4


def test_a_difference_is_told_with_its_cause_and_a_status(path: Path, tmp_path: Path) -> None:
    """A changed token, a changed policy, and what an older record does not say, in a line each; exit status 1."""
    store, forged = Store(path, create=False), tmp_path / "forged.db"
    record = store.get("3")
    body: dict[str, Any] = {**record.content, "policies": store.get("1").content["policies"]}
    body["reply_ids"][2] += 1
    body["policies"][0]["fingerprint"] = "sha256:0"
    for name in ("machine", "run", "number"):
        body.pop(name, None)
    Store(forged).append(body, store.trace_of(record))
    text = audit("replay", "1", "--store", forged, status=1)
    assert text.startswith("DIFFERS")
    assert "other tokens, the same verdicts" in text
    assert "first    reply_ids[2]: recorded" in text
    assert "likely   policies.payments: recorded sha256:0" in text
    assert "missing  the record does not say: libraries, machine" in text
    told = json.loads(audit("replay", "1", "--store", forged, "--json", status=1))
    assert (told["tokens"], told["difference"]["path"]) == (False, "reply_ids[2]")


def test_verdicts_are_judged_again_without_torch(path: Path) -> None:
    """In a process of its own, which ends without torch or a model; a full replay would load them."""
    code = "import sys; from steerkit.cli.main import app; app(sys.argv[1:], standalone_mode=False)"
    command = [sys.executable, "-c", f"{code}; print('torch' in sys.modules)"]
    command += ["audit", "replay", "1", "--verdicts", "--store", str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, torch = done.stdout.splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["the same verdicts (1)", "the same verdicts (0)"]
    assert torch == "False"


def test_what_would_have_been_is_shown_as_a_diff(path: Path) -> None:
    """Without steering the call is there; under the doors' policy alone as well, and nobody denies it."""
    text = audit("replay", "3", "--without-steering", "--store", path)
    assert '+ calls[0].name: "transfer_money"' in text
    assert "+ calls[0].arguments.amount: 740" in text
    assert "token 0 (call opens, replies part)" in text
    assert "KL 13" in text
    assert "DENY  payments/about-to-move-money" in text
    told = json.loads(audit("replay", "3", "--policy", policy_files()[3], "--store", path, "--json"))
    assert told["reproduced"]
    assert told["other"]["verdicts"][0]["decision"] == "allow"
    assert [policy["name"] for policy in told["other"]["policies"]] == ["people"]
    assert {node["kind"] for node in told["diff"]} == {"added"}
    assert told["moments"][0]["divergence"]["js"] > 0.9


def test_what_cannot_be_replayed_is_refused(path: Path) -> None:
    """Two questions at once, and a record that is no turn: one line each."""
    for arguments, said in (
        (["3", "--verdicts", "--without-steering"], "got several of --verdicts"),
        (["3", "--alternatives", "3"], "got --alternatives without --json"),
        (["4"], "is a run_closed; expected a turn"),
    ):
        done = CliRunner().invoke(app, ["audit", "replay", *arguments, "--store", str(path)])
        assert said in str(done.exception)
