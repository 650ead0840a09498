"""Turns on the model in the box: single, in batches and as streams, under policies of their own."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store, verify
from steerkit.engine import Sampling
from steerkit.errors import ModelError, PolicyError, SaeError, SteeringError
from steerkit.policy import Policy, load
from steerkit.runtime import Request
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.testing import planted_saes, small_model
from steerkit.tiny.demo_requests import CASES, policy_files
from steerkit.tiny.world.conversations import sample
from steerkit.types import Call, Turn
from tests.steer.conftest import hooks_on

BY_NAME = {case.name: case for case in CASES}
DANGEROUS = BY_NAME["dangerous"]


def shadowed(policy: Policy) -> Policy:
    """The same policy, which only looks."""
    return policy.model_copy(update={"mode": "shadow"})


def test_a_batch_equals_its_single_runs(box: Runtime) -> None:
    """Eighteen requests with policies of their own get the tokens, verdicts and edits that each gets alone."""
    choices: list[object] = [None, (), [policy_files()[0]]]
    requests = [
        Request(example.messages, example.tools, policy=choices[number % 3])  # type: ignore[arg-type]
        for number, example in enumerate(
            [
                *sample("dangerous:transfer_money", "report", 6),
                *sample("benign", "report", 6),
                *sample("parallel", "report", 6),
            ]
        )
    ]
    together = box.run_batch(requests)
    alone = [box.run(one.messages, one.tools, one.policy) for one in requests]
    assert [turn.reply_ids for turn in together] == [turn.reply_ids for turn in alone]
    assert [[v.rule for v in turn.verdicts] for turn in together] == [[v.rule for v in turn.verdicts] for turn in alone]
    assert [[e.positions for e in t.trace.edits] for t in together] == [
        [e.positions for e in t.trace.edits] for t in alone
    ]
    assert len({len(turn.prompt_ids) for turn in together}) > 3  # it really was padded
    assert any(turn.trace.edits for turn in together)


def test_sampling_repeats_with_its_seed_and_in_a_batch(box: Runtime) -> None:
    """The same seed draws the same tokens, alone and beside others; another seed draws others somewhere."""
    examples = sample("single", "report", 4)
    hot = {"temperature": 1.5, "max_new_tokens": 24}

    def draw(seed: int) -> list[Turn]:
        settings = Sampling(seed=seed, **hot)  # type: ignore[arg-type]
        return box.run_batch([Request(one.messages, one.tools, (), settings) for one in examples])

    first = [turn.reply_ids for turn in draw(1)]
    assert first == [turn.reply_ids for turn in draw(1)]
    assert first == [box.run(one.messages, one.tools, (), seed=1, **hot).reply_ids for one in examples]
    assert first != [turn.reply_ids for turn in draw(2)]


def test_a_stream_says_what_the_turn_holds(box: Runtime) -> None:
    """Events add up to the turn's text and calls, and the turn comes last, recorded."""
    for name in ("benign", "plain"):
        case = BY_NAME[name]
        *events, turn = box.stream(case.messages, case.tools)
        assert isinstance(turn, Turn)
        assert turn.reply_ids == box.run(case.messages, case.tools).reply_ids
        assert "".join(getattr(event, "text", "") for event in events) == turn.text
        assert tuple(event.call for event in events if hasattr(event, "call")) == turn.calls
        assert turn.record_id


def test_a_dropped_stream_takes_its_hooks_off(box: Runtime) -> None:
    """While it is open another turn is refused, not steered by a stranger; after it is dropped all is as before."""
    case = BY_NAME["benign"]
    stream = box.stream(case.messages, case.tools)
    next(stream)
    assert hooks_on(box.loaded.model) > 0
    with pytest.raises(SteeringError, match="a stream on this model is still open"):
        box.run(case.messages, case.tools)
    stream.close()  # type: ignore[attr-defined]
    assert hooks_on(box.loaded.model) == 0
    assert box.run(case.messages, case.tools).calls


def test_shadow_records_what_it_would_have_done(box: Runtime) -> None:
    """In shadow the reply is plain to the token; edits and verdicts say what enforcing would have done."""
    policies = [shadowed(load(path)) for path in policy_files()]
    plain = box.run(DANGEROUS.messages, DANGEROUS.tools, ())
    shadow = box.run(DANGEROUS.messages, DANGEROUS.tools, policies)
    enforced = box.run(DANGEROUS.messages, DANGEROUS.tools)
    assert shadow.reply_ids == plain.reply_ids != enforced.reply_ids
    assert [edit.rule for edit in shadow.trace.edits] == [edit.rule for edit in enforced.trace.edits] != []
    assert [verdict.decision for verdict in shadow.verdicts] == ["none"]
    assert shadow.verdicts[0].shadowed in ("hold", "deny")
    assert [call.name for call in shadow.released] == ["transfer_money"]


