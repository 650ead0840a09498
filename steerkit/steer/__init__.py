"""Lays policies over a running model through its SAEs.

`compile_plan` turns policies into tables, `attach` puts them on the model for the length of a `with`, the `Recorder`
keeps what the hooks saw, and `read_traces` turns it into features afterwards. `StaticSteering` does to single steps
what `attach` does, over buffers that a `Fill` fills: for compiled models and CUDA graphs. `JoinedSteering` does it to
steps of rows that come and go.
"""

from steerkit.steer.compile.check import Checked, check_against_saes, check_against_tools
from steerkit.steer.compile.latents import Latent, columns_of, in_order, weighted_sum
from steerkit.steer.compile.plan import Plan, compile_plan
from steerkit.steer.eager.attach import attach
from steerkit.steer.eager.attached import Attached, PrefillState, Snapshot, Snapshots
from steerkit.steer.eager.continuous import attach_ragged
from steerkit.steer.eager.joined import JoinedSteering
from steerkit.steer.ops import read_features
from steerkit.steer.points import TABLE, Sites, check_engine, context_of, described, device_of, devices_of, find_sites
from steerkit.steer.positions import cache_name
from steerkit.steer.ragged import Piece, RaggedRecorders, RaggedSteering
from steerkit.steer.record.recorder import Recorder
from steerkit.steer.record.trace import Extent, Wanted, read_traces, read_watched, traced_sites
from steerkit.steer.static.buffers import StaticSteering, attach_static, fused_kernels
from steerkit.steer.static.capacity import Capacity, PackedPlan, pack_plan
from steerkit.steer.static.fill import Fill
from steerkit.steer.static.self_test import disagreement

__all__ = [
    "TABLE",
    "Attached",
    "Capacity",
    "Checked",
    "Extent",
    "Fill",
    "JoinedSteering",
    "Latent",
    "PackedPlan",
    "Piece",
    "Plan",
    "PrefillState",
    "RaggedRecorders",
    "RaggedSteering",
    "Recorder",
    "Sites",
    "Snapshot",
    "Snapshots",
    "StaticSteering",
    "Wanted",
    "attach",
    "attach_ragged",
    "attach_static",
    "cache_name",
    "check_against_saes",
    "check_against_tools",
    "check_engine",
    "columns_of",
    "compile_plan",
    "context_of",
    "described",
    "device_of",
    "devices_of",
    "disagreement",
    "find_sites",
    "fused_kernels",
    "in_order",
    "pack_plan",
    "read_features",
    "read_traces",
    "read_watched",
    "traced_sites",
    "weighted_sum",
]
