"""Batches of any size: cut into pieces, each request named, and what goes wrong with one leaves the others alone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.engine import HfEngine, Sampling
from steerkit.errors import (
    AuditError,
    ContextError,
    LoopError,
    MessageError,
    PolicyError,
    SettingError,
    SteerkitError,
    ToolError,
)
from steerkit.runtime import Request
from steerkit.runtime.batches import BATCH
from steerkit.tiny.demo_requests import CASES
from steerkit.types import Turn
from tests.agent.scripted import broken_after
from tests.steer.conftest import hooks_on

GOOD = [{"messages": case.messages, "tools": case.tools, "max_new_tokens": 12} for case in CASES]
HI = [{"role": "user", "content": "hi"}]
LONG = [{"role": "user", "content": "pay " * 2500}]

BAD: dict[str, tuple[Any, type[SteerkitError], str]] = {
    "no messages": ({"messages": []}, MessageError, "messages: expected a list of at least one"),
    "messages left out": ({"tools": []}, LoopError, "Request: got no messages, expected a list"),
    "text for messages": ({"messages": "hi"}, MessageError, "messages: expected a list"),
    "a strange role": (Request([{"role": "me", "content": "hi"}]), MessageError, r"messages\[0\].role: got 'me'"),
    "a misspelt field": (
        {"mesages": HI},
        SettingError,
        "unexpected keyword argument 'mesages'; did you mean 'messages'",
    ),
    "a misspelt setting": ({"messages": HI, "temprature": 1}, SettingError, "did you mean 'temperature'"),
    "a misspelt sampling": ({"messages": HI, "sampling": {"topk": 1}}, SettingError, "did you mean 'top_k'"),
    "settings twice": (
        {"messages": HI, "sampling": {"seed": 1}, "seed": 2},
        LoopError,
        "got 'sampling' and 'seed' beside",
    ),
    "another type": (5, LoopError, "got int, expected a Request, or a mapping of its fields"),
    "nothing": (None, LoopError, "got NoneType, expected a Request"),
    "tools": (Request(HI, [{"name": "a b"}]), ToolError, r"tools\[0\]: got the name 'a b'"),
    "tools of no kind": (Request(HI, 5), ToolError, "tools: got int"),  # type: ignore[arg-type]
    "no such policy file": (Request(HI, policy="none.yaml"), PolicyError, "none.yaml"),
    "a policy of no kind": (Request(HI, policy=5), PolicyError, "policy: got int"),  # type: ignore[arg-type]
    "policies of no kind": (Request(HI, policy=[5]), PolicyError, r"policies\[0\]: got int"),  # type: ignore[list-item]
    "sampling of no kind": (Request(HI, sampling=5), SettingError, "sampling: got int"),  # type: ignore[arg-type]
    "too long": (Request(LONG), ContextError, "the prompt has 5,008 tokens, but the model's context is 2,048"),
    "metadata": (Request(HI, metadata={"user": {}}), SettingError, r"metadata\['user'\]: got dict"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_named_and_the_others_are_made(name: str, box: Runtime) -> None:
    """By default nothing is generated; where errors are returned, each stands in its request's place."""
    bad, kind, error = BAD[name]
    assert box.store is not None
    requests, before = [*GOOD[:2], bad, GOOD[2]], len(box.store)
    with pytest.raises(kind, match=rf"^requests\[2\]: .*{error}") as caught:
        box.run_batch(requests)
    assert "\n" not in str(caught.value)
    assert len(box.store) == before
    alone = box.run_batch([*GOOD[:3]])
    for continuous in (False, True):
        found = box.run_batch(requests, errors="return", continuous=continuous)
        assert [type(one) for one in found] == [Turn, Turn, kind, Turn]
        assert str(found[2]).startswith("requests[2]: ")
        assert [one.reply_ids for one in found if isinstance(one, Turn)] == [turn.reply_ids for turn in alone]


def test_any_size_of_batch_makes_the_same_turns(box: Runtime) -> None:
    """Lists, generators and mixtures, one at a time and all at once; records say which batch each was in."""
    requests = [GOOD[number % len(GOOD)] for number in range(9)]
    whole = box.run_batch(requests)
    given: list[Any] = [
        (one for one in requests),
        [Request(one["messages"], one["tools"], sampling=Sampling(12)) for one in requests],
        tuple(requests),
    ]
    for size, some in zip((1, 4, 100), given, strict=True):
        turns = box.run_batch(some, batch_size=size)
        assert [turn.reply_ids for turn in turns] == [turn.reply_ids for turn in whole]
        assert box.store is not None
        batches = [box.store.get(str(turn.record_id)).content["batch"] for turn in turns]
        assert [one["size"] for one in batches] == ([4] * 8 + [1] if size == 4 else [min(size, 9)] * 9)
    assert box.run_batch([]) == box.run_batch(iter(())) == []
    assert BATCH >= 16


@pytest.mark.parametrize(
    ("requests", "settings", "error"),
    [
        (GOOD[0], {}, "requests: got dict, expected a list of Request"),
        (Request(HI), {}, "requests: got Request, expected a list of Request"),
        ("hi", {}, "requests: got str"),
        (5, {}, "requests: got int"),
        ([], {"batch_size": 0}, "batch_size: got 0, expected a number of requests, at least 1"),
        ([], {"batch_size": True}, "batch_size: got True"),
        ([], {"batch_size": 2.0}, "batch_size: got 2.0"),
        ([], {"errors": "ignore"}, "errors: got 'ignore', expected 'raise' or 'return'"),
        ([], {"batchsize": 2}, "unexpected keyword argument 'batchsize'; did you mean 'batch_size'"),
    ],
)
def test_settings_of_a_batch_that_cannot_be_meant_are_refused(
    requests: Any, settings: dict[str, Any], error: str, box: Runtime
) -> None:
    """In one line."""
    with pytest.raises(SteerkitError, match=error):
        box.run_batch(requests, **settings)


