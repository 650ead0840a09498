"""Makes a hub repository with FunctionGemma's exact architecture and random weights, and one with eighteen SAEs."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from steerkit.engine import box_folder
from steerkit.testing import FUNCTIONGEMMA, random_model

MODEL, SAES = "google/functiongemma-270m-it", "mindchain/functiongemma-270m-sae"


def write_model(root: Path) -> None:
    """`config.json`, bf16 weights and a tokenizer with FunctionGemma's control tokens and a chat template."""
    folder = root / MODEL
    random_model(FUNCTIONGEMMA, dtype=torch.bfloat16).save_pretrained(folder)
    box = box_folder("tiny")
    assert box is not None
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(box / name, folder / name)


def write_saes(root: Path, layers: int = 18) -> None:
    """`sae_layer_00.pt` to `sae_layer_17.pt`, 640 to 4,096, with the keys of the published files."""
    folder = root / SAES
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(0)
    for layer in range(layers):
        W_enc = torch.randn(640, 4096, generator=generator) / 25
        checkpoint = {
            "model_name": MODEL,
            "layer_idx": layer,
            "d_in": 640,
            "d_sae": 4096,
            "W_enc": W_enc,
            "b_enc": torch.zeros(4096),
            "W_dec": W_enc.T.contiguous(),
            "b_dec": torch.zeros(640),
            "history": {"loss": [1.0, 0.5], "mse": [0.9, 0.4], "l0": [2000.0, 1500.0]},
        }
        torch.save(checkpoint, folder / f"sae_layer_{layer:02d}.pt")