def test_the_trace_is_what_the_saes_say_of_the_activations(box: Runtime) -> None:
    """Watched probes and top-k features equal those recomputed from one plain pass over prompt and reply."""
    case = BY_NAME["held"]
    turn = box.run(case.messages, case.tools)
    assert box.saes is not None
    assert not turn.trace.edits
    ids = torch.tensor([[*turn.prompt_ids, *turn.reply_ids[:-1]]])
    with torch.no_grad(), steerkit.attach(box.loaded.model, box.saes, trace=list(box.saes)) as recorder:
        box.loaded.model(input_ids=ids)
    features = {layer: sae.encode(recorder.raw(layer)[0]) for layer, sae in box.saes.items()}
    policy = load(policy_files()[0])
    probe = policy.probes["asked"]
    expected = torch.full((ids.shape[1],), probe.bias)
    for name, weight in probe.weights.items():
        feature = policy.features[name].feature
        expected += weight * features[feature.site][:, feature.index]
    assert torch.allclose(torch.tensor(turn.trace.watched["payments.asked"]), expected, atol=1e-3)
    top = turn.trace.top[-1]
    call = turn.calls[0]
    assert top.start == call.span.start - 1
    indices = struct.unpack(f"<{top.count * top.k}H", top.index)
    values = struct.unpack(f"<{top.count * top.k}e", top.value)
    best = features[top.site][top.start].topk(top.k)
    assert torch.allclose(torch.tensor(values[: top.k]), best.values, atol=1e-2)
    assert set(indices[:4]) == set(best.indices[:4].tolist())


def test_every_turn_is_on_disk_before_it_returns(tmp_path: Path) -> None:
    """A second reader of the file sees the record of the turn just returned; without auditing there is none."""
    runtime = steerkit.load("tiny", audit=tmp_path / "audit.db")
    case = BY_NAME["benign"]
    turn = runtime.run(case.messages, case.tools)
    assert turn.record_id is not None
    reader = Store(tmp_path / "audit.db", create=False)
    content = reader.get(turn.record_id).content
    assert content["guard"] == "none"
    assert content["reply_ids"] == list(turn.reply_ids)
    assert verify(reader).records == 2  # and the one that opened the run
    assert steerkit.load("tiny", audit=False).run(case.messages, case.tools).record_id is None


def test_a_reply_that_is_cut_off_releases_nothing(box: Runtime) -> None:
    """With too few tokens the call is malformed and denied; with enough it is released."""
    case = BY_NAME["benign"]
    cut = box.run(case.messages, case.tools, max_new_tokens=4)
    assert cut.finish == "length"
    assert [verdict.rule for verdict in cut.verdicts] == ["malformed_call"]
    assert cut.released == ()
    assert box.run(case.messages, case.tools).released


@pytest.mark.parametrize("most", [1, 3, 6, 9])
def test_a_reply_that_is_cut_says_so(most: int, box: Runtime, tmp_path: Path) -> None:
    """In the turn, in the verdict's reason and in the record: at which bound, what to raise; a whole one does not."""
    case = BY_NAME["benign"]
    cut, whole = (box.run(case.messages, case.tools, max_new_tokens=count) for count in (most, 60))
    assert cut.reply_ids == whole.reply_ids[:most]
    said = f"the reply was cut at max_new_tokens={most}, before <end_function_call>; raise max_new_tokens"
    assert box.store is not None
    content = box.store.get(str(cut.record_id)).content
    for reason in (cut.verdicts[0].reason, content["verdicts"][0]["reason"]):
        assert reason == f"malformed call: {said}"
    assert content["calls"][0]["malformed"] == said
    assert "cut" not in f"{whole.verdicts} {whole.calls}"
    *_, streamed = box.stream(case.messages, case.tools, max_new_tokens=most)
    assert isinstance(streamed, Turn)
    assert streamed.verdicts == cut.verdicts


