"""SAE formats: what other libraries wrote is read as they compute it, and they read what is written here."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from steerkit.errors import SaeError
from steerkit.sae import FORMATS, Checkpoint, GateWeights, History, Sae, SaeSet, convert, load_set
from steerkit.sae.formats.hook_names import hook_name
from steerkit.sites import POINTS, Feature, Point, Site

FIXTURES = Path(__file__).parent / "fixtures"
"""Made by the libraries themselves; `make.py` beside them says which and how."""
D_IN, D_SAE = 8, 24


def planted(kind: str, *, point: Point = "attn_out", subtract: bool = False, layer: int = 2) -> Checkpoint:
    """An SAE of a kind with random weights."""
    generator = torch.Generator().manual_seed(layer)
    W_enc, b_enc, W_dec, b_dec, *gate = (
        torch.randn(*shape, generator=generator) / 2
        for shape in ((D_IN, D_SAE), (D_SAE,), (D_SAE, D_IN), (D_IN,), *([(D_SAE,)] * 3))
    )
    parts: dict[str, Any] = {
        "relu": {},
        "jumprelu": {"threshold": gate[0].abs()},
        "topk": {"k": 4},
        "gated": {"gate": GateWeights(*gate)},
    }[kind]
    bias = torch.zeros_like(b_enc) if kind == "gated" else b_enc
    sae = Sae(W_enc, bias, W_dec, b_dec, subtract_b_dec=subtract, **parts)  # type: ignore[arg-type]
    return Checkpoint(
        Path("made"), "someone/model", Site(layer, point), sae, History((2.0, 1.0), (1.5, 0.5), (9.0, 6.0))
    )


def set_of(*checkpoints: Checkpoint, folder: Path | None = None) -> SaeSet:
    return SaeSet("made", checkpoints, folder=folder)


def activations() -> torch.Tensor:
    return torch.randn(40, D_IN, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("name", sorted(path.name for path in FIXTURES.iterdir() if path.is_dir()))
def test_what_a_library_wrote_is_read_as_it_computes(name: str) -> None:
    """Features and reconstruction equal the library's own to 1e-5; those of a plain ReLU SAE, the control, do not."""
    folder = FIXTURES / name
    saes, expected = load_set(folder), load_file(folder / "expected.safetensors")
    (site, sae), *none = saes.items()
    assert not none
    assert saes.model_name == "someone/model"
    assert site == Site(2, "attn_in" if name == "saelens-gated" else "attn_out")
    assert torch.allclose(sae.encode(expected["x"]), expected["features"], atol=1e-5)
    assert torch.allclose(sae.decode(expected["features"]), expected["output"], atol=1e-5)
    if name != "saelens-standard":
        plain = Sae(sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec)
        assert not torch.allclose(plain.encode(expected["x"]), expected["features"], atol=1e-2)


ROOM = {
    "functiongemma": {("relu", False, "attn_out")},
    "safetensors": None,
    "saelens": None,
    "gemma-scope": set(),
    "dictionary-learning": {
        (kind, subtract, point)
        for kind, subtract in (("relu", False), ("relu", True), ("jumprelu", False), ("topk", True), ("gated", True))
        for point in POINTS
    },
    "sparsify": {("topk", True, "attn_out"), ("topk", True, "resid_post")},
}
"""By format, the kinds, biases and hook points that it has room for; None for all."""
EVERY = [
    (kind, subtract, point)
    for kind in ("relu", "jumprelu", "topk", "gated")
    for subtract in (False, True)
    for point in POINTS
]


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_written_reads_the_same_or_is_refused(tmp_path: Path, form: str) -> None:
    """Each kind, in each format that has room for it, computes the same after a round trip; else one line says so."""
    x = activations()
    for number, (kind, subtract, point) in enumerate(EVERY):
        made = set_of(*(planted(kind, subtract=subtract, point=point, layer=layer) for layer in (2, 5)))
        target = tmp_path / str(number)
        if (room := ROOM[form]) is not None and (kind, subtract, point) not in room:
            with pytest.raises(SaeError, match=r"does not fit|has no class|is only read"):
                convert(made, target, form)
            assert not target.exists()
            continue
        convert(made, target, form)
        found = load_set(target)
        assert (list(found), found.model_name) == ([Site(2, point), Site(5, point)], "someone/model")
        for site, sae in found.items():
            assert torch.allclose(sae.encode(x), made[site].encode(x), atol=1e-5)
            assert torch.allclose(sae(x).output, made[site](x).output, atol=1e-5)
            if form in ("functiongemma", "safetensors", "saelens"):
                assert found.checkpoints[site].history == made.checkpoints[site].history
        if form in ("functiongemma", "safetensors"):
            assert found.fingerprint == made.fingerprint


