"""Engines: the seam to whatever makes tokens with steering in place, and those that run transformers and vLLM."""

from steerkit.boxes import BOXES, box_folder
from steerkit.engine.api import (
    Constraint,
    Continuous,
    Decided,
    Engine,
    Provenance,
    Recording,
    Row,
    Running,
    Sampling,
    Step,
    Steps,
)
from steerkit.engine.divergence import Divergence, divergence
from steerkit.engine.hf.batch import Batch
from steerkit.engine.hf.cache_layers import can_be_cut
from steerkit.engine.hf.cuda_graphs import Graphs, GraphStatistics, Prepare
from steerkit.engine.hf.engine import DEFAULT, HfEngine, bytes_of
from steerkit.engine.hf.generate import generate, read_along
from steerkit.engine.hf.grammar_logits import GrammarLogits
from steerkit.engine.hf.model import LoadedModel, load_model
from steerkit.engine.hf.passes import last_logits
from steerkit.engine.hf.prefix_cache import PrefixCache, PrefixStatistics
from steerkit.engine.hf.prepack import Prepack, Prepacked, obstacle, prepacked
from steerkit.engine.hf.shared_prompts import SharedPrompts
from steerkit.engine.lease import AbandonedError, Lease
from steerkit.engine.running import runnable
from steerkit.engine.tool_schema import tool_from_function
from steerkit.engine.vllm.arguments import Vllm, read_settings, vllm_version
from steerkit.engine.vllm.engine import VllmEngine
from steerkit.steer import cache_name

__all__ = [
    "BOXES",
    "DEFAULT",
    "AbandonedError",
    "Batch",
    "Constraint",
    "Continuous",
    "Decided",
    "Divergence",
    "Engine",
    "GrammarLogits",
    "GraphStatistics",
    "Graphs",
    "HfEngine",
    "Lease",
    "LoadedModel",
    "PrefixCache",
    "PrefixStatistics",
    "Prepack",
    "Prepacked",
    "Prepare",
    "Provenance",
    "Recording",
    "Row",
    "Running",
    "Sampling",
    "SharedPrompts",
    "Step",
    "Steps",
    "Vllm",
    "VllmEngine",
    "box_folder",
    "bytes_of",
    "cache_name",
    "can_be_cut",
    "divergence",
    "generate",
    "last_logits",
    "load_model",
    "obstacle",
    "prepacked",
    "read_along",
    "read_settings",
    "runnable",
    "tool_from_function",
    "vllm_version",
]
