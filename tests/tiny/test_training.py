"""The trainer: what it counts, in what order, and that it learns."""

from __future__ import annotations

import copy

import pytest
import torch

from steerkit.tiny.training import batches
from steerkit.tiny.training.loop import Recipe, loss_of, optimizers, rate, train
from steerkit.tiny.training.model import new_model
from steerkit.tiny.training.o_proj_scale import rescale_o_proj
from steerkit.tiny.world import render
from steerkit.tiny.world.conversations import training_example


@pytest.fixture
def rows(tokenizer):
    return batches.encode([training_example(0, index, 3) for index in range(12)], tokenizer)


def test_encoding_is_that_of_the_whole_text(tokenizer, rows):
    """Prompt and reply cut apart are the tokens of the whole text, so training sees what generation sees."""
    for index, (ids, prompt) in enumerate(rows):
        example = training_example(0, index, 3)
        left = render.prompt(example.messages, example.tools)
        whole = left + render.completion(*example.target)
        assert ids == tokenizer(whole, add_special_tokens=False)["input_ids"]
        assert ids[:prompt] == tokenizer(left, add_special_tokens=False)["input_ids"]


def test_a_reply_weighs_ten_times_its_prompt_and_padding_nothing(rows):
    """Weights are 0.1 on prompts, 1 on replies and 0 on padding."""
    batch = batches.collate(rows, 0)
    for row, (ids, prompt) in enumerate(rows):
        weights = batch.weights[row]
        assert weights[:prompt].allclose(torch.tensor(0.1))
        assert bool((weights[prompt : len(ids)] == 1).all())
        assert not weights[len(ids) :].any()


def test_padding_does_not_change_the_loss(tokenizer, rows):
    """A batch's loss is the weighted mean of its rows' own losses."""
    torch.manual_seed(0)
    model = new_model(tokenizer)
    with torch.no_grad():
        together = loss_of(model, batches.collate(rows[:4], 0))
        alone = [batches.collate([row], 0) for row in rows[:4]]
        sizes = torch.tensor([float(one.weights[:, 1:].sum()) for one in alone])
        mean = (torch.stack([loss_of(model, one) for one in alone]) * sizes).sum() / sizes.sum()
    assert together.item() == pytest.approx(mean.item(), rel=1e-5)


def test_chunks_are_a_function_of_their_seed(tokenizer, monkeypatch):
    """The same seed and number give the same batches, none of them too large."""
    monkeypatch.setattr(batches, "CHUNK", 64)
    first, again = batches.chunk(tokenizer, 0, 1, 5), batches.chunk(tokenizer, 0, 1, 5)
    assert all(torch.equal(one.ids, other.ids) for one, other in zip(first, again, strict=True))
    assert sum(len(one.ids) for one in first) == 64
    assert all(one.ids.numel() <= batches.TOKENS for one in first)


def test_the_rate_rises_then_falls_to_zero():
    """Warm-up ends at the full rate and the last step is at nearly none."""
    recipe = Recipe(steps=1000, warmup=10)
    assert rate(0, recipe) == pytest.approx(0.1)
    assert rate(10, recipe) == 1
    assert rate(999, recipe) < 1e-4


def test_every_parameter_has_exactly_one_optimizer(tokenizer):
    """Muon takes the layers' matrices, AdamW the embedding and the norms."""
    model = new_model(tokenizer)
    muon, adam = (
        [weight for group in one.param_groups for weight in group["params"]] for one in optimizers(model, Recipe())
    )
    assert len(muon) == 4 * 7
    assert {id(weight) for weight in muon + adam} == {id(weight) for weight in model.parameters()}
    assert len(muon) + len(adam) == len(list(model.parameters()))


def test_training_learns(tokenizer, rows):
    """Fifteen steps on one batch halve its loss; an untrained copy, the control, stays where it was."""
    torch.manual_seed(0)
    model = new_model(tokenizer)
    untrained = copy.deepcopy(model)
    batch = batches.collate(rows, 0)
    losses = []
    recipe = Recipe(steps=15, warmup=2, compiled=False)
    train(model, iter([batch] * 15), recipe, lambda step, loss: losses.append((step, loss)))
    assert [step for step, _ in losses] == list(range(1, 16))
    with torch.no_grad():
        assert loss_of(model, batch) < 0.5 * losses[0][1]
        assert loss_of(untrained, batch).item() == pytest.approx(losses[0][1], rel=1e-5)


def test_settling_changes_the_scale_and_not_the_function(tokenizer, rows):
    """After settling, outputs have an RMS near 1 and the loss is as before; a real change, the control, moves it."""
    torch.manual_seed(0)
    model = new_model(tokenizer)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.mul_(200)
        batch = batches.collate(rows, 0)
        before = loss_of(model, batch).item()
        divisors = rescale_o_proj(model, [ids for ids, _ in rows])
        assert all(divisor > 1 for divisor in divisors)
        assert loss_of(model, batch).item() == pytest.approx(before, abs=1e-4)
        assert rescale_o_proj(model, [ids for ids, _ in rows]) == [1, 1, 1, 1]
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.neg_()
        assert loss_of(model, batch).item() != pytest.approx(before, abs=1e-4)
