"""SAEs of the residual stream as their publishers write them: read, put where they belong, and steering there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import steerkit
from steerkit.errors import SaeError
from steerkit.sae import load_set
from steerkit.sites import Point, Site
from steerkit.testing import planted_policy, small_model

LAYER, WIDTH, HEADS, FEATURES, EDITED, VALUE = 1, 32, 48, 40, 3, 5.0
PROMPT = [[5, 17, 301, 44, 9, 120, 77]]
MODULES: dict[Point, tuple[str, str]] = {
    "attn_in": ("self_attn.o_proj", "input"),
    "attn_out": ("self_attn.o_proj", "output"),
    "mlp_out": ("post_feedforward_layernorm", "output"),
    "resid_post": ("", "output"),
}
"""By hook point, the module below a Gemma 3 layer and its side, without a look at the package's own table."""


def weights(width: int) -> dict[str, Tensor]:
    """Random weights, none of whose parts is 0."""
    draw = torch.Generator().manual_seed(width)
    shapes = {"W_enc": (width, FEATURES), "b_enc": (FEATURES,), "W_dec": (FEATURES, width), "b_dec": (width,)}
    found = {name: torch.randn(*shape, generator=draw) * 0.3 for name, shape in shapes.items()}
    return {**found, "threshold": torch.rand(FEATURES, generator=draw) * 0.2 + 0.1}


def written(
    folder: Path, tensors: Mapping[str, Tensor], weights_file: str, config: Mapping[str, Any], name: str
) -> Path:
    folder.mkdir(parents=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / weights_file)
    (folder / name).write_text(json.dumps(config))
    return folder


def gemma_scope(hook: str, folder: str, width: int = WIDTH, **more: Any) -> Callable[[Path], Path]:
    """`google/gemma-scope-2-270m-it`: `resid_post/layer_1_width_16k_l0_small/{config.json,params.safetensors}`."""

    def make(root: Path) -> Path:
        made = weights(width)
        place = f"model.layers.{LAYER}.{hook}"
        config = {
            "hf_hook_point_in": place,
            "hf_hook_point_out": place,
            "width": FEATURES,
            "architecture": "jump_relu",
            "model_name": "gemma-v3-270m-it",
            "l0": 20,
            "type": "sae",
            **more,
        }
        tensors = {key.replace("W_", "w_"): tensor for key, tensor in made.items()}
        return written(
            root / folder / f"layer_{LAYER}_width_16k_l0_small", tensors, "params.safetensors", config, "config.json"
        )

    return make


def saelens(architecture: str, metadata: dict[str, Any], **more: Any) -> Callable[[Path], Path]:
    """A folder that SAELens 6 saved: `cfg.json` and `sae_weights.safetensors`."""

    def make(root: Path) -> Path:
        kept = ("W_enc", "b_enc", "W_dec", "b_dec", *(("threshold",) if architecture == "jumprelu" else ()))
        made = weights(WIDTH)
        config = {
            "d_in": WIDTH,
            "d_sae": FEATURES,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
            "metadata": {
                "sae_lens_version": "6.22.0",
                "model_name": "gemma-3-270m-it",
                "context_size": 1024,
                **metadata,
            },
            "architecture": architecture,
            **more,
        }
        return written(root, {key: made[key] for key in kept}, "sae_weights.safetensors", config, "cfg.json")

    return make


def sparsify(module: str, **more: Any) -> Callable[[Path], Path]:
    """A run of sparsify: a folder by the module's name with `cfg.json` and `sae.safetensors`, and the run's config."""

    def make(root: Path) -> Path:
        made = weights(WIDTH)
        tensors = {"encoder.weight": made["W_enc"].T, "encoder.bias": made["b_enc"]}
        tensors |= {"W_dec": made["W_dec"], "b_dec": made["b_dec"]}
        config = {"activation": "topk", "expansion_factor": 32, "normalize_decoder": True, "num_latents": FEATURES}
        config |= {"k": 6, "multi_topk": False, "skip_connection": False, "transcode": False, "d_in": WIDTH, **more}
        written(root / module, tensors, "sae.safetensors", config, "cfg.json")
        (root / "config.json").write_text(json.dumps({"model": "google/gemma-3-270m-it", "hookpoints": [module]}))
        return root

    return make


