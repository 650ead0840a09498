"""A prompt that the model was not made for is refused, and a reply ends where the context does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import steerkit
from steerkit.engine import Batch, Sampling, generate
from steerkit.errors import ModelError
from steerkit.runtime import Request
from steerkit.steer import context_of
from steerkit.testing import small_model

CONTEXT = 24
MODEL: Any = small_model(max_position_embeddings=CONTEXT)


def lengths(prompts: list[list[int]], new: int, **how: Any) -> list[int]:
    """How many tokens each prompt is answered with."""
    batch, counts = Batch.of(prompts, 0, torch.device("cpu")), [0] * len(prompts)
    for tokens in generate(MODEL, batch, [Sampling(new)] * len(prompts), (), 0, **how):
        counts = [count + (token is not None) for count, token in zip(counts, tokens, strict=True)]
    return counts


@pytest.mark.parametrize("how", [{}, {"split_prompt": True}])
def test_a_reply_ends_where_the_context_does(how: dict[str, Any]) -> None:
    """Each of a padded batch by its own length; where there is room, all that was asked for comes."""
    prompts = [[5] * 20, [7] * 3, [9] * 23]
    assert lengths(prompts, 12, **how) == [4, 12, 1]
    assert lengths(prompts[1:2], 12, **how) == [12]
    assert lengths(prompts[1:2], 10**9, **how) == [21]


@pytest.mark.parametrize("length", [CONTEXT, CONTEXT + 1, 3 * CONTEXT])
def test_a_prompt_that_leaves_no_room_is_refused(length: int) -> None:
    """With both numbers, and in a batch with which request it was; nothing has run then."""
    ran: list[int] = []
    handle = MODEL.register_forward_pre_hook(lambda module, args: ran.append(1))
    try:
        with pytest.raises(ModelError, match=f"^the prompt has {length} tokens, but the model's context is {CONTEXT}"):
            lengths([[5] * length], 2)
        with pytest.raises(ModelError, match=f"^request 2 of 2: the prompt has {length} tokens"):
            lengths([[5] * 3, [5] * length], 2)
    finally:
        handle.remove()
    assert not ran


def test_a_turn_says_that_it_was_cut() -> None:
    """Its reply is as long as there is room for, whatever was asked for, and its finish is `length`."""
    runtime = steerkit.load("tiny", policy="policies/payments.yaml", audit=False)
    context = context_of(runtime.loaded.model)
    assert context == 2048
    messages = [{"role": "user", "content": "hello " * 4000}]
    with pytest.raises(ModelError, match=r"the prompt has [\d,]+ tokens, but the model's context is 2,048"):
        runtime.run(messages)
    with pytest.raises(ModelError, match=r"requests\[1\]: the prompt has"):
        runtime.run_batch([Request([{"role": "user", "content": "hello"}]), Request(messages)])
    words = 2040
    while (turn := fits(runtime, words)) is None:
        words -= 50
    room = context - len(turn.prompt_ids)
    assert 0 < len(turn.reply_ids) <= room
    filled = runtime.run([{"role": "user", "content": "hello"}], max_new_tokens=10**12)  # nothing is reserved for it
    assert filled.finish == "stop"


def fits(runtime: steerkit.Runtime, words: int) -> steerkit.Turn | None:
    try:
        return runtime.run([{"role": "user", "content": "a " * words}], max_new_tokens=4096)
    except ModelError:
        return None


CONFIGURATIONS: dict[str, tuple[dict[str, Any], int | None]] = {
    "plain": ({"max_position_embeddings": 2048}, 2048),
    "none": ({}, None),
    "not said": ({"max_position_embeddings": None}, None),
    "stretched, not said": (
        {
            "max_position_embeddings": 100,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100},
        },
        400,
    ),
    "stretched, by kind of layer": (
        {
            "max_position_embeddings": 100,
            "rope_parameters": {
                "full": {"factor": 2.0, "original_max_position_embeddings": 100},
                "sliding": {"rope_theta": 1e4},
            },
        },
        200,
    ),
    "stretched, and said": ({"max_position_embeddings": 800, "rope_scaling": {"factor": 8.0}}, 800),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_context_is_what_the_configuration_says(name: str) -> None:
    """Stretched positions count, in either place where a configuration may say so."""
    config, expected = CONFIGURATIONS[name]
    model = nn.Module()
    model.config = SimpleNamespace(**config)  # type: ignore[assignment]  # torch says that attributes are modules
    assert context_of(model) == expected
    outer = nn.Module()
    outer.config = SimpleNamespace(get_text_config=lambda: model.config)  # type: ignore[assignment]  # as above
    assert context_of(outer) == expected


def test_a_long_prompt_brings_no_warning_of_a_library(caplog: pytest.LogCaptureFixture) -> None:
    """The refusal says it all; the tokenizer by itself would warn (the control)."""
    runtime = steerkit.load("tiny", audit=False)
    text = "hello " * 3000
    with pytest.raises(ModelError):
        runtime.run([{"role": "user", "content": text}])
    assert "longer than" not in caplog.text
    runtime.loaded.tokenizer(text)
    assert "longer than" in caplog.text
