"""Requests that join while others run, at random: each gets what it gets alone, whoever comes, goes or is given up."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import astuple, replace
from itertools import pairwise
from typing import Any

import pytest

import steerkit
from steerkit.agent import Runtime
from steerkit.chat import TextDelta
from steerkit.engine import HfEngine, Sampling
from steerkit.engine.hf import continuous, prefix_cache
from steerkit.engine.hf.rows_cache import RowsLayer
from steerkit.errors import ModelError, SteeringError, SteerkitError
from steerkit.policy import Policy, load, loads, shipped_file
from steerkit.runtime import Prepared, Request, Retried
from steerkit.steer import JoinedSteering, PrefillState
from steerkit.steer import memory as gate_memory
from steerkit.steer.eager import attach, joined
from steerkit.testing import planted_policy
from steerkit.tiny import TOOLS
from steerkit.tiny.world.conversations import sample
from steerkit.types import Trace, Turn
from tests.runtime.test_constrained import IN_THE_CALL, PAY, WEATHER, tripping
from tests.steer.conftest import hooks_on

LATE = planted_policy(
    "later",
    {"low": (1, 3), "high": (3, 7)},
    steer=[{"name": "late", "where": "reply", "when": {"feature": "high", "above": 0.0, "at": "any"},
            "for": "2 tokens", "edit": {"low": {"shift": 0.3}}}],
    trace={"watch": ["high"], "top_k": 3},
)  # fmt: skip
AGAIN = loads(
    "steerkit: 1\nname: again\nfeatures: {paying: {layer: 3, index: 72}}\n"
    "steer: [{name: push, when: {feature: paying, above: 1000000}, where: text, edit: {paying: {shift: 0.001}}}]\n"
    "guard:\n  default: allow\n  rules:\n"
    "    - {name: once-more, tool: transfer_money, then: retry, with: push, attempts: 1, reason: a test wants it}\n"
)
TRIPPED = tripping("transfer_money")
PAYMENTS, ORDERS = (load(shipped_file(name)) for name in ("payments", "orders"))
POLICIES: list[tuple[Policy, ...]] = [
    (), (PAYMENTS,), (ORDERS,), (IN_THE_CALL,), (LATE,), (PAYMENTS, IN_THE_CALL), (AGAIN,), (TRIPPED,),
]  # fmt: skip
KINDS = ("dangerous:transfer_money", "injected", "benign", "single", "parallel", "dangerous")


def requests() -> list[Request]:
    """Conversations under all policies, sampled and greedy, short and long; some with a grammar, some with a stop."""
    examples = [one for kind in KINDS for one in sample(kind, "report", 4)]
    found = []
    for number, one in enumerate(examples):
        settings = Sampling(
            max_new_tokens=(3, 60, 32)[number % 3], temperature=(0.0, 0.0, 1.2)[number % 3], seed=number, top_k=20
        )
        counterfactual = number % 4 == 1
        found.append(
            Request(
                one.messages, one.tools, POLICIES[3 * number % 8], settings, counterfactual, stop=("e", ())[number % 2]
            )
        )
    found += [Request(one.messages, one.tools, ORDERS) for one in sample("injected", "report", 12)[8:]]
    for policies in ((), (PAYMENTS,), (IN_THE_CALL,), (LATE,), (AGAIN,), (TRIPPED,)):
        asked = (PAY, TOOLS, policies, Sampling(max_new_tokens=40))
        found += [Request(*asked, tool_choice="required"), Request(*asked, tool_choice="get_weather")]
        found.append(Request(WEATHER, TOOLS, policies, asked[3], tool_choice="none", stop="."))
    return found


@pytest.fixture(scope="module")
def runtime() -> Runtime:
    """The box without policies of its own, and without records."""
    return steerkit.load("tiny", audit=False)


@pytest.fixture(scope="module")
def alone(runtime: Runtime) -> list[tuple[Prepared, Turn]]:
    """The requests, and the turn that each gets alone."""
    prepared = [runtime.prepare(one) for one in requests()]
    return [(one, runtime.take([one])[0]) for one in prepared]


class Arrivals:
    """Runs requests through `continuous` as they arrive at random; some are given up at random, and have no turn."""

    def __init__(self, runtime: Runtime, some: Sequence[Prepared], seed: int, cancelled: float = 0.0) -> None:
        self.draw, self.cancelled = random.Random(seed), cancelled
        self.some, self.arrived, self.most = some, 0, 0
        self.turns: dict[int, Turn] = {}
        self.given_up: set[int] = set()
        self.said: dict[int, str] = {}
        while self.arrived < len(some):  # it ends where nothing runs and nothing has come
            self._flow(runtime, self.arrived)
        assert not isinstance(runtime.engine, HfEngine) or not hooks_on(runtime.loaded.model)
        assert self.given_up.isdisjoint(self.turns)
        assert self.given_up | self.turns.keys() == set(range(len(some)))

    def _next(self) -> Prepared | None:
        if self.arrived == len(self.some) or self.draw.random() < 0.6:
            return None
        self.arrived += 1
        return self.some[self.arrived - 1]

    def _flow(self, runtime: Runtime, first: int) -> None:
        flow = runtime.continuous(self._next, 5)
        dropped: set[int] | None = None
        while True:
            try:
                news = flow.send(dropped)
            except StopIteration:
                return
            self.most = max(self.most, len(news))
            for number, events in news.items():
                self._see(first + number, events)
            dropped = {one for one in news if first + one not in self.turns and self.draw.random() < self.cancelled}
            self.given_up |= {first + one for one in dropped}

    def _see(self, number: int, events: Sequence[Any]) -> None:
        assert number not in self.given_up
        for event in events:
            assert not isinstance(event, SteerkitError), event
            if isinstance(event, Retried):
                self.said[number] = ""
            elif isinstance(event, TextDelta):
                self.said[number] = self.said.get(number, "") + event.text
            elif isinstance(event, Turn):
                self.turns[number] = event
                assert self.said.get(number, "") == event.text


def check_traces(found: Trace, expected: Trace) -> None:
    """Values, strongest features and edits are the same, up to the rounding of products of other shapes."""
    assert (found.features, found.places, found.forced) == (expected.features, expected.places, expected.forced)
    assert found.watched.keys() == expected.watched.keys()
    for name, values in found.watched.items():
        assert values == pytest.approx(expected.watched[name], abs=2e-4)
    assert [edit[:4] for edit in map(astuple, found.edits)] == [edit[:4] for edit in map(astuple, expected.edits)]
    assert [edit.norm for edit in found.edits] == pytest.approx([edit.norm for edit in expected.edits], rel=1e-3)
    assert [astuple(one)[:4] for one in found.top] == [astuple(one)[:4] for one in expected.top]


def check(found: Turn, expected: Turn) -> None:
    """Tokens, calls, verdicts, what a grammar decided, gates and features are the same."""
    assert found.reply_ids == expected.reply_ids
    assert (found.text, found.calls, found.finish) == (expected.text, expected.calls, expected.finish)
    assert [(one.decision, one.rule) for one in found.verdicts] == [(o.decision, o.rule) for o in expected.verdicts]
    assert found.constrained == expected.constrained
    check_traces(found.trace, expected.trace)
    assert [one.reply_ids for one in found.attempts] == [one.reply_ids for one in expected.attempts]
    assert (found.counterfactual is None) == (expected.counterfactual is None)
    if found.counterfactual is not None and expected.counterfactual is not None:
        assert found.counterfactual.reply_ids == expected.counterfactual.reply_ids
        check_traces(found.counterfactual.trace, expected.counterfactual.trace)


def shuffled(alone: Sequence[tuple[Prepared, Turn]], seed: int) -> list[tuple[Prepared, Turn]]:
    """The requests in another order."""
    return random.Random(seed).sample(alone, len(alone))


@pytest.mark.parametrize("seed", range(6))
def test_each_gets_what_it_gets_alone(
    runtime: Runtime, alone: list[tuple[Prepared, Turn]], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """46 requests under eight sets of policies, in random order at random steps, none or a part of them given up; their
    prompts are read as fast as usual, a block in a step, or in short blocks.
    """
    monkeypatch.setattr(continuous, "_MOST", (256, 1, 1)[seed % 3])
    monkeypatch.setattr(prefix_cache, "_MOST", (256, 256, 32)[seed % 3])
    some = shuffled(alone, seed)
    arrivals = Arrivals(runtime, [one for one, _ in some], seed, cancelled=(0.0, 0.02, 0.1)[seed % 3])
    assert arrivals.most > 2
    assert bool(arrivals.given_up) == (seed % 3 > 0)
    for number, turn in arrivals.turns.items():
        check(turn, some[number][1])


def test_the_requests_reach_what_they_are_to_show(alone: list[tuple[Prepared, Turn]]) -> None:
    """Rules of every policy act in replies; there are retries, tripwires, forced and masked tokens, and stop texts."""
    turns = [turn for _, turn in alone]
    acted = {edit.policy for turn in turns for edit in turn.trace.edits if edit.positions[-1] >= len(turn.prompt_ids)}
    assert {"inside", "later"} <= acted
    assert {edit.policy for turn in turns for edit in turn.trace.edits} >= {"payments", "orders", "inside", "later"}
    assert {turn.finish for turn in turns} >= {"stop", "length", "tripwire", "tool_call"}
    assert any(turn.attempts for turn in turns)
    assert any(turn.constrained and turn.constrained.forced for turn in turns)
    assert any(turn.constrained and turn.constrained.masked for turn in turns)
    assert any(turn.counterfactual for turn in turns)


def forget_gates(patch: pytest.MonkeyPatch) -> None:
    """Gates begin anew where rows change."""
    patch.setattr(joined, "moved", lambda empty, parts: empty)


def mix_gates(patch: pytest.MonkeyPatch) -> None:
    """A row that leaves takes another's gates along."""
    inner = gate_memory.moved
    patch.setattr(joined, "moved", lambda empty, parts: inner(empty, [
        one._replace(source=list(reversed(one.source))) for one in parts
    ]))  # fmt: skip


