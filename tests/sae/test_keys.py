"""What a format's keys change: honoured, refused by name, or harmless. A key is one row."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steerkit.errors import SaeError
from steerkit.sae import convert, load_checkpoint, load_set
from steerkit.sites import Site
from tests.sae.test_checkpoint import write
from tests.sae.test_formats import CONFIGS, WEIGHTS, activations, change, good, planted, set_of

OFF = (None, False)
"""Values of a switch that is off."""

# form, where the key lies, key, values that change nothing, values that are refused
ROWS: list[tuple[str, str, str, tuple[Any, ...], tuple[Any, ...]]] = [
    ("saelens", "", "activation_fn", (None, "relu", "ReLU"), ("topk", "tanh-relu", "gelu", 3)),
    ("saelens", "", "activation_fn_str", (None, "relu"), ("topk", ["relu"])),
    ("saelens", "", "activation_fn_kwargs", (None, {}), ({"k": 4}, {"signed": True})),
    ("saelens", "", "normalize_activations", (None, False, "none"), ("layer_norm", "expected_average_only_in", True)),
    ("saelens", "", "reshape_activations", (None, "none"), ("hook_z",)),
    ("saelens", "", "finetuning_scaling_factor", OFF, (True,)),
    ("saelens", "", "rescale_acts_by_decoder_norm", OFF, (True, "yes")),
    ("saelens", "", "noise", (None, 0, 0.0), (0.1,)),
    ("saelens", "", "scaling_factor", (None, 1, 1.0), (0.5,)),
    ("saelens", "", "hook_head_index", (None,), (0, 3)),
    ("saelens", "", "d_out", (None, 8), (9,)),
    ("saelens", "", "hook_name_out", (None, "model.layers.2.self_attn.o_proj"), ("blocks.2.hook_mlp_out",)),
    ("saelens", "", "model_from_pretrained_kwargs", (None, {}, {"n_ctx": 9}), ({"center_writing_weights": True},)),
    ("saelens", "metadata", "hook_head_index", (None,), (0, 3)),
    ("saelens", "metadata", "hook_name_out", (None, "model.layers.2.self_attn.o_proj"), ("blocks.2.hook_mlp_out",)),
    ("saelens", "metadata", "model_from_pretrained_kwargs", (None, {}, {"fold_ln": False}), ({"fold_ln": True},)),
    ("saelens", "", "architecture", ("standard",), ("transcoder", "temporal", "batchtopk", "matryoshka_batchtopk", [])),
    ("sparsify", "", "signed", OFF, (True, "yes", 1)),
    ("sparsify", "", "activation", (None, "topk"), ("groupmax", "relu")),
    ("sparsify", "", "transcode", OFF, (True,)),
    ("sparsify", "", "skip_connection", OFF, (True,)),
    ("sparsify", "", "jumprelu", OFF, (True,)),
    ("sparsify", "", "n_targets", (None, 0, 1), (5,)),
    ("dictionary-learning", "buffer", "io", (None, "out"), ("in_and_out", "in", "both", 3)),
    ("dictionary-learning", "buffer", "apply_W_O", OFF, (True,)),
    ("dictionary-learning", "trainer", "layer", (None, 2), (3, "2")),
    ("dictionary-learning", "trainer", "activation_dim", (None, 8), (9,)),
    ("dictionary-learning", "trainer", "dict_size", (None, 24), (25,)),
    ("dictionary-learning", "trainer", "apply_b_dec_to_input", OFF, (True,)),
    ("gemma-scope", "", "affine_connection", OFF, (True, "yes")),
    ("gemma-scope", "", "type", (None, "sae", "SAE"), ("transcoder", "crosscoder", "clt")),
    (
        "gemma-scope",
        "",
        "hf_hook_point_out",
        (None, "", "model.layers.2.self_attn.o_proj.input"),
        ("model.layers.2.post_feedforward_layernorm.output", "model.layers.3.self_attn.o_proj.input", 3),
    ),
    ("gemma-scope", "", "width", (None, 24, "16k"), (25,)),
    ("gemma-scope", "", "normalize_activations", (None, "none"), ("layer_norm",)),
]
HARMLESS = {
    "saelens": {
        "dtype": "bfloat16",
        "device": "cuda:3",
        "decoder_init_norm": 0.1,
        "l1_coefficient": 5,
        "training_tokens": 10**9,
        "something_new": {"a": [1]},
        "prepend_bos": False,
        "use_error_term": True,
    },
    "sparsify": {"multi_topk": True, "normalize_decoder": True, "expansion_factor": 32, "something_new": [1]},
    "dictionary-learning": {"something_new": 3},
    "gemma-scope": {"l0": 100, "something_new": "a"},
}
"""Of training and bookkeeping, and a key that nobody knows."""


def config(form: str, folder: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Change the config of a good set."""
    path = folder / CONFIGS[form]
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    return path


