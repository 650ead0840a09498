"""A policy against cases: what holds, what fails and how it is said, and files that are wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steerkit.errors import PolicyError, ToolError
from steerkit.guard import check_cases
from steerkit.policy import Cases, Policy, load, load_cases, loads, shipped_file

SHIPPED = shipped_file("flows").with_name("flows.cases.yml")
READING = """\
steerkit: 1
name: p
features: {f: {layer: 0, index: 1}}
probes: {risk: {weights: {f: 1.0}}}
guard:
  default: allow
  rules:
    - {name: opened, when: {probe: risk, above: 1, at: call.open}, then: deny}
    - {name: read, when: {feature: f, above: 1, at: tool_result}, then: hold}
    - {name: mean, when: {feature: f, above: 1, mean_over: 2, at: call}, then: flag}
"""


def cases(*calls: dict[str, Any], **more: Any) -> Cases:
    """One case of a file."""
    top = {key: more.pop(key) for key in ("tools",) if key in more}
    return Cases.model_validate({**top, "cases": [{"name": "c", "calls": calls, **more}]})


def decided(policy: Policy, *calls: dict[str, Any], **more: Any) -> list[str]:
    given = ({"expect": "none", **call} for call in calls)
    return [one.verdict.decision for one in check_cases(policy, cases(*given, **more))]


def test_the_shipped_cases_hold() -> None:
    """And each fails under a policy without rules, unless it expects what the default says."""
    flows, read = load("flows"), load_cases(SHIPPED)
    assert all(one.holds for one in check_cases(flows, read))
    assert flows.guard is not None
    bare = flows.model_copy(update={"guard": flows.guard.model_copy(update={"rules": ()})})
    assert [one.expected == "allow" for one in check_cases(bare, read)] == [
        one.holds for one in check_cases(bare, read)
    ]
    named = {call.rule for case in read.cases for call in case.calls}
    assert {rule.name for rule in flows.guard.rules} <= named


VALUES: list[tuple[dict[str, Any], str]] = [
    ({"risk": 0, "f": 0}, "allow"),
    ({"risk": 2, "f": 0}, "deny"),
    ({"risk": {"call.open": 2}, "f": 0}, "deny"),
    ({"risk": {"call.name": 2, "call.open": 0}, "f": 0}, "allow"),
    ({"risk": {"call.arguments": 2}, "f": 0}, "allow"),
    ({"risk": {"any": 2, "call.open": 0}, "f": 0}, "allow"),
    ({"risk": {"call.open": 0, "any": 2}, "f": 0}, "allow"),
    ({"risk": 0, "f": {"tool_result": 2}}, "hold"),
    ({"risk": 0, "f": {"prompt": 2}}, "hold"),
    ({"risk": 0, "f": {"user": 2}}, "allow"),
    ({"risk": 0, "f": {"call": 2}}, "flag"),
    ({"risk": -5, "f": {"call.arguments.a": 5}}, "flag"),
]


@pytest.mark.parametrize(("values", "decision"), VALUES, ids=lambda part: str(part))
def test_values_stand_where_they_are_said_to(values: dict[str, Any], decision: str) -> None:
    """At every token, or by place; a narrower place stands over a wider one in any order."""
    assert decided(loads(READING), {"tool": "t", "arguments": {"a": 1}}, values=values) == [decision]


def test_history_and_messages_are_what_came_before() -> None:
    """A call that ran, one that was denied, one without an answer; the same in OpenAI's form."""
    flows, drop = load("flows"), {"tool": "delete_file"}
    look = {"tool": "list_files"}
    assert decided(flows, drop) == ["hold"]
    assert decided(flows, drop, history=[{**look, "result": {}}]) == ["allow"]
    assert decided(flows, drop, history=[{**look, "result": "text"}]) == ["allow"]
    assert decided(flows, drop, history=[{**look, "denied": True}]) == decided(flows, drop, history=[look]) == ["hold"]
    message = {"role": "tool", "name": "list_files", "content": "{}"}
    assert decided(flows, drop, messages=[message]) == ["allow"]
    assert decided(flows, {"tool": "list_files"}, drop) == ["allow", "allow"]


