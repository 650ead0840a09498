"""Read, steer, guard and audit a function-calling model through SAE features while it generates.

Importing this module loads no torch: each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from steerkit.version import __version__ as __version__

if TYPE_CHECKING:
    from steerkit.agent import Runtime, load
    from steerkit.errors import SteerkitError
    from steerkit.policy import Policy
    from steerkit.runtime import attach
    from steerkit.sae import SaeSet
    from steerkit.types import Tool, Turn

__all__ = ["Policy", "Runtime", "SaeSet", "SteerkitError", "Tool", "Turn", "attach", "load"]

_HOMES = {
    "Policy": "steerkit.policy",
    "Runtime": "steerkit.agent",
    "SaeSet": "steerkit.sae",
    "SteerkitError": "steerkit.errors",
    "Tool": "steerkit.types",
    "Turn": "steerkit.types",
    "attach": "steerkit.runtime",
    "load": "steerkit.agent",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'steerkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
