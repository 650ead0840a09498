"""The generation loop and the sampler, on a small random model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from steerkit.engine import Batch, Sampling, generate, tool_from_function
from steerkit.engine.hf.sampler import Sampler
from steerkit.engine.lease import Lease
from steerkit.errors import ToolError
from steerkit.testing import small_model

PROMPTS = ([5, 17, 301, 44, 9], [8, 33, 2], [64, 1, 7, 7, 512, 230, 11])


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return small_model()


def replies(model: nn.Module, prompts: object, settings: list[Sampling], stops: set[int]) -> list[list[int]]:
    """What each prompt is answered with."""
    batch = Batch.of(prompts, 0, torch.device("cpu"))  # type: ignore[arg-type]
    found: list[list[int]] = [[] for _ in settings]
    for tokens in generate(model, batch, settings, stops, 0):  # type: ignore[arg-type]
        for reply, token in zip(found, tokens, strict=True):
            if token is not None:
                reply.append(token)
    return found


def test_greedy_tokens_are_those_of_transformers(model: nn.Module) -> None:
    """The loop gives what `model.generate` gives, for each row of a padded batch."""
    found = replies(model, PROMPTS, [Sampling(12)] * 3, set())
    for prompt, reply in zip(PROMPTS, found, strict=True):
        out = model.generate(  # type: ignore[operator]
            torch.tensor([prompt]), do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=None
        )
        assert out[0, len(prompt) :].tolist() == reply


def test_each_row_stops_on_its_own(model: nn.Module) -> None:
    """A stop token is a row's last; the others go on, each to its own limit."""
    free = replies(model, PROMPTS, [Sampling(8)] * 3, set())
    stop = next(token for token in free[0] if token not in free[1] and token not in free[2])
    cut = replies(model, PROMPTS, [Sampling(8), Sampling(8), Sampling(3)], {stop})
    assert cut[0] == free[0][: free[0].index(stop) + 1]
    assert cut[1] == free[1]
    assert cut[2] == free[2][:3]


def test_the_last_token_is_not_read(model: nn.Module) -> None:
    """A reply of n tokens takes n forward passes, the prompt's among them."""
    passes = []
    handle = model.register_forward_pre_hook(lambda module, args: passes.append(1))
    replies(model, PROMPTS[:1], [Sampling(5)], set())
    handle.remove()
    assert len(passes) == 5


def test_sampling_follows_its_settings() -> None:
    """Top-k and top-p cut the tail, the seed decides the draw, temperature 0 takes the best."""
    logits = torch.tensor([[3.0, 2.0, 1.0, -5.0]]).repeat(400, 1)

    def drawn(**settings: float) -> set[int]:
        samplers = [Sampling(seed=seed, **settings) for seed in range(400)]  # type: ignore[arg-type]
        return set(Sampler(samplers, torch.device("cpu"))(logits).tolist())

    assert drawn() == {0}
    assert drawn(temperature=1.0) >= {0, 1, 2}
    assert drawn(temperature=1.0, top_k=2) == {0, 1}
    assert drawn(temperature=1.0, top_p=0.5) == {0}
    one = [Sampling(seed=7, temperature=1.0)] * 400
    assert len(set(Sampler(one, torch.device("cpu"))(logits).tolist())) == 1


def test_functions_without_descriptions_are_refused() -> None:
    """A function that cannot be told to a model says what it lacks; a described one is a tool."""

    def described(city: str) -> str:
        """Get it.

        Args:
            city: Where
        """
        return city

    def bare(city):  # type: ignore[no-untyped-def]  # the mistake under test
        return city

    assert tool_from_function(described)["function"]["name"] == "described"
    with pytest.raises(ToolError, match="tool bare: got a function that cannot be described"):
        tool_from_function(bare)


def test_a_lease_is_held_by_one() -> None:
    """The thread that holds it is refused instead of waiting for itself; given back, it can be had again."""
    lease = Lease()
    assert lease.take()
    assert not lease.take()
    lease.give_back()
    assert lease.take()


def test_the_unembedding_is_not_copied_for_the_first_token(model: nn.Module) -> None:
    """Its product with a prompt's last states is a plain one; the control keeps a number of logits, as is usual."""
    vocabulary = model.config.vocab_size  # type: ignore[union-attr]

    def batched(run: Callable[[], object]) -> int:
        with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            run()
        return sum(event.name == "aten::bmm" and event.input_shapes[1][-1] == vocabulary for event in found.events())

    assert batched(lambda: replies(model, PROMPTS, [Sampling(3)] * 3, set())) == 0
    assert batched(lambda: model(torch.tensor([PROMPTS[0]] * 2), logits_to_keep=1)) == 1
