"""`steerkit policy` as people use it: mistakes against the model, the SAEs and the tools, and what explains a file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from steerkit.cli.policy import app
from steerkit.engine import box_folder
from steerkit.errors import PolicyError, SteerkitError
from steerkit.policy import schema_text
from steerkit.sae import load_set
from steerkit.steer import check_against_saes
from steerkit.testing import planted_policy, planted_saes, small_model
from tests.cli.test_commands import steerkit
from tests.policy.example import GOOD

SAES = Path(str(box_folder("tiny"))) / "saes"
TOOL = {"name": "pay", "parameters": {"type": "object", "properties": {"amount": {"type": "integer"}, "to": {}}}}
POLICY = """\
steerkit: 1
name: mine
model: tiny
features:
  low: {layer: 1, index: 5}
  high: {layer: 3, index: 5}
steer:
  - name: s
    when: {feature: low, above: 0.5 max}
    where: call.arguments.to
    edit: {high: {clamp: 0}}
guard:
  default: deny
  rules:
    - name: r
      tool: pay
      arguments: {required: [amount], properties: {amount: {maximum: 3}}}
      after: {tool: pay, arguments: {required: [to]}}
      when: {feature: high, above: 0.5, at: call.arguments.amount}
      then: allow
"""


def check(text: str, folder: Path, *options: str | Path) -> tuple[list[str], list[str]]:
    """Errors and warnings of one file, without the folder."""
    file = folder / "p.yaml"
    file.write_text(text)
    done = CliRunner().invoke(app, ["check", str(file), *map(str, options)])
    assert done.exception is None or isinstance(done.exception, (PolicyError, SystemExit)), done.exception
    errors = done.exception.problems if isinstance(done.exception, PolicyError) else []
    assert (f"ok: {file}" in done.output) is not bool(errors)
    warnings = [line for line in done.output.splitlines() if line.startswith("warning: ")]
    return [line.removeprefix(f"{file}:") for line in errors], warnings


def test_a_right_policy_is_ok_against_everything(tmp_path: Path) -> None:
    """With the model, its SAEs and the tools it was written for nothing is said of it."""
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    for options in ([], ["--model", "tiny"], ["--saes", SAES], ["--model", "tiny", "--saes", SAES]):
        assert check(POLICY, tmp_path, *options, "--tools", tmp_path / "tools.json") == ([], [])


AGAINST_THE_BOX = {
    "feature outside": ("layer: 1, index: 5", "layer: 1, index: 99999", "5 features.low.index: ", "no feature 99999"),
    "layer without an SAE": (
        "layer: 3, index: 5",
        "layer: 9, index: 5",
        "6 features.high.layer: ",
        "no SAE for layer 9",
    ),
    "another model": ("model: tiny", "model: other", "3 model: ", "got 'other', expected 'tiny'"),
    "self-contradiction": (
        "{feature: low, above: 0.5 max}",
        "{all: [{feature: low, above: 3}, {feature: low, below: 2}]}",
        "9 steer[0].when: ",
        "can never open",
    ),
    "bounds crossed once raw": (
        "above: 0.5 max}",
        "above: 50 max, below: 0.001}",
        "9 steer[0].when: ",
        "to be less than below",
    ),
    "late gate": (
        "when: {feature: low, above: 0.5 max}\n    where: call.arguments.to\n    edit: {high",
        "when: {feature: high, above: 0.5 max}\n    where: prompt\n    edit: {low",
        "10 steer[0].where: ",
        "an edit at layer 1 behind a gate at layer 3; such a gate acts from the next token on",
    ),
}


@pytest.mark.parametrize("case", AGAINST_THE_BOX)
def test_mistakes_against_the_model_have_their_line(case: str, tmp_path: Path) -> None:
    """Each alone in a file that is right without it."""
    old, new, start, says = AGAINST_THE_BOX[case]
    assert old in POLICY
    (error,) = check(POLICY.replace(old, new), tmp_path, "--model", "tiny")[0]
    assert error.startswith(start)
    assert says in error


AGAINST_THE_TOOLS = {
    "tool": (
        "      tool: pay\n      arg",
        "      tool: play\n      arg",
        "16 guard.rules[0].tool: ",
        "did you mean 'pay'?",
    ),
    "argument": (
        "{amount: {maximum",
        "{amont: {maximum",
        "17 guard.rules[0].arguments.properties.amont: ",
        "'amount'?",
    ),
    "earlier tool": ("after: {tool: pay", "after: {tool: read", "18 guard.rules[0].after.tool: ", "no one declared"),
    "earlier argument": (
        "required: [to]",
        "required: [two]",
        "18 guard.rules[0].after.arguments.required[0]: ",
        "'to'?",
    ),
    "place of evidence": (
        "at: call.arguments.amount",
        "at: call.arguments.x",
        "19 guard.rules[0].when.at: ",
        "got 'x'",
    ),
    "place of a rule": ("where: call.arguments.to", "where: call.arguments.x", "10 steer[0].where: ", "got 'x'"),
}


@pytest.mark.parametrize("case", AGAINST_THE_TOOLS)
def test_mistakes_against_the_tools_have_their_line(case: str, tmp_path: Path) -> None:
    """Found with the tools' file, and not without it."""
    (tmp_path / "tools.json").write_text(json.dumps([TOOL]))
    old, new, start, says = AGAINST_THE_TOOLS[case]
    assert old in POLICY
    text = POLICY.replace(old, new)
    said = check(text, tmp_path, "--tools", tmp_path / "tools.json")[0]
    named = [error for error in said if error.startswith(start)]
    assert len(named) == 1, said
    assert says in named[0]
    assert check(text, tmp_path)[0] == []


