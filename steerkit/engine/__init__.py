"""Finds and loads models, and makes tokens with steering in place."""

from steerkit.engine.functions import tool_from_function
from steerkit.engine.generate import Batch, generate
from steerkit.engine.load import LoadedModel, box_folder, load_model
from steerkit.engine.sampling import Sampling

__all__ = ["Batch", "LoadedModel", "Sampling", "box_folder", "generate", "load_model", "tool_from_function"]
