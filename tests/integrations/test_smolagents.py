"""smolagents' own library on the box: an agent's steps, settings and their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.errors import SettingError
from tests.integrations.conftest import BALANCE, DOOR, SET

pytest.importorskip("smolagents")
from smolagents import ChatMessage, LogLevel, MessageRole, ToolCallingAgent, tool

from steerkit.integrations.smolagents import SteerkitModel

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
RAN: list[str] = []


@tool  # type: ignore[untyped-decorator]  # smolagents' own
def get_balance(account: str) -> str:
    """Show a balance.

    Args:
        account: Account
    """
    RAN.append(account)
    return "1200 dollars"


@tool  # type: ignore[untyped-decorator]  # smolagents' own
def unlock_door(door: str) -> str:
    """Unlock a door.

    Args:
        door: Door
    """
    RAN.append(door)
    return "opened"


def test_an_agent_gets_only_calls_that_may_run(runtime: Runtime) -> None:
    """The benign call runs and is answered about; of the held one the agent says why it was not run."""
    RAN.clear()
    agent = ToolCallingAgent([get_balance, unlock_door], SteerkitModel(runtime), verbosity_level=LogLevel.OFF)
    assert "1200" in str(agent.run(BALANCE))
    assert str(agent.run(DOOR)).startswith("hold: ")
    assert RAN == ["travel 38"]


def test_settings_reach_the_turn_and_its_end_reaches_smolagents(runtime: Runtime, last_turn: Callable[[], Any]) -> None:
    """Those of the model and of the call, and the tokens; a misspelt one is refused."""
    asked = [ChatMessage(MessageRole.USER, [{"type": "text", "text": f"New task:\n{BALANCE}"}])]
    model = SteerkitModel(runtime, max_tokens=5, temperature=0.5, top_p=0.9)
    made, turn = model.generate(asked, tools_to_call_from=[get_balance], top_k=7, seed=3), last_turn()
    assert turn["sampling"] == SET
    assert (made.token_usage.input_tokens, made.token_usage.output_tokens) == (len(turn["prompt_ids"]), 5)
    assert made.raw.finish == "length"
    with pytest.raises(SettingError, match="temprature"):
        SteerkitModel(runtime, temprature=1).generate(asked)