def put(place: str, key: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda content: (content.setdefault(place, {}) if place else content).update({key: value})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]}-{row[1]}-{row[2]}")
def test_a_key_is_honoured_or_refused_by_name(
    tmp_path: Path, row: tuple[str, str, str, tuple[Any, ...], tuple[Any, ...]]
) -> None:
    """With the values that change nothing it computes the same; with any other it is refused, and the key named."""
    form, place, key, same, refused = row
    good(form, tmp_path / "set")
    x, expected = activations(), load_set(tmp_path / "set")[2].encode(activations())
    for value in same:
        config(form, tmp_path / "set", put(place, key, value))
        assert torch.equal(load_set(tmp_path / "set")[2].encode(x), expected), value
    for value in refused:
        path = config(form, tmp_path / "set", put(place, key, value))
        with pytest.raises(SaeError, match=rf"{path.name}: .*{key}.*: ") as caught:
            load_set(tmp_path / "set")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", HARMLESS)
def test_harmless_keys_are_let_through(tmp_path: Path, form: str) -> None:
    """Those of training, and those that nobody knows."""
    good(form, tmp_path / "set")
    expected = load_set(tmp_path / "set").fingerprint
    config(form, tmp_path / "set", lambda content: content.update(HARMLESS[form]))
    assert load_set(tmp_path / "set").fingerprint == expected


EXTRA = [
    ("saelens", "scaling_factor", torch.ones(24), torch.full((24,), 2.0)),
    ("saelens", "threshold", torch.zeros(24), torch.ones(24)),
    ("saelens", "W_skip", torch.zeros(8, 8), torch.eye(8)),
    ("saelens", "r_mag", torch.zeros(24), torch.ones(24)),
    ("sparsify", "W_skip", torch.zeros(8, 8), torch.eye(8)),
    ("gemma-scope", "affine_skip_connection", torch.zeros(8, 8), torch.eye(8)),
    ("functiongemma", "threshold", torch.zeros(24), torch.full((24,), 0.1)),
    ("functiongemma", "b_gate", torch.zeros(24), torch.ones(24)),
]


@pytest.mark.parametrize(("form", "key", "same", "other"), EXTRA, ids=[f"{one[0]}-{one[1]}" for one in EXTRA])
def test_a_tensor_without_a_place_is_refused(
    tmp_path: Path, form: str, key: str, same: torch.Tensor, other: torch.Tensor
) -> None:
    """Unless all its numbers change nothing; a tensor that nobody knows is let through."""
    good(form, tmp_path / "set")
    path = tmp_path / "set" / WEIGHTS[form]
    expected = load_set(tmp_path / "set").fingerprint
    change(path, lambda content: content.update({key: same, "something_new": torch.ones(3)}))
    assert load_set(tmp_path / "set").fingerprint == expected
    change(path, lambda content: content.update({key: other}))
    with pytest.raises(SaeError, match=rf"{path.name}: {key}: got a tensor that an SAE of this kind has no place for"):
        load_set(tmp_path / "set")


