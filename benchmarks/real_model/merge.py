"""An adapter added to the base's weights: a model folder that `steerkit.load` and transformers take."""

from __future__ import annotations

import shutil
from pathlib import Path

from convert import FILES
from lora import Adapter
from safetensors.torch import load_file, save_file

from steerkit.errors import ModelError

TABLE = "model.embed_tokens.weight"


def merge(base: Path, adapter: Adapter, out: Path) -> None:
    """Write the base's folder with the adapter in its weights, in the base's dtype; the weights last.

    Raises:
        ModelError: the adapter is another model's.
    """
    weights = load_file(base / "model.safetensors")
    for name, (a, b) in adapter.matrices.items():
        key = f"{name}.weight"
        if key not in weights or weights[key].shape != (b.shape[0], a.shape[1]):
            got = tuple(weights[key].shape) if key in weights else "nothing"
            raise ModelError(f"{base}: got {got} as {key}, expected {(b.shape[0], a.shape[1])} as the adapter has it")
        product = adapter.scale * b.float().cpu() @ a.float().cpu()
        weights[key] = (weights[key].float() + product).to(weights[key].dtype)
    weights[TABLE][list(adapter.ids)] = adapter.rows.cpu().to(weights[TABLE].dtype)
    out.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        shutil.copy(base / name, out / name)
    part = out / "model.part"
    save_file(weights, part, metadata={"format": "pt"})
    part.replace(out / "model.safetensors")
