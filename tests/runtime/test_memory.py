"""What a trace takes is what the README says, and turns leave nothing behind."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import Store, pack
from steerkit.engine import Batch, Sampling, generate
from steerkit.policy import Policy
from steerkit.sites import Site
from steerkit.steer import attach, compile_plan
from steerkit.testing import planted_saes, small_model
from steerkit.tiny.demo_requests import CASES, policy_files
from steerkit.types import Turn

CASE = next(case for case in CASES if case.name == "dangerous")
TURNS = 12


def tracing(settings: dict[str, Any]) -> Policy:
    """A policy that does nothing but trace."""
    features = {"a": {"layer": 1, "index": 3}, "b": {"layer": 1, "index": 9}}
    return Policy.model_validate({"steerkit": 1, "name": "t", "features": features, "trace": settings})


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Runtime:
    """The box under its shipped policies, recording."""
    store = Store(tmp_path_factory.mktemp("audit") / "audit.db")
    return steerkit.load("tiny", policy=policy_files(), audit=store)


def run(runtime: Runtime, policy: Policy | None = None) -> Turn:
    """One turn."""
    return runtime.run(CASE.messages, CASE.tools, policy, max_new_tokens=24)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_recorder_takes_a_width_for_each_layer_and_token(dtype: torch.dtype) -> None:
    """Its buffers are of the capacity that was asked for, in the model's dtype, of the traced layers alone."""
    model = small_model(dtype=dtype)
    plan = compile_plan([()], planted_saes(model))
    with attach(model, plan, trace=[0, 2], capacity=40) as attached:
        recorder = attached.recorder
        list(generate(model, Batch.of([[5] * 20, [6] * 20], 0, torch.device("cpu")), [Sampling(8)] * 2, (), 0))
    sizes = {layer: recorder.raw(layer).untyped_storage().nbytes() for layer in recorder.kept}
    assert sizes == dict.fromkeys((Site(0), Site(2)), 2 * 40 * 32 * dtype.itemsize)


def test_a_full_trace_takes_four_bytes_a_feature(runtime: Runtime) -> None:
    """Two for its index and two for its value, in each layer at each token read; nothing where it is not asked for."""
    for top_k in (0, 4, 16):
        turn = run(runtime, tracing({"top_k": top_k, "at": "any"}))
        read, layers = len(turn.prompt_ids) + len(turn.reply_ids) - 1, 4
        blocks = sum(len(top.index) + len(top.value) for top in turn.trace.top)
        assert blocks == 4 * top_k * layers * read
        assert len(pack(replace(turn.trace, places={}))) < blocks + 200


def test_a_watched_feature_takes_one_value_a_token(runtime: Runtime) -> None:
    """And no full trace."""
    turn = run(runtime, tracing({"watch": ["a", "b"]}))
    read = len(turn.prompt_ids) + len(turn.reply_ids) - 1
    assert [len(values) for values in turn.trace.watched.values()] == [read, read]
    assert turn.trace.top == ()


def left_by(runtime: Runtime, kept: list[Turn] | None) -> tuple[float, int]:
    """Python's blocks a turn and tensors in all that turns leave behind, once some like them were made."""
    for _ in range(8):
        run(runtime)
    before = counted()
    for _ in range(TURNS):
        turn = run(runtime)
        if kept is not None:
            kept.append(turn)
        del turn
    blocks, tensors = (after - earlier for after, earlier in zip(counted(), before, strict=True))
    return blocks / TURNS, tensors


def counted() -> tuple[int, int]:
    """Blocks and tensors that are alive."""
    gc.collect()
    return sys.getallocatedblocks(), sum(issubclass(type(one), torch.Tensor) for one in gc.get_objects())


def test_recorded_turns_leave_nothing_behind(runtime: Runtime) -> None:
    """No tensors, and a few blocks of what warms up; a caller who keeps the turns, as a control, sees them."""
    blocks, tensors = left_by(runtime, None)
    assert tensors <= 0  # what other tests left, as compiled steps, may go meanwhile
    control, _ = left_by(runtime, [])
    assert control > 400
    assert blocks < control / 8


def test_turns_on_other_prompts_stay_within_the_prefix_cache(tmp_path: Path) -> None:
    """The pieces of many prompts are dropped again; without a bound, as a control, each leaves some."""

    def tensors_after(size: str) -> int:
        runtime = steerkit.load("tiny", policy=policy_files(), audit=Store(tmp_path / f"{size}.db"), prefix_cache=size)
        found = []
        for number in range(18):
            said = {"role": "developer", "content": f"this is conversation {number}"}
            runtime.run([said, *CASE.messages], CASE.tools, max_new_tokens=4)
            found.append(counted()[1])
        return found[-1] - found[5]

    assert tensors_after("2 MiB") <= 0
    assert tensors_after("1 GiB") > 20