def swap_policies(patch: pytest.MonkeyPatch) -> None:
    """Each row is under the rules of the row before it."""
    inner = JoinedSteering._tokens

    def wrong(*given: Any) -> Any:
        batch = inner(*given)
        return batch._replace(row=batch.row.roll(1))

    patch.setattr(JoinedSteering, "_tokens", wrong)


def lose_a_token(patch: pytest.MonkeyPatch) -> None:
    """A row joins without the keys of its last token."""
    put = RowsLayer.put

    def wrong(layer: RowsLayer, row: int, filled: Any, places: Any) -> None:
        put(layer, row, filled, places)
        assert layer.keys is not None
        layer.keys[row, :, places[-1]] = 0

    patch.setattr(RowsLayer, "put", wrong)


def leave_keys(patch: pytest.MonkeyPatch) -> None:
    """The row that takes a free place has the keys and values of the one that left."""
    patch.setattr(RowsLayer, "move", lambda layer, source, target: None)


def forget_places(patch: pytest.MonkeyPatch) -> None:
    """The grammar of the conversation begins anew at the reply."""
    inner = JoinedSteering.join

    def wrong(steering: JoinedSteering, state: PrefillState) -> None:
        inner(steering, state)
        if steering._rows[-1].grammar is not None:
            steering._rows[-1].grammar = joined.GrammarState()

    patch.setattr(JoinedSteering, "join", wrong)


