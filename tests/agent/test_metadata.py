"""Records say who asked and which conversation they belong to; both are told apart, kept by a resume and bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerkit.agent import Pending, Run
from steerkit.audit import Store, redact, verify
from steerkit.errors import LoopError, SettingError, SteerkitError
from steerkit.runtime import Request
from tests.agent.scripted import END, Script, calling, declared, ruled, user

ABC = [declared(name) for name in "abc"]
FUNCTIONS = dict.fromkeys("abc", lambda **_: 1)
ANN: dict[str, Any] = {"user": "ann", "session": 7, "paid": True, "score": 0.5, "tags": ["mail", "beta"]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "audit.db")


def told(store: Store) -> Iterator[tuple[str, Any, Any]]:
    for record in store.records():
        content = record.content
        if content["kind"] in ("turn", "approval", "execution"):
            yield content["kind"], content.get("metadata"), content.get("conversation")


def test_each_way_of_asking_writes_who_asked(store: Store) -> None:
    """run, run_batch, stream and loop, events included; without it nothing is said."""
    script = Script(ruled(b="hold"), store)
    script.say(*["hi" + END] * 4).run(user(), metadata=ANN)
    runtime = script.runtime
    both: list[Any] = [Request(user(), metadata={"user": "bob"}), {"messages": user(), "metadata": {"user": "cy"}}]
    runtime.run_batch(both, batch_size=1)
    list(runtime.stream(user(), metadata={"user": "di"}))
    script.say(calling("a", "b"), END).loop(user(), ABC, execute=FUNCTIONS, approve=lambda held: True, metadata=ANN)
    script.say("hi" + END).run(user(), metadata={})
    found = list(told(store))
    assert [metadata for _, metadata, _ in found[:4]] == [ANN, {"user": "bob"}, {"user": "cy"}, {"user": "di"}]
    kinds = [kind for kind, metadata, _ in found[4:-1] if metadata == ANN]
    assert kinds == ["turn", "approval", "execution", "execution", "turn"]
    assert found[-1] == ("turn", None, None)
    verify(store)


def test_it_is_content_that_can_be_redacted(store: Store) -> None:
    """Who asked stands beside the record and not in it: it goes with a redaction, and the chain holds."""
    turn = Script((), store).say("hi" + END).run(user(), metadata={"user": "ann@example.org"})
    record = store.get(str(turn.record_id))
    assert b"ann@example.org" not in record.body
    assert record.content["metadata"] == {"user": "ann@example.org"}
    redact(store, record, b"k" * 32, ["metadata"])
    assert set(store.get(str(turn.record_id)).content["metadata"]) == {"redacted"}
    verify(store)


def test_conversations_at_the_same_time_are_told_apart(store: Store) -> None:
    """Of four at once on one runtime each has an id of its own, on its turns and executions; it is the run's."""
    script = Script(ruled(), store)

    async def main() -> list[Run]:
        runs = [script.runtime.aloop(user(), ABC, execute=FUNCTIONS, metadata={"n": n}, max_turns=1) for n in range(4)]
        return await asyncio.gather(*runs)

    script.say(*[calling("a")] * 4)
    runs = asyncio.run(main())
    ids = [run.conversation for run in runs]
    assert len({*ids}) == 4
    for number, id in enumerate(ids):
        own = [(kind, metadata) for kind, metadata, conversation in told(store) if conversation == id]
        assert own == [("turn", {"n": number}), ("execution", {"n": number})]
    alone = script.say(END).run(user())
    assert "conversation" not in store.get(str(alone.record_id)).content
    given = script.say(END).run_batch([Request(user(), conversation="s-1")])[0]
    assert store.get(str(given.record_id)).content["conversation"] == "s-1"
    verify(store)


def pending(store: Store, **settings: Any) -> tuple[Script, Pending]:
    script = Script(ruled(b="hold"), store)
    run = script.say(calling("b"), END).loop(user(), ABC, execute=FUNCTIONS, **settings)
    assert run.pending is not None
    return script, run.pending


