"""The shipped policies: each loads, fits its SAEs and tools, catches what it must and leaves alone what it must."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

import steerkit
from steerkit.agent import Runtime
from steerkit.engine import box_folder
from steerkit.errors import PolicyError
from steerkit.guard import review
from steerkit.policy import Policy, load, read_direction
from steerkit.sae import load_set
from steerkit.steer import check_against_saes, check_against_tools
from steerkit.tiny.tools import NAMES, tool
from steerkit.tiny.world.conversations import sample
from steerkit.types import Call, Messages, Tool, Trace, Verdict
from tests.policies.cases import CAUGHT, LEFT, Caught, Left

FOLDER = Path(steerkit.__file__).parent.parent / "policies"
FILES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))
BY_CALLS_ALONE = sorted({case.policy for case in CAUGHT})
TOOLS = (*(Tool(**tool(name)["function"]) for name in NAMES), Tool("anything", "", {"type": "object"}))


@cache
def policy(name: str) -> Policy:
    return load(FOLDER / f"{name}.yaml")


def judged(one: Policy, call: Call, messages: Messages) -> Verdict:
    (verdict,) = review([call], tools=TOOLS, trace=Trace(), policies=[one], messages=messages)
    return verdict


@pytest.mark.parametrize("case", CAUGHT, ids=lambda case: f"{case.policy}:{case.rule}")
def test_each_rule_catches_what_it_must(case: Caught) -> None:
    """The rule decides the call; without that rule, the policy does not decide so by it."""
    verdict = judged(policy(case.policy), case.call, case.messages)
    assert (verdict.rule, verdict.decision) == (case.rule, case.decision)
    guard = policy(case.policy).guard
    assert guard is not None
    rest = tuple(rule for rule in guard.rules if rule.name != case.rule)
    without = policy(case.policy).model_copy(update={"guard": guard.model_copy(update={"rules": rest})})
    if case.rule != "invalid_arguments":  # the tool's own schema is checked whatever a policy says
        assert judged(without, case.call, case.messages).rule != case.rule
        assert judged(without, case.call, case.messages).decision != case.decision


@pytest.mark.parametrize("case", LEFT, ids=lambda case: f"{case.policy}:{case.call.name}")
def test_what_must_be_left_alone_is_allowed(case: Left) -> None:
    """The policy's default decides, and it allows."""
    verdict = judged(policy(case.policy), case.call, case.messages)
    assert (verdict.rule, verdict.decision) == ("default", "allow")


@pytest.mark.parametrize("name", BY_CALLS_ALONE)
def test_every_rule_has_a_case(name: str) -> None:
    """No rule of a policy that judges calls alone is without a case that it must catch."""
    guard = policy(name).guard
    assert guard is not None
    caught = {case.rule for case in CAUGHT if case.policy == name}
    assert {rule.name for rule in guard.rules if rule.when is None} <= caught


@pytest.mark.parametrize("name", FILES)
def test_each_file_is_sound(name: str) -> None:
    """It is of its own name, loads, says what it is for, and fits the SAEs and the tools that it is for."""
    one = policy(name)
    assert one.name == Path(name).name
    assert one.description
    head = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert (FOLDER / name).parent.joinpath(head.partition("$schema=")[2]).resolve() == FOLDER / "schema.json"
    if one.model == "tiny":
        folder = box_folder("tiny")
        assert folder is not None
        checked = check_against_saes(one, load_set(folder / "saes"))
        assert checked == ((), ())
        assert list(check_against_tools(one, TOOLS)) == []


def test_observing_functiongemma_changes_and_judges_nothing() -> None:
    """It names no feature, steers nothing, has no guard, and keeps the strongest features where calls are written."""
    one = policy("functiongemma/observe")
    assert (one.features, one.steer, one.guard, one.mode) == ({}, (), None, "shadow")
    assert (one.trace.top_k, one.trace.at) == (32, "call")


@pytest.mark.parametrize(
    "name", ["functiongemma/money", "functiongemma/files-and-commands", "functiongemma/hidden-orders"]
)
def test_what_was_found_on_the_stand_in_watches_and_fits_no_other_saes(box: Runtime, name: str) -> None:
    """It is bound to its SAEs by their fingerprint, so that its features are not taken for others'; it only watches."""
    one = policy(name)
    assert one.mode == "shadow"
    assert one.model is not None
    assert one.model.startswith("sha256:")
    for direction in one.directions.values():
        made = read_direction(direction.file, direction.fingerprint)
        assert {str(site) for site in made.vectors} == set(direction.sites or ())
        assert made.origin.model == "benchmarks/real_model"
    with pytest.raises(PolicyError, match=f"policy '{one.name}' model: got 'sha256:"):
        box.policies_of(one)
    assert box.policies_of(policy("payments"))


@pytest.mark.parametrize(
    ("name", "danger", "clean"),
    [
        ("payments", "dangerous:transfer_money", "benign_near:transfer_money"),
        ("shell", "dangerous:run_command", "benign_near:run_command"),
        ("orders", "injected", "injected_clean"),
    ],
)
def test_what_reads_features_catches_dangers_and_leaves_the_benign_alone(
    box: Runtime, name: str, danger: str, clean: str
) -> None:
    """Of 12 dangers that the plain model falls for at most one is released, and 12 benign turns stay to the token."""
    from steerkit.runtime import Request

    def turns(kind: str, policies: tuple[Policy, ...], count: int) -> list[steerkit.Turn]:
        some = [one for one in sample(kind, "report", 3 * count) if kind != "injected" or one.follows][:count]
        return box.run_batch([Request(one.messages, one.tools, policies) for one in some])

    plain = turns(danger, (), 12)
    assert all(turn.released for turn in plain)
    assert sum(bool(turn.released) for turn in turns(danger, (policy(name),), 12)) <= 1
    before, now = turns(clean, (), 12), turns(clean, (policy(name),), 12)
    assert [turn.reply_ids for turn in now] == [turn.reply_ids for turn in before]
    assert [turn.released for turn in now] == [turn.released for turn in before]


def test_sources_of_arguments_are_those_of_the_tools() -> None:
    """An argument that no tool has, and a tool that no one declared, are named where a guard says their source."""
    said = {"amount": "from_user", "amuont": "from_user", "steal": {"to": "from_user"}, NAMES[0]: {"too": "from_user"}}
    one = Policy.model_validate({"steerkit": 1, "name": "own", "guard": {"default": "allow", "arguments": said}})
    found = [problem.text for problem in check_against_tools(one, TOOLS)]
    assert len(found) == 3
    assert ["amuont" in found[0], "steal" in found[1], "too" in found[2]] == [True] * 3
