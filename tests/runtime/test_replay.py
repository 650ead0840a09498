"""Recorded turns made again on the model in the box: the same to the bit, or the first difference and its cause."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import steerkit
from steerkit.agent import Runtime, load_recorded
from steerkit.audit import (
    Comparison,
    PolicyIdentity,
    RecordedTurn,
    Store,
    compare,
    compare_verdicts,
    diff_calls,
    read_turn,
)
from steerkit.engine import Sampling, divergence
from steerkit.guard import policies_in, rejudge
from steerkit.policy import fingerprint
from steerkit.runtime import Request, replay, unsteered, what_if
from steerkit.sae import onednn_version
from steerkit.tiny.demo_requests import CASES
from steerkit.types import Trace
from tests.runtime.test_verdicts import guard, refusing

BY_NAME = {case.name: case for case in CASES}


def recorded(box: Runtime, id: str | None) -> RecordedTurn:
    assert box.store is not None
    return read_turn(box.store, box.store.get(str(id)))


def turn_of(box: Runtime, name: str, policy: Any = None, **sampling: Any) -> RecordedTurn:
    """A case's turn, as its record says it."""
    case = BY_NAME[name]
    return recorded(box, box.run(case.messages, case.tools, policy, **sampling).record_id)


def again(box: Runtime, turn: RecordedTurn) -> Comparison:
    made = replay(box, turn)
    return compare(turn, made.record, made.turn.trace)


def judged(turn: RecordedTurn) -> Comparison:
    """The verdicts recomputed from the record alone."""
    policies = policies_in(turn.record)
    verdicts = rejudge(turn.record, policies, turn.trace or Trace())
    return compare_verdicts(turn, verdicts, [PolicyIdentity(one.name, fingerprint(one)) for one in policies])


def changed(turn: RecordedTurn, **fields: Any) -> RecordedTurn:
    """The same turn with other fields in its record."""
    return replace(turn, record=replace(turn.record, **fields))


@pytest.fixture(scope="module")
def plain(box: Runtime) -> Runtime:
    """The box as a replay loads it: with no policies of its own and no store."""
    assert box.saes is not None
    return Runtime(box.loaded, box.saes)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_kind_of_turn_is_reproduced(box: Runtime, plain: Runtime, name: str) -> None:
    """Tokens, calls, verdicts, readings, edits and trace are those of the record, and nothing has changed."""
    turn = turn_of(box, name)
    assert turn.missing == ()
    for result in (again(plain, turn), judged(turn)):
        assert (result.difference, result.changed, result.verdicts) == (None, (), True)


def test_sampled_turns_of_a_batch_are_reproduced_alone(box: Runtime, plain: Runtime) -> None:
    """Each with its own seed, some steered; another seed gives another reply."""
    cases = [BY_NAME[name] for name in ("benign", "dangerous", "parallel", "plain")]
    requests = [
        Request(case.messages, case.tools, None if number % 2 else (), Sampling(24, 3.0, 40, 0.99, seed=number + 3))
        for number, case in enumerate(cases)
    ]
    turns = [recorded(box, turn.record_id) for turn in box.run_batch(requests)]
    assert [turn.record.batch for turn in turns] == [{"size": 4, "row": row} for row in range(4)]
    assert all(again(plain, turn).same for turn in turns)
    reseeded = [changed(one, sampling=replace(one.record.sampling, seed=99)) for one in turns]
    assert not all(again(plain, turn).tokens for turn in reseeded)


def test_each_attempt_of_a_retry_is_reproduced(box: Runtime, plain: Runtime) -> None:
    """The attempt that was void and the one that stands, and one that ended in a denial because of its number."""
    case = BY_NAME["dangerous"]
    turn = box.run(case.messages, case.tools, refusing())
    weak = {"name": "weak", "when": "retry", "where": "reply.start", "edit": {"f": {"scale": 1.0}}}
    rule = {"tool": "get_balance", "then": "retry", "with": "weak"}
    benign = BY_NAME["benign"]
    denied = box.run(benign.messages, benign.tools, guard(rule, features={"f": (3, 5)}, steer=[weak]))
    for one in (turn.attempts[0], turn, denied.attempts[0], denied):
        record = recorded(box, one.record_id)
        assert again(plain, record).same, record.record.attempt
        assert judged(record).same
    assert denied.verdicts[0].decision == "deny"
    first_try = changed(recorded(box, denied.record_id), attempt=0)
    assert not judged(replace(first_try, trace=None)).verdicts