@pytest.mark.parametrize("given", [None, {"user": "bob"}])
def test_a_resumed_run_goes_on_as_the_same_conversation(given: Any, store: Store, tmp_path: Path) -> None:
    """Through a file; who asked stays unless another is named."""
    script, state = pending(store, metadata=ANN)
    state.save(tmp_path / "run.json")
    loaded = Pending.load(tmp_path / "run.json")
    assert (loaded, loaded.metadata, loaded.conversation) == (state, ANN, state.conversation)
    settings = {} if given is None else {"metadata": given}
    run = script.runtime.resume(loaded, True, tools=ABC, execute=FUNCTIONS, **settings)
    first, *later = told(store)
    assert first == ("turn", ANN, state.conversation)
    assert later == [(kind, given or ANN, state.conversation) for kind in ("approval", "execution", "turn")]
    assert run.conversation == state.conversation


@pytest.mark.parametrize("edit", [{"metadata": {"user": "eve"}}, {"metadata": None}, {"conversation": "other"}])
def test_a_state_that_says_another_asker_is_refused(edit: dict[str, Any], store: Store) -> None:
    """It is held against the turn's record, as far as that was not redacted; the state as it was resumes."""
    script, state = pending(store, metadata={"user": "ann"})
    data = {key: value for key, value in {**state.to_json(), **edit}.items() if value is not None}
    with pytest.raises(LoopError, match=f"pending {next(iter(edit))}: got others than in record"):
        script.runtime.resume(Pending.from_json(data), True, tools=ABC, execute=FUNCTIONS)
    redact(store, store.get(str(state.record_id)), b"k" * 32, ["metadata"])
    assert script.runtime.resume(state, True, tools=ABC, execute=FUNCTIONS).status == "answer"


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ("ann", "metadata: got str, expected a mapping such as"),
        (["ann"], "metadata: got list, expected a mapping"),
        ({1: "a"}, "metadata: got the key 1, expected text"),
        ({"": "a"}, "metadata: got the key '', expected text"),
        ({"user": None}, r"metadata\['user'\]: got None, expected text, a number, true or false, or a list of texts"),
        ({"user": {"name": "ann"}}, r"metadata\['user'\]: got dict, expected text"),
        ({"user": b"ann"}, r"metadata\['user'\]: got bytes"),
        ({"tags": ["a", 1]}, r"metadata\['tags'\]\[1\]: got 1, expected text"),
        ({"tags": {"a"}}, r"metadata\['tags'\]: got set"),
        ({"x": float("nan")}, r"metadata\['x'\]: got nan, expected a finite number"),
        ({"x": float("inf")}, r"metadata\['x'\]: got inf"),
        ({"x": 10**30}, r"metadata\['x'\]: got an integer of 100 bits, expected at most 63"),
        ({"x": np.int64(1)}, r"metadata\['x'\]: got int64"),
        ({"x": "y" * 513}, r"metadata\['x'\]: got 513 characters, expected at most 512"),
        ({"x" * 513: 1}, "metadata: a key: got 513 characters"),
        ({"tags": ["a"] * 33}, r"metadata\['tags'\]: got a list of 33, expected at most 32"),
        ({str(n): n for n in range(33)}, "metadata: got 33 keys, expected at most 32"),
        ({"x": "\ud800"}, r"metadata\['x'\]: got half a character"),
    ],
)
def test_what_cannot_be_metadata_is_refused_before_a_token_is_made(metadata: Any, error: str) -> None:
    """In every way of asking, in one line; the same ways take a good one."""
    script = Script()
    script.say(*["hi" + END] * 4)
    runtime = script.runtime

    def ways(given: Any) -> Iterator[Any]:
        yield lambda: runtime.run(user(), metadata=given)
        yield lambda: runtime.run_batch([Request(user(), metadata=given)])
        yield lambda: list(runtime.stream(user(), metadata=given))
        yield lambda: runtime.loop(user(), metadata=given)

    for way in ways(metadata):
        with pytest.raises(SettingError, match=error) as caught:
            way()
        assert "\n" not in str(caught.value)
    assert len(script.model.replies) == 4
    for way in ways({"x": "y" * 512, "é": -1, "tags": ("a",)}):
        way()
    data = {**json.loads(json.dumps(_saved())), "metadata": {"user": None}}
    with pytest.raises(SteerkitError, match="metadata"):
        Pending.from_json(data)


def _saved() -> dict[str, Any]:
    run = Script(ruled(b="hold")).say(calling("b")).loop(user(), ABC, execute=FUNCTIONS)
    assert run.pending is not None
    return run.pending.to_json()
