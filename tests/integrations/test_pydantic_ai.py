"""pydantic-ai's own library on the box: settings, usage, history, and a held call that is deferred to a person."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from steerkit.agent import Runtime
from tests.integrations.conftest import BALANCE, DOOR, PLAIN, SET

pytest.importorskip("pydantic_ai")
from pydantic_ai import (
    Agent,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRequest,
    ModelResponse,
    RetryPromptPart,
    SystemPromptPart,
    TextPart,
    Tool,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.direct import model_request_sync
from pydantic_ai.models import ModelRequestParameters

from steerkit.integrations.pydantic_ai import guard, steered
from steerkit.integrations.pydantic_ai.messages import openai

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
RAN: list[str] = []


@pytest.fixture(autouse=True)
def _own_loop() -> Iterator[None]:
    """An event loop that is closed again: `run_sync` makes one where the thread has none, and leaves it there."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


def get_balance(account: str) -> str:
    """Show a balance.

    Args:
        account: Account
    """
    RAN.append(account)
    return "1200 dollars"


def unlock_door(door: str) -> str:
    """Unlock a door.

    Args:
        door: Door
    """
    RAN.append(door)
    return "opened"


def agent(runtime: Runtime) -> Agent[None, Any]:
    return Agent(
        steered(runtime),
        tools=[get_balance, unlock_door],
        capabilities=[guard()],
        output_type=[str, DeferredToolRequests],
    )


def test_a_released_call_runs_and_a_held_one_is_deferred(runtime: Runtime) -> None:
    """The person's answer decides: approved it runs, refused it does not; each names its record."""
    RAN.clear()
    assert "1200" in agent(runtime).run_sync(BALANCE).output
    assert RAN == ["travel 38"]
    run = agent(runtime).run_sync(DOOR)
    (asked,) = run.output.approvals
    (said,) = run.output.metadata.values()
    assert (asked.tool_name, said["verdict"], bool(said["record"]), RAN) == ("unlock_door", "hold", True, ["travel 38"])
    for approved, ran in ((False, ["travel 38"]), (True, ["travel 38", "south cellar"])):
        decided = DeferredToolResults(approvals={asked.tool_call_id: approved})
        agent(runtime).run_sync(message_history=run.all_messages(), deferred_tool_results=decided)
        assert ran == RAN


def test_an_output_type_is_called(runtime: Runtime) -> None:
    """An agent that takes no text gets its output by a call, where the model would answer with text."""

    class Door(BaseModel):
        """A door."""

        number: int
        side: Literal["north", "south"]

    assert isinstance(Agent(steered(runtime), output_type=Door).run_sync(PLAIN).output, Door)
    assert isinstance(Agent(steered(runtime)).run_sync(PLAIN).output, str)


@pytest.mark.parametrize(
    ("choice", "calls"), [(None, 0), ("auto", 0), ("none", 0), ("required", 1), (["get_balance"], 1)]
)
def test_a_call_is_made_where_one_is_wanted(runtime: Runtime, choice: Any, calls: int) -> None:
    """As pydantic-ai says it; without a choice the model answers."""
    given = {} if choice is None else {"tool_choice": choice}
    tools = [Tool(get_balance).tool_def]
    made = model_request_sync(
        steered(runtime),
        [ModelRequest.user_text_prompt(PLAIN)],
        model_settings={**given, "parallel_tool_calls": False},
        model_request_parameters=ModelRequestParameters(function_tools=tools),
    )
    assert [one.tool_name for one in made.tool_calls] == ["get_balance"] * calls


def test_settings_reach_the_turn_and_its_end_reaches_pydantic_ai(
    runtime: Runtime, last_turn: Callable[[], Any]
) -> None:
    """Settings, finish reason, usage and the record's id; instructions are told, what is unknown is warned of."""
    settings: Any = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "timeout": 9}
    with pytest.warns(UserWarning, match="does not support the setting 'logit_bias': it is left out") as warned:
        run = Agent(steered(runtime), instructions="Be brief.").run_sync(
            BALANCE, model_settings={**settings, "logit_bias": {}}
        )
    assert len(warned) == 1
    last, turn = run.all_messages()[-1], last_turn()
    assert turn["sampling"] == SET
    assert [message["role"] for message in turn["messages"]] == ["system", "user"]
    assert isinstance(last, ModelResponse)
    told = (last.finish_reason, last.usage.input_tokens, last.usage.output_tokens)
    assert told == ("length", len(turn["prompt_ids"]), 5)
    assert last.provider_response_id


@pytest.mark.filterwarnings("ignore:`RetryPromptPart` is deprecated")  # histories that were saved have it
def test_a_history_is_told_in_order() -> None:
    """Parts become messages; results and retries name their call."""
    history = [
        ModelRequest([SystemPromptPart("Be kind."), UserPromptPart("hi")]),
        ModelResponse([TextPart("one "), ToolCallPart("f", {"a": 1}, "c1"), ToolCallPart("g", "{}", "c2")]),
        ModelRequest([ToolReturnPart("f", "done", "c1"), RetryPromptPart("not so", tool_name="g", tool_call_id="c2")]),
        ModelResponse([TextPart("well")]),
        ModelRequest([RetryPromptPart("again")]),
    ]
    told = [said for message in history for said in openai(message)]
    assert [one["role"] for one in told] == ["system", "user", "assistant", "tool", "tool", "assistant", "user"]
    assert [call["id"] for call in told[2]["tool_calls"]] == [told[3]["tool_call_id"], told[4]["tool_call_id"]]
    assert (told[2]["content"], told[5]["content"]) == ("one ", "well")
