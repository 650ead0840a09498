"""A model folder of the box's size with random weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoConfig, Gemma3ForCausalLM

from steerkit.engine import box_folder


def write_base(folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the box's tokenizer and settings with random weights."""
    box = box_folder("tiny")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(box)
    config.dtype = dtype
    Gemma3ForCausalLM(config).to(dtype).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(box / name, folder)
    return folder
