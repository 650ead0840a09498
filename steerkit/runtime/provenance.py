"""What a record must say of how a turn came about."""

from __future__ import annotations

import platform
from dataclasses import asdict
from importlib.metadata import version

from steerkit.audit import Context
from steerkit.engine import LoadedModel
from steerkit.runtime.request import Prepared
from steerkit.sae import SaeSet

LIBRARIES = ("steerkit", "torch", "transformers", "tokenizers")