@pytest.mark.parametrize(("kind", "subtract", "point"), EVERY)
def test_saelens_computes_the_same_of_what_is_written(tmp_path: Path, kind: str, subtract: bool, point: Point) -> None:
    """`sae_lens.SAE.load_from_disk` loads each folder and gives its features and output; where it is installed."""
    sae_lens = pytest.importorskip("sae_lens")
    made = planted(kind, subtract=subtract, point=point)
    convert(set_of(made), tmp_path / "out", "saelens")
    loaded, x = sae_lens.SAE.load_from_disk(tmp_path / "out" / made.site.stem), activations()
    with torch.no_grad():
        features = loaded.encode(x)
        assert torch.allclose(features, made.sae.encode(x), atol=1e-5)
        assert torch.allclose(loaded.decode(features), made.sae(x).output, atol=1e-5)
    assert loaded.cfg.metadata.hf_hook_name == hook_name(made.site)


@pytest.mark.parametrize(
    ("kind", "subtract"), [("relu", False), ("relu", True), ("jumprelu", False), ("topk", True), ("gated", True)]
)
def test_dictionary_learning_computes_the_same(tmp_path: Path, kind: str, subtract: bool) -> None:
    """The class that the config names loads the state dict and gives the same features; where it is installed."""
    dictionary = pytest.importorskip("dictionary_learning.dictionary")
    topk = pytest.importorskip("dictionary_learning.trainers.top_k")
    made, x = planted(kind, subtract=subtract), activations()
    convert(set_of(made), tmp_path / "out", "dictionary-learning")
    folder = tmp_path / "out" / "layer_02"
    name = json.loads((folder / "config.json").read_text())["trainer"]["dict_class"]
    extra = {"normalize_decoder": False} if name == "AutoEncoder" else {}
    loaded = getattr(topk if "TopK" in name else dictionary, name).from_pretrained(folder / "ae.pt", **extra)
    with torch.no_grad():
        assert torch.allclose(loaded.encode(x), made.sae.encode(x), atol=1e-5)


def test_sparsify_computes_the_same(tmp_path: Path) -> None:
    """`SparseCoder.load_from_disk` loads the module's folder and finds the same strongest; where it is installed."""
    sparsify = pytest.importorskip("sparsify")
    made, x = planted("topk", subtract=True), activations()
    convert(set_of(made), tmp_path / "out", "sparsify")
    coder = sparsify.SparseCoder.load_from_disk(tmp_path / "out" / "layers.2.self_attn.o_proj")
    with torch.no_grad():
        found = coder.encode(x)
        features = torch.zeros(len(x), D_SAE).scatter(-1, found.top_indices, found.top_acts)
    assert torch.allclose(features, made.sae.encode(x), atol=1e-5)


def write_gemma_scope(folder: Path, layer: int = 5, hook: str = "self_attn.o_proj.input", **changes: Any) -> Path:
    """A folder as Gemma Scope 2 lays it out, its large examples included."""
    made = planted("jumprelu", layer=layer).sae
    folder.mkdir(parents=True)
    config = {
        "architecture": "jump_relu",
        "hf_hook_point_in": f"model.layers.{layer}.{hook}",
        "hf_hook_point_out": f"model.layers.{layer}.{hook}",
        "model_name": "gemma-v3-270m-it",
        "width": D_SAE,
        "l0": 10,
        **changes,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name.lower() if "W" in name else name: tensor for name, tensor in made.tensors.items()}
    save_file(tensors, folder / "params.safetensors")
    save_file({"tokens": torch.zeros(100_000)}, folder / "examples.safetensors")
    return folder


