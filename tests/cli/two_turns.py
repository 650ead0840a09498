"""A store for the commands that do recorded turns again."""

from __future__ import annotations

from pathlib import Path

from steerkit.agent import Runtime
from steerkit.audit import Store
from steerkit.policy import load
from steerkit.tiny.demo_requests import CASES, policy_files

CASE = {case.name: case for case in CASES}["dangerous"]


def two_turns(box: Runtime, path: Path) -> Path:
    """A new store with one run of two turns: a denied call, and a turn that steering turned away."""
    with Runtime(box.loaded, box.saes, policy_files(), store=Store(path)) as runtime:
        runtime.run(CASE.messages, CASE.tools, load(policy_files()[0]).model_copy(update={"steer": ()}))
        runtime.run(CASE.messages, CASE.tools)
    return path