def test_tools_are_checked_where_they_are_given(tmp_path: Path) -> None:
    """In the file, in one beside it, or by the caller; without them any call fits."""
    pay = {"name": "pay", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
    call, flows = {"tool": "pay", "arguments": {"a": "x"}}, load("flows")
    assert decided(flows, call) == ["allow"]
    assert decided(flows, call, tools=[pay]) == ["deny"]
    (tmp_path / "tools.json").write_text(json.dumps([pay]))
    file = tmp_path / "c.yml"
    file.write_text("tools: tools.json\ncases: [{name: c, calls: [{tool: pay, arguments: {a: x}, expect: deny}]}]\n")
    assert all(one.holds for one in check_cases(flows, load_cases(file)))
    with pytest.raises(ToolError):
        decided(flows, call, tools=[{"nothing": 1}])


def test_what_cannot_be_checked_is_said() -> None:
    """Values that lack, values too many, no guard, relative bounds, two histories; a shadow policy is enforced."""
    reading, call = loads(READING), {"tool": "t", "expect": "deny"}
    for policy, more, says in (
        (reading, {}, "no value of 'risk'"),
        (reading, {"values": {"risk": 1, "f": 1, "g": 1}}, "got 'g', expected what the guard reads: risk, f"),
        (load("flows"), {"values": {"g": 1}}, "reads: nothing"),
        (loads("steerkit: 1\nname: x\n"), {}, "got no guard"),
        (loads(READING.replace("above: 1, at: tool", "above: 1 max, at: tool")), {}, "give its SAEs"),
        (load("flows"), {"history": [{"tool": "t"}], "messages": [{"role": "user", "content": ""}]}, "one of them"),
    ):
        with pytest.raises(PolicyError, match=says):
            check_cases(policy, cases(call, **more))
    shadow = loads(READING + "mode: shadow\n")
    assert check_cases(shadow, cases(call, values={"risk": 2, "f": 0}))[0].holds


WRONG = {
    "cases: []\n": "1 cases: got a list",
    "tools: 1\ncases: [{name: a, calls: [{tool: t, expect: allow}]}]\n": "1 tools",
    "cases:\n  - {name: a, calls: [{tool: t, expct: allow}]}\n": "2 cases[0].calls[0].expct: got an unknown key",
    "cases:\n  - {name: a, calls: [{tool: t, expect: maybe}]}\n": "2 cases[0].calls[0].expect: got 'maybe'",
    "cases:\n  - {name: a, calls: []}\n": "2 cases[0].calls: got a list",
    "cases:\n  - {calls: [{tool: t, expect: deny}]}\n": "2 cases[0]: got no 'name'",
    "values: {a: x}\ncases: [{name: a, calls: [{tool: t, expect: deny}]}]\n": "1 values.a",
    "values: {a: {nowhere: 1}}\ncases: [{name: a, calls: [{tool: t, expect: deny}]}]\n": "1 values.a",
    "[1]": "1 got no mapping, expected cases: [",
    "cases: {": "not YAML",
    "tools: none.json\ncases: [{name: a, calls: [{tool: t, expect: deny}]}]\n": "no such file; expected tools (JSON)",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_gets_its_mistakes_named(text: str, tmp_path: Path) -> None:
    """With line and path."""
    file = tmp_path / "c.yml"
    file.write_text(text)
    with pytest.raises(PolicyError) as refusal:
        load_cases(file)
    assert WRONG[text] in str(refusal.value)


def test_the_command_has_an_exit_code_and_a_line_for_each_failure(tmp_path: Path) -> None:
    """Without torch; 0 where all is as expected, else 1; `--json` says every verdict."""
    bad = tmp_path / "bad.yml"
    bad.write_text(SHIPPED.read_text().replace("expect: flag", "expect: deny"))

    def run(*options: str | Path) -> subprocess.CompletedProcess[str]:
        code = "import sys\nfrom steerkit.cli.main import run\ntry: run()\nfinally: assert 'torch' not in sys.modules"
        command = [sys.executable, "-c", code, "policy", "test", "flows", "--cases", *map(str, options)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    good, wrong, told = run(SHIPPED), run(bad), run(bad, "--json")
    assert (good.returncode, good.stdout, good.stderr) == (0, "11 of 11 verdicts are as expected: flows\n", "")
    assert (wrong.returncode, wrong.stderr) == (1, "10 of 11 verdicts are as expected: flows\n")
    (line,) = wrong.stdout.splitlines()
    assert "calls[0] unlock_door: expected deny by no-door-that-was-not-checked, got flag by no-door" in line
    lines = [json.loads(one) for one in told.stdout.splitlines()]
    assert told.returncode == 1
    assert [one["got"]["decision"] for one in lines if not one["holds"]] == ["flag"]
    assert len(lines) == 11