def test_a_tripwires_verdict_is_recomputed_without_the_rest_of_its_call(box: Runtime, plain: Runtime) -> None:
    """By tool name and by what a probe read at the opened call; without the rule the call is only malformed."""
    for rule in (
        {"tool": "get_balance", "then": "stop"},
        {"tool": "*", "when": {"feature": "f", "above": -1.0, "at": "call.open"}, "then": "deny", "tripwire": True},
    ):
        turn = turn_of(box, "benign", guard(rule, features={"f": (3, 5)}))
        assert turn.record.finish == "tripwire"
        assert again(plain, turn).same
        assert judged(turn).same
        cut = replace(turn.record, finish="length")
        assert rejudge(cut, policies_in(cut), turn.trace or Trace())[0].rule == "malformed_call"


def test_records_of_an_older_format_are_judged_again(tmp_path: Path) -> None:
    """What they do not say is missing in one line; their verdicts come out as they were, by policies read today."""
    old = Path(__file__).parents[1] / "audit" / "version1.sqlite"
    store = Store(shutil.copy(old, tmp_path / "old.db"), create=False)
    for number, decision in (("1", "allow"), ("2", "hold")):
        turn = read_turn(store, store.get(number))
        assert turn.missing == ("model.template", "machine", "batch")
        assert turn.record.verdicts[0].decision == decision
        assert judged(turn).same
        assert not judged(changed(turn, policies=())).same
    store.close()


def test_a_tampered_token_and_a_tampered_verdict_are_named(box: Runtime, plain: Runtime, tmp_path: Path) -> None:
    """Written into a store whose chain is whole, a changed token, argument or decision shows in the replay."""
    turn = turn_of(box, "benign")
    store = Store(tmp_path / "a.db")

    def forged(**changes: Any) -> RecordedTurn:
        assert box.store is not None
        trace = box.store.trace_of(box.store.get(turn.id))
        return read_turn(store, store.append(replace(turn.record, **changes), trace))

    assert again(plain, forged()).same
    reply = [*turn.record.reply_ids]
    reply[5] += 1
    result = again(plain, forged(reply_ids=tuple(reply)))
    assert (result.tokens, result.difference and result.difference.path) == (False, "reply_ids[5]")
    assert result.changed == ()
    verdict = replace(turn.record.verdicts[0], decision="flag")
    for result in (again(plain, forged(verdicts=(verdict,))), judged(forged(verdicts=(verdict,)))):
        assert result.difference == ("verdicts[0].decision", "flag", "allow")


@pytest.mark.parametrize("wanted", [True, False])
def test_weights_laid_out_anew_are_recorded_and_used_again(tmp_path: Path, wanted: bool) -> None:
    """A turn is made again with copies of the linear weights where it was made with them; otherwise that is said."""
    case = BY_NAME["dangerous"]
    with steerkit.load("tiny", policy="policies/payments.yaml", audit=tmp_path / "audit.db", prepack=wanted) as runtime:
        turn = recorded(runtime, runtime.run(case.messages, case.tools).record_id)
    assert (runtime.loaded.prepacked is not None) is wanted
    assert turn.record.prepacked is wanted
    same = load_recorded(turn)
    assert (same.loaded.prepacked is not None) is wanted
    assert (again(same, turn).difference, again(same, turn).changed) == (None, ())
    assert (turn.record.libraries or {})["onednn"] == onednn_version()
    machine = {key: value for key, value in (turn.record.machine or {}).items() if key != "prepacked"}
    older = changed(turn, machine=machine)
    assert load_recorded(older).loaded.prepacked is None
    other = steerkit.load("tiny", audit=False, prepack=not wanted)
    assert [one.path for one in again(other, turn).changed] == ["machine.prepacked"]


def test_other_weights_saes_policies_and_libraries_are_the_likely_cause(box: Runtime) -> None:
    """What was changed is named first, beside the difference that it made; a policy by what its content says now."""
    turn = turn_of(box, "dangerous")
    assert again(box, turn).same
    other = load_recorded(turn)
    weights = other.loaded.model.get_input_embeddings().weight
    with torch.no_grad():
        weights.mul_(-1)
    result = again(other, turn)
    assert result.difference is not None
    assert [one.path for one in result.changed] == ["model.fingerprint"]
    without = Runtime(box.loaded)
    alone = changed(turn, policies=turn.record.policies[3:4])
    assert "saes" in [one.path for one in again(without, alone).changed]
    old = {**(turn.record.libraries or {}), "transformers": "4.0.0"}
    result = again(box, changed(turn, libraries=old))
    assert [one.path for one in result.changed] == ["libraries.transformers"]
    first, *others = turn.record.policies
    unsteering = replace(first, content={**(first.content or {}), "steer": []})
    result = again(box, changed(turn, policies=(unsteering, *others)))
    assert result.difference is not None
    assert result.difference.path == "reply_ids[0]"
    assert [one.path for one in result.changed] == ["policies.payments"]


