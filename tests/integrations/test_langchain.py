"""LangChain's own library on the box: a chat model, an agent's loop, settings and their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.errors import SettingError
from tests.integrations.conftest import BALANCE, DOOR, SET

pytest.importorskip("langchain")
from langchain.agents import create_agent
from langchain_core.tools import tool

from steerkit.integrations.langchain import ChatSteerkit

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
RAN: list[str] = []


@tool
def get_balance(account: str) -> str:
    """Show a balance."""
    RAN.append(account)
    return "1200 dollars"


@tool
def unlock_door(door: str) -> str:
    """Unlock a door."""
    RAN.append(door)
    return "opened"


TOOLS = [get_balance, unlock_door]


def test_an_agent_gets_only_calls_that_may_run(runtime: Runtime) -> None:
    """LangChain's own loop runs the released call and answers; of the held one it says why it was not run."""
    RAN.clear()
    agent = create_agent(ChatSteerkit(runtime=runtime), TOOLS)
    done = agent.invoke({"messages": [{"role": "user", "content": BALANCE}]})["messages"]
    assert [one.type for one in done] == ["human", "ai", "tool", "ai"]
    assert "1200" in done[-1].content
    held = agent.invoke({"messages": [{"role": "user", "content": DOOR}]})["messages"][-1]
    assert held.content.startswith("hold: ")
    assert held.response_metadata["steerkit"]["verdicts"][0]["decision"] == "hold"
    assert RAN == ["travel 38"]


def test_settings_reach_the_turn_and_its_end_reaches_langchain(runtime: Runtime, last_turn: Callable[[], Any]) -> None:
    """Settings, usage, finish reason and the record's id; a misspelt one is refused."""
    model = ChatSteerkit(runtime=runtime).bind_tools(TOOLS, max_tokens=5, temperature=0.5, top_p=0.9)
    made, turn = model.invoke(BALANCE, top_k=7, seed=3), last_turn()
    assert turn["sampling"] == SET
    assert made.usage_metadata["input_tokens"] == len(turn["prompt_ids"])
    assert (made.usage_metadata["output_tokens"], made.response_metadata["finish_reason"]) == (5, "length")
    assert made.response_metadata["steerkit"]["record"]
    with pytest.raises(SettingError, match="temprature"):
        ChatSteerkit(runtime=runtime).invoke(BALANCE, temprature=1)


def test_text_ends_at_a_stop_and_no_call_is_forced(runtime: Runtime) -> None:
    """The control says it all; a wanted tool is refused, none declares none."""
    model = ChatSteerkit(runtime=runtime)
    whole, cut = model.invoke(BALANCE).content, model.invoke(BALANCE, stop=["no tool"]).content
    assert whole.partition("no tool")[0] == cut != whole
    with pytest.raises(SettingError, match="tool_choice: got 'get_balance', but no call can be forced"):
        model.bind_tools(TOOLS, tool_choice="get_balance")
    assert not model.bind_tools(TOOLS, tool_choice="none").invoke(BALANCE).tool_calls
