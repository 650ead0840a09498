"""SAELens 6 folders: `cfg.json` and `sae_weights.safetensors`, one folder an SAE.

The architectures `standard`, `jumprelu`, `topk` and `gated` compute what `Sae` does; a TopK SAE that rescales by its
decoder's norms is folded, so that it computes the same without.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.formats.curves import curves, history
from steerkit.sae.formats.files import checked, load_object, load_tensors, positive, text
from steerkit.sae.formats.hook_names import hook_name, lens_name, read_hook
from steerkit.sae.formats.keys import OFF, Neutral, check_keys, check_tensors
from steerkit.sae.sae import GateWeights, Sae
from steerkit.sites import Site

NAME = "saelens"
FILES = ("cfg.json", "sae_weights.safetensors")

_EXTRA: Final[dict[str, tuple[str, ...]]] = {
    "standard": ("b_enc",),
    "topk": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
"""By architecture, the vectors of one number a feature."""
_KEYS: Final = {
    "activation_fn_kwargs": Neutral(({},), "an activation function with settings of its own"),
    "finetuning_scaling_factor": Neutral(OFF, "features are scaled after finetuning"),
    "noise": Neutral(OFF, "noise is added to what it reads"),
    "noise_scale": Neutral(OFF, "noise is added to what it reads"),
    "scaling_factor": Neutral((1,), "what it reads is scaled"),
    "activation_normalization_factor": Neutral((1,), "what it reads is scaled"),
}
_PLACE: Final = {
    "hook_head_index": Neutral((), "an SAE of one head; steerkit reads all heads of a layer"),
    "hook_head_index_out": Neutral((), "an SAE of one head; steerkit reads all heads of a layer"),
}
_PROCESSING: Final = {
    name: Neutral(OFF, "it was trained on a model whose weights TransformerLens had changed")
    for name in ("fold_ln", "center_writing_weights", "fold_value_biases", "refactor_factored_attn_matrices")
}
_TENSORS: Final = {
    "scaling_factor": 1,
    "finetuning_scaling_factor": 1,
    **dict.fromkeys(("W_skip", "threshold", "log_threshold", "b_enc", "b_gate", "b_mag", "r_mag"), 0),
}
"""With the numbers that change nothing."""
_KINDS: Final = {"relu": "standard"}
_ENDS: Final = ("hook_name_out", "hf_hook_name_out")
_VERSION = "6.0.0"


def matches(folder: Path) -> bool:
    """True if this folder is such an SAE."""
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> list[Checkpoint]:
    """The folder's SAE.

    Raises:
        SaeError: an architecture, a normalization or a place that steerkit does not compute, or a bad file.
    """
    about, path = folder / FILES[0], folder / FILES[1]
    config = load_object(about)
    metadata = config.get("metadata")
    if not isinstance(metadata, dict):
        raise SaeError(f"{about}: metadata: missing; expected a folder that SAELens 6 saved (open and save it there)")
    architecture = config.get("architecture")
    if not isinstance(architecture, str) or architecture not in _EXTRA:
        raise SaeError(f"{about}: architecture: got {shown(architecture)}, expected one of {', '.join(_EXTRA)}")
    if (norm := config.get("normalize_activations")) not in (None, False, "none"):
        raise SaeError(
            f"{about}: normalize_activations: got {shown(norm)}, expected 'none'; fold it into the SAE in SAELens"
        )
    d_in, d_sae = (positive(about, config, key) for key in ("d_in", "d_sae"))
    site = _site(about, metadata)
    _check(about, config, metadata, site)
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    shapes |= dict.fromkeys(_EXTRA[architecture], (d_sae,))
    content = load_tensors(path)[0]
    tensors = checked(path, content, shapes)
    check_tensors(path, content, {name: number for name, number in _TENSORS.items() if name not in shapes})
    sae = _sae(about, config, tensors)
    name = text(about, metadata, "model_name", "the name of the model it was trained on")
    return [Checkpoint(path, name, site, sae, history(about, metadata.get("steerkit_history", {})))]


def write(checkpoints: Sequence[Checkpoint], folder: Path) -> None:
    """Write `layer_NN` for each layer, in float32, which is what steerkit computes in."""
    for one in checkpoints:
        target = folder / one.site.stem
        target.mkdir()
        tensors = {name: tensor.detach().float().cpu().clone().contiguous() for name, tensor in one.sae.tensors.items()}
        if one.sae.gate is not None:
            _fold_b_enc(tensors)
        save_file(tensors, target / FILES[1])
        (target / FILES[0]).write_text(json.dumps(_config(one), indent=1) + "\n", encoding="utf-8")


def _site(path: Path, metadata: Mapping[str, Any]) -> Site:
    key = "hf_hook_name" if metadata.get("hf_hook_name") else "hook_name"
    return read_hook(path, f"metadata.{key}", metadata.get(key), str(metadata.get("model_name") or ""))


def _check(path: Path, config: Mapping[str, Any], metadata: Mapping[str, Any], site: Site) -> None:
    """Refuse what would make it another SAE, or one of another place. Raises SaeError."""
    topk = config["architecture"] == "topk"
    kind = f"the activation function of a {config['architecture']} SAE"
    table = dict(_KEYS)
    for name in ("activation_fn", "activation_fn_str"):
        table[name] = Neutral(("topk", "relu") if topk else ("relu",), f"not {kind}")
    if topk:
        table["activation_fn_kwargs"] = Neutral(({}, {"k": config.get("k")}), "settings of another function")
    else:
        table["rescale_acts_by_decoder_norm"] = Neutral(OFF, "features are scaled by the decoder's norms")
    reshape = ("none", "hook_z") if site.point == "attn_in" else ("none",)
    table["reshape_activations"] = Neutral(reshape, "what it reads has another layout")
    table["d_out"] = Neutral((config["d_in"],), "a transcoder: it maps one place to another")
    check_keys(path, config, table)
    for content, prefix in ((config, ""), (metadata, "metadata.")):
        ends = tuple(str(metadata[key]).lower() for key in ("hook_name", "hf_hook_name") if metadata.get(key))
        place = {key: Neutral(ends, "a transcoder: it maps one place to another") for key in _ENDS}
        check_keys(path, content, _PLACE | place, prefix)
        if isinstance(given := content.get("model_from_pretrained_kwargs"), dict):
            check_keys(path, given, _PROCESSING, f"{prefix}model_from_pretrained_kwargs.")


def _sae(path: Path, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> Sae:
    k = positive(path, config, "k") if config["architecture"] == "topk" else None
    if k is not None and _switch(path, config, "rescale_acts_by_decoder_norm", False):
        norms = tensors["W_dec"].float().norm(dim=-1).clamp(min=torch.finfo(torch.float32).tiny)
        tensors |= {key: tensors[key].float() * norms for key in ("W_enc", "b_enc")}
        tensors["W_dec"] = tensors["W_dec"].float() / norms.unsqueeze(-1)
    gate = None
    if config["architecture"] == "gated":
        gate = GateWeights(*(tensors.pop(name) for name in GateWeights._fields))
        tensors["b_enc"] = torch.zeros_like(gate.b_gate)
    subtract = _switch(path, config, "apply_b_dec_to_input", True)
    try:
        return Sae(**tensors, k=k, gate=gate, subtract_b_dec=subtract)
    except SaeError as error:
        raise SaeError(f"{path}: {error}") from None


def _switch(path: Path, config: Mapping[str, Any], key: str, default: bool) -> bool:
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise SaeError(f"{path}: {key}: got {shown(value)}, expected true or false")
    return value


def _fold_b_enc(tensors: dict[str, Tensor]) -> None:
    """SAELens has no `b_enc` beside the gate's own two biases."""
    bias = tensors.pop("b_enc")
    tensors["b_gate"] += bias
    tensors["b_mag"] += tensors["r_mag"].exp() * bias


def _config(one: Checkpoint) -> dict[str, Any]:
    sae = one.sae
    config: dict[str, Any] = {
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": sae.subtract_b_dec,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            "sae_lens_version": _VERSION,
            "model_name": one.model_name,
            "hook_name": lens_name(one.site),
            "hf_hook_name": hook_name(one.site),
            "steerkit_history": curves(one.history),
        },
        "architecture": _KINDS.get(sae.kind, sae.kind),
    }
    return config if sae.k is None else {**config, "k": sae.k, "rescale_acts_by_decoder_norm": False}
