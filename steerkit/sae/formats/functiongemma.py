"""`sae_layer_NN.pt`, as the FunctionGemma SAEs are published: a pickled dict of weights, name and training curves."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.formats.curves import curves, history
from steerkit.sae.formats.files import checked, positive, required, text, whole
from steerkit.sae.formats.keys import OFF, Neutral, check_keys, check_tensors
from steerkit.sae.formats.pickles import load_pickle
from steerkit.sae.sae import Sae
from steerkit.sites import Site

NAME = "functiongemma"
FILES = ("sae_layer_*.pt",)

_KEYS = ("model_name", "layer_idx", "d_in", "d_sae", "W_enc", "b_enc", "W_dec", "b_dec")
_CHANGED: Final = {
    "k": Neutral(OFF, "only the k largest features are on"),
    "activation": Neutral(("relu",), "another function than the ReLU that the format has"),
    "architecture": Neutral(("relu", "standard", "jumprelusae", "jumprelu"), "another function than the ReLU"),
    "apply_b_dec_to_input": Neutral(OFF, "b_dec is taken from what it reads"),
    "subtract_b_dec": Neutral(OFF, "b_dec is taken from what it reads"),
    "normalize_activations": Neutral(OFF, "what it reads is scaled"),
    "scaling_factor": Neutral((1,), "what it reads is scaled"),
}
_TENSORS: Final = {"threshold": 0, "log_threshold": -math.inf, "b_gate": 0, "b_mag": 0, "r_mag": 0, "W_skip": 0}
"""With the numbers that change nothing: the format is of plain ReLU SAEs."""


def matches(folder: Path) -> bool:
    """True if such files are in this folder."""
    return any(folder.glob(FILES[0]))


def read(folder: Path) -> list[Checkpoint]:
    """Every layer of a folder.

    Raises:
        SaeError: see `load_checkpoint`; also a file whose layer is not the one in its name.
    """
    found = []
    for path in sorted(folder.glob(FILES[0])):
        checkpoint = load_checkpoint(path)
        number = path.stem.removeprefix("sae_layer_")
        if not re.fullmatch(r"[0-9]{1,9}", number) or int(number) != checkpoint.layer:
            raise SaeError(f"{path}: layer_idx: got {checkpoint.layer}, expected the number in the file's name")
        found.append(checkpoint)
    return found


def write(checkpoints: Sequence[Checkpoint], folder: Path) -> None:
    """Write each layer, in the dtype it has.

    Raises:
        SaeError: an SAE that is no plain ReLU one on `attn_out`; the format has no room for anything else.
    """
    for site, sae in ((one.site, one.sae) for one in checkpoints):
        if sae.kind != "relu" or sae.subtract_b_dec or site.point != "attn_out":
            raise SaeError(
                f"{site.name}: a {sae.kind} SAE there{' that subtracts b_dec' * sae.subtract_b_dec} does not fit "
                f"{NAME}, which holds plain ReLU SAEs of attn_out; choose saelens or safetensors"
            )
    for one in checkpoints:
        content: dict[str, Any] = {
            "model_name": one.model_name,
            "layer_idx": one.layer,
            "d_in": one.sae.d_in,
            "d_sae": one.sae.d_sae,
            **{name: tensor.detach().cpu().clone() for name, tensor in one.sae.tensors.items()},
            "history": curves(one.history),
        }
        torch.save(content, folder / f"sae_layer_{one.layer:02d}.pt")


def load_checkpoint(path: Path) -> Checkpoint:
    """Load and check one file.

    The file is unpickled with `weights_only=True` (it cannot run code) and memory-mapped where its format allows. Its
    history may be in any form that `history` reads, or be missing: the arithmetic needs the weights alone.

    Raises:
        SaeError: the file is missing, is no checkpoint, or its keys, shapes or numbers are not what they must be.
    """
    content = load_pickle(path, "an SAE checkpoint (sae_layer_NN.pt)")
    if not isinstance(content, Mapping):
        raise SaeError(f"{path}: got a {type(content).__name__}, expected a dict with the keys {', '.join(_KEYS)}")
    required(path, content, _KEYS)
    check_keys(path, content, _CHANGED)
    check_tensors(path, content, _TENSORS)
    d_in, d_sae = (positive(path, content, key) for key in ("d_in", "d_sae"))
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    sae = Sae(*checked(path, content, shapes).values())
    name = text(path, content, "model_name", "the name of the model it was trained on")
    return Checkpoint(path, name, Site(_layer(path, content)), sae, history(path, content.get("history")))


def _layer(path: Path, content: Mapping[str, Any]) -> int:
    layer = whole(content["layer_idx"])
    if layer is None or layer < 0:
        raise SaeError(f"{path}: layer_idx: got {shown(content['layer_idx'])}, expected an integer of at least 0")
    return layer