SEED = [
    ("k", (None, 0), (32,)),
    ("activation", ("relu",), ("topk", "gelu")),
    ("apply_b_dec_to_input", (False,), (True,)),
    ("normalize_activations", (False, "none"), (True, "layer_norm")),
    ("architecture", ("JumpReLUSAE", "standard"), ("topk", "gated")),
    ("notes", ("anything", 3, {"a": 1}), ()),
]


@pytest.mark.parametrize(("key", "same", "refused"), SEED, ids=[one[0] for one in SEED])
def test_keys_of_a_checkpoint(tmp_path: Path, key: str, same: tuple[Any, ...], refused: tuple[Any, ...]) -> None:
    """The published form is plain ReLU: a key that says otherwise is refused; the card's own name for it is not."""
    for value in same:
        assert load_checkpoint(write(tmp_path / "sae_layer_00.pt", **{key: value})).sae.kind == "relu"
    for value in refused:
        with pytest.raises(SaeError, match=rf"sae_layer_00\.pt: {key}: got "):
            load_checkpoint(write(tmp_path / "sae_layer_00.pt", **{key: value}))


PLACES = {
    ("model.layers.2.self_attn.o_proj", "out"): "attn_out",
    ("model.layers.2.self_attn.o_proj", "in"): "attn_in",
    ("model.layers.2.self_attn.o_proj", None): "attn_out",
    ("model.layers.2.self_attn.o_proj.input", "in"): "attn_in",
    ("model.layers.2.self_attn.o_proj.input", None): "attn_in",
    ("model.layers.2.self_attn.o_proj.output", "out"): "attn_out",
    ("model.layers.2.self_attn.o_proj.output", "in"): None,
    ("model.layers.2.self_attn.o_proj.input", "out"): None,
    ("model.layers.2.self_attn", "out"): "attn_out",
    ("model.layers.2.self_attn", None): "attn_out",
    ("model.layers.2.self_attn", "in"): None,
    ("model.layers.2.self_attn", "in_and_out"): None,
    ("model.layers.2.self_attn.o_proj", "in_and_out"): None,
    ("model.layers.2.self_attn.input", "in"): None,
    ("model.layers.2.mlp", "out"): "mlp_out",
    ("model.layers.2.mlp", "in"): None,
    ("model.layers.2", "out"): "resid_post",
    ("model.layers.2", "in"): None,
    ("blocks.2.attn.hook_z", None): "attn_in",
}
"""By the module's name and the buffer's side: which side of o_proj that is; None where it is refused."""


@pytest.mark.parametrize(("name", "io"), PLACES)
def test_the_place_of_dictionary_learning(tmp_path: Path, name: str, io: str | None) -> None:
    """The attention's input is not its projection's; a transcoder has two places."""
    good("dictionary-learning", tmp_path / "set")

    def edit(content: dict[str, Any]) -> None:
        content["trainer"]["submodule_name"] = name
        content["buffer"]["io"] = io

    config("dictionary-learning", tmp_path / "set", edit)
    point = PLACES[name, io]
    if point is None:
        with pytest.raises(SaeError, match=r"config\.json: (buffer\.io|trainer\.submodule_name): got "):
            load_set(tmp_path / "set")
    else:
        assert list(load_set(tmp_path / "set")) == [Site(2, point)]


def test_reshaping_heads_is_what_the_input_side_is(tmp_path: Path) -> None:
    """`hook_z` lays one head beside the other, which is what o_proj is given."""
    convert(set_of(planted("relu", point="attn_in")), tmp_path / "set", "saelens")
    config("saelens", tmp_path / "set", put("", "reshape_activations", "hook_z"))
    assert list(load_set(tmp_path / "set")) == [Site(2, "attn_in")]


def test_a_count_that_the_weights_contradict(tmp_path: Path) -> None:
    """`k` stands in the state dict and in the config."""
    convert(set_of(planted("topk", subtract=True)), tmp_path / "set", "dictionary-learning")
    assert load_set(tmp_path / "set")[2].k == 4
    config("dictionary-learning", tmp_path / "set", put("trainer", "k", 5))
    with pytest.raises(SaeError, match=r"ae\.pt: k: got 4, but the config's trainer\.k says 5"):
        load_set(tmp_path / "set")
