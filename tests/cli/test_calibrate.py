"""`steerkit calibrate`: bounds from conversations and from the store of a shadow run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import steerkit
from steerkit.cli.main import app
from steerkit.errors import PolicyError, SaeError
from steerkit.lab.policy_readings import placed_readings
from steerkit.lab.thresholds import calibrate, value_of, watching, with_bounds
from steerkit.policy import Policy, dump, load, loads
from steerkit.runtime import Runtime
from steerkit.steer import compile_plan
from steerkit.tiny.conversations import sample
from steerkit.types import Span, Trace
from tests.cli.test_eval import written

PAYMENTS = Path(__file__).parents[2] / "policies" / "payments.yaml"
FEATURES = {"f": {"layer": 0, "index": 1}, "g": {"layer": 1, "index": 2}}


def policy_of(when: dict[str, Any], **more: Any) -> Policy:
    rule = {"name": "r", "when": when, "where": "reply.start", "edit": {"g": {"ablate": True}}, **more}
    return Policy.model_validate({"steerkit": 1, "name": "p", "features": FEATURES, "steer": [rule]})


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """What a command prints, run in this process."""
    capsys.readouterr()
    app(["calibrate", *map(str, arguments)], standalone_mode=False)
    return capsys.readouterr().out


def trace(*values: float) -> Trace:
    """One feature at the steps 10, 11, …, all of them at `user`, the last at `reply.start` too."""
    end = 10 + len(values)
    return Trace(10, {"p.f": values}, places={"user": (Span(10, end),), "reply.start": (Span(end - 1, end),)})


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ({"feature": "f", "above": 1, "at": "user"}, 5.0),
        ({"feature": "f", "above": 1}, 2.0),
        ({"feature": "f", "below": 1, "at": "user"}, 1.0),
        ({"feature": "f", "above": 1, "at": "user", "mean_over": 2}, 3.5),
        ({"feature": "f", "above": 1, "at": "user", "max_over": 3}, 5.0),
        ({"feature": "f", "above": 1, "at": "tool_result"}, None),
    ],
)
def test_a_conversation_comes_to_one_value(when: dict[str, Any], expected: float | None) -> None:
    """The largest at the place, or its window's mean; the smallest for what must be below; none without a token."""
    policy = policy_of(when, **({"for": "turn"} if when.get("at") else {}))
    (one,) = placed_readings(policy)
    assert value_of(policy, one, trace(1.0, 5.0, 2.0)) == expected


@pytest.mark.parametrize(
    ("when", "more"),
    [
        ({"feature": "f", "above": 1}, {}),
        ({"feature": "f", "above": 1, "at": "user"}, {"for": "turn"}),
        ({"feature": "f", "above": 1}, {"for": "3 tokens"}),
        ({"feature": "f", "above": 1, "max_over": 4}, {}),
        ({"feature": "f", "above": 1, "off_below": 0.5}, {}),
        ({"feature": "g", "above": 1}, {"edit": {"f": {"ablate": True}}}),
        ({"any": [{"feature": "f", "above": 1}, {"feature": "g", "above": 1}]}, {}),
    ],
)
def test_gates_are_read_where_the_kernel_reads_them(box: Runtime, when: dict[str, Any], more: dict[str, Any]) -> None:
    """The place of a reading is the one that the compiled plan says, whatever the gate remembers."""
    policy = policy_of(when, **more)
    (rule,) = compile_plan([[policy]], box.saes).rules
    assert {one.place for one in placed_readings(policy)} == {rule.reads_at}
    assert (rule.reads_at == "reply.start") is (not more and len({*when} & {"max_over", "off_below"}) == 0)


def test_evidence_is_read_at_the_innermost_place() -> None:
    """A condition without a place has that of the one around it; `not` turns what is in it round."""
    inner = [{"feature": "f", "above": 1, "at": "user"}, {"not": {"feature": "g", "above": 2}}]
    rules = [{"name": "j", "when": {"all": inner, "at": "call"}, "then": "deny"}]
    guard = {"default": "allow", "rules": rules}
    policy = Policy.model_validate({"steerkit": 1, "name": "p", "features": FEATURES, "guard": guard})
    found = [(one.reading.reads, one.place, one.inverted, one.gate) for one in placed_readings(policy)]
    assert found == [("f", "user", False, False), ("g", "call", True, False)]


def test_what_was_not_watched_is_an_error() -> None:
    """The error names what to add to the policy; `watching` adds it."""
    policy = policy_of({"feature": "f", "above": 1})
    (one,) = placed_readings(policy)
    with pytest.raises(SaeError, match=r"'f' was not traced; add it to trace\.watch of policy p"):
        value_of(policy, one, Trace())
    assert watching(policy).trace.watch == ("f",)
    assert watching(policy).mode == "shadow"


def test_the_bound_keeps_the_rate() -> None:
    """Of 200 benign values at most the share asked for is beyond the new bound, and one value less would not do."""
    policy, values = policy_of({"feature": "f", "above": 0.5}), [number / 200 for number in range(200)]
    for rate, beyond in ((0.0, 0), (0.01, 2), (0.1, 20)):
        (bound,) = calibrate(policy, lambda _: values, None, rate, None).bounds
        assert bound.false[1].hits == beyond
        assert bound.false[0].hits == 99
        assert with_bounds(policy, [bound]).steer[0].when.above == bound.new  # type: ignore[union-attr]
    (bound,) = calibrate(policy, lambda _: values, lambda _: [1.0, 2.0], 0.01, None).bounds
    assert (bound.recall[0].hits, bound.recall[1].hits) == (2, 2)