@pytest.mark.parametrize("fault", [forget_gates, mix_gates, swap_policies, lose_a_token, leave_keys, forget_places])
def test_a_broken_join_is_seen(
    runtime: Runtime,
    alone: list[tuple[Prepared, Turn]],
    fault: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The control: with one thing wrong some requests get what they do not get alone."""
    some = shuffled(alone, 0)
    fault(monkeypatch)
    arrivals = Arrivals(runtime, [one for one, _ in some], 0)
    assert any(differs(turn, some[number][1]) for number, turn in arrivals.turns.items())


def differs(found: Turn, expected: Turn) -> bool:
    """True if `check` fails."""
    try:
        check(found, expected)
    except AssertionError:
        return True
    return False


def test_a_row_begins_with_what_the_prefix_cache_holds(runtime: Runtime, alone: list[tuple[Prepared, Turn]]) -> None:
    """The second of two requests with one beginning reads only the rest, beside others, and gets the same."""
    assert runtime.prefix_cache is not None
    runtime.prefix_cache.clear()
    number = next(n for n, (one, _) in enumerate(alone) if one.policies == (PAYMENTS,) and one.unsteered is None)
    turns = Arrivals(runtime, [alone[number][0], *(one for one, _ in alone[:4]), alone[number][0]], 1).turns
    assert (turns[0].cached_tokens, turns[5].cached_tokens > 0) == (0, True)
    check(turns[0], alone[number][1])
    check(turns[5], alone[number][1])


LONG = [{"role": "user", "content": f"{'please tell me how much money travel 38 has, ' * 50}now"}]


def tokens_meanwhile(runtime: Runtime) -> tuple[Turn, list[int]]:
    """The turn of a long prompt that joins another request, and the tokens that are read in the passes meanwhile."""
    hot = Sampling(max_new_tokens=60, temperature=50.0, seed=1)
    left = [runtime.prepare(Request(LONG, TOOLS, PAYMENTS)), runtime.prepare(Request(WEATHER, TOOLS, sampling=hot))]
    passes, turns = list[int](), dict[int, Turn]()
    body = runtime.loaded.model.base_model
    hook = body.register_forward_pre_hook(
        lambda _, args, given: passes.append(given["input_ids"].numel()), with_kwargs=True
    )
    try:
        for news in runtime.continuous(lambda: left.pop() if left and (passes or len(left) == 2) else None, 4):
            turns |= {number: event for number, said in news.items() for event in said if isinstance(event, Turn)}
    finally:
        hook.remove()
    return turns[1], passes


def test_rows_go_on_while_a_long_prompt_is_read(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks and their tokens take turns, and it gets what it gets alone; the control reads it in one pass."""
    assert runtime.prefix_cache is not None
    (expected,) = runtime.take([runtime.prepare(Request(LONG, TOOLS, PAYMENTS))])
    assert len(expected.prompt_ids) > 1000
    for most in (256, 10_000):
        monkeypatch.setattr(prefix_cache, "_MOST", most)
        runtime.prefix_cache.clear()
        turn, passes = tokens_meanwhile(runtime)
        check(turn, expected)
        blocks = [number for number, tokens in enumerate(passes) if tokens > 64][2:]
        if most == 256:
            assert max(passes) <= 256
            assert len(blocks) >= 4
            assert all(after - before > 1 for before, after in pairwise(blocks))
        else:
            assert max(passes) > 900


def test_whole_prompts_join_before_the_next_step(runtime: Runtime, alone: list[tuple[Prepared, Turn]]) -> None:
    """Which rows are decoded together does not depend on what the prefix cache holds; read in parts, it does."""
    assert runtime.prefix_cache is not None
    some = [one for one, turn in alone if one.unsteered is None and len(turn.reply_ids) > 2 and not turn.attempts][:6]

    def rows(whole: bool) -> list[int]:
        """Rows of each pass over several."""
        found, waiting = list[int](), iter(some)
        body = runtime.loaded.model.base_model
        hook = body.register_forward_pre_hook(
            lambda _, args, given: found.append(len(given["input_ids"])), with_kwargs=True
        )
        for news in runtime.continuous(lambda: next(waiting, None), 6, whole_prompts=whole):
            assert not any(isinstance(one, SteerkitError) for some in news.values() for one in some)
        hook.remove()
        return [count for count in found if count > 1]

    for whole in (True, False):
        runtime.prefix_cache.clear()
        cold, warm = rows(whole), rows(whole)
        assert (cold == warm) is whole
        assert (cold[0] == len(some)) is whole


def test_hooks_that_stay_on_between_two_blocks_are_seen(
    runtime: Runtime, alone: list[tuple[Prepared, Turn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the others would be decoded under the hooks of the prompt that is read."""
    monkeypatch.setattr(continuous, "_MOST", 1)
    monkeypatch.setattr(attach, "_without", lambda stack, put_on: nullcontext())
    with pytest.raises((AssertionError, SteeringError)):
        Arrivals(runtime, [one for one, _ in shuffled(alone, 1)], 1)


def test_a_prompt_that_is_given_up_is_read_no_further(runtime: Runtime) -> None:
    """No hook is left, and whoever runs goes on to the same end."""
    hot = Sampling(max_new_tokens=30, temperature=50.0, seed=1)
    beside = runtime.prepare(Request(WEATHER, TOOLS, sampling=hot))
    (expected,) = runtime.take([beside])
    left, turns = [runtime.prepare(Request(LONG, TOOLS, PAYMENTS)), beside], list[Turn]()
    flow = runtime.continuous(lambda: left.pop() if left else None, 4)
    next(flow)
    news = flow.send([1])
    while True:
        turns += [event for said in news.values() for event in said if isinstance(event, Turn)]
        assert not hooks_on(runtime.loaded.model)
        assert 1 not in news
        try:
            news = next(flow)
        except StopIteration:
            break
    assert [turn.reply_ids for turn in turns] == [expected.reply_ids]


def test_forced_tokens_of_a_lone_row_come_in_one_pass(
    runtime: Runtime, alone: list[tuple[Prepared, Turn]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer passes than tokens, as when it is taken by itself; with another beside it they come one by one."""
    prepared, turn = next(one for one in alone if one[1].constrained and one[1].constrained.forced)
    passes: list[int] = []
    reading = JoinedSteering.reading

    def counted(steering: JoinedSteering, tokens: Sequence[Sequence[int]]) -> Any:
        passes.append(len(tokens[0]))
        return reading(steering, tokens)

    monkeypatch.setattr(JoinedSteering, "reading", counted)
    left = [prepared]
    (found,) = [event for news in runtime.continuous(lambda: left.pop() if left else None) for event in news[0][-1:]
                if isinstance(event, Turn)]  # fmt: skip
    check(found, turn)
    assert max(passes) > 1
    assert len(passes) < len(turn.reply_ids) - 1


@pytest.mark.parametrize(("policies", "steered"), [((), False), ((PAYMENTS, ORDERS), False), ((IN_THE_CALL,), True)])
def test_replies_are_steered_where_a_rule_reaches_them(
    runtime: Runtime, policies: tuple[Policy, ...], steered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rules whose places end with the prompt cost the tokens after it nothing; traces are recorded all the same."""
    left = [runtime.prepare(Request(WEATHER, TOOLS, policies))]
    (expected,), passes, inner = runtime.take(left), list[int](), JoinedSteering._tokens

    def counted(steering: JoinedSteering, width: int) -> Any:
        passes.append(width)
        return inner(steering, width)

    monkeypatch.setattr(JoinedSteering, "_tokens", counted)
    (found,) = [event for news in runtime.continuous(lambda: left.pop() if left else None) for event in news[0][-1:]
                if isinstance(event, Turn)]  # fmt: skip
    check(found, expected)
    assert bool(passes) == steered


def test_whoever_waits_for_the_model_has_it_between_two_steps(runtime: Runtime) -> None:
    """A thread's turn is made while a long reply goes on, which stays what it is alone."""
    long = runtime.prepare(Request(WEATHER, TOOLS, sampling=Sampling(max_new_tokens=400, temperature=50.0, seed=1)))
    (expected,), beside = runtime.take([long]), list[Turn]()
    thread = threading.Thread(target=lambda: beside.append(runtime.run(PAY, TOOLS)))
    left, after, turns = [long], 0, list[Turn]()
    for news in runtime.continuous(lambda: left.pop() if left else None):
        after += bool(beside)
        turns += [event for event in news[0] if isinstance(event, Turn)]
        if not thread.is_alive() and not beside:
            thread.start()
    thread.join()
    assert after > 10
    assert (turns[0].reply_ids, beside[0].reply_ids) == (expected.reply_ids, runtime.run(PAY, TOOLS).reply_ids)


def test_a_flow_that_is_dropped_leaves_nothing(runtime: Runtime, alone: list[tuple[Prepared, Turn]]) -> None:
    """Hooks are off and the model is free; inside it this thread may not take it, as with a stream."""
    left = [one for one, _ in alone[:3]]
    flow = runtime.continuous(lambda: left.pop() if left else None)
    for _ in range(6):
        next(flow)
    with pytest.raises(SteeringError, match="still open"):
        runtime.run(PAY, TOOLS)
    flow.close()
    assert not hooks_on(runtime.loaded.model)
    check(runtime.take([alone[0][0]])[0], alone[0][1])


@pytest.mark.parametrize("graphs", [False, True], ids=["rows that join", "batches"])
def test_a_request_that_fails_fails_alone(graphs: bool, alone: list[tuple[Prepared, Turn]]) -> None:
    """With prepared steps, whose rows are fixed, those that wait are generated together; either way one is too long."""
    runtime = steerkit.load("tiny", audit=False, graphs=graphs)
    assert (runtime.engine.continuous() is None) == graphs
    some = [runtime.prepare(alone[number][0].request) for number in (0, 4, 9, 14)]
    some[1] = replace(some[1], prompt=replace(some[1].prompt, ids=[*some[1].prompt.ids] * 20))
    left, last = list(reversed(some)), dict[int, Any]()
    for news in runtime.continuous(lambda: left.pop() if left else None, 3):
        last.update((number, events[-1]) for number, events in news.items() if events)
    assert isinstance(last.pop(1), ModelError)
    found = {number: turn.reply_ids for number, turn in last.items()}
    assert found == {at: alone[number][1].reply_ids for at, number in ((0, 0), (2, 9), (3, 14))}
