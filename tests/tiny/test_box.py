"""The shipped box: complete, small, at the right scale, and still as good as its card says."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open

from steerkit.lab.activations import collect, rewritten
from steerkit.lab.train.health.fidelity import cross_entropy
from steerkit.sae import load_checkpoint
from steerkit.tiny.training import batches
from steerkit.tiny.training.evaluate import replies, wanted
from steerkit.tiny.training.tokenizer import STOPS
from steerkit.tiny.world.conversations import sample


def right(model, tokenizer, kind, count):
    examples = sample(kind, "report", count, seed=5)
    given = replies(model, tokenizer, examples)
    expected = [wanted(example.expected_calls, example.expected_text) for example in examples]
    return sum(one == other for one, other in zip(given, expected, strict=True))


def conversations(tokenizer, count):
    return [ids for ids, _ in batches.encode(sample("single", "select", count, seed=1), tokenizer)]


def test_the_box_is_complete_and_small(box_folder):
    """All files are there and take less than 8 MB together."""
    names = {str(path.relative_to(box_folder)) for path in box_folder.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "evaluation.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        *(f"saes/sae_layer_{layer:02d}.pt" for layer in range(4)),
        "saes/labels.json",
        "saes/stats.safetensors",
    }
    assert sum(path.stat().st_size for path in box_folder.rglob("*") if path.is_file()) < 8_000_000


def test_generation_stops_where_tools_or_the_user_go_on(model, tokenizer):
    """The generation config ends a reply at each stop token and decodes greedily."""
    expected = [tokenizer.convert_tokens_to_ids(token) for token in STOPS]
    assert model.generation_config.eos_token_id == expected
    assert not model.generation_config.do_sample


def test_single_calls_are_still_right(model, tokenizer):
    """At least 90 % of 60 unseen single calls come out exact; swapped expectations, the control, match none."""
    examples = sample("single", "report", 60, seed=5)
    given = replies(model, tokenizer, examples)
    expected = [wanted(example.expected_calls, example.expected_text) for example in examples]
    assert sum(one == other for one, other in zip(given, expected, strict=True)) >= 54
    shifted = expected[1:] + expected[:1]
    assert sum(one == other for one, other in zip(given, shifted, strict=True)) <= 3


@pytest.mark.parametrize(("kind", "least"), [("parallel", 24), ("no_tool_fits", 24), ("injected_clean", 24)])
def test_other_kinds_are_still_right(model, tokenizer, kind, least):
    """At least 24 of 30 parallel calls, refusals and answers after clean results come out exact."""
    assert right(model, tokenizer, kind, 30) >= least


def test_o_proj_outputs_fit_the_recipes_clip(model, tokenizer):
    """Nearly all outputs lie inside [-10, 10] and their RMS is near 1; scaled back by 16, the control, many do not."""
    for values in collect(model, conversations(tokenizer, 12)):
        assert 0.4 < float(values.square().mean().sqrt()) < 2.5
        assert float((values.abs() <= 10).float().mean()) > 0.999
        assert float((16 * values).abs().le(10).float().mean()) < 0.9


def test_the_scale_of_o_proj_does_not_matter_to_the_model(model, tokenizer):
    """Outputs times 16 leave the loss as it is, since the norm behind undoes it; zeroed ones, the control, do not."""
    texts = conversations(tokenizer, 6)
    plain = cross_entropy(model, texts)
    scaled = cross_entropy(model, texts, {layer: lambda y: 16 * y for layer in range(4)})
    zeroed = cross_entropy(model, texts, dict.fromkeys(range(4), torch.zeros_like))
    assert scaled == pytest.approx(plain, abs=1e-3)
    assert zeroed > plain + 0.1


@pytest.mark.parametrize("layer", range(4))
def test_saes_have_the_published_format(box_folder, layer):
    """Each file has exactly the published keys, bfloat16 tensors of the right shapes and a history of five epochs."""
    path = box_folder / "saes" / f"sae_layer_{layer:02d}.pt"
    state = torch.load(path, weights_only=True)
    keys = {"model_name", "layer_idx", "d_in", "d_sae", "W_enc", "b_enc", "W_dec", "b_dec", "history"}
    assert set(state) == keys
    assert (state["model_name"], state["layer_idx"], state["d_in"], state["d_sae"]) == (
        "steerkit/tiny",
        layer,
        128,
        819,
    )
    shapes = {"W_enc": (128, 819), "b_enc": (819,), "W_dec": (819, 128), "b_dec": (128,)}
    assert {key: tuple(state[key].shape) for key in shapes} == shapes
    assert all(state[key].dtype == torch.bfloat16 for key in shapes)
    assert {key: len(curve) for key, curve in state["history"].items()} == {"loss": 5, "mse": 5, "l0": 5}


@pytest.mark.parametrize("layer", range(4))
def test_saes_explain_their_layer(box_folder, model, tokenizer, layer):
    """An SAE leaves less than a third of its layer's variance unexplained; a neighbour's SAE, the control, far more."""
    values = collect(model, conversations(tokenizer, 12))[layer]

    def unexplained(number):
        sae = load_checkpoint(box_folder / "saes" / f"sae_layer_{number:02d}.pt").sae
        error = (sae(values).output - values).square().sum()
        return float(error / (values - values.mean(0)).square().sum())

    assert unexplained(layer) < 0.34
    assert unexplained((layer + 1) % 4) > 2 * unexplained(layer)


def test_statistics_belong_to_the_saes(box_folder, model, tokenizer):
    """Every layer has its eight statistics, ordered as statistics are, and new tokens have densities near theirs."""
    with safe_open(box_folder / "saes" / "stats.safetensors", framework="pt") as file:
        table = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  it is no dict
        assert int(file.metadata()["tokens"]) > 100_000
    names = ("max", "mean", "std", "density", "q50", "q90", "q99", "q999")
    assert set(table) == {f"layer_{layer:02d}.{name}" for layer in range(4) for name in names}
    activations = collect(model, conversations(tokenizer, 20))
    for layer, values in enumerate(activations):
        found = {name: table[f"layer_{layer:02d}.{name}"] for name in names}
        assert all(part.shape == (819,) and part.dtype == torch.float32 for part in found.values())
        ranked = [found[name] for name in ("q50", "q90", "q99", "q999", "max")]
        assert all(bool((low <= high).all()) for low, high in pairwise(ranked))
        sae = load_checkpoint(box_folder / "saes" / f"sae_layer_{layer:02d}.pt").sae
        density = (sae.encode(values) > 0).float().mean(0)
        assert torch.corrcoef(torch.stack([density, found["density"]]))[0, 1] > 0.8


def test_the_card_shows_the_recorded_evaluation(box_folder):
    """The card's table and evaluation.json tell the same counts."""
    card = (box_folder / "README.md").read_text(encoding="utf-8")
    cells = json.loads((box_folder / "evaluation.json").read_text(encoding="utf-8"))["cells"]
    assert len(cells) == 12
    for cell in cells:
        assert f"| {cell['name']} | {cell['right']} | {cell['count']} |" in card
    assert "not evidence about FunctionGemma" in card


def test_a_rewritten_site_is_put_back_after_an_error(model):
    """A block that raises leaves the model's modules as they were."""
    before = [layer.self_attn.o_proj for layer in model.model.layers]
    with pytest.raises(IndexError), rewritten(model, {0: torch.zeros_like}):
        collect(model, [[1, 2, 3]])[4].sum()
    assert [layer.self_attn.o_proj for layer in model.model.layers] == before
