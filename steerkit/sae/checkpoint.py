"""Reads one `sae_layer_NN.pt`, as the FunctionGemma SAEs are published, and says exactly what is wrong with it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit.errors import SaeError
from steerkit.sae.dictionary import Sae

_WEIGHTS = ("W_enc", "b_enc", "W_dec", "b_dec")
_KEYS = ("model_name", "layer_idx", "d_in", "d_sae", *_WEIGHTS, "history")


@dataclass(frozen=True, slots=True)
class History:
    """Training curves as the checkpoint carries them, one entry per epoch or step."""

    loss: tuple[float, ...] = ()
    mse: tuple[float, ...] = ()
    l0: tuple[float, ...] = ()
    """Mean number of active features per token."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checked file: the SAE, where it belongs and how its training went."""

    path: Path
    model_name: str
    layer: int
    sae: Sae
    history: History = field(default_factory=History)


def load_checkpoint(path: Path) -> Checkpoint:
    """Load and check one file.

    The file is unpickled with `weights_only=True` (it cannot run code) and memory-mapped where its format allows.

    Raises:
        SaeError: the file is missing, is no checkpoint, or its keys, shapes or numbers are not what they must be.
    """
    content = _unpickle(path)
    if not isinstance(content, Mapping):
        raise SaeError(f"{path}: got a {type(content).__name__}, expected a dict with the keys {', '.join(_KEYS)}")
    if missing := [key for key in _KEYS if key not in content]:
        found = ", ".join(sorted(str(key) for key in content)) or "nothing"
        raise SaeError(f"{path}: got keys {found}; missing {', '.join(missing)}")
    sae = _weights(path, content)
    return Checkpoint(path, _model_name(path, content), _layer(path, content), sae, _history(path, content["history"]))


def _unpickle(path: Path) -> Any:
    if not path.is_file():
        raise SaeError(f"{path}: no such file; expected an SAE checkpoint (sae_layer_NN.pt)")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # the older format cannot be mapped
    except pickle.UnpicklingError as error:
        reason = _reason(error)
        what = "refused, the pickle wants to run code" if "GLOBAL" in reason else "not a PyTorch checkpoint"
        raise SaeError(f"{path}: {what}: {reason}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise SaeError(f"{path}: truncated or not a PyTorch checkpoint ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    """The line of torch's message that says what happened, without its advice to load unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or line.startswith("WeightsUnpickler error")]
    return (telling or lines or [type(error).__name__])[0][:200]


def _weights(path: Path, content: Mapping[str, Any]) -> Sae:
    for key in ("d_in", "d_sae"):
        if type(content[key]) is not int or content[key] < 1:
            raise SaeError(f"{path}: {key}: got {content[key]!r}, expected a positive integer")
    d_in, d_sae = content["d_in"], content["d_sae"]
    shapes = {"W_enc": (d_in, d_sae), "b_enc": (d_sae,), "W_dec": (d_sae, d_in), "b_dec": (d_in,)}
    tensors: list[Tensor] = []
    for key in _WEIGHTS:
        tensor = content[key]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise SaeError(f"{path}: {key}: got {_describe(tensor)}, expected a floating-point tensor")
        if tuple(tensor.shape) != shapes[key]:
            raise SaeError(f"{path}: {key}: got shape {tuple(tensor.shape)}, expected {shapes[key]}")
        if not bool(torch.isfinite(tensor).all()):
            raise SaeError(f"{path}: {key}: got NaN or infinity, expected finite numbers; download or train it again")
        tensors.append(tensor.detach())
    return Sae(*tensors, threshold=_threshold(path, content, d_sae), k=_k(path, content, d_sae))


def _threshold(path: Path, content: Mapping[str, Any], d_sae: int) -> Tensor | None:
    """Of a JumpReLU SAE that steerkit trained; the published files have none."""
    threshold = content.get("threshold")
    if threshold is None:
        return None
    fine = isinstance(threshold, Tensor) and threshold.is_floating_point() and tuple(threshold.shape) == (d_sae,)
    if not fine or not bool((threshold >= 0).all()):
        raise SaeError(f"{path}: threshold: got {_describe(threshold)}, expected ({d_sae},) numbers of at least 0")
    return threshold.detach()  # type: ignore[no-any-return]  # a tensor, as was just checked


def _k(path: Path, content: Mapping[str, Any], d_sae: int) -> int | None:
    """Of a TopK SAE that steerkit trained; the published files have none."""
    k = content.get("k")
    if k is not None and (type(k) is not int or not 1 <= k <= d_sae):
        raise SaeError(f"{path}: k: got {k!r}, expected an integer from 1 to {d_sae}")
    return k


def _describe(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _model_name(path: Path, content: Mapping[str, Any]) -> str:
    name = content["model_name"]
    if not isinstance(name, str) or not name:
        raise SaeError(f"{path}: model_name: got {name!r}, expected the name of the model it was trained on")
    return name


def _layer(path: Path, content: Mapping[str, Any]) -> int:
    layer = content["layer_idx"]
    if type(layer) is not int or layer < 0:
        raise SaeError(f"{path}: layer_idx: got {layer!r}, expected an integer of at least 0")
    return layer


def _history(path: Path, raw: object) -> History:
    if not isinstance(raw, Mapping):
        raise SaeError(f"{path}: history: got a {type(raw).__name__}, expected a dict with loss, mse and l0")
    curves = {}
    for key in ("loss", "mse", "l0"):
        values = raw.get(key, [])
        if not isinstance(values, (list, tuple)) or not all(isinstance(value, (int, float)) for value in values):
            raise SaeError(f"{path}: history.{key}: got {type(values).__name__}, expected a list of numbers")
        curves[key] = tuple(float(value) for value in values)
    return History(**curves)
