"""Requests that join vLLM's scheduler at random while others run, against each alone through transformers."""

from __future__ import annotations

import random
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.engine import Sampling
from steerkit.errors import ModelError
from steerkit.runtime import Prepared, Request
from steerkit.tiny import TOOLS
from steerkit.types import Turn
from tests.runtime.test_constrained import PAY, WEATHER
from tests.runtime.test_continuous import LATE, Arrivals, check, requests
from tests.vllm.conftest import worker

ASKED = [one for one in requests() if one.policy != LATE and one.policy != (LATE,)]
"""Without those under the policy whose gate reads a higher layer than it edits, which vLLM refuses."""


@pytest.fixture(scope="module")
def alone(box: Runtime) -> list[Turn]:
    """The turn that each gets alone, through transformers."""
    return [box.take([box.prepare(one)])[0] for one in ASKED]


@pytest.mark.parametrize(("way", "seed", "cancelled"), [("inside", 0, 0.0), ("beside", 1, 0.02)])
def test_each_gets_what_it_gets_alone(
    way: str, seed: int, cancelled: float, alone: list[Turn], request: pytest.FixtureRequest
) -> None:
    """Greedy, sampled, held to grammars, turned away by steering, retried, tripped, with counterfactuals and stops; a
    part of them given up. New policies come while others run."""
    runtime: Runtime = request.getfixturevalue(way)
    order = random.Random(seed).sample(range(len(ASKED)), len(ASKED))
    arrivals = Arrivals(runtime, [runtime.prepare(ASKED[number]) for number in order], seed, cancelled)
    assert arrivals.most > 2
    assert bool(arrivals.given_up) == (cancelled > 0)
    for number, turn in arrivals.turns.items():
        check(turn, alone[order[number]])


def test_the_requests_reach_what_they_are_to_show(alone: list[Turn]) -> None:
    """Forced and masked tokens, replies that steering turned away from a call, retries, tripwires and stops."""
    held = [turn.constrained for turn in alone if turn.constrained is not None]
    assert any(one.forced for one in held)
    assert any(one.masked for one in held)
    assert any(one.turned_away is not None for one in held)
    assert any(turn.attempts for turn in alone)
    assert {turn.finish for turn in alone} >= {"stop", "length", "tripwire", "tool_call"}


def test_those_given_up_are_forgotten_while_others_go_on(inside: Runtime) -> None:
    """A server may never be idle: of twenty that are given up after their first token the worker keeps no more than the
    last ones while a long reply goes on."""
    sampling = Sampling(max_new_tokens=120, temperature=50.0, seed=1)
    left = [*([inside.prepare(ASKED[0])] * 20), inside.prepare(Request(WEATHER, TOOLS, sampling=sampling))]
    flow, dropped, kept = inside.continuous(lambda: left.pop() if left else None, 2), None, []
    with suppress(StopIteration):
        while True:
            news = flow.send(dropped)
            dropped = {number for number in news if number}
            kept.append((bool(dropped), len(worker(inside).steering._requests)))
    assert not left
    assert sum(gone for gone, _ in kept) == 20
    assert max(known for _, known in kept) <= 4


def test_nothing_is_left_of_them(inside: Runtime) -> None:
    """No sequence, choice, recorder or older plan, once all have ended."""
    (turn,) = inside.run_batch([ASKED[0]])
    assert turn.reply_ids
    inside.engine.reserve([])
    steering, choosing = worker(inside).steering, worker(inside).choosing
    assert (steering._requests, steering._done, choosing._choices, choosing._errors) == ({}, {}, {}, {})
    assert len(steering._run._sequences) <= 1  # the last one, of which vLLM tells with the next pass
    assert steering._runs == [steering._run]


def test_threads_share_the_engine(beside: Runtime, box: Runtime) -> None:
    """A turn is made, in this thread or another, while a long reply goes on, and both are what they are alone."""
    long = Request(WEATHER, TOOLS, sampling=Sampling(max_new_tokens=300, temperature=50.0, seed=1))
    expected, short = box.take([box.prepare(long)])[0], box.run(PAY, TOOLS, ())
    left, after, turns, beside_it = [beside.prepare(long)], 0, list[Turn](), list[Turn]()
    thread = threading.Thread(target=lambda: beside_it.append(beside.run(PAY, TOOLS, ())))
    for news in beside.continuous(lambda: left.pop() if left else None):
        after += bool(beside_it)
        turns += [event for some in news.values() for event in some if isinstance(event, Turn)]
        if not thread.is_alive() and not beside_it:
            thread.start()
    thread.join()
    assert after  # the other was over while this one went on
    assert (turns[0].reply_ids, beside_it[0].reply_ids) == (expected.reply_ids, short.reply_ids)
    stream = beside.stream(WEATHER, TOOLS, (), max_new_tokens=50)
    next(stream)
    assert beside.run(PAY, TOOLS, ()).reply_ids == short.reply_ids
    stream.close()  # type: ignore[attr-defined]  # it is a generator


def test_a_request_that_fails_fails_alone(inside: Runtime, alone: list[Turn]) -> None:
    """One that is too long for the context, among others."""
    some: list[Prepared] = [inside.prepare(one) for one in ASKED[:3]]
    some[1] = replace(some[1], prompt=replace(some[1].prompt, ids=[*some[1].prompt.ids] * 20))
    left, last = list(reversed(some)), dict[int, Any]()
    for news in inside.continuous(lambda: left.pop() if left else None):
        last.update((number, events[-1]) for number, events in news.items() if events)
    assert isinstance(last.pop(1), ModelError)
    assert {number: turn.reply_ids for number, turn in last.items()} == {n: alone[n].reply_ids for n in (0, 2)}
