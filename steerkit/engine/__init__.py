"""Finds and loads models, and makes tokens with steering in place."""

from steerkit.engine.functions import tool_from_function
from steerkit.engine.generate import Batch, cache_name, generate
from steerkit.engine.load import AbandonedError, LoadedModel, box_folder, load_model
from steerkit.engine.sampling import Sampling

__all__ = [
    "AbandonedError",
    "Batch",
    "LoadedModel",
    "Sampling",
    "box_folder",
    "cache_name",
    "generate",
    "load_model",
    "tool_from_function",
]