def jumprelu(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """Gemma Scope's formula: nothing is subtracted, and a feature is on above its threshold."""
    pre = x @ w["W_enc"] + w["b_enc"]
    return torch.where(pre > w["threshold"], pre, 0.0)


def centered_jumprelu(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """SAELens' formula with `apply_b_dec_to_input`."""
    return jumprelu(x - w["b_dec"], w)


def centered_relu(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """SAELens' `standard`."""
    return torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])


def topk(x: Tensor, w: Mapping[str, Tensor]) -> Tensor:
    """The formula of sparsify and of SAELens' `topk`: the six strongest."""
    features = centered_relu(x, w)
    return torch.where(features >= features.topk(6, dim=-1).values[..., -1:], features, 0.0)


class Published(NamedTuple):
    """One set of a publisher, and what it must be here."""

    make: Callable[[Path], Path]
    point: Point
    features: Callable[[Tensor, Mapping[str, Tensor]], Tensor]
    width: int = WIDTH


RESIDUAL = {"hook_name": f"blocks.{LAYER}.hook_resid_post", "hf_hook_name": f"model.layers.{LAYER}"}
MLP = {"hook_name": f"blocks.{LAYER}.hook_mlp_out"}
PUBLISHED = {
    "Gemma Scope 2 resid_post": Published(gemma_scope("output", "resid_post"), "resid_post", jumprelu),
    "Gemma Scope 2 attn_out": Published(
        gemma_scope("self_attn.o_proj.input", "attn_out", HEADS), "attn_in", jumprelu, HEADS
    ),
    "Gemma Scope 2 mlp_out": Published(
        gemma_scope("post_feedforward_layernorm.output", "mlp_out"), "mlp_out", jumprelu
    ),
    "SAELens standard": Published(saelens("standard", RESIDUAL), "resid_post", centered_relu),
    "SAELens jumprelu": Published(saelens("jumprelu", RESIDUAL), "resid_post", centered_jumprelu),
    "SAELens topk": Published(saelens("topk", RESIDUAL, k=6), "resid_post", topk),
    "SAELens at the MLP": Published(saelens("standard", MLP), "mlp_out", centered_relu),
    "sparsify": Published(sparsify(f"layers.{LAYER}"), "resid_post", topk),
    "sparsify at o_proj": Published(sparsify(f"layers.{LAYER}.self_attn.o_proj"), "attn_out", topk),
}


def activations(model: nn.Module, point: Point, layer: int = LAYER) -> Tensor:
    """`(7, width)` at a hook point, seen by a plain hook of the test's own, behind all others."""
    path, side = MODULES[point]
    module, seen = model.get_submodule(f"model.layers.{layer}{path and '.'}{path}"), []
    if side == "input":
        handle = module.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    else:
        handle = module.register_forward_hook(lambda module, args, out: seen.append(out))
    with torch.no_grad():
        model(torch.tensor(PROMPT))
    handle.remove()
    (one,) = seen
    return (one[0] if isinstance(one, tuple) else one)[0]  # type: ignore[no-any-return]  # a hook's output


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_loads_and_steers_where_it_was_trained(tmp_path: Path, name: str) -> None:
    """Features are those of the publisher's formula, written here by hand; an edit moves the activation by its row."""
    make, point, formula, width = PUBLISHED[name]
    saes, site, w = load_set(make(tmp_path / "set")), Site(LAYER, point), weights(width)
    assert (list(saes), saes.model_name.removeprefix("google/")) == ([site], "gemma-3-270m-it")
    model = small_model(head_dim=24)
    plain = activations(model, point)
    features = formula(plain, w)
    assert torch.allclose(saes[site].encode(plain), features, atol=1e-5)
    assert bool(features.any())
    policy = planted_policy(
        "p", {"f": (site, EDITED)}, steer=[{"name": "r", "where": "any", "edit": {"f": {"clamp": VALUE}}}]
    )
    with steerkit.attach(model, saes, policy):
        steered, before = activations(model, point), activations(model, point, LAYER - 1)
    expected = plain + (VALUE - features[:, EDITED, None]) * w["W_dec"][EDITED]
    assert torch.allclose(steered, expected, atol=1e-4)
    assert not torch.allclose(steered, plain, atol=0.1)
    assert torch.equal(before, activations(model, point, LAYER - 1))


OTHER = f"model.layers.{LAYER}.post_feedforward_layernorm.output"
TRANSCODERS = {
    "Gemma Scope 2": (
        gemma_scope("pre_feedforward_layernorm.output", "transcoder", hf_hook_point_out=OTHER, type="transcoder"),
        r"config\.json: hf_hook_point_out: got .*: a transcoder",
    ),
    "SAELens": (
        saelens("transcoder", {**RESIDUAL, "hook_name_out": MLP["hook_name"]}, d_out=WIDTH),
        r"cfg\.json: architecture: got 'transcoder', expected one of standard",
    ),
    "SAELens by its ends": (
        saelens("standard", {**RESIDUAL, "hook_name_out": MLP["hook_name"]}),
        r"cfg\.json: metadata\.hook_name_out: got .*: a transcoder",
    ),
    "sparsify": (sparsify(f"layers.{LAYER}", transcode=True), r"cfg\.json: transcode: .*a transcoder; expected an SAE"),
    "sparsify with a skip": (sparsify(f"layers.{LAYER}", skip_connection=True), r"skip_connection: .*a transcoder"),
}


@pytest.mark.parametrize("name", TRANSCODERS)
def test_a_transcoder_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """What makes the set one is named with its file; the same layout without it is in the table above."""
    make, said = TRANSCODERS[name]
    with pytest.raises(SaeError, match=said) as caught:
        load_set(make(tmp_path / "set"))
    assert len(str(caught.value).splitlines()) == 1
