"""Requests under four policies in vLLM's batches, against `Runtime.run` of each alone through transformers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.audit import read_turn, verify
from steerkit.engine.vllm.steering import Scheduled, WorkerSteering
from steerkit.policy import Policy, load, shipped_file
from steerkit.runtime import Request, replay
from steerkit.tiny.world.conversations import sample
from steerkit.types import Turn
from tests.steer.mixed import KINDS, check_traces
from tests.vllm.conftest import worker

TOKENS = 32
NAMES = ("payments", "shell", "orders")
POLICIES: list[tuple[Policy, ...]] = [(), *((load(shipped_file(name)),) for name in NAMES)]
REQUESTS = [
    Request(one.messages, one.tools, list(POLICIES[number % 4]))
    for number, one in enumerate(example for kind in KINDS for example in sample(kind, "report", 8))
]
REQUESTS = [replace(one, sampling=replace(one.sampling, max_new_tokens=TOKENS)) for one in REQUESTS]
WAYS = ("inside", "beside", pytest.param("compiled", marks=pytest.mark.slow))


@pytest.fixture(scope="session")
def alone(box: Runtime) -> list[Turn]:
    """The turns of `Runtime.run`, one at a time."""
    return [box.run(one.messages, one.tools, one.policy, max_new_tokens=TOKENS) for one in REQUESTS]


def differences(found: Sequence[Turn], expected: Sequence[Turn]) -> list[int]:
    """Requests whose tokens differ."""
    pairs = zip(found, expected, strict=True)
    return [number for number, (one, other) in enumerate(pairs) if one.reply_ids != other.reply_ids]


@pytest.mark.parametrize("way", WAYS)
def test_each_request_gets_what_it_gets_alone(way: str, alone: list[Turn], request: pytest.FixtureRequest) -> None:
    """Tokens, calls, verdicts, watched values and edits of 56 requests, four policies in turn, in one batch."""
    runtime: Runtime = request.getfixturevalue(way)
    found = runtime.run_batch(REQUESTS, batch_size=len(REQUESTS))
    assert differences(found, alone) == []
    for one, other in zip(found, alone, strict=True):
        assert (one.text, one.calls, one.finish) == (other.text, other.calls, other.finish)
        assert [(verdict.decision, verdict.rule) for verdict in one.verdicts] == [
            (verdict.decision, verdict.rule) for verdict in other.verdicts
        ]
        assert one.trace.places == other.trace.places
    check_traces([turn.trace for turn in found], [turn.trace for turn in alone])
    assert {number % 4 for number, turn in enumerate(found) if turn.trace.edits} == {1, 3}
    assert runtime.store is not None
    verify(runtime.store)


def test_chunks_and_preemptions_were_there(inside: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof above held over prompts in pieces, mixed with decodes, and requests that were computed twice."""
    passes: list[Mapping[str, Scheduled]] = []
    schedule = WorkerSteering.schedule

    def seen(steering: WorkerSteering, tokens: Mapping[str, Scheduled]) -> None:
        passes.append(tokens)
        schedule(steering, tokens)

    monkeypatch.setattr(WorkerSteering, "schedule", seen)
    inside.run_batch(REQUESTS, batch_size=len(REQUESTS))
    pieces = [(request, piece) for tokens in passes for request, piece in tokens.items()]
    assert any(piece.start > 0 and piece.length > 1 for _, piece in pieces)
    assert any(len({piece.length for piece in tokens.values()}) > 1 and len(tokens) > 4 for tokens in passes)
    begun = [request for request, piece in pieces if piece.start == 0]
    assert len(begun) > len(set(begun))


def test_without_policies_the_tokens_are_others(inside: Runtime, alone: list[Turn]) -> None:
    """The control: under payments and orders some replies change, of requests without a policy none."""
    plain = inside.run_batch([replace(one, policy=()) for one in REQUESTS], batch_size=len(REQUESTS))
    assert {number % 4 for number in differences(plain, alone)} == {1, 3}


def test_a_record_of_vllm_replays_through_transformers(inside: Runtime, box: Runtime) -> None:
    """The record says what made it; the same tokens and verdicts come of it in the other engine, in float32."""
    one = REQUESTS[1]
    turn = inside.run(one.messages, one.tools, one.policy, max_new_tokens=TOKENS)
    assert inside.store is not None
    recorded = read_turn(inside.store, inside.store.get(str(turn.record_id)))
    machine: Any = recorded.record.machine
    assert (machine["engine"], machine["runner"], machine["tensor_parallel"]) == ("vllm", "V1", 1)
    assert recorded.record.libraries is not None
    assert recorded.record.libraries["vllm"].startswith("0.32")
    assert recorded.record.model == box.engine.provenance.model
    again = replay(box, recorded)
    assert again.turn.reply_ids == turn.reply_ids
    assert again.turn.verdicts == turn.verdicts


def test_streams_retries_and_counterfactuals_go_through_it(inside: Runtime, box: Runtime) -> None:
    """All that a turn is made of besides its tokens is the runtime's own."""
    one = REQUESTS[1]
    for runtime in (inside, box):
        *events, turn = runtime.stream(one.messages, one.tools, one.policy, max_new_tokens=TOKENS)
        assert isinstance(turn, Turn)
        assert "".join(getattr(event, "text", "") for event in events) == turn.text
    both = [replace(one, counterfactual=True)]
    (found,), (expected,) = inside.run_batch(both), box.run_batch(both)
    assert found.counterfactual is not None
    assert expected.counterfactual is not None
    assert found.counterfactual.reply_ids == expected.counterfactual.reply_ids != found.reply_ids


def test_a_thousand_requests_that_are_given_up_leave_nothing(inside: Runtime) -> None:
    """No sequence, gate memory, trace or name stays, in the worker or here."""
    prepared = [inside.prepare(REQUESTS[number % len(REQUESTS)]) for number in range(250)]
    for _ in range(4):
        steps = inside.written(prepared)
        next(steps)
        steps.close()
    (turn,) = inside.run_batch(REQUESTS[:1])
    steering = worker(inside).steering
    assert turn.reply_ids
    assert steering._requests == {}
    assert steering._done == {}
    assert len(steering._run._sequences) <= 1  # the last one, of which vLLM tells with the next pass
    assert steering._run.recorders._recorders == {}
