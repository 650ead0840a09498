"""Reads the files that SAE formats are made of, checks what they hold, and says exactly what is wrong with it."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steerkit.errors import SaeError
from steerkit.sae.checkpoint import History
from steerkit.sae.mapped import release

Shape = tuple[int, ...]


def load_pickle(path: Path, expected: str) -> Any:
    """What a PyTorch file holds, memory-mapped where it can be; nothing in it is run (`weights_only=True`).

    Args:
        path: the file.
        expected: what it should have been, for the error.

    Raises:
        SaeError: the file is missing, truncated or no PyTorch file, or it wants to run code.
    """
    if not path.is_file():
        raise SaeError(f"{path}: no such file; expected {expected}")
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


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file, memory-mapped.

    Raises:
        SaeError: the file is missing, truncated or no safetensors file.
    """
    if not path.is_file():
        raise SaeError(f"{path}: no such file; expected a safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  no dict
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise SaeError(f"{path}: truncated or not a safetensors file ({_reason(error)})") from None


def load_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        SaeError: the file is missing, or does not hold a JSON object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SaeError(f"{path}: cannot be read ({error.strerror}); expected a JSON file") from None
    except ValueError as error:
        raise SaeError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise SaeError(f"{path}: got a {type(found).__name__}, expected a JSON object")
    return found


def required(path: Path, content: Mapping[str, Any], keys: tuple[str, ...]) -> None:
    """Raise SaeError unless all keys are there."""
    if missing := [key for key in keys if key not in content]:
        found = ", ".join(sorted(str(key) for key in content)) or "nothing"
        raise SaeError(f"{path}: got keys {found}; missing {', '.join(missing)}")


def checked(path: Path, content: Mapping[str, Any], shapes: Mapping[str, Shape]) -> dict[str, Tensor]:
    """The tensors that `shapes` names, in its order.

    Raises:
        SaeError: one is missing, no floating-point tensor, of another shape, or not finite.
    """
    required(path, content, tuple(shapes))
    found = {}
    for key, shape in shapes.items():
        tensor = content[key]
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            raise SaeError(f"{path}: {key}: got {_describe(tensor)}, expected a floating-point tensor")
        if tuple(tensor.shape) != shape:
            raise SaeError(f"{path}: {key}: got shape {tuple(tensor.shape)}, expected {shape}")
        if tensor.numel() and not all(map(math.isfinite, map(float, tensor.detach().aminmax()))):  # copies nothing
            raise SaeError(f"{path}: {key}: got NaN or infinity, expected finite numbers; download or train it again")
        release(tensor)
        found[key] = tensor.detach()
    return found


def matrix(path: Path, content: Mapping[str, Any], key: str) -> Shape:
    """Shape of a matrix from which the others follow; raises SaeError if it is none."""
    required(path, content, (key,))
    found = content[key]
    if not isinstance(found, Tensor) or found.ndim != 2 or 0 in found.shape:
        shape = tuple(found.shape) if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise SaeError(f"{path}: {key}: got {shape}, expected a matrix")
    return tuple(found.shape)


def positive(path: Path, content: Mapping[str, Any], key: str) -> int:
    """A whole number of at least 1; raises SaeError."""
    value = content.get(key)
    if type(value) is not int or value < 1:
        raise SaeError(f"{path}: {key}: got {value!r}, expected a positive integer")
    return value


def text(path: Path, content: Mapping[str, Any], key: str, what: str) -> str:
    """A string that is not empty; raises SaeError."""
    value = content.get(key)
    if not isinstance(value, str) or not value:
        raise SaeError(f"{path}: {key}: got {value!r}, expected {what}")
    return value


def history(path: Path, raw: object) -> History:
    """Training curves from a dict with `loss`, `mse` and `l0`; raises SaeError."""
    if not isinstance(raw, Mapping):
        raise SaeError(f"{path}: history: got a {type(raw).__name__}, expected a dict with loss, mse and l0")
    curves = {}
    for key in ("loss", "mse", "l0"):
        values = raw.get(key, [])
        if not isinstance(values, (list, tuple)) or not all(isinstance(value, (int, float)) for value in values):
            raise SaeError(f"{path}: history.{key}: got {type(values).__name__}, expected a list of numbers")
        curves[key] = tuple(float(value) for value in values)
    return History(**curves)


def curves(record: History) -> dict[str, list[float]]:
    """Training curves as plain lists."""
    return {"loss": list(record.loss), "mse": list(record.mse), "l0": list(record.l0)}


def _reason(error: Exception) -> str:
    """The line of torch's message that says what happened, without its advice to load unsafely."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or line.startswith("WeightsUnpickler error")]
    return (telling or lines or [type(error).__name__])[0][:200]


def _describe(value: object) -> str:
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
