"""LangChain's own library on the box: a chat model, an agent's loop, settings and their end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pytest
from pydantic import BaseModel

import steerkit
from steerkit.agent import Runtime
from steerkit.audit import ApprovalRecord, Approvals, read_content
from steerkit.errors import SettingError
from steerkit.tiny.tools import tool as of_the_box
from tests.integrations.conftest import BALANCE, DOOR, PLAIN, SET

pytest.importorskip("langchain")
from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from steerkit.integrations.langchain import ChatSteerkit, HeldCalls

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


def test_text_ends_at_a_stop(runtime: Runtime) -> None:
    """The control says it all."""
    model = ChatSteerkit(runtime=runtime)
    whole, cut = model.invoke(BALANCE).content, model.invoke(BALANCE, stop=["no tool"]).content
    assert whole.partition("no tool")[0] == cut != whole


@pytest.mark.parametrize("choice", ["any", "required", True, "get_balance"])
def test_a_call_is_made_where_one_is_wanted(runtime: Runtime, choice: Any) -> None:
    """A free reply has none; `none` keeps out that of a request which leads to one."""
    free, forced = (
        ChatSteerkit(runtime=runtime).bind_tools([get_balance], tool_choice=one).invoke(PLAIN) for one in (None, choice)
    )
    assert (free.tool_calls, [one["name"] for one in forced.tool_calls]) == ([], ["get_balance"])
    assert not ChatSteerkit(runtime=runtime).bind_tools(TOOLS, tool_choice="none").invoke(BALANCE).tool_calls


def test_structured_output_is_langchains_own(runtime: Runtime) -> None:
    """Its way over a tool that must be called, and ours over a format; and one call where two were asked for."""

    class Door(BaseModel):
        """A door."""

        number: int
        side: Literal["north", "south"]

    model = ChatSteerkit(runtime=runtime)
    assert isinstance(model.with_structured_output(Door).invoke(PLAIN), Door)
    form = {"type": "json_schema", "json_schema": {"schema": Door.model_json_schema()}}
    assert Door.model_validate_json(model.invoke(PLAIN, response_format=form, max_tokens=200).content)
    both = "get the weather of Borsiton and play Plabird"
    told = [of_the_box(name) for name in ("play_music", "get_weather", "run_command")]
    calls = [model.bind_tools(told, parallel_tool_calls=one).invoke(both).tool_calls for one in (None, False)]
    assert [len(one) for one in calls] == [2, 1]


class Graph:
    """An agent with a checkpointer, whose held calls interrupt it."""

    def __init__(self, runtime: Runtime, saver: Any = None) -> None:
        self.saver = saver or InMemorySaver()
        model, middleware = ChatSteerkit(runtime=runtime), [HeldCalls(runtime)]
        self.agent = create_agent(model, TOOLS, middleware=middleware, checkpointer=self.saver)

    def ask(self, text: str) -> Any:
        """Begin a conversation."""
        return self._go({"messages": [{"role": "user", "content": text}]})

    def resume(self, answer: Any) -> Any:
        """Go on with an answer."""
        return self._go(Command(resume=answer))

    def _go(self, given: Any) -> Any:
        return self.agent.invoke(given, {"configurable": {"thread_id": "1"}})


def waiting(state: Any) -> list[Any]:
    """The held calls that interrupt a graph."""
    (one,) = state["__interrupt__"]
    held: list[Any] = one.value["held"]
    return held


def test_a_held_call_interrupts_a_graph_and_runs_once_approved(runtime: Runtime) -> None:
    """In a second graph on the first's checkpoints; the decision is on record, the call runs once, and is answered."""
    RAN.clear()
    graph = Graph(runtime)
    (held,) = waiting(graph.ask(DOOR))
    assert (held["name"], held["arguments"], RAN) == ("unlock_door", {"door": "south cellar"}, [])
    done = Graph(runtime, graph.saver).resume({held["id"]: {"approve": True, "by": "ann"}})
    assert RAN == ["south cellar"]
    assert [one.type for one in done["messages"]] == ["human", "ai", "tool", "ai"]
    assert "__interrupt__" not in done
    assert runtime.store is not None
    record = [one for one in map(read_content, runtime.store.records()) if isinstance(one, ApprovalRecord)][-1]
    assert (record.decision, record.by, record.call.name) == ("approve", "ann", "unlock_door")


def test_a_refused_call_does_not_run_and_the_model_is_told(runtime: Runtime) -> None:
    """By the answer, and by whoever decides elsewhere: then any answer goes on."""
    RAN.clear()
    graph = Graph(runtime)
    (held,) = waiting(graph.ask(DOOR))
    done = graph.resume({held["id"]: {"approve": False, "note": "not today"}})
    error = next(one for one in done["messages"] if one.type == "tool")
    assert "refused: not today" in error.content
    assert error.status == "error"
    other = Graph(runtime)
    (held,) = waiting(other.ask(DOOR))
    assert runtime.store is not None
    Approvals(runtime.store).decide(held["id"], approve=True, by="bob")
    assert RAN == []
    other.resume(True)
    assert RAN == ["south cellar"]


def test_an_answer_decides_on_the_very_call_and_no_other(runtime: Runtime) -> None:
    """Yes, a wrong digest and half an answer ask again; a call edited in the checkpoint runs as it was recorded."""
    RAN.clear()
    graph = Graph(runtime)
    (held,) = waiting(graph.ask(DOOR))
    for answer in (True, {held["id"][:-1] + "x": True}, {held["id"]: {"approve": "yes"}}):
        assert [one["id"] for one in waiting(graph.resume(answer))] == [held["id"]]
    assert RAN == []
    config = {"configurable": {"thread_id": "1"}}
    last = graph.agent.get_state(config).values["messages"][-1]
    last.response_metadata["steerkit"]["held"][0]["arguments"] = {"door": "vault"}
    graph.resume({held["id"]: True})
    assert RAN == ["south cellar"]


def test_a_graph_waits_only_where_a_decision_is_kept(runtime: Runtime) -> None:
    """Without a store it is refused, and a call that waited too long is not run; benign calls go on as ever."""
    RAN.clear()
    with pytest.raises(SettingError, match="without an audit store"):
        HeldCalls(steerkit.load("tiny", audit=False))
    agent = create_agent(ChatSteerkit(runtime=runtime), TOOLS, middleware=[HeldCalls(runtime, seconds=0.001)])
    late = agent.invoke({"messages": [{"role": "user", "content": DOOR}]})["messages"]
    assert "nobody decided" in next(one for one in late if one.type == "tool").content
    done = Graph(runtime).ask(BALANCE)["messages"]
    assert [one.type for one in done] == ["human", "ai", "tool", "ai"]
    assert RAN == ["travel 38"]
