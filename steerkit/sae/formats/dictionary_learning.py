"""dictionary_learning folders: `ae.pt` (a pickled state dict) and `config.json`.

Its classes `AutoEncoder`, `JumpReluAutoEncoder`, `AutoEncoderTopK`, `BatchTopKSAE`, `MatryoshkaBatchTopKSAE` and
`GatedAutoEncoder` are read; the batch ones run with their threshold, as they do there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.formats.files import checked, load_object, matrix, positive, text, whole
from steerkit.sae.formats.hook_names import hook_name, read_hook
from steerkit.sae.formats.keys import OFF, Neutral, check_keys
from steerkit.sae.formats.pickles import load_pickle
from steerkit.sae.sae import GateWeights, Sae
from steerkit.sites import Site

NAME = "dictionary-learning"
FILES = ("config.json", "ae.pt")

_LINEAR: Final = {"encoder.weight": "enc", "encoder.bias": "sae", "decoder.weight": "dec"}
_PLAIN: Final = {"W_enc": "dec", "b_enc": "sae", "W_dec": "enc", "b_dec": "in"}
_CLASSES: Final[dict[str, dict[str, str]]] = {
    "AutoEncoder": {**_LINEAR, "bias": "in"},
    "AutoEncoderTopK": {**_LINEAR, "b_dec": "in"},
    "BatchTopKSAE": {**_LINEAR, "b_dec": "in"},
    "MatryoshkaBatchTopKSAE": _PLAIN,
    "JumpReluAutoEncoder": {**_PLAIN, "threshold": "sae"},
    "GatedAutoEncoder": {
        "encoder.weight": "enc",
        "decoder.weight": "dec",
        "decoder_bias": "in",
        "gate_bias": "sae",
        "mag_bias": "sae",
        "r_mag": "sae",
    },
}
"""By class, its tensors and their shapes: enc `(d_sae, d_in)`, dec `(d_in, d_sae)`, sae `(d_sae,)`, in `(d_in,)`."""
_KEYS: Final = {
    "apply_b_dec_to_input": Neutral(OFF, "b_dec is taken from what it reads, which its class never does"),
    "normalize_decoder": Neutral(OFF, "features are scaled by the decoder's norms"),
}
_BATCHED: Final = ("BatchTopKSAE", "MatryoshkaBatchTopKSAE")


def matches(folder: Path) -> bool:
    """True if this folder is such an SAE."""
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> list[Checkpoint]:
    """The folder's SAE.

    Raises:
        SaeError: a class or a place that steerkit does not compute, or a bad file.
    """
    about, path = folder / FILES[0], folder / FILES[1]
    config = load_object(about)
    trainer, buffer = config.get("trainer"), config.get("buffer") or {}
    if not isinstance(trainer, dict) or not isinstance(buffer, dict):
        raise SaeError(
            f"{about}: trainer: got a {type(trainer).__name__}, expected an object with dict_class and layer"
        )
    kind = trainer.get("dict_class")
    if not isinstance(kind, str) or kind not in _CLASSES:
        raise SaeError(f"{about}: trainer.dict_class: got {shown(kind)}, expected one of {', '.join(_CLASSES)}")
    site = _site(about, trainer, buffer)
    content = load_pickle(path, "a state dict (ae.pt)")
    if not isinstance(content, Mapping):
        raise SaeError(f"{path}: got a {type(content).__name__}, expected a state dict")
    sae = _sae(about, path, trainer, content)
    name = text(about, trainer, "lm_name", "the name of the model it was trained on")
    return [Checkpoint(path, name, site, sae)]


def write(checkpoints: Sequence[Checkpoint], folder: Path) -> None:
    """Write `layer_NN` for each layer.

    Raises:
        SaeError: an SAE whose formula none of the format's classes has.
    """
    states = [(one, *_state(one)) for one in checkpoints]
    for one, kind, state in states:
        target = folder / one.site.stem
        target.mkdir()
        torch.save(
            {key: tensor.detach().cpu().clone().contiguous() for key, tensor in state.items()}, target / FILES[1]
        )
        trainer = {
            "dict_class": kind,
            "activation_dim": one.sae.d_in,
            "dict_size": one.sae.d_sae,
            "layer": one.layer,
            "lm_name": one.model_name,
            "submodule_name": hook_name(one.site),
            **({} if one.sae.k is None else {"k": one.sae.k}),
        }
        config = {"trainer": trainer, "buffer": {"io": "in" if one.site.point == "attn_in" else "out"}}
        (target / FILES[0]).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _site(path: Path, trainer: Mapping[str, Any], buffer: Mapping[str, Any]) -> Site:
    """The site: `submodule_name`, and which side of it `buffer.io` names. Raises SaeError."""
    name, io = trainer.get("submodule_name"), buffer.get("io")
    site = read_hook(path, "trainer.submodule_name", name, str(trainer.get("lm_name") or ""))
    if trainer.get("layer") not in (None, site.layer):
        raise SaeError(f"{path}: trainer.layer: got {shown(trainer['layer'])}, but submodule_name says {site.layer}")
    check_keys(path, buffer, {"apply_W_O": Neutral(OFF, "it reads single heads")}, "buffer.")
    said = str(name).rpartition(".")[2] if str(name).endswith((".input", ".output")) else None
    inner = {"in": True, "out": False, None: site.point == "attn_in"}.get(io if isinstance(io, str | None) else "?")
    if inner is None or (said is not None and inner != (said == "input")):
        raise SaeError(
            f"{path}: buffer.io: got {shown(io)}, expected {'in' if said == 'input' else 'out'}"
            f"{'' if said else ' or in'}: an SAE that reads and writes one side of its module"
        )
    if inner and "o_proj" not in str(name) and "hook_z" not in str(name):
        raise SaeError(f"{path}: buffer.io: got 'in' of {shown(name)}, expected 'out', or its o_proj")
    return Site(site.layer, "attn_in") if inner else Site(site.layer, "attn_out") if "hook_z" in str(name) else site


def _sae(about: Path, path: Path, trainer: Mapping[str, Any], content: Mapping[str, Any]) -> Sae:
    kind = trainer["dict_class"]
    first = "W_enc" if "W_enc" in _CLASSES[kind] else "encoder.weight"
    rows, columns = matrix(path, content, first)
    d_in, d_sae = (rows, columns) if first == "W_enc" else (columns, rows)
    shapes = {"enc": (d_sae, d_in), "dec": (d_in, d_sae), "sae": (d_sae,), "in": (d_in,)}
    found = checked(path, content, {key: shapes[shape] for key, shape in _CLASSES[kind].items()})
    sizes = {"activation_dim": d_in, "dict_size": d_sae}
    said = {key: Neutral((size,), f"{first} in {path.name} has another") for key, size in sizes.items()}
    check_keys(about, trainer, {**_KEYS, **said}, "trainer.")
    encoder = found["W_enc"] if "W_enc" in found else found["encoder.weight"].T
    decoder = found["W_dec"] if "W_dec" in found else found["decoder.weight"].T
    b_dec = next(found[key] for key in ("b_dec", "bias", "decoder_bias") if key in found)
    gate = GateWeights(found["gate_bias"], found["mag_bias"], found["r_mag"]) if kind == "GatedAutoEncoder" else None
    b_enc = next((found[key] for key in ("b_enc", "encoder.bias") if key in found), torch.zeros(d_sae))
    threshold = found.get("threshold")
    if kind in _BATCHED:
        threshold = checked(path, content, {"threshold": ()})["threshold"].expand(d_sae)
    try:
        return Sae(
            encoder,
            b_enc,
            decoder,
            b_dec,
            threshold=threshold,
            k=_k(about, path, trainer, content) if kind == "AutoEncoderTopK" else None,
            gate=gate,
            subtract_b_dec=kind != "JumpReluAutoEncoder",
        )
    except SaeError as error:
        raise SaeError(f"{path}: {error}") from None


def _k(about: Path, path: Path, trainer: Mapping[str, Any], content: Mapping[str, Any]) -> int:
    k = positive(about, trainer, "k")
    if "k" in content and whole(content["k"]) != k:
        raise SaeError(f"{path}: k: got {shown(whole(content['k']))}, but the config's trainer.k says {k}")
    return k


def _state(one: Checkpoint) -> tuple[str, dict[str, Tensor]]:
    """The class that computes what an SAE does, and its state dict."""
    sae = one.sae
    if sae.kind in ("relu", "jumprelu") and not sae.subtract_b_dec:
        # A threshold of 0 is a plain ReLU: relu(pre) * (pre > 0).
        return "JumpReluAutoEncoder", {"threshold": torch.zeros(sae.d_sae), **sae.tensors}
    linear = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "decoder.weight": sae.W_dec.T}
    if sae.kind == "relu":
        return "AutoEncoder", {**linear, "bias": sae.b_dec}
    if sae.kind == "topk" and sae.subtract_b_dec:
        buffers = {"k": torch.tensor(sae.k, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
        return "AutoEncoderTopK", {**linear, "b_dec": sae.b_dec, **buffers}
    if sae.gate is not None and sae.subtract_b_dec:
        del linear["encoder.bias"]
        biases = {"gate_bias": sae.gate.b_gate, "mag_bias": sae.gate.b_mag, "r_mag": sae.gate.r_mag}
        return "GatedAutoEncoder", {**linear, "decoder_bias": sae.b_dec, **biases}
    raise SaeError(
        f"layer {one.layer}: a {sae.kind} SAE that {'subtracts' if sae.subtract_b_dec else 'keeps'} b_dec has no class "
        f"in dictionary_learning; choose saelens or safetensors"
    )
