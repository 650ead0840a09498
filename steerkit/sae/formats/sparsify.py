"""sparsify folders: `cfg.json` and `sae.safetensors`, TopK SAEs named after the module they read, one folder each."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file

from steerkit.errors import SaeError
from steerkit.files import shown
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.formats.files import checked, load_object, load_tensors, positive
from steerkit.sae.formats.hook_names import read_hook
from steerkit.sae.formats.keys import OFF, Neutral, check_keys, check_tensors
from steerkit.sae.sae import Sae

NAME = "sparsify"
FILES = ("cfg.json", "sae.safetensors")
_KEYS: Final = {
    "activation": Neutral(("topk",), "another choice of the features that are on"),
    "signed": Neutral(OFF, "features are chosen by their size and keep their sign"),
    "jumprelu": Neutral(OFF, "features are on above a threshold"),
    "n_sources": Neutral((0, 1), "it reads several places"),
    "n_targets": Neutral((0, 1), "it writes to other places than it reads"),
    "coalesce_topk": Neutral(OFF, "features are chosen among several places"),
    "topk_coalesced": Neutral(OFF, "features are chosen among several places"),
    "normalize_io": Neutral(OFF, "what it reads is scaled"),
}
_FOLDERS: Final[dict[str, str]] = {"attn_out": ".self_attn.o_proj", "resid_post": ""}
"""By hook point that can be written, its module below the layer; what is `mlp_out` differs by model."""
_RUN = "config.json"
"""Config of the whole run, one folder up: it names the model."""


def matches(folder: Path) -> bool:
    """True if this folder is such an SAE."""
    return all((folder / name).is_file() for name in FILES)


def read(folder: Path) -> list[Checkpoint]:
    """The folder's SAE; the folder's name is the module's, as sparsify writes it.

    Raises:
        SaeError: an activation or a place that steerkit does not compute, or a bad file.
    """
    about, path = folder / FILES[0], folder / FILES[1]
    config = load_object(about)
    check_keys(about, config, _KEYS)
    if changed := next((key for key in ("transcode", "skip_connection") if config.get(key)), None):
        raise SaeError(f"{about}: {changed}: it maps one place to another: a transcoder; expected an SAE")
    model = _model(folder, config)
    site = read_hook(folder, "the folder's name", folder.name, model)
    d_in, d_sae = positive(about, config, "d_in"), _latents(about, config)
    shapes: dict[str, tuple[int, ...]] = {"encoder.weight": (d_sae, d_in), "encoder.bias": (d_sae,)}
    content = load_tensors(path)[0]
    found = checked(path, content, {**shapes, "W_dec": (d_sae, d_in), "b_dec": (d_in,)})
    check_tensors(path, content, {"W_skip": 0, "threshold": 0})
    encoder, b_enc, decoder, b_dec = found.values()
    try:
        k = positive(about, config, "k")
        sae = Sae(encoder.T, b_enc, decoder, b_dec, k=k, subtract_b_dec=True)
    except SaeError as error:
        raise SaeError(f"{about}: {error}") from None
    return [Checkpoint(path, model, site, sae)]


def write(checkpoints: Sequence[Checkpoint], folder: Path) -> None:
    """Write a folder for each layer, and the run's `config.json`.

    Raises:
        SaeError: an SAE that is no TopK one on `attn_out` or `resid_post` that subtracts its decoder's bias.
    """
    for one in checkpoints:
        sae = one.sae
        if sae.k is None or not sae.subtract_b_dec or one.site.point not in _FOLDERS:
            raise SaeError(
                f"{one.site.name}: a {sae.kind} SAE there does not fit {NAME}, which holds TopK SAEs of "
                f"{', '.join(_FOLDERS)} that subtract b_dec; choose saelens or safetensors"
            )
    for one in checkpoints:
        target = folder / f"layers.{one.layer}{_FOLDERS[one.site.point]}"
        target.mkdir()
        sae = one.sae
        parts = {"encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
        save_file({key: part.detach().cpu().clone().contiguous() for key, part in parts.items()}, target / FILES[1])
        config = {"activation": "topk", "num_latents": sae.d_sae, "k": sae.k, "d_in": sae.d_in, "transcode": False}
        (target / FILES[0]).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    run = {"model": checkpoints[0].model_name}
    (folder / _RUN).write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")


def _latents(path: Path, config: dict[str, Any]) -> int:
    if config.get("num_latents"):
        return positive(path, config, "num_latents")
    return positive(path, config, "d_in") * positive(path, config, "expansion_factor")


def _model(folder: Path, config: dict[str, Any]) -> str:
    """The run's model; sparsify leaves the name in the run's config, which must lie beside the SAE's folder."""
    run = folder.parent / _RUN
    name = load_object(run).get("model") if run.is_file() else config.get("model")
    if not isinstance(name, str) or not name:
        raise SaeError(
            f"{run}: model: got {shown(name)}, expected the run's config.json with the model's name beside it"
        )
    return name
