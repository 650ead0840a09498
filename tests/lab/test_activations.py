"""Collecting activations at the o_proj sites, and what an SAE in their place costs the model."""

from __future__ import annotations

import pytest
import torch
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

from steerkit.lab.activations import collect, padded, rewritten
from steerkit.lab.train.health.fidelity import cross_entropy, fidelity
from steerkit.sae import Sae


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = Gemma3TextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        layer_types=["sliding_attention", "full_attention"],
    )
    found = Gemma3ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in found.parameters():
            weight.mul_(10)
    return found


TEXTS = [[1, 2, 3, 4, 5], [7, 8], [9, 10, 11, 12, 13, 14, 15], [20, 21, 22]]


def test_batches_hold_every_token_once(model):
    """Padded batches keep each text's tokens and mark nothing else as real."""
    kept = [ids[row][mask[row]].tolist() for ids, mask in padded(TEXTS, 8) for row in range(len(ids))]
    assert sorted(kept) == sorted(TEXTS)


def test_collected_activations_are_those_of_single_runs(model):
    """A batch collects what each text alone gives, without the padding's activations."""
    together = collect(model, TEXTS)
    alone = [torch.cat(parts) for parts in zip(*(collect(model, [text]) for text in TEXTS), strict=True)]
    assert [len(values) for values in together] == [17, 17]
    for one, other in zip(together, alone, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_collecting_leaves_the_model_as_it_was(model):
    """Before and after, the same modules give the same logits."""
    ids = torch.tensor([TEXTS[0]])
    before = model(ids).logits
    collect(model, TEXTS)
    assert torch.equal(model(ids).logits, before)


def test_a_rewrite_reaches_the_layers_above_only(model):
    """Zeroing layer 1 leaves layer 0's output alone and changes the logits."""
    ids = torch.tensor([TEXTS[0]])
    plain, before = model(ids).logits, collect(model, TEXTS)
    with rewritten(model, {1: torch.zeros_like}):
        assert not torch.equal(model(ids).logits, plain)
        assert torch.equal(collect(model, TEXTS)[0], before[0])


def test_a_perfect_sae_recovers_everything(model):
    """An identity of positive and negative parts has no error and recovers the loss; a dead one, the control, none."""
    width = 16
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    perfect = Sae(both.T.contiguous(), torch.zeros(32), both, torch.zeros(width))
    dead = Sae(torch.zeros(width, 32), torch.zeros(32), both, torch.zeros(width))
    ((good,), (bad,)) = (fidelity(model, {1: sae}, TEXTS) for sae in (perfect, dead))
    assert good.fvu == pytest.approx(0, abs=1e-9)
    assert good.recovered == pytest.approx(1, abs=1e-4)
    assert bad.recovered == pytest.approx(0, abs=1e-4)
    assert (bad.l0, bad.dead, bad.always_on) == (0, 32, 0)
    assert bad.loss_zero == pytest.approx(cross_entropy(model, TEXTS, {1: torch.zeros_like}))
    assert good.loss == pytest.approx(cross_entropy(model, TEXTS)) != pytest.approx(good.loss_zero)
