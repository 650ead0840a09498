"""Promoted and suppressed tokens, against finite differences of whole models with norms in different places."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    VaultGemmaConfig,
    VaultGemmaForCausalLM,
)

from steerkit.engine import load_model
from steerkit.errors import ModelError, SaeError
from steerkit.lab.find.top_logits import decoder_tokens
from steerkit.sae import Sae, SaeSet
from steerkit.sites import Feature, Site
from steerkit.steer import find_sites
from steerkit.testing import planted_saes

SIZES: dict[str, Any] = {
    "vocab_size": 1100,  # more than the tokenizer knows
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}
MODELS = {
    "gemma3": (Gemma3ForCausalLM, Gemma3TextConfig),
    "llama": (LlamaForCausalLM, LlamaConfig),
    "olmo2": (Olmo2ForCausalLM, Olmo2Config),
    "vaultgemma": (VaultGemmaForCausalLM, VaultGemmaConfig),
    "glm4": (Glm4ForCausalLM, Glm4Config),
}
FEATURE = Feature(1, 9)


def random_model(name):
    """A small model whose norms all have gains of their own."""
    model_class, config = MODELS[name]
    torch.manual_seed(3)
    model = model_class(config(**SIZES)).eval().requires_grad_(False)
    for parameter_name, weight in model.named_parameters():
        if "norm" in parameter_name:
            weight.uniform_(-0.9, 2.0)
    return model


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return random_model(request.param)


@pytest.fixture(scope="module")
def tokenizer():
    return load_model("tiny").tokenizer


def at_right_angles(x, *others):
    """`x` without its parts along the others."""
    basis = torch.linalg.qr(torch.stack(others, dim=1)).Q
    return x - basis @ (basis.T @ x)


def difference(model, point, direction):
    """Logits `(vocabulary,)` that a step along `direction` at the last layer's o_proj adds, up to a positive factor.

    The whole model runs. Its input is 0 and the layer's MLP is silent, so the stream holds the attention's output
    alone; that output is chosen at right angles to the step, before and behind whatever norm it may pass, so that a
    step and its opposite change what the norms divide by alike.
    """
    layer = find_sites(model).body.layers[1]
    layer.mlp.down_proj.weight.zero_()
    projection = layer.self_attn.o_proj
    weight = projection.weight if point == "attn_in" else torch.eye(32)
    gains = [norm(torch.ones(32)) for name, norm in layer.named_children() if name.startswith("post_")]
    sides = [weight.T @ (gain.square() * (weight @ direction)) for gain in [torch.ones(32), *gains]]
    start = at_right_angles(torch.randn(weight.shape[1]), *sides)

    def logits(x):
        before = projection.register_forward_pre_hook(lambda module, args: (x.expand_as(args[0]),))
        after = projection.register_forward_hook(lambda module, args, y: x.expand_as(y) if point == "attn_out" else y)
        found = model(inputs_embeds=torch.zeros(1, 1, 32)).logits[0, 0]
        before.remove()
        after.remove()
        return found

    return logits(start + direction) - logits(start - direction)


def standardised(logits):
    logits = logits[:1024]
    return (logits - logits.mean()) / logits.std(correction=0)


@pytest.mark.parametrize("point", ["attn_out", "attn_in"])
def test_scores_are_what_the_model_does(model, tokenizer, point):
    """Tokens, order and scores are those of the model's own derivative; without any norm, the control, they are not."""
    saes = planted_saes(model, points=[point])
    feature = Feature(Site(1, point), FEATURE.index)
    direction = saes[feature.site].W_dec[feature.index]
    wanted = standardised(difference(model, point, direction))
    found = decoder_tokens(model, tokenizer, saes, feature, top=15)
    order = wanted.argsort(descending=True).tolist()
    assert [one.id for one in found.promoted] == order[:15]
    assert [one.id for one in found.suppressed] == order[::-1][:15]
    for one in (*found.promoted, *found.suppressed):
        assert one.score == pytest.approx(float(wanted[one.id]), abs=1e-3)
    weight = find_sites(model).at(Site(1)).weight if point == "attn_in" else torch.eye(32)
    bare = standardised(model.get_output_embeddings().weight @ (weight @ direction))
    assert (bare - wanted).abs().max() > 0.3


def test_tokens_have_their_text(tokenizer):
    """A token is shown as its text, one that is part of a character by the vocabulary's own name."""
    model = random_model("llama")
    found = decoder_tokens(model, tokenizer, planted_saes(model), FEATURE, top=1024)
    shown = {one.id: one.token for one in (*found.promoted, *found.suppressed)}
    assert len(found.promoted) + len(found.suppressed) == 1024
    vocabulary = tokenizer.get_vocab()
    assert shown[tokenizer("hi 😀")["input_ids"][-1]] == "Ģ"
    assert shown[vocabulary["Ġ"]] == " "
    assert shown[vocabulary["<escape>"]] == "<escape>"


def test_a_feature_that_writes_nothing_promotes_nothing(tokenizer):
    """A decoder row of zeros has no tokens; its neighbour, the control, has."""
    model = random_model("gemma3")
    saes = planted_saes(model)
    sae = saes[1]
    rows = sae.W_dec.clone()
    rows[FEATURE.index] = 0
    silent = Sae(sae.W_enc, sae.b_enc, rows, sae.b_dec)
    changed = SaeSet("silent", [replace(saes.checkpoints[Site(1)], sae=silent)])
    assert decoder_tokens(model, tokenizer, changed, FEATURE) == ((), ())
    assert len(decoder_tokens(model, tokenizer, changed, Feature(1, 8)).promoted) == 10


def test_what_cannot_be_read_is_named(tokenizer):
    """A feature outside the set, and a model without a final norm or an unembedding, are errors."""
    model = random_model("llama")
    saes = planted_saes(model)
    with pytest.raises(SaeError, match="layer 1 has no feature 64"):
        decoder_tokens(model, tokenizer, saes, Feature(1, 64))
    with pytest.raises(ModelError, match="found no unembedding"):
        decoder_tokens(model.model, tokenizer, saes, FEATURE)
    del model.model.norm
    with pytest.raises(ModelError, match="found no final norm"):
        decoder_tokens(model, tokenizer, saes, FEATURE)
