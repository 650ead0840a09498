"""Ragged passes: transformers' continuous batching, each request under policies of its own, against the runtime."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig

import steerkit
from steerkit.agent import Runtime
from steerkit.chat import dialect_of, place_machine
from steerkit.errors import SteeringError
from steerkit.policy import Policy, load, resolve, shipped_file
from steerkit.runtime.request import wanted_of
from steerkit.sites import Site
from steerkit.steer import Extent, Plan, Recorder, Wanted, attach_ragged, compile_plan, read_traces, traced_sites
from steerkit.steer.ragged import Piece, RaggedSteering
from steerkit.testing import planted_policy, planted_saes, small_model
from steerkit.tiny.world.conversations import sample
from steerkit.types import Trace
from tests.steer.conftest import hooks_on
from tests.steer.mixed import KINDS, check_traces

MODEL: Any = small_model()
SAES = planted_saes(MODEL)
CPU, SITE = torch.device("cpu"), Site(0)
SMALL = {"num_blocks": 8, "max_batch_tokens": 64}
TOKENS = 32


def silent(policy: Policy) -> Policy:
    """A policy that steers and does nothing else."""
    return policy.model_copy(update={"guard": None})


PAYMENTS, ORDERS = (silent(load(shipped_file(name))) for name in ("payments", "orders"))
ALWAYS = PAYMENTS.model_copy(
    update={"name": "always", "steer": tuple(rule.model_copy(update={"when": None}) for rule in PAYMENTS.steer)}
)
POLICIES: list[tuple[Policy, ...]] = [(), (ALWAYS,), (PAYMENTS,), (ORDERS,)]
"""None, ungated, gated, and one whose gate stays open for the turn."""


def planned(box: Runtime, policies: Sequence[Sequence[Policy]]) -> tuple[Plan, list[int], list[tuple[Policy, ...]]]:
    """The plan of some requests, the table row of each, and its policies with every quantity raw."""
    assert box.saes is not None
    held = [tuple(resolve(policy, box.saes.statistic) for policy in one) for one in policies]
    plan = compile_plan(held, box.saes, box.loaded.site_devices)
    return plan, [plan.row(one) for one in held], held


def trace_of(box: Runtime, plan: Plan, recorder: Recorder, wanted: Wanted, turn: steerkit.Turn) -> Trace:
    """The trace of a request as its recorder has it, of the positions that the turn's has."""
    length = len(turn.prompt_ids) + len(turn.reply_ids) - 1
    return read_traces(recorder, plan, box.saes, [wanted], [Extent(length)])[0]


def generated(model: Any, prompts: Sequence[Sequence[int]], stops: Sequence[int], **how: Any) -> list[Any]:
    """The outputs of `generate_batch`, greedy."""
    config = GenerationConfig(do_sample=False, max_new_tokens=TOKENS, eos_token_id=list(stops) or -1)
    batching = ContinuousBatchingConfig(allow_block_sharing=False, **how)
    found = model.generate_batch([list(ids) for ids in prompts], config, batching)
    return [found[f"req_{number}"] for number in range(len(prompts))]


@pytest.fixture(scope="module")
def turns(box: Runtime) -> tuple[list[steerkit.Turn], list[tuple[Policy, ...]]]:
    """56 requests of the box, four policies in turn, as the runtime answers them."""
    examples = [example for kind in KINDS for example in sample(kind, "report", 8)]
    policies = [POLICIES[number % 4] for number in range(len(examples))]
    each = zip(examples, policies, strict=True)
    return [box.run(one.messages, one.tools, list(held), max_new_tokens=TOKENS) for one, held in each], policies


WAYS: dict[str, dict[str, Any]] = {
    "many tokens a pass": {"num_blocks": 96, "max_batch_tokens": 2048},
    "few tokens a pass": {"num_blocks": 96, "max_batch_tokens": 96},
    "few blocks": {"page_size": 16, "num_blocks": 60, "max_batch_tokens": 128},
}


