"""Finds and loads models, and makes tokens with steering in place."""

from steerkit.engine.divergence import Divergence, divergence
from steerkit.engine.hf.cuda_graphs import Graphs, GraphStatistics, Prepare, graphs_for
from steerkit.engine.hf.generate import Batch, generate, read_along
from steerkit.engine.hf.model import AbandonedError, LoadedModel, box_folder, load_model
from steerkit.engine.hf.prefix_cache import DEFAULT, PrefixCache, PrefixStatistics, Reuse, bytes_of, can_be_cut
from steerkit.engine.hf.prepack import Prepack, Prepacked, obstacle, prepacked
from steerkit.engine.running import runnable
from steerkit.engine.sampling import Sampling
from steerkit.engine.tool_schema import tool_from_function
from steerkit.steer import cache_name

__all__ = [
    "DEFAULT",
    "AbandonedError",
    "Batch",
    "Divergence",
    "GraphStatistics",
    "Graphs",
    "LoadedModel",
    "PrefixCache",
    "PrefixStatistics",
    "Prepack",
    "Prepacked",
    "Prepare",
    "Reuse",
    "Sampling",
    "box_folder",
    "bytes_of",
    "cache_name",
    "can_be_cut",
    "divergence",
    "generate",
    "graphs_for",
    "load_model",
    "obstacle",
    "prepacked",
    "read_along",
    "runnable",
    "tool_from_function",
]
