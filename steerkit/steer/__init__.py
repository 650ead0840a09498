"""Lays policies over a running model through its SAEs.

`compile_plan` turns policies into tables, `attach` puts them on the model for the length of a `with`, the `Tape` keeps
what the hooks saw, and `read_traces` turns it into features afterwards. `FixedSteering` does to single steps what
`attach` does, over buffers that a `Filling` fills: for compiled models and CUDA graphs.
"""

from steerkit.steer.compile.check import Checked, check_against_saes, check_against_tools
from steerkit.steer.compile.plan import Plan, compile_plan
from steerkit.steer.eager.attach import attach
from steerkit.steer.eager.snapshot import Mark, Marks
from steerkit.steer.points import context_of, device_of, devices_of, find_sites, width_of
from steerkit.steer.positions import cache_name
from steerkit.steer.record.recorder import Tape
from steerkit.steer.record.trace import Extent, Wanted, read_traces, read_watched, traced_layers
from steerkit.steer.static.buffers import FixedSteering, attach_fixed, fused_kernels
from steerkit.steer.static.capacity import Capacity, Cut, cut_plan
from steerkit.steer.static.fill import Filling, Handover
from steerkit.steer.static.self_test import disagreement

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
