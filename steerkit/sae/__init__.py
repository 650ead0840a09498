"""Turns activations into features and back: checkpoints, sets of them, and their features' statistics."""

from steerkit.sae.checkpoint import History, load_checkpoint
from steerkit.sae.dictionary import Columns, GateWeights, Kind, Reconstruction, Sae, Site, activate
from steerkit.sae.hub import load_set
from steerkit.sae.suite import SaeSet
from steerkit.sae.summary import LayerSummary, summarize

__all__ = [
    "Columns",
    "GateWeights",
    "History",
    "Kind",
    "LayerSummary",
    "Reconstruction",
    "Sae",
    "SaeSet",
    "Site",
    "activate",
    "load_checkpoint",
    "load_set",
    "summarize",
]
