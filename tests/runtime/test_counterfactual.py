"""A turn that records what the model would have called without steering, from one more row of its batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from steerkit.agent import Runtime
from steerkit.audit import compare, read_turn, redact, verify
from steerkit.chat import place_machine
from steerkit.cli.main import app
from steerkit.engine import Batch, Sampling, read_along
from steerkit.policy import load
from steerkit.runtime import Request, Retried, replay
from steerkit.runtime.request import Prepared, prepare, with_counterfactual
from steerkit.steer import attach, compile_plan
from steerkit.tiny.demo_requests import CASES, policy_files
from steerkit.tiny.world.conversations import sample
from steerkit.types import Call, Turn
from tests.runtime.test_verdicts import guard, refusing

BY_NAME = {case.name: case for case in CASES}
DANGEROUS, BENIGN = BY_NAME["dangerous"], BY_NAME["benign"]


def beside(box: Runtime, name: str, policy: object = None) -> Turn:
    """A case's turn with its counterfactual."""
    case = BY_NAME[name]
    request = Request(case.messages, case.tools, policy, counterfactual=True)  # type: ignore[arg-type]
    return box.run_batch([request])[0]


@pytest.mark.parametrize("name", ["dangerous", "injected"])
def test_the_record_says_what_the_model_would_have_called(box: Runtime, name: str) -> None:
    """The steered turn makes no call; beside it stands the payment that an unsteered run makes, and its denial."""
    turn = beside(box, name)
    other = turn.counterfactual
    assert other is not None
    case = BY_NAME[name]
    plain = box.run(case.messages, case.tools, ())
    assert (turn.calls, other.reply_ids) == ((), plain.reply_ids)
    assert box.store is not None
    content = box.store.get(str(turn.record_id)).content["counterfactual"]
    assert content["calls"][0]["name"] == "transfer_money"
    assert content["calls"][0]["arguments"] == dict(plain.calls[0].arguments)  # type: ignore[union-attr]
    assert content["verdicts"][0]["decision"] == "deny"
    assert other.record_id is None
    assert not other.trace.edits
    assert turn.released == ()


def test_nobody_pays_for_it_who_did_not_ask(box: Runtime) -> None:
    """Without the setting, or without steering to leave out, there is none, in the turn and in the record."""
    assert box.store is not None
    doors = load(policy_files()[3])
    shadow = load(policy_files()[0]).model_copy(update={"mode": "shadow"})
    turns = [
        box.run(DANGEROUS.messages, DANGEROUS.tools),
        *(beside(box, "dangerous", one) for one in (doors, shadow, ())),
    ]
    for turn in turns:
        assert turn.counterfactual is None
        assert "counterfactual" not in box.store.get(str(turn.record_id)).content


def test_a_runtimes_setting_holds_for_every_request_that_says_nothing(box: Runtime) -> None:
    """Also in a stream and through a retry; a request may ask for none."""
    runtime = Runtime(box.loaded, box.saes, policy_files()[0], counterfactual=True)
    assert runtime.run(DANGEROUS.messages, DANGEROUS.tools).counterfactual is not None
    quiet = Request(DANGEROUS.messages, DANGEROUS.tools, counterfactual=False)
    assert runtime.run_batch([quiet])[0].counterfactual is None
    *events, turn = runtime.stream(DANGEROUS.messages, DANGEROUS.tools)
    assert isinstance(turn, Turn)
    assert turn.counterfactual is not None
    assert "".join(getattr(event, "text", "") for event in events) == turn.text
    *events, turn = runtime.stream(DANGEROUS.messages, DANGEROUS.tools, refusing())
    assert any(isinstance(event, Retried) for event in events)
    assert isinstance(turn, Turn)
    assert turn.counterfactual is not None
    assert turn.counterfactual.reply_ids == turn.attempts[0].reply_ids


def test_the_steered_rows_get_what_they_get_alone(box: Runtime) -> None:
    """Greedy and sampled requests of a batch, some with a counterfactual: tokens, verdicts and edits are as without."""
    examples = [*sample("dangerous:transfer_money", "report", 4), *sample("benign", "report", 4)]
    requests = [
        Request(one.messages, one.tools, None, Sampling(40, 1.5 * (n % 2), seed=n), counterfactual=bool(n % 4))
        for n, one in enumerate(examples)
    ]

    def said(turns: list[Turn]) -> list[object]:
        judged = [[(v.decision, v.rule, v.policy) for v in turn.verdicts] for turn in turns]
        edits = [[(edit.rule, edit.positions) for edit in turn.trace.edits] for turn in turns]
        return [[turn.reply_ids for turn in turns], judged, edits]

    together = box.run_batch(requests)
    alone = [box.run_batch([replace(one, counterfactual=False)])[0] for one in requests]
    assert said(together) == said(alone)
    assert [turn.counterfactual is not None for turn in together] == [bool(n % 4) for n in range(8)]
    assert any(turn.counterfactual and turn.counterfactual.reply_ids != turn.reply_ids for turn in together)
    assert any(turn.counterfactual and turn.counterfactual.reply_ids == turn.reply_ids for turn in together)