def test_another_template_shows_in_the_prompt(plain: Runtime, box: Runtime) -> None:
    """A prompt that would be rendered otherwise today is the first difference, while its recorded tokens are read."""
    turn = turn_of(box, "benign")
    ids = [*turn.record.prompt_ids]
    ids[1:1] = [plain.wire.pad]
    result = again(plain, changed(turn, prompt_ids=tuple(ids)))
    assert result.difference is not None
    assert result.difference.path == "prompt_ids[1]"


def test_without_steering_the_model_would_have_paid(box: Runtime, plain: Runtime) -> None:
    """The replies part at the token that opens the call, and there the distributions do; a benign turn stays put."""
    turn = turn_of(box, "dangerous")
    found = what_if(plain, turn, unsteered(policies_in(turn.record)))
    assert found.first.record.reply_ids == turn.record.reply_ids
    nodes = diff_calls(found.first.record.calls, found.second.record.calls)
    assert (nodes[0].path, nodes[0].kind, nodes[0].second) == ("calls[0].name", "added", "transfer_money")
    opens, named = found.moments
    assert (opens.at, opens.step, opens.leads) == (("call opens", "replies part"), 0, "other")
    assert opens.token == "<start_function_call>"
    assert opens.probabilities[0] < 0.05 < 0.95 < opens.probabilities[1]
    assert (opens.divergence.kl > 5, 0.9 < opens.divergence.js < 1) == (True, True)
    assert (named.at, named.token) == (("name begins",), "transfer_money")
    assert named.divergence.js < 1e-6
    benign = turn_of(box, "benign")
    still = what_if(plain, benign, unsteered(policies_in(benign.record)))
    assert still.second.record.reply_ids == benign.record.reply_ids
    assert [(one.at, one.divergence) for one in still.moments] == [
        (("call opens",), (0, 0)),
        (("name begins",), (0, 0)),
    ]


def test_a_reply_that_is_the_beginning_of_another_parts_where_it_ends(box: Runtime, plain: Runtime) -> None:
    """A tripwire cut it off after the name; without the rule it goes on, and no distribution differs anywhere."""
    turn = turn_of(box, "benign", guard({"tool": "get_balance", "then": "stop"}))
    found = what_if(plain, turn, ())
    assert found.second.turn.reply_ids[: len(turn.record.reply_ids)] == tuple(turn.record.reply_ids)
    opens, parts = found.moments[0], found.moments[-1]
    assert (opens.at, parts.at) == (("call opens",), ("replies part",))
    assert (parts.step, parts.leads, parts.other_token) == (len(turn.record.reply_ids), "other", None)
    assert parts.token
    assert {moment.divergence for moment in found.moments} == {(0, 0)}
    diff = diff_calls(found.first.record.calls, found.second.record.calls)
    assert {node.kind for node in diff} == {"removed", "added"}


def test_the_divergence_is_that_of_the_models_own_logits(box: Runtime, plain: Runtime) -> None:
    """At the first token it equals the one between a steered and a plain forward pass over the prompt."""
    turn = turn_of(box, "dangerous")
    policies = policies_in(turn.record)
    found = what_if(plain, turn, unsteered(policies))
    ids, logits = torch.tensor([turn.record.prompt_ids]), []
    for rows in (policies, ()):
        with torch.no_grad(), steerkit.attach(box.loaded.model, box.saes, rows=[rows], tokenizer=box.loaded.tokenizer):  # type: ignore[arg-type]
            logits.append(box.loaded.model(input_ids=ids).logits[0, -1])
    assert found.moments[0].divergence.kl == pytest.approx(divergence(*logits).kl, rel=1e-5)
    p, q = (one.double().softmax(dim=-1) for one in logits)
    assert divergence(*logits).kl == pytest.approx(float((p * (p / q).log2()).sum()), rel=1e-6)


def test_divergences_of_known_distributions() -> None:
    """Equal ones are 0 apart, disjoint ones 1 bit of Jensen-Shannon, and a coin against a loaded one is arithmetic."""
    fair, loaded = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert divergence(fair, fair) == (0, 0)
    kl = 0.5 * math.log2(0.5 / 0.25) + 0.5 * math.log2(0.5 / 0.75)
    assert divergence(fair, loaded).kl == pytest.approx(kl, abs=1e-6)
    apart = divergence(torch.tensor([0.0, -torch.inf]), torch.tensor([-torch.inf, 0.0]))
    assert apart == (math.inf, 1)


def test_replays_leave_no_record(box: Runtime) -> None:
    """A replay on a loaded runtime writes nothing, even where the runtime has no store of its own to write to."""
    turn = turn_of(box, "held")
    assert box.store is not None
    before = len(box.store)
    other = load_recorded(turn)
    assert other.store is None
    what_if(other, turn, ())
    assert again(other, turn).same
    assert len(box.store) == before
