"""Direction files for tests, and policies that add one."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steerkit.lab import write_direction
from steerkit.policy import Origin, Policy, bind, loads, read_direction
from steerkit.sites import Site
from steerkit.testing import planted_policy


def drawn(width: int, *sites: Site | str, seed: int = 0, scale: float = 1.0) -> dict[Site, Tensor]:
    """Random vectors at some sites."""
    generator = torch.Generator().manual_seed(seed)
    return {Site.of(site): scale * torch.randn(width, generator=generator) for site in sites}


def file_of(vectors: Mapping[Site, Tensor], folder: Path | None = None, name: str = "away", **origin: Any) -> Path:
    """A direction file in a folder, a temporary one of its own by default."""
    path = (folder or Path(tempfile.mkdtemp())) / f"{name}.safetensors"
    write_direction(path, vectors, Origin(**{"method": "drawn", **origin}), force=True)
    return path


def adding(file: Path, add: float = 1.0, *, name: str = "adding", **parts: Any) -> Policy:
    """A policy that adds a direction; `parts` are of its rule, `direction` of what it names, `policy` of all else."""
    direction, policy = parts.pop("direction", {}), parts.pop("policy", {})
    rule = {"name": "add", "where": "any", "edit": {"away": {"add": add}}, **parts}
    directions = {"away": {"file": str(file), **direction}}
    return bind(planted_policy(name, policy.pop("features", {}), directions=directions, steer=[rule], **policy))


def documented(text: str) -> Policy:
    """The policy in a block of a document, whose direction file is made here."""
    away = file_of(drawn(8, "attn_out.1", "attn_out.2", "attn_out.3"))
    return loads(text.replace(f"sha256:{64 * '0'}", read_direction(away).fingerprint), folder=away.parent)