@pytest.mark.parametrize("way", WAYS)
def test_generate_batch_gives_the_tokens_of_the_runtime(
    box: Runtime, turns: tuple[list[steerkit.Turn], list[tuple[Policy, ...]]], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """56 requests under four policies mixed, prefilled in chunks, and once more after a preemption."""
    runtime, policies = turns
    model, stops = box.loaded.model, dialect_of(box.loaded.tokenizer).stops
    plan, rows, held = planned(box, policies)
    passes: list[Sequence[Piece]] = []
    begin = RaggedSteering.begin

    def seen(steering: RaggedSteering, pieces: Sequence[Piece], ids: Tensor) -> None:
        passes.append(pieces)
        begin(steering, pieces, ids)

    monkeypatch.setattr(RaggedSteering, "begin", seen)
    by_id = {f"req_{number}": row for number, row in enumerate(rows)}
    wanted = [wanted_of(tuple(one)) for one in held]
    traced = traced_sites(wanted, box.saes)
    with attach_ragged(model, plan, by_id, trace=traced, places=place_machine(box.loaded.tokenizer)) as recorders:
        found = generated(model, [turn.prompt_ids for turn in runtime], stops, **WAYS[way])
    assert [one.error for one in found] == [None] * 56
    assert [one.generated_tokens for one in found] == [list(turn.reply_ids) for turn in runtime]
    assert not hooks_on(model)
    starts = [piece.request for pieces in passes for piece in pieces if piece.start == 0]
    assert (len(starts) > 56) == (way == "few blocks")
    assert any(0 < piece.start < piece.prompt_length for pieces in passes for piece in pieces)
    assert any(len({one.length for one in pieces}) > 1 and len(pieces) > 4 for pieces in passes)
    traces = [trace_of(box, plan, recorders.take(f"req_{n}"), wanted[n], turn) for n, turn in enumerate(runtime)]
    check_traces(traces, [turn.trace for turn in runtime])
    assert {number % 4 for number, trace in enumerate(traces) if trace.edits} == {1, 2, 3}
    assert all(bool(trace.watched) == bool(held[number]) for number, trace in enumerate(traces))
    with pytest.raises(KeyError):
        recorders.take("req_0")


def test_without_steering_the_tokens_are_others(
    box: Runtime, turns: tuple[list[steerkit.Turn], list[tuple[Policy, ...]]]
) -> None:
    """The control: of each policy some replies change, of requests without one none."""
    runtime, _ = turns
    prompts, stops = [turn.prompt_ids for turn in runtime], dialect_of(box.loaded.tokenizer).stops
    plain = [one.generated_tokens for one in generated(box.loaded.model, prompts, stops, **WAYS["many tokens a pass"])]
    assert {number % 4 for number in range(56) if plain[number] != list(runtime[number].reply_ids)} == {1, 2, 3}


def clamped(value: float = 30.0, **rule: Any) -> Plan:
    """A plan of one clamp."""
    features = {"edited": (0, 11), "low": (0, 3), "high": (2, 3)}
    steer = [{"name": "r", "where": "any", "edit": {"edited": {"clamp": value}}, **rule}]
    return compile_plan([(planted_policy("p", features, steer=steer),)], SAES)


def test_one_request_in_pieces_keeps_its_gate_memory() -> None:
    """A gate that holds for three tokens, in one piece, in two and token by token beside others that come and go."""
    plan = clamped(when={"feature": "low", "above": 0.02, "at": "any"}, **{"for": "3 tokens"})
    draw = torch.Generator().manual_seed(0)
    y = torch.randn(24, plan.sites[SITE].sae.d_in, generator=draw) * 0.05
    ids = torch.zeros(24, dtype=torch.long)

    def fed(edges: Sequence[int]) -> Tensor:
        steering = RaggedSteering(plan, CPU, lambda request: int(request == "mine"))
        found = []
        for number, (start, end) in enumerate(pairwise(edges)):
            other = Piece(f"other {number}", 0, 2, 2)
            steering.begin([other, Piece("mine", start, end - start, 8)], torch.cat([ids[:2], ids[start:end]]))
            out = steering.steer(SITE, torch.cat([y[:2], y[start:end]]))
            assert out is not None
            assert torch.equal(out[:2], y[:2])
            found.append(out[2:])
            steering.keep({"mine", f"other {number}"})
        return torch.cat(found)

    whole = fed([0, 24])
    changed = (whole != y).any(dim=-1)
    assert changed.any()
    assert not changed.all()
    for edges in ([0, 10, 24], range(25)):
        assert torch.allclose(fed(edges), whole, atol=1e-5)


def test_what_ragged_steering_cannot_follow_is_refused() -> None:
    """Late rules, places without a tokenizer, and tokens of a prefix that another request computed."""
    late = clamped(where="reply", when={"feature": "high", "above": 0.0, "at": "any"})
    with pytest.raises(SteeringError, match=r"policy p steer 'r': its gate reads a higher layer"):
        RaggedSteering(late, CPU, {}.__getitem__)
    at_user = clamped(when={"feature": "low", "above": 0.0, "at": "user"}, **{"for": "turn"})
    with pytest.raises(SteeringError, match=r"policy p steer 'r': its place is read from tokens; give places"):
        RaggedSteering(at_user, CPU, {}.__getitem__)
    steering = RaggedSteering(clamped(), CPU, lambda request: 1, unshared="give allow_block_sharing=False")
    with pytest.raises(SteeringError, match=r"request a: tokens from 4 on came after 0.*allow_block_sharing=False"):
        steering.begin([Piece("a", 4, 2, 6)], torch.zeros(2, dtype=torch.long))


def test_requests_without_a_rule_may_begin_after_shared_tokens() -> None:
    """Where an engine shares only blocks that nothing steered; a request under a rule is refused there too."""
    steering = RaggedSteering(clamped(), CPU, {"plain": 0, "ruled": 1}.__getitem__)
    plain, ruled = Piece("plain", 4, 2, 6), Piece("ruled", 4, 2, 6)
    assert steering.gap(plain) is None
    assert "request ruled: tokens from 4 on came after 0" in str(steering.gap(ruled))
    steering.begin([plain], torch.zeros(2, dtype=torch.long))
    with pytest.raises(SteeringError, match="must be read from its beginning"):
        steering.begin([ruled], torch.zeros(2, dtype=torch.long))
    steering.begin([plain._replace(start=6, length=1), ruled._replace(start=0)], torch.zeros(3, dtype=torch.long))


def test_errors_of_the_generating_thread_are_raised() -> None:
    """transformers logs them and goes on; the `with` raises the first, and takes its hooks off."""
    plan = clamped()
    with pytest.raises(SteeringError, match="request req_1: no table row"), attach_ragged(MODEL, plan, {"req_0": 1}):
        generated(MODEL, [[5, 17, 301], [8, 33]], [], **SMALL)
    assert not hooks_on(MODEL)
    assert "init_continuous_batching" not in MODEL.__dict__
    with pytest.raises(SteeringError, match="none of continuous batching"), attach_ragged(MODEL, plan, {}):
        MODEL(torch.tensor([[5, 17]]))
    with pytest.raises(SteeringError, match="still ran"), attach_ragged(MODEL, plan, {}):
        MODEL.init_continuous_batching(continuous_batching_config=ContinuousBatchingConfig(**SMALL)).start()