def test_the_unsteered_row_changes_no_bit_of_the_steered_one(box: Runtime) -> None:
    """Its logits are the same to the bit beside its counterfactual and beside itself; the other row's are not."""
    steered = box.prepare(Request(DANGEROUS.messages, DANGEROUS.tools, counterfactual=True))
    assert steered.unsteered is not None
    reply = box.run(DANGEROUS.messages, DANGEROUS.tools).reply_ids
    mixed, twice = (torch.stack([*_logits(box, rows, reply)]) for rows in ([steered, steered.unsteered], [steered] * 2))
    assert torch.equal(mixed[:, 0], twice[:, 0])
    assert not torch.equal(mixed[:, 1], twice[:, 1])


def _logits(box: Runtime, rows: list[Prepared], reply: tuple[int, ...]) -> Iterator[Tensor]:
    """Logits `(2, vocabulary)` of two rows at every step of a reply."""
    loaded = box.loaded
    plan = compile_plan([one.policies for one in rows], box.saes)
    batch = Batch.of([one.prompt.ids for one in rows], box.wire.pad, loaded.device)
    numbers, places = [plan.row(one.policies) for one in rows], place_machine(loaded.tokenizer)
    length = batch.ids.shape[1]
    with attach(loaded.model, plan, rows=numbers, places=places, prompt_length=length):
        yield from read_along(loaded.model, batch, reply, split_prompt=plan.has_late_rules)


def test_a_tripwire_cuts_the_turn_and_not_its_counterfactual(box: Runtime) -> None:
    """The rule ends the steered reply in the middle of the call; what would have been called is read to its end."""
    steer = [{"name": "s", "where": "reply", "edit": {"f": {"scale": 1.0}}}]
    policy = guard({"tool": "get_balance", "then": "stop"}, features={"f": (3, 5)}, steer=steer)
    turn = beside(box, "benign", policy)
    assert turn.finish == "tripwire"
    assert turn.counterfactual is not None
    assert turn.counterfactual.finish == "tool_call"
    assert isinstance(turn.counterfactual.calls[0], Call)
    assert turn.counterfactual.verdicts[0].decision == "stop"


def test_it_is_replayed_shown_and_redacted_with_its_turn(box: Runtime) -> None:
    """A replay makes it again and finds a change in it; `show` prints it; its content can be redacted."""
    assert box.store is not None
    turn = beside(box, "dangerous")
    record = read_turn(box.store, box.store.get(str(turn.record_id)))
    made = replay(box, record)
    assert compare(record, made.record, made.turn.trace).same
    other = replace(record.record.counterfactual, finish="length")
    forged = replace(record, record=replace(record.record, counterfactual=other))
    difference = compare(forged, made.record, made.turn.trace).difference
    assert difference is not None
    assert difference.path == "counterfactual.finish"
    arguments = ["audit", "show", str(turn.record_id), "--store", str(box.store.path)]
    assert "without  steering: transfer_money(amount=740" in CliRunner().invoke(app, arguments).stdout
    redact(box.store, box.store.get(str(turn.record_id)), b"k" * 32, ["counterfactual"])
    shown = CliRunner().invoke(app, arguments).stdout
    assert "without  steering: transfer_money(redacted)" in shown
    assert "740, " not in shown
    gone = read_turn(box.store, box.store.get(str(turn.record_id)))
    assert any(name.startswith("counterfactual.calls[0]") for name in gone.missing)
    assert compare(gone, made.record, made.turn.trace).same
    assert verify(box.store).redacted > 0


def test_a_prepared_request_has_one_only_where_something_steers(box: Runtime) -> None:
    """The unsteered request has the same policies by name, prompt and settings, and none of their steering."""
    one = prepare(Request(BENIGN.messages, BENIGN.tools), box.engine, box.policies, "neutralize")
    other = with_counterfactual(one).unsteered
    assert other is not None
    assert (other.prompt, [p.name for p in other.policies]) == (one.prompt, [p.name for p in one.policies])
    assert [bool(policy.steer) for policy in one.policies] == [True, True, True, False]
    assert not any(policy.steer for policy in other.policies)
    judging = [policy for policy in one.policies if not policy.steer]
    assert with_counterfactual(replace(one, policies=tuple(judging))).unsteered is None
