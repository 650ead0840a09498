"""Lays policies over a running model through its SAEs.

`compile_plan` turns policies into tables, `attach` puts them on the model for the length of a `with`, the `Tape` keeps
what the hooks saw, and `read_traces` turns it into features afterwards. `FixedSteering` does to single steps what
`attach` does, over buffers that a `Filling` fills: for compiled models and CUDA graphs.
"""

from steerkit.steer.capacity import Capacity, Cut, cut_plan
from steerkit.steer.check import Checked, check_against_saes, check_against_tools
from steerkit.steer.filling import Filling, Handover
from steerkit.steer.fixed import FixedSteering, attach_fixed, fused_kernels
from steerkit.steer.hooks import attach
from steerkit.steer.layout import cache_name
from steerkit.steer.marks import Mark, Marks
from steerkit.steer.plan import Plan, compile_plan
from steerkit.steer.reading import Extent, Wanted, read_traces, read_watched, traced_layers
from steerkit.steer.sites import context_of, device_of, devices_of, find_sites, width_of
from steerkit.steer.tape import Tape
from steerkit.steer.trial import disagreement

__all__ = [
    "Capacity",
    "Checked",
    "Cut",
    "Extent",
    "Filling",
    "FixedSteering",
    "Handover",
    "Mark",
    "Marks",
    "Plan",
    "Tape",
    "Wanted",
    "attach",
    "attach_fixed",
    "cache_name",
    "check_against_saes",
    "check_against_tools",
    "compile_plan",
    "context_of",
    "cut_plan",
    "device_of",
    "devices_of",
    "disagreement",
    "find_sites",
    "fused_kernels",
    "read_traces",
    "read_watched",
    "traced_layers",
    "width_of",
]
