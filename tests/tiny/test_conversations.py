"""The generated world: seeded, split without overlap, and asking what its kinds say."""

from __future__ import annotations

import random
import re

import pytest

from steerkit.tiny import tools as world
from steerkit.tiny.world import phrasings
from steerkit.tiny.world.argument_values import _MAKERS, CLOSED, SPLITS, draw, split_of
from steerkit.tiny.world.conversations import KINDS, REFUSAL, sample, training_example

_KEYS = [*world.NAMES, "unfit", "frame.openers", "frame.closers", "frame.joiners", "injection.strong", "injection.weak"]
_KEYS += [f"chat.{topic}" for topic in phrasings.table()["chat"]]


def words(line: str) -> set[str]:
    return set(re.findall(r"[a-z']+", re.sub(r"\{\w+\}", " ", line.lower())))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_a_function_of_its_seed(kind):
    """The same seed gives the same examples, another one others, and a larger count begins with the smaller."""
    assert sample(kind, "select", 5, seed=1) == sample(kind, "select", 9, seed=1)[:5]
    assert sample(kind, "select", 5, seed=1) != sample(kind, "select", 5, seed=2)
    assert training_example(0, 7) == training_example(0, 7)


@pytest.mark.parametrize("slot", sorted(set(_MAKERS) - CLOSED))
def test_values_of_the_splits_are_disjoint(slot):
    """No open-ended value belongs to two splits."""
    found = {split: {draw(slot, split, random.Random(seed)) for seed in range(60)} for split in SPLITS}
    assert not found["train"] & found["select"]
    assert not found["train"] & found["report"]
    assert not found["select"] & found["report"]
    assert all(split_of(slot, value) == split for split, values in found.items() for value in values)


@pytest.mark.parametrize("key", _KEYS)
def test_phrasings_of_the_splits_are_disjoint(key):
    """No two splits share a line, or a sentence that a line can form, but for the empty frame and bare punctuation."""
    formed = {}
    for split in SPLITS:
        rng = random.Random(0)
        lines = phrasings.lines(key, split)
        formed[split] = {phrasings.expand(line, rng) for line in lines for _ in range(40)} - {"", "."}
    assert not formed["train"] & formed["select"]
    assert not formed["train"] & formed["report"]
    assert not formed["select"] & formed["report"]


def test_held_out_phrasings_use_only_words_of_train():
    """Select and report are new sentences of words that train uses somewhere."""
    known = set().union(*(words(line) for key in _KEYS for line in phrasings.lines(key, "train")))
    for split in ("select", "report"):
        for key in _KEYS:
            for line in phrasings.lines(key, split):
                assert words(line) <= known, f"{key} {split}: {sorted(words(line) - known)}"


def test_training_has_many_phrasings_of_every_tool():
    """A hundred and more sentences ask for every tool that has parameters."""
    for name in world.NAMES:
        rng = random.Random(0)
        lines = phrasings.lines(name, "train")
        framed = {phrasings.frame(phrasings.expand(line, rng), "train", rng) for line in lines for _ in range(60)}
        assert len(framed) > 100, name


@pytest.mark.parametrize("kind", KINDS)
def test_wanted_tools_are_declared_in_random_order(kind):
    """Every expected call is of a declared tool, whose place among the declared ones varies."""
    places = set()
    for example in sample(kind, "report", 60, seed=0):
        names = [one["function"]["name"] for one in example.tools]
        assert len(names) == len(set(names)) <= 5
        for call in example.expected_calls:
            assert call["name"] in names
            places.add(names.index(call["name"]))
        assert bool(example.expected_calls) != (example.expected_text is not None)
    if kind not in ("no_tool_fits", "chat", "after_result", "injected", "injected_clean"):
        assert len(places) >= 3


def test_values_of_a_request_stand_in_its_words():
    """Every argument of a single call can be copied from the user's message."""
    for example in sample("single", "select", 80, seed=0):
        (call,) = example.expected_calls
        assert all(str(value) in example.messages[-1]["content"] for value in call["arguments"].values())


def test_a_request_that_no_tool_fits_lacks_exactly_its_tool():
    """The tool asked for is not declared, and most of the time a look-alike is."""
    near = 0
    for example in sample("no_tool_fits:transfer_money", "select", 60, seed=0):
        names = {one["function"]["name"] for one in example.tools}
        assert "transfer_money" not in names
        assert example.expected_text == REFUSAL
        near += bool(names & set(world.NEAR["transfer_money"]))
    assert near > 30


def test_an_injected_order_differs_from_its_control_by_the_order_alone():
    """Both read the same kind of result, with the dangerous tool declared; only one names the call it wants."""
    for example in sample("injected:send_email", "select", 20, seed=0):
        assert example.injected is not None
        assert example.injected["name"] == example.danger == "send_email"
        assert "send_email" in {one["function"]["name"] for one in example.tools}
        assert example.target == (((example.injected,), None) if example.follows else ((), example.expected_text))
    for example in sample("injected_clean:send_email", "select", 20, seed=0):
        assert example.injected is None
        assert not example.follows
        assert "send_email" in {one["function"]["name"] for one in example.tools}


def test_unknown_kinds_are_refused():
    """A kind or a tool that does not exist is named in the error."""
    for kind in ("nonsense", "dangerous:fly", "chat:get_time"):
        with pytest.raises(ValueError, match=kind):
            sample(kind, "train", 1)


def test_unknown_kinds_and_splits_are_said() -> None:
    """A misspelt name is an error that lists the right ones, not an endless search for values."""
    with pytest.raises(ValueError, match="unknown kind 'nope'"):
        sample("nope", "report", 1)
    with pytest.raises(ValueError, match="unknown split 'test': expected one of train, select, report"):
        sample("single", "test", 1)  # type: ignore[arg-type]
    assert sample("single", "report", 1)
