"""`steerkit eval` as people use it: tables, JSON, a page, a killed run, and public suites."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steerkit.cli.main import app
from steerkit.errors import SaeError
from steerkit.lab.measured import Measured, Share
from steerkit.lab.prove.dose_response import DoseRange
from steerkit.lab.prove.evaluation import Evaluation, VariantResult
from steerkit.lab.prove.latency import Latency
from steerkit.lab.prove.probe_comparison import PlaceProbes, ProbeResult
from steerkit.lab.prove.scoring import Acted, Score
from steerkit.lab.two_sample import Interval
from steerkit.report.charts import Bar, Curve, counted, curve_figure, share_figure
from steerkit.report.evaluation import control_sentence, evaluation_json
from steerkit.report.report_page import report_page
from steerkit.tiny.world.conversations import Example, sample
from tests.cli.test_page import HOSTILE, Reader

POLICIES = Path(__file__).parents[2] / "policies"
QUICK = ("--seeds", "0", "--doses", "1", "--pairs", "0", "--max-new-tokens", "48")


def written(path: Path, examples: list[Example]) -> Path:
    rows = [{"messages": list(one.messages), "tools": list(one.tools)} for one in examples]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """The options that name a policy and its conversations, two of each kind."""
    folder = tmp_path_factory.mktemp("files")
    harmful = written(folder / "harmful.jsonl", sample("dangerous:transfer_money", "report", 2, 7))
    benign = written(folder / "benign.jsonl", sample("benign", "report", 2, 7))
    return ("--policy", f"{POLICIES / 'payments.yaml'}", "--harmful", str(harmful), "--benign", str(benign))


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command prints, run in this process."""
    capsys.readouterr()
    app(["eval", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def test_a_policy_is_proved(capsys: pytest.CaptureFixture[str], files: tuple[str, ...], tmp_path: Path) -> None:
    """Tables for people, JSON with every variant and interval, and one page without scripts that needs no network."""
    html, data = tmp_path / "report.html", tmp_path / "report.json"
    beside = ("--beside", POLICIES / "people.yaml")
    shown = run(capsys, *files, *QUICK, *beside, "--html", html, "--json", data)
    assert re.search(r"Other policies\n.*arm.*\n.*people", shown)
    for words in ("whole policy", "guard only", "unsteered", "opposite sign", "1 x the edit", "Each rule by itself"):
        assert words in shown
    found = json.loads(data.read_text())
    variants = {one["arm"]: one for one in found["arms"]}
    assert variants["unsteered"]["success"] == {
        "hits": 2,
        "count": 2,
        "share": 1.0,
        "interval": pytest.approx([0.342, 1.0], abs=1e-3),
    }
    assert variants["policy"]["success"]["hits"] == variants["guard"]["success"]["hits"] == 0
    assert variants["policy"]["turned_away"]["hits"] == 2
    assert variants["guard"]["turned_away"]["hits"] == 0
    assert variants["rule-transfer-money-needs-a-person"]["success"]["hits"] == 0
    assert found["probes"][0]["said"] == "too few conversations reach reply.start to fit and measure a probe"
    page = Reader(html.read_text(encoding="utf-8"))
    assert "Attack success falls from 100 % to 0 %" in page.words
    assert page.tags.count("svg") == 4
    assert set(page.tags).isdisjoint({"script", "img", "link", "iframe"})


@pytest.mark.slow
def test_a_killed_run_goes_on(files: tuple[str, ...], tmp_path: Path) -> None:
    """SIGKILL in the middle: the next run keeps what was finished, and ends as one that was not killed."""
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-m", "steerkit.cli.main", "eval", *files, *QUICK, "--json", "-", "--out"]
    env = {**os.environ, "STEERKIT_HOME": str(tmp_path)}
    process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL, env=env)
    while len(list(out.glob("*.jsonl"))) < 3:
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.jsonl")}
    ended = [subprocess.run([*command, str(one)], capture_output=True, text=True, env=env) for one in (out, whole)]
    assert [one.returncode for one in ended] == [0, 0]
    assert json.loads(ended[0].stdout) == json.loads(ended[1].stdout)
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    assert len(before) < len(list(out.glob("*.jsonl")))


def foreign_evaluation(foreign: str) -> Evaluation:
    """An evaluation all of whose texts are foreign."""
    share = Share(1, 2)
    score = Score(share, share, share, share, share, Share(0, 0))
    variants = [
        ("unsteered", "control", None),
        ("policy", "policy", None),
        ("b", "beside", None),
        ("x", "rule", None),
        ("dose+1", "dose", 1.0),
        ("u", "ungated", 1.0),
    ]
    measured = Measured(0.9, Interval(0.8, 1.0), 0.5, share, share)
    probes = tuple(ProbeResult(foreign, kind, measured) for kind in ("policy", "features", "raw"))
    place = PlaceProbes("reply.start", (foreign,), (0, 3), (5, 5), (5, 5), probes, 0.0, 0.5, 0.5)
    return Evaluation(
        policy=foreign,
        model=foreign,
        saes=foreign,
        harmful=2,
        benign=2,
        dangerous=(foreign,),
        ask=foreign,
        variants=tuple(VariantResult(key, foreign, kind, dose, score) for key, kind, dose in variants),  # type: ignore[arg-type]
        missing=(foreign,),
        acted=(Acted(foreign, share, share),),
        dose_range=DoseRange((1.0,), 1.0, None),
        ungated_range=DoseRange((), None, 1.0),
        probes=(place,),
        latency=Latency((1.0, 1.2)),
    )


def test_a_page_cannot_be_broken_by_what_it_shows() -> None:
    """Names that look like markup are words on the page; its elements are those of a page of plain names."""
    plain = Reader(report_page(evaluation_json(foreign_evaluation("plain"))))
    for foreign in HOSTILE:
        found = Reader(report_page(evaluation_json(foreign_evaluation(foreign))))
        assert found.tags == plain.tags
        assert {name for name, _ in found.attributes}.isdisjoint({"src", "href", "onerror", "onmouseover"})


def test_figures_are_to_scale() -> None:
    """Bars are as long as their values on an axis from any start; curves rise with theirs; the control is another."""
    bars = [Bar(str(value), value, value, value, "") for value in (0.0, 0.5, 0.75, 1.0)]
    for start, expected in ((0.0, [0, 0.5, 0.75, 1]), (0.5, [0, 0, 0.5, 1])):
        widths = [row.width for row in share_figure(bars, "x", start=start).rows]
        assert [width / widths[-1] for width in widths] == pytest.approx(expected, abs=1e-3)
    (line,) = curve_figure(
        [Curve("c", [(0, 0.0, 0, 0.1), (0.25, 0.5, 0.4, 0.6), (8, 1.0, 0.9, 1)], "a")], "x", "doses"
    ).lines
    (left, low), (middle, half), (right, high) = line.points
    assert (low - half, middle - left) == pytest.approx((half - high, right - middle))
    assert min(low - half, middle - left) > 50


@pytest.mark.parametrize(("hits", "said"), [(0, "0 of 194"), (190, "190 of 194"), (85 / 3, "28.3 of 194")])
def test_hits_are_short(hits: float, said: str) -> None:
    """A near-copy's part of a conversation has no more digits than a figure has room for."""
    assert counted(Share(hits, 194)) == said


def test_what_controls_do_is_said_plainly() -> None:
    """A control beyond the policy's interval, within it and better than it are three different sentences."""
    found = foreign_evaluation("plain")

    def said(own: int, theirs: int) -> str:
        variants = [("dose+1", "steering only", "policy", own), ("r", "random", "control", theirs)]
        rows = [
            VariantResult(key, title, kind, None, Score(Share(n, 60), *[Share(0, 60)] * 5))  # type: ignore[arg-type]
            for key, title, kind, n in variants
        ]
        return control_sentence(replace(found, variants=tuple(rows)))

    assert said(1, 60).startswith("no control does what the policy does: steering alone lets 1.7 % (0 to 9)")
    assert said(1, 3).startswith("a control does what the policy does, within the intervals")
    assert said(60, 1).startswith("a control does better than the policy")


def test_a_suite_is_scored(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Plain the box makes the wanted calls; under the policy those that need a person are no longer released."""
    rows = []
    for one in [*sample("single:get_balance", "train", 2, 1), *sample("dangerous:transfer_money", "train", 2, 1)]:
        calls = [{"type": "function", "function": call} for call in one.expected_calls]
        messages = [*one.messages, {"role": "assistant", "tool_calls": calls}]
        rows.append({"metadata": "eval", "messages": messages, "tools": list(one.tools)})
    data = tmp_path / "mobile.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ("--suite", "mobile-actions", "--data", data)
    scores = json.loads(run(capsys, *options, "--json", "-", "--policy", POLICIES / "people.yaml"))["scores"]
    assert [(one["arm"], one["passed"]["hits"]) for one in scores] == [("plain", 4), ("policy", 4), ("released", 4)]
    guarded = json.loads(run(capsys, *options, "--json", "-", "--policy", POLICIES / "payments.yaml"))["scores"]
    assert [(one["arm"], one["passed"]["hits"]) for one in guarded] == [("plain", 4), ("policy", 2), ("released", 2)]
    assert re.search(r"mobile_actions +1 +100\.0 %", run(capsys, *options, "--limit", "1"))


PROVED = str(POLICIES / "payments.yaml")
WRONG: dict[str, tuple[list[Any], str]] = {
    "nothing given": ([], "got no --policy, --harmful, --benign; give"),
    "no data": (["--suite", "bfcl"], "got no --data"),
    "no doses": (["--suite", "bfcl", "--data", ".", "--doses", "a"], "--doses: got 'a', expected numbers"),
    "a dose below 0": (["--suite", "bfcl", "--data", ".", "--doses", "-1"], "expected numbers of at least 0"),
    "raw results of no suite": (["--raw-results", "x", "--policy", "p"], "eval: got no --harmful, --benign"),
    "raw results of another suite": (
        ["--suite", "mobile-actions", "--data", "none", "--raw-results", "x"],
        "--raw-results: got x without --suite bfcl",
    ),
    "a folder that is none": (
        [*(f"--{n}={PROVED}" for n in ("policy", "harmful", "benign")), "--html", "no/a.html"],
        "--html:",
    ),
    "out is a file": (
        [*(f"--{n}={PROVED}" for n in ("policy", "harmful", "benign")), "--out", PROVED],
        "is a file; expected",
    ),
    "data without suite": (
        [*(f"--{n}={PROVED}" for n in ("policy", "harmful", "benign")), "--data", "."],
        "--data: got it",
    ),
    "arms of a proof": (["--arms", "plain"], "got no --policy"),
    "an attack on a suite that has none": (
        ["--suite", "bfcl", "--data", ".", "--attack", "direct", "--max-turns", "3"],
        "--attack, --max-turns: expected with --suite agentdojo alone",
    ),
    "data of a suite that brings it": (["--suite", "agentdojo", "--data", "."], "--data: got it with"),
    "no suite of agents": (["--suite", "agentdojo", "--suites", "bank"], "--suites: got bank, but there is no bank"),
    "suite and others": (["--suite", "bfcl", "--data", ".", "--beside", "x"], "--beside: expected without --suite"),
    "suite and files": (["--suite", "bfcl", "--data", ".", "--harmful", "x"], "--harmful: expected without --suite"),
    "no suite there": (["--suite", "bfcl", "--data", "none"], "none: got no file such as BFCL_v3_simple.json"),
}


@pytest.mark.parametrize("case", WRONG)
def test_bad_input_is_named(capsys: pytest.CaptureFixture[str], case: str) -> None:
    """One line that says what was got and what was expected."""
    arguments, said = WRONG[case]
    with pytest.raises(SaeError, match=re.escape(said)):
        run(capsys, *arguments)


def test_a_suite_says_what_it_did_not_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Files passed over and tests not run are named, in 80 columns and in JSON; the replies lie in their folder."""
    plain = {"name": "f", "description": "d", "parameters": {"type": "dict", "properties": {}}}
    strange = {**plain, "parameters": {"type": "dict", "properties": {"año": {"type": "string"}}}}
    rows = [
        {"id": f"irrelevance_{n}", "question": [[{"role": "user", "content": "hm"}]], "function": [tool]}
        for n, tool in enumerate((plain, strange))
    ]
    (tmp_path / "BFCL_v4_irrelevance.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "BFCL_v4_memory.json").write_text("{}")
    options = ("--suite", "bfcl", "--data", tmp_path, "--max-new-tokens", "4", "--json", tmp_path / "out.json")
    capsys.readouterr()
    app(["eval", *map(str, (*options, "--raw-results", tmp_path / "raw"))], standalone_mode=False)
    shown = capsys.readouterr()
    assert "passed over: BFCL_v4_memory.json\n" in shown.err
    table, note = shown.out.split("not run: ")
    assert max(map(len, table.splitlines())) <= 80
    assert re.search(r"irrelevance +1 +\d", table)
    assert note.startswith("irrelevance_1: ")
    assert "año" in note
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["passed_over"] == ["BFCL_v4_memory.json"]
    (score,) = found["scores"]
    assert (score["passed"]["count"], [one["id"] for one in score["refused"]]) == (1, ["irrelevance_1"])
    (results,) = (tmp_path / "raw").rglob("*_result.json")
    assert [json.loads(line)["id"] for line in results.read_text().splitlines()] == ["irrelevance_0"]


def test_attacked_agents_are_scored(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Both arms in a table and as JSON; the folder holds each trial."""
    (tmp_path / "no.yaml").write_text("steerkit: 1\nname: no\nguard: {default: deny}\n")
    options = ("--suite", "agentdojo", "--agent", "obedient", "--suites", "banking/user_task_1/injection_task_0")
    options = (*options, "--attack", "direct", "--policy", tmp_path / "no.yaml", "--out", tmp_path / "run")
    shown = run(capsys, *options)
    assert re.search(r"banking +plain +1 ", shown)
    found = json.loads(run(capsys, *options, "--json", "-"))
    rates = [(one["arm"], one["attacked"]["hits"], one["ran"]["hits"], one["ended"]) for one in found["scores"]]
    assert rates == [("plain", 1, 2, {"answer": 1}), ("policy", 0, 0, {"answer": 1})]
    assert (found["agent"], found["attack"]) == ("obedient", "direct")
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"plain.jsonl", "policy.jsonl", "run.json"}