def test_bounds_below_and_units_are_kept() -> None:
    """What must be below gets its bound from the lower end; a multiple stays a multiple; hysteresis moves along."""
    policy = policy_of({"feature": "f", "below": 9})
    (bound,) = calibrate(policy, lambda _: [1.0, 2.0, 3.0, 4.0], None, 0.25, None).bounds
    assert (bound.key, bound.new, bound.false[1].hits) == ("below", 2.0, 1)
    policy = policy_of({"feature": "f", "above": "0.5 max", "off_below": "0.25 max"})
    (bound,) = calibrate(policy, lambda _: [1.0, 3.0], None, 0.0, lambda *_: 4.0).bounds
    assert (bound.old, bound.new, bound.quantity) == (2.0, 3.0, "0.75 max")
    assert with_bounds(policy, [bound]).steer[0].when.off_below == "0.75 max"  # type: ignore[union-attr]
    policy = policy_of({"feature": "f", "above": 5, "off_below": 4})
    (bound,) = calibrate(policy, lambda _: [1.0, 3.0], None, 0.0, None).bounds
    assert with_bounds(policy, [bound]).steer[0].when.off_below == 2.0  # type: ignore[union-attr]


def test_what_has_no_single_side_is_left() -> None:
    """Inside `not`, with two bounds, or without a value a condition stays, and is named; others beside it are set."""
    parts = [
        {"not": {"feature": "f", "above": 1}},
        {"feature": "f", "above": 1, "below": 2},
        {"feature": "g", "above": 1},
    ]
    policy = policy_of({"all": parts})
    found = calibrate(policy, lambda _: [3.0], None, 0.0, None)
    assert [one.reading.location for one in found.bounds] == [("steer", 0, "when", "all", 2)]
    assert [line.split(": ")[-1] for line in found.left] == ["it stands inside not", "it has a bound on both sides"]
    assert calibrate(policy, lambda _: [], None, 0.0, None).left[2].endswith("no benign conversation has a token there")
    with pytest.raises(PolicyError, match="it has no gates and no evidence"):
        calibrate(Policy(steerkit=1, name="p"), lambda _: [], None, 0.0, None)


def test_bounds_are_chosen_on_conversations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Old and new bounds with what they cost and buy; the new policy is written once, and differs in them alone."""
    benign = written(tmp_path / "benign.jsonl", sample("benign", "report", 6, 7))
    positive = written(tmp_path / "positive.jsonl", sample("dangerous:transfer_money", "report", 6, 7))
    new = tmp_path / "new.yaml"
    options = (PAYMENTS, "--data", benign, "--positive", positive, "--max-new-tokens", "48", "--write", new)
    found = json.loads(run(capsys, *options, "--json"))
    asked, opened = found["bounds"]
    assert (asked["condition"], asked["at"], asked["old"]) == ("asked above", "reply.start", 1.9)
    assert (opened["condition"], opened["at"]) == ("opened above", "call.open")
    assert [share["hits"] for share in asked["false"]] == [0, 0]
    assert asked["recall"][1]["hits"] == 6
    before, after = load(PAYMENTS), load(new)
    assert after.steer[0].when.above == asked["new"] != 1.9  # type: ignore[union-attr]
    assert with_bounds(after, []) == after
    assert after.steer[0].edit == before.steer[0].edit
    content = new.read_bytes()
    with pytest.raises(SaeError, match=r"new\.yaml: already there; give --force to replace it"):
        run(capsys, *options)
    assert new.read_bytes() == content
    with pytest.raises(SaeError, match="expected either --data"):
        run(capsys, PAYMENTS)


def test_bounds_are_read_off_a_shadow_run(capsys: pytest.CaptureFixture[str], tmp_path: Path, box: Runtime) -> None:
    """The store says what would have been held, denied and changed; without a shadow run it is an error."""
    shadow = tmp_path / "shadow.yaml"
    shadow.write_text(dump(load(PAYMENTS).model_copy(update={"mode": "shadow"})))
    store = tmp_path / "audit.db"
    some = [*sample("dangerous:transfer_money", "report", 2, 7), *sample("benign", "report", 2, 7)]
    with steerkit.load("tiny", policy=PAYMENTS, audit=store) as runtime:
        runtime.run(some[2].messages, some[2].tools, max_new_tokens=48)
    with pytest.raises(SaeError, match="got no turn under policy payments in shadow mode; 1 turns had it enforcing"):
        run(capsys, PAYMENTS, "--store", store)
    with steerkit.load("tiny", policy=shadow, audit=store) as runtime:
        turns = [runtime.run(one.messages, one.tools, max_new_tokens=48) for one in some]
    assert [turn.calls[0].name for turn in turns[:2]] == ["transfer_money"] * 2  # type: ignore[union-attr]
    found = json.loads(run(capsys, PAYMENTS, "--store", store, "--json"))
    assert found["shadow"]["turns"] == 4
    assert found["shadow"]["decisions"]["deny"] == 2
    assert found["shadow"]["withheld"]["hits"] == 2
    assert found["shadow"]["edited"] == {"refuse-to-move-money": 2}
    assert found["shadow"]["not_read"] == 1
    largest = max(turn.trace.watched["payments.asked"][len(turn.prompt_ids) - 1] for turn in turns)
    assert found["bounds"][0]["new"] == pytest.approx(largest, rel=1e-5)
    shown = run(capsys, PAYMENTS, "--store", store)
    assert "steering would have changed activations: refuse-to-move-money in 2 of 4 turns" in shown
    assert "not read: 1 turns with other features or enforcing" in shown


def test_policies_go_round(tmp_path: Path) -> None:
    """A policy with new bounds is written and read back equal."""
    policy = load(PAYMENTS)
    found = calibrate(policy, lambda _: [0.123456789, 1.0], None, 0.5, None)
    changed = with_bounds(policy, found.bounds)
    assert loads(dump(changed)) == changed != policy
