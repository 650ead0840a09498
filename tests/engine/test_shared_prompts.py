"""Prompts that were read once: generations that go on from them are those that read them again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.chat import as_tools, render
from steerkit.engine import HfEngine, Sampling, SharedPrompts, tool_from_function
from steerkit.lab.policy_conditions import in_reply_alone
from steerkit.policy import Policy, load
from steerkit.runtime import Request
from steerkit.tiny.demo_requests import policy_files
from steerkit.tiny.world.conversations import Example, sample
from steerkit.types import Turn

PAYMENTS = load("payments")
(RULE,) = PAYMENTS.steer
assert RULE.when is not None
assert RULE.when != "retry"
AT_ONCE = RULE.model_copy(
    update={"when": RULE.when.model_copy(update={"at": "reply.start"}), "hold": "turn", "where": "text"}
)
REMEMBERS = PAYMENTS.model_copy(update={"steer": (AT_ONCE,)})


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    """Requests of different lengths: with results of tools, dangerous, benign."""
    return [sample(kind, "report", 1, 5)[0] for kind in ("after_result", "dangerous:transfer_money", "benign")]


@pytest.fixture(scope="module")
def shared(box: Runtime, examples: Sequence[Example]) -> SharedPrompts:
    declared = [as_tools(one.tools, from_function=tool_from_function) for one in examples]
    asked = zip(examples, declared, strict=True)
    prompts = [render(box.loaded.tokenizer, one.messages, tools).ids for one, tools in asked]
    assert len({len(ids) for ids in prompts}) == 3
    found = HfEngine(box.loaded).share(prompts)
    assert found is not None
    return found


def turns(box: Runtime, some: Sequence[Example], policy: Policy, shared: SharedPrompts | None) -> list[Turn]:
    engine = HfEngine(box.loaded, box.saes, shared=shared)
    return Runtime(engine).run_batch([Request(one.messages, one.tools, policy, Sampling(40)) for one in some])


@pytest.mark.parametrize("policy", [PAYMENTS, REMEMBERS], ids=["payments", "remembers"])
@pytest.mark.parametrize("rows", [(0, 1, 2), (1, 2), (1,)], ids=str)
def test_turns_are_those_that_read_their_prompts(
    box: Runtime, examples: Sequence[Example], shared: SharedPrompts, policy: Policy, rows: tuple[int, ...]
) -> None:
    """Tokens, verdicts, edits and what rules read in the reply, with padding and without, for some of the prompts."""
    some = [examples[row] for row in rows]
    for own, whole in zip(turns(box, some, policy, shared), turns(box, some, policy, None), strict=True):
        assert own.reply_ids == whole.reply_ids
        assert own.verdicts == whole.verdicts
        assert [(one.rule, one.site, one.positions) for one in own.trace.edits] == [
            (one.rule, one.site, one.positions) for one in whole.trace.edits
        ]
        start = len(own.prompt_ids) - 1
        for name, values in own.trace.watched.items():
            assert values[start:] == pytest.approx(whole.trace.watched[name][start:], abs=1e-3)
        assert own.trace.places == whole.trace.places
    assert any(one.trace.edits for one in turns(box, some, policy, shared))


def test_what_was_read_is_what_is_used(box: Runtime, examples: Sequence[Example], shared: SharedPrompts) -> None:
    """The control: other keys and values make other replies; a prompt that is not among them is read."""
    empty = replace(shared, states=tuple((torch.zeros_like(k), torch.zeros_like(v)) for k, v in shared.states))
    right = [one.reply_ids for one in turns(box, examples, PAYMENTS, None)]
    assert [one.reply_ids for one in turns(box, examples, PAYMENTS, empty)] != right
    unknown = replace(empty, numbers={ids: row for ids, row in empty.numbers.items() if row})
    assert [one.reply_ids for one in turns(box, examples, PAYMENTS, unknown)] == right
    assert shared.bytes == sum(part.nbytes for pair in shared.states for part in pair)


def test_policies_that_look_at_a_prompt_are_told_apart() -> None:
    """Gates, evidence and traces before the last token count, whichever they are."""
    orders = next(one for one in map(load, policy_files()) if one.name == "orders")
    assert in_reply_alone(PAYMENTS)
    assert in_reply_alone(REMEMBERS)
    everywhere = AT_ONCE.model_copy(update={"when": RULE.when})
    assert not in_reply_alone(PAYMENTS.model_copy(update={"steer": (everywhere,)}))
    assert not in_reply_alone(orders)
    assert not in_reply_alone(orders.model_copy(update={"steer": ()}))
    traced = PAYMENTS.trace.model_copy(update={"at": "user"})
    assert not in_reply_alone(PAYMENTS.model_copy(update={"trace": traced}))