def test_a_model_that_is_no_box_needs_its_saes(tmp_path: Path) -> None:
    """A hub name is compared with the policy's; without SAEs it is said that features are not checked."""
    text = POLICY.replace("model: tiny", "model: owner/model")
    errors, warnings = check(text, tmp_path, "--model", "owner/model")
    assert errors == []
    assert warnings == ["warning: features are not checked; give the SAEs of owner/model with --saes"]
    assert check(text, tmp_path, "--model", "owner/model", "--saes", SAES) == ([], [])
    (error,) = check(text, tmp_path, "--model", "owner/other")[0]
    assert "got 'owner/model', expected 'owner/other'" in error
    done = CliRunner().invoke(app, ["check", str(tmp_path / "p.yaml"), "--model", "./none"])
    assert isinstance(done.exception, SteerkitError)
    assert "no such folder" in str(done.exception)
    assert check(text, tmp_path, "--model", str(SAES.parent), "--saes", SAES)[0] != []


def test_a_fingerprint_is_compared_with_the_saes(tmp_path: Path) -> None:
    """The SAE set's own is right; of any other it is said that it is not the SAEs'."""
    own = POLICY.replace("model: tiny", f"model: {load_set(SAES).fingerprint}")
    assert check(own, tmp_path, "--saes", SAES) == ([], [])
    errors, (warning,) = check(POLICY.replace("model: tiny", "model: sha256:00"), tmp_path, "--saes", SAES)
    assert errors == []
    assert "not the SAEs' fingerprint" in warning


def test_units_need_statistics(tmp_path: Path) -> None:
    """SAEs without `stats.safetensors` take raw values; a multiple is named with its place."""
    for path in SAES.glob("*.pt"):
        shutil.copy(path, tmp_path / path.name)
    (error,) = check(POLICY, tmp_path, "--saes", tmp_path)[0]
    assert error.startswith("9 steer[0].when.above: got '0.5 max'; ")
    assert "no statistic 'max' for layer 1" in error
    assert check(POLICY.replace("0.5 max", "0.5"), tmp_path, "--saes", tmp_path)[0] == []


def test_dense_layers_and_dead_features_are_warnings() -> None:
    """Over a quarter of the dictionary on average, by the calibration's densities; and multiples of a zero."""
    saes = planted_saes(small_model())
    steer = [{"name": "r", "where": "any", "edit": {"f": {"clamp": "2 max"}}}]
    policy = planted_policy("p", {"f": (1, 3)}, steer=steer)
    table = saes._statistics["layer_01.density"]
    for share, count in ((0.24, 0), (0.26, 1)):
        table.fill_(share)
        found = check_against_saes(policy, saes)
        assert found.problems == ()
        assert [warning.path for warning in found.warnings] == ["features.f.layer"] * count
    table.fill_(0.1)
    saes._statistics["layer_01.max"][3] = 0
    (warning,) = check_against_saes(policy, saes).warnings
    assert (warning.path, "which is 0" in warning.text) == ("steer[0].edit.f.clamp", True)


def test_warnings_do_not_fail_and_mistakes_do(tmp_path: Path) -> None:
    """In processes of their own: a doubtful file exits with 0, a wrong one with 1, one line each, on stderr."""
    doubtful, wrong = tmp_path / "doubtful.yaml", tmp_path / "wrong.yaml"
    doubtful.write_text(GOOD)
    wrong.write_text(GOOD.replace("then: hold", "then: hod"))
    done = steerkit("policy", "check", doubtful, home=tmp_path)
    assert done.stdout == f"ok: {doubtful}\n"
    assert done.stderr.startswith(f"warning: {doubtful}:35 guard.rules[0].then: ")
    done = steerkit("policy", "check", doubtful, wrong, home=tmp_path, status=1)
    (error,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    assert error.startswith(f"error: {wrong}:39 guard.rules[1].then: got 'hod', expected")


def test_schema_and_explain_print_what_the_room_says(tmp_path: Path) -> None:
    """The schema is the file's; two files are explained one after the other."""
    assert CliRunner().invoke(app, ["schema"]).output == schema_text()
    for name in ("a", "b"):
        (tmp_path / name).write_text(POLICY.replace("name: mine", f"name: {name}"))
    lines = CliRunner().invoke(app, ["explain", str(tmp_path / "a"), str(tmp_path / "b")]).output.splitlines()
    assert (lines[0], lines[len(lines) // 2 :][:2]) == ("a", ["", "b"])
