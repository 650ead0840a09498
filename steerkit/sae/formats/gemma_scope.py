"""Gemma Scope 2 folders: `config.json` and `params.safetensors`, JumpReLU SAEs of the Gemma 3 models; read only.

Those under `attn_out` sit on the input of o_proj (one head_dim per head), which is `attn_in` here; those under
`resid_post` and `mlp_out` go by these names. Transcoders are refused. Beside them lies a very large
`examples.safetensors`, which is never fetched.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.formats.files import checked, load_object, load_tensors, matrix, text
from steerkit.sae.formats.hook_names import read_hook
from steerkit.sae.formats.keys import OFF, Neutral, check_keys, check_tensors
from steerkit.sae.sae import Sae

NAME = "gemma-scope"
FILES = ("config.json", "params.safetensors")

_KEYS: Final = {
    "type": Neutral(("sae",), "it maps one place to another, which is no SAE"),
    "affine_connection": Neutral(OFF, "an affine map of what it reads is added to what it writes"),
    "affine_skip_connection": Neutral(OFF, "an affine map of what it reads is added to what it writes"),
    "apply_b_dec_to_input": Neutral(OFF, "b_dec is taken from what it reads"),
    "normalize_activations": Neutral(OFF, "what it reads is scaled"),
    "scaling_factor": Neutral((1,), "what it reads is scaled"),
    "hook_head_index": Neutral((), "an SAE of one head; steerkit reads all heads of a layer"),
}


def matches(folder: Path) -> bool:
    """True if this folder is such an SAE."""
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> list[Checkpoint]:
    """The folder's SAE.

    Raises:
        SaeError: a transcoder, no hook point that steerkit has, or a file is not what it must be.
    """
    about, path = folder / FILES[0], folder / FILES[1]
    config = load_object(about)
    if config.get("architecture") != "jump_relu":
        raise SaeError(f"{about}: architecture: got {shown(config.get('architecture'))}, expected 'jump_relu'")
    name, end = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    if end not in (None, "", name):
        raise SaeError(
            f"{about}: hf_hook_point_out: got {shown(end)}, expected {shown(name)}: a transcoder, which maps one place "
            f"to another and is no SAE"
        )
    model = _model(text(about, config, "model_name", "a Gemma 3 model"))
    site = read_hook(about, "hf_hook_point_in", name, model)
    content, _ = load_tensors(path)
    d_in, d_sae = matrix(path, content, "w_enc")
    width = Neutral((d_sae,) if isinstance(config.get("width"), int) else (config.get("width"),), "w_enc has another")
    check_keys(about, config, {**_KEYS, "width": width})
    check_tensors(path, content, {"affine_skip_connection": 0, "W_skip": 0})
    shapes: dict[str, tuple[int, ...]] = {"w_enc": (d_in, d_sae), "b_enc": (d_sae,), "w_dec": (d_sae, d_in)}
    shapes |= {"b_dec": (d_in,), "threshold": (d_sae,)}
    W_enc, b_enc, W_dec, b_dec, threshold = checked(path, content, shapes).values()
    sae = Sae(W_enc, b_enc, W_dec, b_dec, threshold=threshold)
    return [Checkpoint(path, model, site, sae)]


def write(checkpoints: Sequence[Checkpoint], folder: Path) -> None:
    """Never: the format belongs to one release of one publisher. Raises SaeError."""
    raise SaeError(f"{folder}: {NAME} is only read; expected saelens, safetensors, functiongemma or another to write")


def _model(name: str) -> str:
    """The model's name on the hub: the configs say `gemma-v3-270m-it`, the hub google/gemma-3-270m-it."""
    plain = name.removeprefix("google/").replace("gemma-v3-", "gemma-3-")
    return f"google/{plain.removesuffix('-pt') if '270m' in plain else plain}"  # the 270M base model has no -pt
