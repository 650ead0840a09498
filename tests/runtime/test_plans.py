"""Plans and policies are compiled and resolved once for their content, and again where it changes."""

from __future__ import annotations

from pathlib import Path

import pytest

import steerkit
from steerkit.agent import Runtime
from steerkit.engine import HfEngine
from steerkit.policy import Policy, load
from steerkit.runtime import Request
from steerkit.tiny.demo_requests import CASES, policy_files

ASKED = next((case.messages, case.tools) for case in CASES if case.name == "dangerous")
PAYMENTS: Path = policy_files()[0]


@pytest.fixture(scope="module")
def box() -> Runtime:
    return steerkit.load("tiny", audit=False)


def compiled(runtime: Runtime) -> int:
    assert isinstance(runtime.engine, HfEngine)
    return runtime.engine.plans.made


def stronger(policy: Policy) -> Policy:
    """The same with another number in one edit."""
    data = policy.model_dump(exclude_none=True)
    (edit, *_) = data["steer"][0]["edit"].values()
    (key, *_) = edit
    edit[key] = "0.5 max" if isinstance(edit[key], str) else 0.5
    return Policy.model_validate(data)


def test_a_second_turn_compiles_nothing() -> None:
    """Alone and in batches of the same policies in the same order, from files and from objects; turns are equal."""
    runtime = steerkit.load("tiny", audit=False)
    first = runtime.run(*ASKED, PAYMENTS)
    assert compiled(runtime) == 1
    assert runtime.run(*ASKED, PAYMENTS) == first
    assert runtime.run(*ASKED, load(PAYMENTS)) == first
    assert compiled(runtime) == 1
    requests = [Request(*ASKED, PAYMENTS), Request(*ASKED, ()), Request(*ASKED, PAYMENTS)]
    batches = [runtime.run_batch(requests), runtime.run_batch(requests)]
    assert batches[0] == batches[1]
    assert compiled(runtime) == 1  # rows without policies are in every plan
    runtime.run(*ASKED, ())
    assert compiled(runtime) == 2


def test_a_changed_policy_compiles_again(box: Runtime) -> None:
    """And steers as it says, as in a runtime that never saw the other."""
    other = stronger(load(PAYMENTS))
    before, first = compiled(box), box.run(*ASKED, PAYMENTS)
    changed = box.run(*ASKED, other)
    assert compiled(box) == before + 2
    assert changed.trace.edits != first.trace.edits
    assert changed == steerkit.load("tiny", audit=False).run(*ASKED, other)


def test_the_order_of_policies_is_part_of_a_plan(box: Runtime) -> None:
    """Of two policies that edit one feature the first acts."""
    one, two = load(PAYMENTS), stronger(load(PAYMENTS)).model_copy(update={"name": "two"})
    turns = [box.run(*ASKED, [one, two]), box.run(*ASKED, [two, one])]
    assert turns[0].trace.edits != turns[1].trace.edits


def test_the_least_recently_used_is_dropped(box: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan that was used stays; one that was not is compiled again."""
    assert isinstance(box.engine, HfEngine)
    monkeypatch.setattr(box.engine.plans, "limit", 2)
    policies = [load(path) for path in policy_files()[:3]]
    for number in (0, 1, 0, 2):
        box.run(*ASKED, policies[number], max_new_tokens=1)
    before = compiled(box)
    box.run(*ASKED, policies[0], max_new_tokens=1)
    assert compiled(box) == before
    box.run(*ASKED, policies[1], max_new_tokens=1)
    assert compiled(box) == before + 1
