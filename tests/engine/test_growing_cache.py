"""Decoding over buffers with room to grow says what reading everything anew says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from steerkit.engine import Batch, cache_name
from steerkit.engine.hf import growing_cache
from steerkit.engine.hf.generate import read_along
from steerkit.engine.hf.passes import Passes
from steerkit.sites import Site
from steerkit.steer import attach, compile_plan
from steerkit.testing import SMALL, planted_policy, planted_saes, small_model

PROMPTS = {"even": (12, 12), "short": (5, 12, 9), "past the window": (40, 3, 17), "alone": (16,)}
REPLY = [3 + 7 * number % 900 for number in range(50)]
KINDS = {
    "sliding": {},
    "mixed": {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    "eager": {"attn_implementation": "eager", "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    "grouped": {"num_attention_heads": 4, "num_key_value_heads": 2},
}


def model_of(kind: str) -> PreTrainedModel:
    """A small model of a kind."""
    sizes = {name: size for name, size in SMALL.items() if name != "sliding_window"}
    if kind in ("llama", "mistral"):
        torch.manual_seed(0)
        few = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
        if kind == "llama":
            return LlamaForCausalLM(LlamaConfig(**sizes, **few)).eval().requires_grad_(False)
        return MistralForCausalLM(MistralConfig(**sizes, **few, sliding_window=16)).eval().requires_grad_(False)
    return small_model(**KINDS[kind])  # type: ignore[return-value]


def batch_of(lengths: tuple[int, ...]) -> Batch:
    """Prompts of these lengths."""
    prompts = [[1 + (31 * row + 7 * place) % 1000 for place in range(length)] for row, length in enumerate(lengths)]
    return Batch.of(prompts, 0, torch.device("cpu"))


def anew(model: PreTrainedModel, batch: Batch) -> list[Tensor]:
    """The logits after each token of the reply, every sequence read from its beginning, alone and without a cache."""
    found = []
    for ids, mask in zip(batch.ids, batch.mask, strict=True):
        whole = torch.cat([ids[mask.bool()], torch.tensor(REPLY)])[None]
        found.append(model(whole, use_cache=False).logits[0, int(mask.sum()) - 1 :])
    return list(torch.stack(found, dim=1))


@pytest.mark.parametrize("lengths", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("kind", [*KINDS, "llama", "mistral"])
def test_several_known_tokens_in_one_pass(kind: str, lengths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of tokens, some longer than the window, between single ones say what reading everything anew says."""
    monkeypatch.setattr(growing_cache, "_SPARE", 8)
    model, batch, start = model_of(kind), batch_of(lengths), 0
    wanted = anew(model, batch)
    with torch.inference_mode():
        passes = Passes(model, batch)
        passes.prompt(split=False)
        for count in (1, 3, 1, 20, 2, 1, 17):
            logits = passes.steps([[token] * len(lengths) for token in REPLY[start : start + count]])
            start += count
            assert torch.allclose(logits, wanted[start], atol=2e-5), (count, start)


@pytest.mark.parametrize("masks", [True, False], ids=["masks", "no masks"])
@pytest.mark.parametrize("lengths", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("kind", [*KINDS, "llama", "mistral"])
def test_it_says_what_reading_anew_says(
    kind: str, lengths: tuple[int, ...], masks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Padded and not, across a window's end and past the room that there was at first, on every kind of layers.

    Without masks as well, where nothing is padded: as with a transformers that gains nothing by them.
    """
    monkeypatch.setattr(growing_cache, "_SHARES_HEADS", masks)
    monkeypatch.setattr(growing_cache, "_SPARE", 8)
    model, batch, passes = model_of(kind), batch_of(lengths), 0

    def see(module: object, args: object, kwargs: dict[str, Any]) -> None:
        nonlocal passes
        passes += isinstance(kwargs[cache_name(model)], growing_cache.DecodeCache)

    handle = model.register_forward_pre_hook(see, with_kwargs=True)
    found = list(read_along(model, batch, REPLY))
    handle.remove()
    assert passes == len(REPLY)
    for mine, theirs in zip(found, anew(model, batch), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-5)


def test_padding_would_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: with masks that hide nothing, prompts that are padded are read wrongly."""
    model, batch = model_of("mixed"), batch_of(PROMPTS["past the window"])

    def nothing_hidden(mask: Tensor, window: int | None, dtype: torch.dtype) -> object:
        return real(torch.ones_like(mask), window, dtype)

    real = growing_cache._Mask
    monkeypatch.setattr(growing_cache, "_Mask", nothing_hidden)
    found, right = list(read_along(model, batch, REPLY)), anew(model, batch)
    assert torch.allclose(found[0], right[0], atol=2e-5)
    assert not torch.allclose(found[1][1], right[1][1], atol=1e-2)
    assert torch.allclose(found[1][0], right[1][0], atol=2e-5)


@pytest.mark.parametrize("lengths", [PROMPTS["past the window"], PROMPTS["even"]], ids=["padded", "even"])
def test_steering_knows_where_the_tokens_stand(lengths: tuple[int, ...]) -> None:
    """In layers that only slide, and whatever is padding, the gates of every token of a reply are read and kept."""
    model, batch = model_of("mistral"), batch_of(lengths)
    rule = {"name": "r", "where": "reply", "when": {"feature": "g", "above": 0.0}, "edit": {"f": {"clamp": 5.0}}}
    policy = planted_policy("p", {"g": (0, 3), "f": (1, 4)}, steer=[rule])
    plan = compile_plan([(policy,)] * len(lengths), planted_saes(model))
    with attach(model, plan, rows=[1] * len(lengths), prompt_length=max(lengths)) as attached:
        recorder = attached.recorder
        steered = list(read_along(model, batch, REPLY))
    one_by_one = []
    for row, length in enumerate(lengths):
        with attach(model, plan, prompt_length=length) as alone:
            prompt = Batch(batch.ids[row : row + 1, -length:], torch.ones(1, length, dtype=torch.long))
            one_by_one.append(list(read_along(model, prompt, REPLY)))
        opened = alone.recorder.opened()[Site(1)][0]
        assert 0 < int(opened.sum()) < len(REPLY)
        assert torch.equal(recorder.opened()[Site(1)][row, recorder.columns(row)], opened)
        assert alone.recorder.length == length + len(REPLY)
    assert torch.allclose(torch.stack(steered), torch.cat(list(map(torch.stack, one_by_one)), dim=1), atol=2e-5)
    assert not torch.allclose(torch.stack(steered), torch.stack(anew(model, batch)), atol=1e-3)
