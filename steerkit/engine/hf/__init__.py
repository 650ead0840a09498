"""Generation through transformers: models, caches, prefix cache, CUDA graphs, sampling."""

from steerkit.engine.hf.cuda_graphs import Graphs, GraphStatistics, Prepare
from steerkit.engine.hf.engine import HfEngine
from steerkit.engine.hf.generate import Batch, generate, read_along
from steerkit.engine.hf.model import BOXES, LoadedModel, box_folder, load_model
from steerkit.engine.hf.prefix_cache import DEFAULT, PrefixCache, PrefixStatistics, bytes_of, can_be_cut
from steerkit.engine.hf.prepack import Prepack, Prepacked, obstacle, prepacked

__all__ = [
    "BOXES",
    "DEFAULT",
    "Batch",
    "GraphStatistics",
    "Graphs",
    "HfEngine",
    "LoadedModel",
    "PrefixCache",
    "PrefixStatistics",
    "Prepack",
    "Prepacked",
    "Prepare",
    "box_folder",
    "bytes_of",
    "can_be_cut",
    "generate",
    "load_model",
    "obstacle",
    "prepacked",
    "read_along",
]
