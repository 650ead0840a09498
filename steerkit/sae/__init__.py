"""Turns activations into features and back: checkpoints, sets of them, and their features' statistics."""

from steerkit.labels import LABELS_FILE, Explanations, read_explanations, read_labels, write_labels
from steerkit.sae.checkpoint import Checkpoint, History
from steerkit.sae.convert import convert
from steerkit.sae.cpu.onednn import onednn_version
from steerkit.sae.formats import FORMATS
from steerkit.sae.formats.functiongemma import load_checkpoint
from steerkit.sae.hub import load_set, local_set, pull, push
from steerkit.sae.layer_summary import DENSE, LayerSummary, summarize
from steerkit.sae.sae import Columns, GateWeights, Kind, Reconstruction, Sae, activate
from steerkit.sae.sae_set import STATISTICS_FILE, UNITS, SaeSet

__all__ = [
    "DENSE",
    "FORMATS",
    "LABELS_FILE",
    "STATISTICS_FILE",
    "UNITS",
    "Checkpoint",
    "Columns",
    "Explanations",
    "GateWeights",
    "History",
    "Kind",
    "LayerSummary",
    "Reconstruction",
    "Sae",
    "SaeSet",
    "activate",
    "convert",
    "load_checkpoint",
    "load_set",
    "local_set",
    "onednn_version",
    "pull",
    "push",
    "read_explanations",
    "read_labels",
    "summarize",
    "write_labels",
]