SCOPES = {
    "self_attn.o_proj.input": "attn_in",
    "output": "resid_post",
    "post_feedforward_layernorm.output": "mlp_out",
    "pre_feedforward_layernorm.output": None,
    "mlp.output": None,
    "self_attn.input": None,
}
"""Hook points of Gemma Scope 2 and others, and what they are here."""


@pytest.mark.parametrize("hook", SCOPES)
def test_gemma_scope_is_read_at_its_hook_points(tmp_path: Path, hook: str) -> None:
    """A JumpReLU SAE of the model as the hub calls it, where the base 270M model has no -pt; other places are named."""
    for name, model in (("gemma-v3-270m-it", "google/gemma-3-270m-it"), ("gemma-v3-270m-pt", "google/gemma-3-270m")):
        folder, point = write_gemma_scope(tmp_path / name, hook=hook, model_name=name), SCOPES[hook]
        if point is None:
            with pytest.raises(SaeError, match=rf"hf_hook_point_in: got 'model\.layers\.5\.{re.escape(hook)}'"):
                load_set(folder)
            continue
        saes = load_set(folder)
        sae = saes[f"{point}.5"]
        assert (list(saes), saes.model_name) == ([Site(5, point)], model)  # type: ignore[arg-type]
        assert (sae.kind, sae.subtract_b_dec) == ("jumprelu", False)
        assert torch.equal(sae.encode(activations()), planted("jumprelu", layer=5).sae.encode(activations()))


def test_a_transcoder_is_refused_by_name(tmp_path: Path) -> None:
    """In each format that can hold one; the same files without what makes them one are read."""
    ends = {"hf_hook_point_out": "model.layers.5.post_feedforward_layernorm.output"}
    folder = write_gemma_scope(tmp_path / "scope", hook="pre_feedforward_layernorm.output", **ends)
    with pytest.raises(SaeError, match=r"config\.json: hf_hook_point_out: .*a transcoder, which maps"):
        load_set(folder)
    made = planted("topk", point="resid_post", subtract=True)
    said = {
        "saelens": ("resid_post_02/cfg.json", {"d_out": 16}),
        "sparsify": ("layers.2/cfg.json", {"transcode": True}),
    }
    for form, (name, more) in said.items():
        convert(set_of(made), tmp_path / form, form)
        assert list(load_set(tmp_path / form)) == [made.site]
        path = tmp_path / form / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **more}))
        with pytest.raises(SaeError, match="a transcoder"):
            load_set(tmp_path / form)


def test_two_points_of_a_layer_live_in_one_set(tmp_path: Path) -> None:
    """They are read by their sites, a layer's number alone means its attn_out, and a site twice is refused."""
    made = set_of(*(planted("relu", point=point) for point in POINTS))
    for form in ("safetensors", "saelens", "dictionary-learning"):
        convert(made, tmp_path / form, form)
        found = load_set(tmp_path / form)
        assert list(found) == [Site(2, point) for point in POINTS]
        assert found[2] is found["attn_out.2"] is not found["resid_post.2"]
        assert "resid_post.3" not in found
        assert "nonsense" not in found
    assert load_set(tmp_path / "safetensors").fingerprint == made.fingerprint
    with pytest.raises(
        SaeError, match=r"no SAE for mlp_out\.3; it has attn_in\.2; layers 2; mlp_out\.2; resid_post\.2"
    ):
        made.check(Feature(Site(3, "mlp_out"), 0))


def test_two_saes_of_a_layer_are_refused_with_both_names(tmp_path: Path) -> None:
    """A folder with several widths names two of them; the folder of one is read."""
    for width in ("16k", "65k"):
        write_gemma_scope(tmp_path / "attn_out" / f"layer_5_width_{width}_l0_small")
    with pytest.raises(SaeError, match=r"two SAEs of attn_in.5: .*width_16k.* and .*width_65k"):
        load_set(tmp_path / "attn_out")
    assert list(load_set(tmp_path / "attn_out" / "layer_5_width_65k_l0_small")) == [Site(5, "attn_in")]


