"""Two workers that share each layer (tensor parallel), a core each."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from psutil import Process

from steerkit.agent import Runtime
from steerkit.audit import read_turn
from steerkit.errors import EngineError
from steerkit.tiny import TOOLS
from tests.runtime.test_constrained import WEATHER
from tests.steer.mixed import check_traces
from tests.vllm.conftest import runtime
from tests.vllm.test_joining import ASKED
from tests.vllm.test_tokens import REQUESTS, TOKENS, differences

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="there is one core"),
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runtime]:
    """A runtime on two workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0|1")
        with runtime(tmp_path_factory.mktemp("shared"), beside=True, tensor_parallel_size=2) as found:
            yield found


def test_each_request_gets_what_it_gets_alone(shared: Runtime, box: Runtime) -> None:
    """Tokens, watched values and edits of 56 requests under four policies, and the record says how many workers."""
    alone = [box.run(one.messages, one.tools, one.policy, max_new_tokens=TOKENS) for one in REQUESTS]
    found = shared.run_batch(REQUESTS, batch_size=len(REQUESTS))
    assert differences(found, alone) == []
    check_traces([turn.trace for turn in found], [turn.trace for turn in alone])
    assert shared.store is not None
    machine: Any = read_turn(shared.store, shared.store.get(str(found[0].record_id))).record.machine
    assert machine["tensor_parallel"] == 2


def test_tokens_are_chosen_once(shared: Runtime, box: Runtime) -> None:
    """Sampled and held to grammars, by the worker that has logits."""
    some = [one for one in ASKED if one.tool_choice is not None or one.sampling.temperature > 0]
    alone = [box.take([box.prepare(one)])[0] for one in some]
    found = shared.run_batch(some, batch_size=8)
    assert [turn.reply_ids for turn in found] == [turn.reply_ids for turn in alone]
    assert [turn.constrained for turn in found] == [turn.constrained for turn in alone]


def test_each_worker_vouches_for_its_own_hooks(shared: Runtime) -> None:
    """All are asked."""
    engine: Any = shared.engine
    each = engine._llm.call_each("steerkit_errors", {"nobody": 1})
    assert [tuple(one["nobody"]) for one in each] == 2 * [("", "is not known to the worker")]


def test_a_worker_that_dies_ends_what_runs(shared: Runtime) -> None:
    """One of two is killed from outside: requests that run and that come fail in one line. It is the last test here."""
    engine: Any = shared.engine
    (core,) = engine._llm._engine.engine_core.resources.engine_manager.processes
    steps = shared.stream(WEATHER, TOOLS, (), max_new_tokens=400, temperature=50.0, seed=1)
    next(steps)
    os.kill(Process(core.pid).children()[-1].pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"^tiny: vLLM .*: its processes have ended; load the model again"):
        list(steps)
    with pytest.raises(EngineError, match="its processes have ended"):
        shared.run(WEATHER, TOOLS, ())
