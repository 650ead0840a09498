"""What every library gets of a turn."""

from __future__ import annotations

import pytest

import steerkit
from steerkit.agent import Runtime
from steerkit.integrations.outcome import judged, released
from steerkit.policy import loads
from steerkit.tiny.tools import tool

BOTH = [{"role": "user", "content": "get the weather of Borsiton and play Plabird"}]
TOOLS = [tool(name) for name in ("play_music", "get_weather", "run_command")]


@pytest.mark.parametrize(("then", "names"), [("allow", 2), ("deny", 1), ("hold", 1), ("stop", 0), ("handoff", 0)])
def test_nothing_goes_out_of_a_turn_that_ended_the_run(runtime: Runtime, then: str, names: int) -> None:
    """A call beside one that is denied or held goes out; one beside a call that stops the run or hands over, not."""
    rules = f"[{{name: all, tool: play_music, then: {then}, reason: a test says so}}]"
    policy = loads(f"steerkit: 1\nname: one\nguard: {{default: allow, rules: {rules}}}")
    turn = steerkit.Runtime(runtime.loaded, runtime.saes).run(BOTH, TOOLS, policy)
    assert [one["decision"] for one in judged(turn)["verdicts"]].count(then) >= 1
    assert len(released(turn)) == names
    assert {id for id, _ in released(turn)} <= set(turn.call_ids)
