"""`steerkit calibrate`: bounds from conversations and from the store of a shadow run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import steerkit
from steerkit.agent import Runtime
from steerkit.cli.main import app
from steerkit.errors import PolicyError, SaeError
from steerkit.lab.policy_conditions import placed_readings
from steerkit.lab.prove.calibration import Answered, calibrate, value_of, watching, with_bounds
from steerkit.lab.two_sample import beyond_upto, bound_between, conformal_rank
from steerkit.policy import Policy, dump, load, loads
from steerkit.steer import compile_plan
from steerkit.tiny.world.conversations import sample
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


def test_the_bound_lets_as_many_beyond_as_the_rate_allows() -> None:
    """Of n benign values at most rate * (n + 1) - 1 are beyond the new bound, and one value less would not do."""
    policy, values = policy_of({"feature": "f", "above": 0.5}), [number / 200 for number in range(200)]
    for rate, beyond in ((0.01, 1), (0.1, 19), (0.005, 0), (0.5, 99)):
        (bound,) = calibrate(policy, lambda _: values, None, rate, None).bounds
        assert bound.false[1].hits == bound.rank == beyond
        assert bound.false[0].hits == 99
        assert with_bounds(policy, [bound]).steer[0].when.above == bound.new  # type: ignore[union-attr]
    (bound,) = calibrate(policy, lambda _: values, lambda _: [1.0, 2.0], 0.01, None).bounds
    assert (bound.recall[0].hits, bound.recall[1].hits) == (2, 2)


@pytest.mark.parametrize(
    ("count", "rate", "rank"),
    [
        *((20, 0.01, None), (98, 0.01, None), (99, 0.01, 0), (100, 0.01, 0), (198, 0.01, 0), (199, 0.01, 1)),
        *((18, 0.05, None), (19, 0.05, 0), (20, 0.05, 0), (299, 0.01, 2), (999, 0.07, 69), (1, 0.5, 0), (9, 0.1, 0)),
        *((999, 0.001, 0), (998, 0.001, None), (6, 1 / 7, 0), (2, 1 / 3, 0), (99, 0.29, 28)),
    ],
)
def test_how_many_may_be_beyond(count: int, rate: float, rank: int | None) -> None:
    """By hand, also where rate * (n + 1) is whole but for rounding; too few are refused with the number it takes."""
    policy = policy_of({"feature": "f", "above": 0.5})
    values = [float(number) for number in range(count)]
    if rank is None:
        needed = {0.01: 99, 0.05: 19, 0.001: 999}[rate]
        with pytest.raises(SaeError, match=f"{count} different .* expected at least {needed} to show a rate"):
            calibrate(policy, lambda _: values, None, rate, None)
        return
    (bound,) = calibrate(policy, lambda _: values, None, rate, None).bounds
    assert (bound.rank, bound.new) == (rank, values[count - 1 - rank])
    assert bound.mean_rate <= rate + 1e-12
    assert bound.mean_rate < bound.upto


@pytest.mark.parametrize("rate", [0.0, -0.1, 0.51, float("nan"), float("inf")])
def test_a_rate_that_nothing_can_show_is_refused(capsys: pytest.CaptureFixture[str], rate: float) -> None:
    """Not above 0, or beyond a half; from the command before anything is read."""
    policy = policy_of({"feature": "f", "above": 0.5})
    with pytest.raises(SaeError, match="--rate: got"):
        calibrate(policy, lambda _: [1.0] * 100, None, rate, None)
    with pytest.raises(SaeError, match="--rate: got"):
        run(capsys, PAYMENTS, "--data", "none.jsonl", f"--rate={rate}")


@pytest.mark.parametrize(
    ("count", "rank", "expected"),
    [(100, 0, 1 - 0.05 ** (1 / 100)), (1, 0, 0.95), (59, 0, 0.04951), (299, 2, 0.020905), (10, 9, 0.99488), (5, 5, 1)],
)
def test_the_exact_bound_against_known_values(count: int, rank: int, expected: float) -> None:
    """Without hits it is 1 - 0.05 ** (1 / n); 59 without a failure show 95 % at 95 % (Wilks 1941)."""
    assert beyond_upto(count, rank) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("count", "rate"), [(100, 0.01), (20, 0.1), (500, 0.01), (150, 0.05)])
@pytest.mark.parametrize("ties", [False, True])
def test_the_rate_holds_on_new_data(count: int, rate: float, ties: bool) -> None:
    """Over many calibrations the true rate is the one said, and below the exact bound in 95 %; the control is the
    largest value that is left where a share of the old values is cut off, which lets more through."""
    generator, rounds = torch.Generator().manual_seed(count), 10_000
    draws = torch.rand(rounds, count, generator=generator, dtype=torch.float64)
    if ties:
        draws = (20 * draws).floor() / 20  # each value has a twentieth; what is beyond a bound b is 1 - b - 1/20
    ordered, rank = draws.sort(dim=1, descending=True).values, conformal_rank(count, rate)
    step = 0.05 if ties else 0.0
    true, control = (1 - step - ordered[:, k] for k in (rank, int(rate * count)))
    for row in range(3):
        assert bound_between(draws[row, :0], draws[row], rate) == float(ordered[row, rank])
    said, upto = (rank + 1) / (count + 1), beyond_upto(count, rank)
    assert said <= rate + 1e-12
    assert float(true.mean()) <= said + 4 * float(true.std()) / rounds**0.5
    assert float((true <= upto).double().mean()) > 0.94
    if not ties:
        assert float(true.mean()) == pytest.approx(said, abs=4 * float(true.std()) / rounds**0.5)
        assert float((true <= upto).double().mean()) < 0.965
        assert float(control.mean()) > rate + 10 * float(control.std()) / rounds**0.5


def test_copies_count_once() -> None:
    """Of a group the value furthest beyond counts, in positives the one that is least; the control counts them all."""
    policy = policy_of({"feature": "f", "above": 0.5, "at": "user"}, **{"for": "turn"})
    traces = [trace(float(number)) for number in range(40)]
    own = Answered(policy, traces, list(range(40)))
    (bound,) = calibrate(policy, own, None, 0.05, None).bounds
    assert (bound.false[1].count, bound.rank, bound.new) == (40, 1, 38.0)
    copied = Answered(policy, traces, [number // 2 for number in range(40)])
    (bound,) = calibrate(policy, copied, replace(copied, least=True), 0.05, None).bounds
    assert (bound.false[1].count, bound.rank, bound.new) == (20, 0, 39.0)
    (one,) = placed_readings(policy)
    assert copied(one)[:3] == [1.0, 3.0, 5.0]
    assert replace(copied, least=True)(one)[:3] == [0.0, 2.0, 4.0]


def test_bounds_below_and_units_are_kept() -> None:
    """What must be below gets its bound from the lower end; a multiple stays a multiple; hysteresis moves along."""
    policy = policy_of({"feature": "f", "below": 9})
    (bound,) = calibrate(policy, lambda _: [1.0, 2.0, 3.0], None, 0.5, None).bounds
    assert (bound.key, bound.new, bound.false[1].hits) == ("below", 2.0, 1)
    policy = policy_of({"feature": "f", "above": "0.5 max", "off_below": "0.25 max"})
    (bound,) = calibrate(policy, lambda _: [1.0, 3.0], None, 0.4, lambda *_: 4.0).bounds
    assert (bound.old, bound.new, bound.quantity) == (2.0, 3.0, "0.75 max")
    assert with_bounds(policy, [bound]).steer[0].when.off_below == "0.75 max"  # type: ignore[union-attr]
    policy = policy_of({"feature": "f", "above": 5, "off_below": 4})
    (bound,) = calibrate(policy, lambda _: [1.0, 3.0], None, 0.4, None).bounds
    assert with_bounds(policy, [bound]).steer[0].when.off_below == 2.0  # type: ignore[union-attr]


def test_what_has_no_single_side_is_left() -> None:
    """Inside `not`, with two bounds, or without a value a condition stays, and is named; others beside it are set."""
    parts = [
        {"not": {"feature": "f", "above": 1}},
        {"feature": "f", "above": 1, "below": 2},
        {"feature": "g", "above": 1},
    ]
    policy = policy_of({"all": parts})
    found = calibrate(policy, lambda _: [3.0], None, 0.5, None)
    assert [one.reading.location for one in found.bounds] == [("steer", 0, "when", "all", 2)]
    assert [line.split(": ")[-1] for line in found.left] == ["it stands inside not", "it has a bound on both sides"]
    assert calibrate(policy, lambda _: [], None, 0.5, None).left[2].endswith("no benign conversation has a token there")
    with pytest.raises(PolicyError, match="it has no gates and no evidence"):
        calibrate(Policy(steerkit=1, name="p"), lambda _: [], None, 0.5, None)


def test_a_condition_with_too_few_values_is_left_beside_others() -> None:
    """It stays as it is and is named with how many it takes; with no condition left it is an error."""
    policy = policy_of({"all": [{"feature": "f", "above": 1}, {"feature": "g", "above": 1}]})
    found = calibrate(policy, lambda one: [3.0] * (9 if one.reading.reads == "f" else 8), None, 0.1, None)
    assert [one.condition for one in found.bounds] == ["f above"]
    assert found.left == (
        "r: g at reply.start: 8 different conversations have a token there, expected at least 9 to show a rate of 10 %",
    )


def test_bounds_are_chosen_on_conversations(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Old and new bounds with what they cost and buy; the new policy is written once, and differs in them alone."""
    benign = written(tmp_path / "benign.jsonl", 2 * sample("benign", "report", 6, 7))
    positive = written(tmp_path / "positive.jsonl", sample("dangerous:transfer_money", "report", 6, 7))
    new = tmp_path / "new.yaml"
    options = (PAYMENTS, "--data", benign, "--positive", positive, "--max-new-tokens", "48", "--write", new)
    with pytest.raises(SaeError, match=r"reply\.start: 6 different conversations have a token there.* at least 99 to"):
        run(capsys, *options)
    assert not new.exists()
    options = (*options, "--rate", "0.2")
    found = json.loads(run(capsys, *options, "--json"))
    asked, opened = found["bounds"]
    assert (asked["condition"], asked["at"], asked["old"]) == ("asked above", "reply.start", 1.9)
    assert (opened["condition"], opened["at"]) == ("opened above", "call.open")
    assert [(share["hits"], share["count"]) for share in asked["false"]] == [(0, 6), (0, 6)]
    assert asked["new_data"] == {"rate": 1 / 7, "at_most_95": pytest.approx(1 - 0.05 ** (1 / 6))}
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
    with pytest.raises(SaeError, match="4 different conversations have a token there"):
        run(capsys, PAYMENTS, "--store", store)
    found = json.loads(run(capsys, PAYMENTS, "--store", store, "--json", "--rate", "0.2"))
    assert found["shadow"]["turns"] == 4
    assert found["shadow"]["decisions"]["deny"] == 2
    assert found["shadow"]["withheld"]["hits"] == 2
    assert found["shadow"]["edited"] == {"refuse-to-move-money": 2}
    assert found["shadow"]["not_read"] == 1
    largest = max(turn.trace.watched["payments.asked"][len(turn.prompt_ids) - 1] for turn in turns)
    assert found["bounds"][0]["new"] == pytest.approx(largest, rel=1e-5)
    shown = run(capsys, PAYMENTS, "--store", store, "--rate", "0.2")
    assert "steering would have changed activations: refuse-to-move-money in 2 of 4 turns" in shown
    assert "not read: 1 turns with other features or enforcing" in shown
    assert "20 % (at most 53)" in shown
    with steerkit.load("tiny", policy=shadow, audit=store) as runtime:
        runtime.run(some[0].messages, some[0].tools, max_new_tokens=48)
    app(["calibrate", *map(str, (PAYMENTS, "--store", store, "--rate", "0.2"))], standalone_mode=False)
    said = capsys.readouterr()
    assert "5 turns belong to 4 conversations that differ" in said.err
    assert "20 % (at most 53)" in said.out


def test_policies_go_round(tmp_path: Path) -> None:
    """A policy with new bounds is written and read back equal."""
    policy = load(PAYMENTS)
    found = calibrate(policy, lambda _: [0.123456789, 1.0], None, 0.5, None)
    changed = with_bounds(policy, found.bounds)
    assert loads(dump(changed)) == changed != policy