def test_a_cut_after_a_whole_call_is_only_in_the_finish(box: Runtime) -> None:
    """A reply that is cut right after a call releases it; one that is cut in the next call says so there alone."""
    case = BY_NAME["parallel"]
    whole = box.run(case.messages, case.tools)
    first = whole.calls[0]
    end = first.span.end - len(whole.prompt_ids)
    at_the_end, in_the_next = (box.run(case.messages, case.tools, max_new_tokens=n) for n in (end, end + 4))
    assert (at_the_end.finish, at_the_end.calls) == ("length", (first,))
    assert in_the_next.calls[0] == first
    reasons = [verdict.reason for verdict in in_the_next.verdicts]
    assert ["was cut at" in reason for reason in reasons] == [False, True]
    assert in_the_next.released == (first,) == at_the_end.released


def test_python_functions_are_tools(box: Runtime) -> None:
    """A function with type hints and a docstring is declared and called like a tool dict."""

    def get_balance(account: str) -> str:
        """Show a balance.

        Args:
            account: Account
        """
        return account

    case = BY_NAME["benign"]
    turn = box.run(case.messages, [get_balance])
    assert [call.name for call in turn.calls if isinstance(call, Call)] == ["get_balance"]


def test_what_the_published_template_garbles_is_a_warning(box: Runtime) -> None:
    """A parameter that would vanish from FunctionGemma's declaration is named; a plain tool warns of nothing."""
    case = BY_NAME["plain"]
    odd = {"name": "f", "parameters": {"properties": {"type": {"type": "string"}}}}
    with pytest.warns(UserWarning, match=r"tool f parameters\.properties\.type: a parameter named 'type' vanishes"):
        box.run(case.messages, [odd], max_new_tokens=1)
    box.run(case.messages, case.tools, max_new_tokens=1)


def test_policies_and_saes_of_another_model_are_refused(box: Runtime, tmp_path: Path) -> None:
    """Names, widths and features that do not fit are said before a token is made; those that fit load."""
    assert box.saes is not None
    foreign = load(policy_files()[0]).model_copy(update={"model": "other/model"})
    with pytest.raises(PolicyError, match="policy 'payments' model: got 'other/model', but the model is 'tiny'"):
        box.run(DANGEROUS.messages, DANGEROUS.tools, foreign)
    named = load(policy_files()[0]).model_copy(update={"model": box.saes.fingerprint})
    assert box.run(DANGEROUS.messages, DANGEROUS.tools, named).trace.edits
    narrow = planted_saes(small_model())
    with pytest.raises(SaeError, match="reads width 32, but layer 0's o_proj of tiny writes 128"):
        steerkit.load("tiny", SaeSet("narrow", narrow.checkpoints.values()), audit=False)
    with pytest.raises(SaeError, match=r"layer 3 has no feature 99999"):
        box.saes.check(Feature(3, 99999))


def test_models_that_are_not_there_are_named(tmp_path: Path) -> None:
    """A missing folder, a folder without a model and bad settings each give one clear error."""
    with pytest.raises(ModelError, match="no such folder"):
        steerkit.load(tmp_path / "none", audit=False)
    with pytest.raises(ModelError, match="no weights in the folder"):
        steerkit.load(tmp_path, audit=False)
    with pytest.raises(ModelError, match="dtype: got 'float31'"):
        steerkit.load("tiny", dtype="float31", audit=False)
    with pytest.raises(ModelError, match="both device and device_map"):
        steerkit.load("tiny", device="cpu", device_map="auto", audit=False)
    with pytest.raises(ModelError, match="temperature: got -1, expected a number, at least 0"):
        Sampling(temperature=-1)


def test_a_model_spread_by_accelerate_gives_the_same_turn(box: Runtime) -> None:
    """`device_map` goes through accelerate; here all layers land on the CPU, and the turn is the same."""
    spread = steerkit.load("tiny", policy=policy_files(), device_map={"": "cpu"}, audit=False)
    assert (
        spread.run(DANGEROUS.messages, DANGEROUS.tools).reply_ids
        == box.run(DANGEROUS.messages, DANGEROUS.tools).reply_ids
    )


def test_half_precision_is_settable(box: Runtime) -> None:
    """In bfloat16 the box still answers, and says so in its record's context."""
    half = steerkit.load("tiny", dtype="bfloat16", audit=False)
    case = BY_NAME["benign"]
    assert half.loaded.model.dtype == torch.bfloat16
    assert half.run(case.messages, case.tools).calls[0].name == "get_balance"  # type: ignore[union-attr]
