"""Lays policies over a running model through its SAEs.

`compile_plan` turns policies into tables, `attach` puts them on the model for the length of a `with`, the `Tape` keeps
what the hooks saw, and `read_traces` turns it into features afterwards.
"""

from steerkit.steer.check import Checked, check_against_saes, check_against_tools
from steerkit.steer.hooks import attach
from steerkit.steer.marks import Mark, Marks
from steerkit.steer.plan import Plan, compile_plan
from steerkit.steer.reading import Extent, Wanted, read_traces, read_watched, traced_layers
from steerkit.steer.sites import find_sites, width_of
from steerkit.steer.tape import Tape

__all__ = [
    "Checked",
    "Extent",
    "Mark",
    "Marks",
    "Plan",
    "Tape",
    "Wanted",
    "attach",
    "check_against_saes",
    "check_against_tools",
    "compile_plan",
    "find_sites",
    "read_traces",
    "read_watched",
    "traced_layers",
    "width_of",
]