def test_statistics_and_labels_go_along(tmp_path: Path) -> None:
    """What lies beside a set lies beside its copy in another format."""
    source = tmp_path / "source"
    convert(set_of(planted("relu")), source, "functiongemma")
    save_file({"layer_02.max": torch.arange(24.0)}, source / "stats.safetensors")
    (source / "labels.json").write_text('{"format": 1, "labels": {"2": {"7": "money"}}}')
    convert(load_set(source), tmp_path / "out", "saelens")
    found = load_set(tmp_path / "out")
    assert found.statistic(Feature(2, 7), "max") == 7.0
    assert found.labels == {Feature(2, 7): "money"}


def test_converting_is_all_or_nothing(tmp_path: Path) -> None:
    """Where the second layer has no room nothing is left behind, and what is there already is not touched."""
    mixed = set_of(planted("topk", subtract=True, layer=2), planted("topk", layer=5))
    with pytest.raises(SaeError, match="layer 5: a topk SAE"):
        convert(mixed, tmp_path / "out", "sparsify")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    with pytest.raises(SaeError, match="taken: already there; expected a new or empty folder"):
        convert(set_of(planted("relu")), tmp_path / "taken", "saelens")
    (tmp_path / "file").write_text("")
    with pytest.raises(SaeError, match="out: cannot be written"):
        convert(set_of(planted("relu")), tmp_path / "file" / "out", "saelens")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "taken"]
    with pytest.raises(SaeError, match="got the format 'onnx', expected one of functiongemma, safetensors, saelens"):
        convert(set_of(planted("relu")), tmp_path / "out", "onnx")


WEIGHTS = {
    "functiongemma": "sae_layer_02.pt",
    "safetensors": "sae_layer_02.safetensors",
    "saelens": "layer_02/sae_weights.safetensors",
    "dictionary-learning": "layer_02/ae.pt",
    "sparsify": "layers.2.self_attn.o_proj/sae.safetensors",
    "gemma-scope": "params.safetensors",
}
"""Where a set with one SAE of layer 2 keeps its weights."""


def good(form: str, folder: Path) -> Path:
    """A good set in a format; the path of its weights."""
    if form == "gemma-scope":
        write_gemma_scope(folder, layer=2)
    else:
        convert(set_of(planted("topk", subtract=True) if form == "sparsify" else planted("relu")), folder, form)
    return folder / WEIGHTS[form]


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    """Rewrite a file of weights."""
    if path.suffix == ".pt":
        content = torch.load(path)
        edit(content)
        torch.save(content, path)
        return
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118
    edit(tensors)
    save_file(tensors, path, metadata=metadata)


def largest(content: dict[str, Any]) -> str:
    """The key of a matrix."""
    return next(key for key, value in content.items() if isinstance(value, torch.Tensor) and value.ndim == 2)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def poison(content: dict[str, Any]) -> None:
    content[largest(content)][0, 0] = torch.nan


def cut(content: dict[str, Any]) -> None:
    key = largest(content)
    content[key] = content[key][:, :-1].contiguous()


