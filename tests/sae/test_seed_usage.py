"""The published card's own usage code, its shape bug mended, beside steerkit on the same files and model."""

from __future__ import annotations

import pytest
import torch

from steerkit.agent import Runtime
from steerkit.engine import box_folder


class JumpReLUSAE(torch.nn.Module):
    """The card's class as it is printed there."""

    def __init__(self, W_enc, b_enc, W_dec, b_dec):
        super().__init__()
        self.W_enc = torch.nn.Parameter(W_enc)
        self.b_enc = torch.nn.Parameter(b_enc)
        self.W_dec = torch.nn.Parameter(W_dec)
        self.b_dec = torch.nn.Parameter(b_dec)

    def forward(self, x):  # noqa: D102  as the card has it
        batch, seq, d_in = x.shape
        x_flat = x.view(-1, d_in)
        pre_act = x_flat @ self.W_enc + self.b_enc
        features = torch.relu(pre_act)
        recon = features @ self.W_dec + self.b_dec
        return recon.view(batch, seq, d_in), features.view(batch, seq, -1)


def card_model(layer: int) -> JumpReLUSAE:
    """The card's class on the box's file, in float32: the box stores bfloat16, and the card multiplies as stored."""
    folder = box_folder("tiny")
    assert folder is not None
    sae = torch.load(folder / "saes" / f"sae_layer_{layer:02d}.pt", map_location="cpu", weights_only=True)
    return JumpReLUSAE(*(sae[name].float() for name in ("W_enc", "b_enc", "W_dec", "b_dec")))


def activations(box: Runtime, layer: int, printed: bool = False) -> torch.Tensor:
    """What the card's hook collects over a short prompt; `printed`: with the `out[0]` that the card has."""
    acts = []

    def hook(module, inp, out):
        acts.append((out[0] if printed else out).detach().float())

    handle = box.loaded.model.model.layers[layer].self_attn.o_proj.register_forward_hook(hook)
    inputs = box.loaded.tokenizer("What's the weather?", return_tensors="pt")
    with torch.no_grad():
        box.loaded.model(input_ids=inputs["input_ids"])
    handle.remove()
    return acts[0]


@pytest.mark.parametrize("layer", range(4))
def test_steerkit_reads_what_the_cards_code_reads(box: Runtime, layer: int) -> None:
    """Features and reconstruction equal the card's to 1e-5; another layer's SAE, the control, gives others."""
    assert box.saes is not None
    x = activations(box, layer)
    assert x.ndim == 3
    with torch.no_grad():
        recon, features = card_model(layer)(x)
        other = card_model((layer + 1) % 4)(x)[1]
    assert (features > 0).any()
    ours = box.saes[layer](x)
    assert torch.allclose(ours.features, features, atol=1e-5, rtol=1e-5)
    assert torch.allclose(ours.output, recon, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours.features, other, atol=1e-5, rtol=1e-5)


def test_the_cards_code_fails_as_printed(box: Runtime) -> None:
    """Its hook drops the batch axis, so its class cannot unpack three; steerkit takes any leading shape."""
    assert box.saes is not None
    x = activations(box, 0, printed=True)
    with pytest.raises(ValueError, match="not enough values to unpack"):
        card_model(0)(x)
    assert torch.equal(box.saes[0].encode(x), box.saes[0].encode(x.unsqueeze(0))[0])
