"""openai-agents' own library on the box: its loop, held calls as interruptions, settings and an output type."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import ApprovalRecord, read_content
from steerkit.errors import ApprovalError, SettingError
from tests.integrations.conftest import BALANCE, DOOR, PLAIN, SET

pytest.importorskip("agents")
from agents import Agent, HostedMCPTool, ModelSettings, Runner, function_tool, set_tracing_disabled

from steerkit.integrations.openai_agents import APPROVALS, SteerkitModel

set_tracing_disabled(True)
RAN: list[str] = []


@function_tool
def get_balance(account: str) -> str:
    """Show a balance."""
    RAN.append(account)
    return "1200 dollars"


@function_tool
def unlock_door(door: str) -> str:
    """Unlock a door."""
    RAN.append(door)
    return "opened"


TOOLS = [get_balance, unlock_door]


def agent(runtime: Runtime, tools: Any = TOOLS, approves: bool = True, **settings: Any) -> Agent:
    """An agent, whose held calls come as interruptions."""
    tools = [*tools, *[HostedMCPTool(APPROVALS)] * approves]
    output_type = settings.pop("output_type", None)
    return Agent(
        "house",
        tools=tools,
        model=SteerkitModel(runtime),
        model_settings=ModelSettings(**settings),
        output_type=output_type,
    )


def ran(found: Agent, given: Any) -> Any:
    """A run of it."""
    RAN.clear()
    return asyncio.run(Runner.run(found, given, max_turns=3))


def test_its_loop_runs_what_may_run(runtime: Runtime) -> None:
    """The tool is called, and its result answered; whole, and as a stream; usage says what the cache knew."""
    done = ran(agent(runtime), BALANCE)
    assert (RAN, "1200" in done.final_output) == (["travel 38"], True)
    again = ran(agent(runtime), BALANCE).context_wrapper.usage
    assert 0 < again.input_tokens_details.cached_tokens < again.input_tokens

    async def streamed() -> Any:
        found = Runner.run_streamed(agent(runtime), BALANCE, max_turns=3)
        async for _ in found.stream_events():
            pass
        return found

    assert asyncio.run(streamed()).final_output == done.final_output


@pytest.mark.parametrize("approve", [True, False])
def test_a_held_call_is_an_interruption(runtime: Runtime, approve: bool) -> None:
    """It runs once approved, on record; a refusal is told; a second answer, or one of another call, decides nothing."""
    found = agent(runtime)
    run = ran(found, DOOR)
    (one,) = run.interruptions
    assert (one.name, RAN) == ("unlock_door", [])
    state = run.to_state()
    state.approve(one) if approve else state.reject(one)
    done = ran(found, state)
    assert ["south cellar"] * approve == RAN
    assert not done.interruptions
    told = [item for item in done.to_input_list() if item.get("type") == "function_call_output"]
    assert ["opened"] * approve == [item["output"] for item in told]
    assert runtime.store is not None
    record = [said for said in map(read_content, runtime.store.records()) if isinstance(said, ApprovalRecord)][-1]
    assert record.decision == ("approve" if approve else "refuse")
    answer = next(item for item in done.to_input_list() if item.get("type") == "mcp_approval_response")
    for wrong in ({"approve": not approve}, {"approval_request_id": answer["approval_request_id"][:-1] + "x"}):
        with pytest.raises(ApprovalError, match=r"a decision is made once|no such held call"):
            ran(found, [{"role": "user", "content": DOOR}, {**answer, **wrong}])


def test_without_the_declaration_the_text_names_what_waits(runtime: Runtime) -> None:
    """Nothing runs, and nothing interrupts; so it is where nothing is recorded."""
    for one in (runtime, steerkit.load("tiny", policy="people", audit=False)):
        done = ran(agent(one, approves=False), DOOR)
        assert done.final_output.startswith("[unlock_door waits for a person")
        assert (RAN, done.interruptions) == ([], [])


def test_settings_reach_the_turn(runtime: Runtime, last_turn: Callable[[], Any]) -> None:
    """Sampling, metadata, a forced call and an output type; one that is not known is an error."""
    sampled = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "extra_args": {"top_k": 7, "seed": 3}}
    ran(agent(runtime, (), approves=False, metadata={"ticket": "7"}, **sampled), BALANCE)
    assert last_turn()["sampling"] == SET
    assert last_turn()["metadata"] == {"ticket": "7", "endpoint": "openai-agents"}
    for choice, calls in ((None, []), ("required", ["get_balance"]), ("get_balance", ["get_balance"])):
        items = ran(agent(runtime, [get_balance], tool_choice=choice), PLAIN).new_items
        assert [item.raw_item.name for item in items if item.type == "tool_call_item"] == calls
    with pytest.raises(SettingError, match="verbosity: got 'low'"):
        ran(agent(runtime, verbosity="low"), BALANCE)

    class Number(BaseModel):
        number: int

    assert isinstance(ran(agent(runtime, (), False, output_type=Number), PLAIN).final_output, Number)