def make_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def rename(content: dict[str, Any]) -> None:
    key = largest(content)
    content[f"module.{key}"] = content.pop(key)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "truncated": (truncate, "truncated or not a"),
    "empty": (empty, "truncated or not a"),
    "NaN": (lambda path: change(path, poison), r"got NaN or infinity, expected finite numbers"),
    "wrong shape": (lambda path: change(path, cut), r"got shape \([\d, ]+\), expected \([\d, ]+\)"),
    "renamed key": (lambda path: change(path, rename), r"got keys .*module\..*; missing "),
    "a folder": (make_a_folder, r"no such file|no SAE there|truncated"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("form", FORMATS)
def test_bad_weights_get_one_clear_line(tmp_path: Path, form: str, case: str) -> None:
    """In every format the file is named, and what is wrong with it; the good file is read."""
    path = good(form, tmp_path / "set")
    assert [site.layer for site in load_set(tmp_path / "set")] == [2]
    spoil, message = BAD[case]
    spoil(path)
    with pytest.raises(SaeError, match=message) as caught:
        load_set(tmp_path / "set")
    assert "\n" not in str(caught.value)
    assert case == "a folder" or path.name in str(caught.value)


CONFIGS = {
    "saelens": "layer_02/cfg.json",
    "dictionary-learning": "layer_02/config.json",
    "sparsify": "layers.2.self_attn.o_proj/cfg.json",
    "gemma-scope": "config.json",
}
BAD_CONFIGS = {
    "no JSON": (lambda config: "{", "not JSON"),
    "a list": (lambda config: "[]", "got a list, expected a JSON object"),
    "nothing said": (lambda config: "{}", "got |missing"),
}
BAD_VALUES = [
    ("saelens", {"architecture": "temporal"}, "architecture: got 'temporal', expected one of standard"),
    ("saelens", {"normalize_activations": "layer_norm"}, "normalize_activations: got 'layer_norm', expected 'none'"),
    ("saelens", {"d_in": 9}, r"W_enc: got shape \(8, 24\), expected \(9, 24\)"),
    ("saelens", {"d_sae": "24"}, "d_sae: got '24', expected a positive integer"),
    ("saelens", {"apply_b_dec_to_input": "no"}, "apply_b_dec_to_input: got 'no', expected true or false"),
    ("saelens", {"architecture": "topk"}, "k: got None, expected a positive integer"),
    ("saelens", {"architecture": "topk", "k": 99}, "k: got 99, expected 1 to 24"),
    (
        "saelens",
        {"metadata": {"model_name": "m", "hook_name": "blocks.2.hook_resid_mid"}},
        "metadata.hook_name: got 'bl",
    ),
    ("saelens", {"metadata": {"hook_name": "blocks.2.attn.hook_z"}}, "model_name: got None, expected the name"),
    ("dictionary-learning", {"trainer": {"dict_class": "CrossCoder"}}, "dict_class: got 'CrossCoder', expected one of"),
    ("dictionary-learning", {"trainer": []}, "trainer: got a list, expected an object"),
    ("sparsify", {"activation": "groupmax"}, "activation: got 'groupmax', expected 'topk'"),
    ("sparsify", {"transcode": True}, "transcode: it maps one place to another"),
    ("sparsify", {"k": 0}, "k: got 0, expected a positive integer"),
    ("gemma-scope", {"architecture": "relu"}, "architecture: got 'relu', expected 'jump_relu'"),
    ("gemma-scope", {"model_name": None}, "model_name: got None, expected a Gemma 3 model"),
]


@pytest.mark.parametrize("form", CONFIGS)
@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configs_get_one_clear_line(tmp_path: Path, form: str, case: str) -> None:
    """A config that is no JSON, no object or empty is named."""
    good(form, tmp_path / "set")
    path, (text, message) = tmp_path / "set" / CONFIGS[form], BAD_CONFIGS[case]
    path.write_text(text(path))
    with pytest.raises(SaeError, match=message) as caught:
        load_set(tmp_path / "set")
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("form", "changes", "message"), BAD_VALUES)
def test_what_steerkit_does_not_compute_is_refused(
    tmp_path: Path, form: str, changes: dict[str, Any], message: str
) -> None:
    """A setting that would change the numbers is never read past: it is named with what was expected."""
    good(form, tmp_path / "set")
    path = tmp_path / "set" / CONFIGS[form]
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(SaeError, match=message):
        load_set(tmp_path / "set")


class _Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.marker),))


def test_a_state_dict_that_wants_to_run_code_is_refused_and_named(tmp_path: Path) -> None:
    """The payload of an `ae.pt` does not run here; the control shows that it runs when unpickled carelessly."""
    path, marker = good("dictionary-learning", tmp_path / "set"), tmp_path / "ran"
    torch.save({**torch.load(path), "bias": _Payload(marker)}, path)
    with pytest.raises(SaeError, match=r"ae\.pt: refused, the pickle wants to run code: .*mkdir"):
        load_set(tmp_path / "set")
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists()


def test_a_run_of_sparsify_without_its_model_is_refused(tmp_path: Path) -> None:
    """The SAE's folder alone does not say which model it is of; with the run's config beside it, it does."""
    good("sparsify", tmp_path / "set")
    assert load_set(tmp_path / "set" / "layers.2.self_attn.o_proj").model_name == "someone/model"
    shutil.move(tmp_path / "set" / "layers.2.self_attn.o_proj", tmp_path / "layers.2.self_attn.o_proj")
    with pytest.raises(SaeError, match=r"config\.json: model: got None, expected the run's config\.json"):
        load_set(tmp_path / "layers.2.self_attn.o_proj")
