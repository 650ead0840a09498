"""Steering around transformers' own `generate`: caches, padding, chunks, sampling and beams."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import DynamicCache

import steerkit
from steerkit.engine import cache_name
from steerkit.errors import SteeringError
from steerkit.sae import SaeSet
from steerkit.sites import Site
from steerkit.steer import Extent, Wanted, compile_plan, read_traces
from tests.steer.conftest import PROMPTS, clamp, left_padded

PROMPT = PROMPTS[0]
WHERES = ("any", "prompt", "reply", "reply.start")


def tokens(model: nn.Module, prompts: Any = (PROMPT,), **options: Any) -> list[list[int]]:
    """New tokens of transformers' generate, greedy unless told otherwise."""
    batch = left_padded(prompts)
    settings = {"do_sample": False, "max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None, **options}
    out = model.generate(**batch, **settings)
    return out[:, batch["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("where", WHERES)
def test_the_cache_changes_nothing(model: nn.Module, saes: SaeSet, where: str) -> None:
    """Steered tokens are the same with a KV cache, without one and with a static one, and differ from plain ones."""
    found = []
    for options in ({}, {"use_cache": False}, {"cache_implementation": "static"}):
        with steerkit.attach(model, saes, clamp(30.0, where=where)):
            found.append(tokens(model, **options))
    assert found[0] == found[1] == found[2]
    assert found[0] != tokens(model)


def test_decode_steps_are_steered(model: nn.Module, saes: SaeSet) -> None:
    """A rule for the reply acts on the prompt's last position and on every decoded token."""
    with steerkit.attach(model, saes, clamp(4.0, where="reply")) as recorder:
        tokens(model)
    assert recorder.opened()[Site(1)][0, :, 1].nonzero().squeeze(-1).tolist() == list(
        range(len(PROMPT) - 1, len(PROMPT) + 7)
    )
    assert recorder.forwards == 8


def test_a_padded_batch_equals_its_single_runs(model: nn.Module, saes: SaeSet) -> None:
    """Each row of a left-padded batch gets the tokens it gets alone under its own policy."""
    policies = [clamp(30.0), (), clamp(-25.0, layer=0, where="reply")]
    with steerkit.attach(model, saes, rows=policies):
        together = tokens(model, PROMPTS)
    for row, (prompt, policy) in enumerate(zip(PROMPTS, policies, strict=True)):
        with steerkit.attach(model, saes, policy):
            assert tokens(model, [prompt])[0] == together[row]
    plain = tokens(model, PROMPTS)
    assert together[1] == plain[1]
    assert together[0] != plain[0]
    assert together[2] != plain[2]


@given(cuts=st.lists(st.integers(1, len(PROMPT) - 1), max_size=4), where=st.sampled_from(WHERES))
@settings(deadline=None, max_examples=30)
def test_chunks_of_a_prompt_give_the_gates_of_the_whole(cuts: list[int], where: str) -> None:
    """Whole, in chunks or token by token: the same gates, and the same logits to float tolerance."""
    from steerkit.testing import planted_saes, small_model

    model = _CACHED.setdefault("model", small_model())
    saes = _CACHED.setdefault("saes", planted_saes(model))
    policy = clamp(4.0, where=where, when={"feature": "f", "below": 0.05})
    edges = sorted({0, len(PROMPT), *cuts})
    with torch.no_grad(), steerkit.attach(model, saes, policy, prompt_length=len(PROMPT)) as whole:
        expected = model(input_ids=torch.tensor([PROMPT])).logits[0, -1]
    with torch.no_grad(), steerkit.attach(model, saes, policy, prompt_length=len(PROMPT)) as chunked:
        cache = DynamicCache(config=model.config)
        for start, end in pairwise(edges):
            logits = model(input_ids=torch.tensor([PROMPT[start:end]]), **{cache_name(model): cache}).logits[0, -1]
    assert torch.equal(whole.opened()[Site(1)][..., 1], chunked.opened()[Site(1)][..., 1])
    assert torch.allclose(logits, expected, atol=1e-4)


_CACHED: dict[str, Any] = {}


def test_beams_and_samples_are_steered_and_not_traced(model: nn.Module, saes: SaeSet) -> None:
    """Beams repeat each request's policy; reading a trace off them is refused, not garbled."""
    policies = [clamp(30.0), ()]
    plain = tokens(model, PROMPTS[:2], num_beams=3)
    with steerkit.attach(model, saes, rows=policies) as recorder:
        steered = tokens(model, PROMPTS[:2], num_beams=3)
    assert steered[1] == plain[1]
    assert steered[0] != plain[0]
    with pytest.raises(SteeringError, match="6 sequences of 2 requests"):
        read_traces(recorder, compile_plan([], saes), saes, [Wanted(), Wanted()], [Extent(5), Extent(5)])


def test_sampling_is_steered(model: nn.Module, saes: SaeSet) -> None:
    """With the same torch seed, sampled tokens repeat under steering and differ from plain ones."""
    found = []
    for policy in (clamp(30.0), clamp(30.0), ()):
        torch.manual_seed(3)
        with steerkit.attach(model, saes, policy):
            found.append(tokens(model, do_sample=True))
    assert found[0] == found[1] != found[2]


def test_a_batch_that_does_not_fit_the_rows_is_refused(model: nn.Module, saes: SaeSet) -> None:
    """Three prompts for two policies cannot be told apart."""
    with (
        pytest.raises(SteeringError, match="attached for 2 requests, but a batch of 3"),
        steerkit.attach(model, saes, rows=[(), ()]),
    ):
        tokens(model, PROMPTS)


def test_the_tape_grows_and_keeps_what_it_held(model: nn.Module, saes: SaeSet) -> None:
    """A generation longer than the first buffer keeps every activation, equal to those of one pass over it all."""
    with steerkit.attach(model, saes, trace=[1]) as recorder:
        reply = tokens(model, max_new_tokens=400)[0]
    with torch.no_grad(), steerkit.attach(model, saes, trace=[1]) as whole:
        model(input_ids=torch.tensor([PROMPT + reply[:-1]]))
    assert recorder.raw(1).shape == whole.raw(1).shape
    assert torch.allclose(recorder.raw(1), whole.raw(1), atol=1e-4)
