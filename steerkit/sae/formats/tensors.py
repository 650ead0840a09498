"""`sae_layer_NN.safetensors`: steerkit's own form, for SAEs of every kind and side; nothing in it can run.

Tensors go by the names of `Sae.tensors`. The metadata's `steerkit` holds JSON: `format` (1), `model_name`, `layer`,
`site`, `kind`, `k`, `subtract_b_dec` and `history`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, get_args

from safetensors.torch import save_file

from steerkit.errors import SaeError
from steerkit.files import parse_json, shown
from steerkit.sae.checkpoint import Checkpoint
from steerkit.sae.formats.curves import curves, history
from steerkit.sae.formats.files import checked, load_tensors, matrix, text
from steerkit.sae.sae import GateWeights, Kind, Sae
from steerkit.sites import POINTS, Point, Site

NAME = "safetensors"
FILES = ("sae_layer_*.safetensors", *(f"sae_{point}_*.safetensors" for point in POINTS if point != "attn_out"))
_SIDES: Final[dict[Point, str]] = {"attn_out": "output"}
"""Names that differ from the hook point's."""
_POINTS: Final[dict[str, Point]] = {"output": "attn_out", "input": "attn_in", **{point: point for point in POINTS}}


def matches(folder: Path) -> bool:
    """True if such files are in this folder."""
    return any(any(folder.glob(pattern)) for pattern in FILES)


def read(folder: Path) -> list[Checkpoint]:
    """Every layer of a folder; raises SaeError where a file is not what it must be."""
    return [_read(path) for pattern in FILES for path in sorted(folder.glob(pattern))]


def write(checkpoints: Sequence[Checkpoint], folder: Path) -> None:
    """Write each layer, in the dtype it has."""
    for one in checkpoints:
        sae = one.sae
        said = {
            "format": 1,
            "model_name": one.model_name,
            "layer": one.layer,
            "site": _SIDES.get(one.site.point, one.site.point),
            "kind": sae.kind,
            "k": sae.k,
            "subtract_b_dec": sae.subtract_b_dec,
            "history": curves(one.history),
        }
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in sae.tensors.items()}
        save_file(tensors, folder / f"sae_{one.site.stem}.safetensors", metadata={"steerkit": json.dumps(said)})


def _read(path: Path) -> Checkpoint:
    content, metadata = load_tensors(path)
    said = _said(path, metadata)
    layer, kind = said.get("layer"), str(said.get("kind"))
    point = _POINTS.get(str(said.get("site")))
    if kind not in get_args(Kind) or point is None:
        raise SaeError(
            f"{path}: kind, site: got {shown(kind)}, {shown(said.get('site'))}, expected one of "
            f"{', '.join(get_args(Kind))} and one of {', '.join(_POINTS)}"
        )
    if type(layer) is not int or path.stem not in [f"sae_{site.stem}" for site in (Site(layer, point), Site(layer))]:
        raise SaeError(f"{path}: layer: got {shown(layer)}, expected the number in the file's name")
    d_in, d_sae = matrix(path, content, "W_enc")
    shapes: dict[str, tuple[int, ...]] = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in)}
    shapes["b_dec"] = (d_in,)
    for name in {"jumprelu": ("threshold",), "gated": GateWeights._fields}.get(kind, ()):
        shapes[name] = (d_sae,)
    tensors = checked(path, content, shapes)
    gate = GateWeights(*(tensors.pop(name) for name in GateWeights._fields)) if kind == "gated" else None
    try:
        sae = Sae(
            **tensors,
            gate=gate,
            k=_k(said) if kind == "topk" else None,
            subtract_b_dec=_subtract(path, said),
        )
    except SaeError as error:
        raise SaeError(f"{path}: {error}") from None
    name = text(path, said, "model_name", "the name of the model it was trained on")
    return Checkpoint(path, name, Site(layer, point), sae, history(path, said.get("history", {})))


def _said(path: Path, metadata: dict[str, str]) -> dict[str, Any]:
    expected = "a file that `sae convert` wrote"
    if "steerkit" not in metadata:
        raise SaeError(f"{path}: its metadata says nothing of steerkit; expected {expected}")
    said = parse_json(metadata["steerkit"], f"{path}: the metadata's steerkit", SaeError, expected)
    if not isinstance(said, dict):
        raise SaeError(f"{path}: the metadata's steerkit: got a {type(said).__name__}, expected {expected}")
    if said.get("format") != 1:
        raise SaeError(
            f"{path}: format: got {shown(said.get('format'))}, expected 1; it was written by another version"
        )
    return said


def _subtract(path: Path, said: dict[str, Any]) -> bool:
    subtract = said.get("subtract_b_dec", False)
    if not isinstance(subtract, bool):
        raise SaeError(f"{path}: subtract_b_dec: got {shown(subtract)}, expected true or false")
    return subtract


def _k(said: dict[str, Any]) -> int:
    k = said.get("k")
    return k if type(k) is int else 0  # which Sae refuses
