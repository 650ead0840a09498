"""Tokens whose logits a feature's decoder row raises and lowers."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from steerkit.chat import Tokenizer, token_bytes
from steerkit.errors import ModelError
from steerkit.sae import SaeSet
from steerkit.sites import Feature
from steerkit.steer import find_sites

_ROWS: Final = 16_384  # of the unembedding at a time, so that its float32 copy stays small


class TokenScore(NamedTuple):
    """A token that a feature writes for, or against."""

    token: str
    """Its text; of one that is no whole character the vocabulary's own name."""
    id: int
    score: float
    """Logit that the feature's direction adds, in standard deviations over the vocabulary from its mean."""


class DecoderTokens(NamedTuple):
    """The ends of what a feature's decoder row does to the next token, the furthest from the mean first."""

    promoted: tuple[TokenScore, ...]
    """Scores above 0."""
    suppressed: tuple[TokenScore, ...]
    """Scores below 0."""


@torch.inference_mode()
def decoder_tokens(
    model: PreTrainedModel, tokenizer: Tokenizer, saes: SaeSet, feature: Feature, *, top: int = 10
) -> DecoderTokens:
    """The `top` tokens whose logits a feature's decoder row raises and lowers most, by direct logit attribution.

    With d the decoder row (through `o_proj`'s weight where the SAE reads its input), p the gain of the norm that the
    attention's output passes before it joins the residual stream (Gemma and OLMo 2 have one, Llama has none), g the
    gain of the final norm and U the unembedding:

        logits = (d * p * g) @ U.T

    What a norm divides by, a positive number that differs from token to token, changes no order, and the scores leave
    it out. What the later layers and this layer's MLP make of the direction is not part of it, so it says more of a
    late layer than of an early one.

    Raises:
        SaeError: the set has no such feature.
        ModelError: the model has no unembedding, or no final norm where transformers' decoders have it.
    """
    saes.check(feature)
    body: Any = find_sites(model).body
    unembedding, norm = model.get_output_embeddings(), getattr(body, "norm", None)
    if not isinstance(unembedding, nn.Module) or not isinstance(norm, nn.Module):
        raise ModelError(
            f"{type(model).__name__}: found no {'unembedding' if isinstance(norm, nn.Module) else 'final norm'} to "
            f"read a decoder row through; expected a causal language model with `norm` after its layers"
        )
    sae, layer = saes[feature.site], body.layers[feature.layer]
    direction = sae.W_dec[feature.index].detach().float().cpu()
    if feature.site.point == "attn_in":
        direction = layer.self_attn.o_proj.weight.detach().float().cpu() @ direction
    own = _norm_of_output(layer) if feature.site.point.startswith("attn") else None  # the others are behind it
    for one in (own, norm):
        direction = direction if one is None else direction * _gain(one, len(direction))
    return _ends(tokenizer, _logits(unembedding.get_parameter("weight"), direction), top)


def _norm_of_output(layer: nn.Module) -> nn.Module | None:
    """The norm between a layer's attention and the residual stream, by the names that transformers' models give it.

    `post_attention_layernorm` is the MLP's own norm in most models, and that of the attention's output only where the
    MLP has norms of other names around it.
    """
    if hasattr(layer, "post_self_attn_layernorm"):
        return layer.get_submodule("post_self_attn_layernorm")
    around_mlp = any(hasattr(layer, f"{side}_feedforward_layernorm") for side in ("pre", "post"))
    if around_mlp and hasattr(layer, "post_attention_layernorm"):
        return layer.get_submodule("post_attention_layernorm")
    return None


def _gain(norm: nn.Module, width: int) -> Tensor:
    """Factor of a norm on each channel, `(width,)` float32, after its division by the size.

    Gemma's RMSNorm multiplies by 1 + its weight, Llama's by the weight: so the module itself is asked. A vector of
    alternating 1 and -1 has size 1 and, at even width, mean 0; half the difference of what becomes of it and of its
    negative is the gain, whatever is added.
    """
    signs = torch.ones(width)
    signs[1::2] = -1
    signs = signs.to(next(norm.parameters(), signs).device)
    gain: Tensor = (norm(signs) - norm(-signs)) * signs / 2
    return gain.float().cpu()


def _logits(weight: Tensor, direction: Tensor) -> Tensor:
    """`(vocabulary,)` float32 on the CPU."""
    direction = direction.to(weight.device)
    return torch.cat([part.float() @ direction for part in weight.detach().split(_ROWS)]).cpu()


def _ends(tokenizer: Tokenizer, logits: Tensor, top: int) -> DecoderTokens:
    """The strongest of both signs among the tokens that the tokenizer knows; an unembedding may have more rows."""
    names = {number: name for name, number in tokenizer.get_vocab().items() if number < len(logits)}
    known = torch.tensor(sorted(names))
    scores = logits[known] - logits[known].mean()
    scores = scores / scores.std(correction=0).clamp(min=torch.finfo(torch.float32).tiny)
    table = token_bytes(tokenizer)

    def named(sign: int) -> tuple[TokenScore, ...]:
        order = (sign * scores).argsort(descending=True, stable=True)[:top].tolist()
        found = [(int(known[place]), float(scores[place])) for place in order if sign * scores[place] > 0]
        return tuple(TokenScore(_name(table(number), names[number]), number, score) for number, score in found)

    return DecoderTokens(named(1), named(-1))


def _name(text: bytes, name: str) -> str:
    try:
        return text.decode() or name
    except UnicodeDecodeError:
        return name