def test_an_error_in_the_middle_leaves_nothing_behind(box: Runtime, tmp_path: Path) -> None:
    """The requests' generator, a store that is full: hooks are off, the model is free, and later batches go on."""

    def broken() -> Iterator[Any]:
        yield GOOD[0]
        raise RuntimeError("no more")

    runtime = Runtime(box.loaded, box.saes, box.policies, store=broken_after(tmp_path / "audit.db", 3))
    with pytest.raises(RuntimeError, match="no more"):
        runtime.run_batch(broken())
    with pytest.raises(AuditError, match="cannot be written"):
        runtime.run_batch(GOOD[:4], batch_size=1)
    assert hooks_on(box.loaded.model) == 0
    assert runtime.store is not None
    assert len(runtime.store) == 3
    full = Runtime(box.loaded, box.saes, box.policies, store=broken_after(tmp_path / "other.db", 3))
    found = full.run_batch(GOOD[:4], batch_size=2, errors="return")
    assert [type(one) for one in found] == [Turn, Turn, AuditError, AuditError]
    assert hooks_on(box.loaded.model) == 0
    assert len(box.run_batch(GOOD[:2])) == 2


def test_an_error_among_continuous_rows_is_named_and_the_others_go_on(box: Runtime, tmp_path: Path) -> None:
    """A store that is full: those recorded before have their turns; raised, it is of one request, and all is off."""
    for errors in ("return", "raise"):
        store = broken_after(tmp_path / f"{errors}.db", 3)
        runtime = Runtime(box.loaded, box.saes, box.policies, store=store)
        if errors == "return":
            found = runtime.run_batch(GOOD[:5], batch_size=2, continuous=True, errors="return")
            assert sorted(type(one).__name__ for one in found) == ["AuditError"] * 3 + ["Turn"] * 2
        else:
            with pytest.raises(AuditError, match=r"^requests\[\d\]: .*cannot be written"):
                runtime.run_batch(GOOD[:5], batch_size=2, continuous=True)
        assert hooks_on(box.loaded.model) == 0
    assert len(box.run_batch(GOOD[:2], continuous=True)) == 2


def test_continuous_rows_make_the_same_turns(box: Runtime) -> None:
    """A row that has ended makes room for the next, and a beginning is read once; in batches neither is so."""
    requests = [{**GOOD[0], "max_new_tokens": 2 + 5 * (number % 3)} for number in range(9)]
    engine, store = box.engine, box.store
    assert isinstance(engine, HfEngine)
    assert engine.prefix_cache is not None
    assert store is not None
    reused, decoded = dict[bool, int](), dict[bool, int]()
    turns: dict[bool, list[Turn]] = {}
    for continuous in (False, True):
        engine.prefix_cache.clear()
        before, shapes = engine.prefix_cache.statistics.tokens_reused, list[torch.Size]()
        hook = box.loaded.model.register_forward_pre_hook(
            lambda _, args, given, shapes=shapes: shapes.append(given["input_ids"].shape), with_kwargs=True
        )
        turns[continuous] = box.run_batch(requests, batch_size=3, continuous=continuous)
        hook.remove()
        reused[continuous] = engine.prefix_cache.statistics.tokens_reused - before
        decoded[continuous] = sum(rows for rows, tokens in shapes if tokens == 1)
        sizes = [store.get(str(turn.record_id)).content["batch"]["size"] for turn in turns[continuous]]
        assert max(sizes) == 3
    assert [one.reply_ids for one in turns[True]] == [one.reply_ids for one in turns[False]]
    assert {len(one.reply_ids) for one in turns[True]} == {2, 7, 12}
    assert (reused[False], reused[True] > 8 * 20) == (0, True)
    assert (decoded[False], decoded[True]) == (3 * 3 * 11, 3 * (1 + 6 + 11))


def test_a_counterfactual_takes_a_row_of_its_own(box: Runtime) -> None:
    """A batch never has more rows than were asked for, unless one request needs them."""
    requests = [{**one, "counterfactual": True} for one in GOOD[:4]]
    assert box.store is not None
    for size, rows in ((1, 2), (4, 4)):
        turns = box.run_batch(requests, batch_size=size)
        assert {box.store.get(str(turn.record_id)).content["batch"]["size"] for turn in turns} == {rows}
        assert all(turn.counterfactual is not None for turn in turns)


_PEAKS = """
import gc, steerkit
from pathlib import Path
from steerkit.tiny.demo_requests import CASES
runtime = steerkit.load("tiny", audit=False)
def highest():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
def peak(count, size):
    gc.collect()
    before = highest()
    request = {"messages": [{"role": "user", "content": "hi"}], "tools": CASES[0].tools, "max_new_tokens": 2}
    runtime.run_batch([request] * count, batch_size=size)
    return highest() - before
peak(16, 8)
print(peak(64, 8), peak(96, 96))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_memory_does_not_grow_with_the_number_of_requests() -> None:
    """Twice as many requests peak no higher, their turns dropped; all at once they do.

    In a process of its own, as a peak that other tests left would hide both; `ru_maxrss` is no use there, since a
    process starts with that of its parent.
    """
    done = subprocess.run([sys.executable, "-c", _PEAKS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    in_pieces, at_once = map(int, done.stdout.split())
    assert in_pieces < 20_000
    assert at_once > 40_000
