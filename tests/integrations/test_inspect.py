"""Inspect's own library on the box: settings, stop reasons, usage, limits, cancelling, and the approver's decisions."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.decisions import DECISIONS as ALL
from steerkit.errors import SettingError
from tests.integrations.conftest import BALANCE, DOOR, PLAIN, SET

pytest.importorskip("inspect_ai")
from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.approval import ApprovalPolicy
from inspect_ai.dataset import Sample
from inspect_ai.model import (
    ChatMessageAssistant,
    ChatMessageUser,
    GenerateConfig,
    Model,
    ResponseSchema,
    get_model,
)
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import ToolCall, ToolDef, ToolFunction
from inspect_ai.util import json_schema

from steerkit.integrations.inspect import SteerkitAPI, judged
from steerkit.integrations.inspect.approver import DECISIONS
from steerkit.integrations.inspect.settings import _warn

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


async def get_balance(account: str) -> str:
    """Show a balance.

    Args:
        account: Account
    """
    return "1200 dollars"


async def unlock_door(door: str) -> str:
    """Unlock a door.

    Args:
        door: Door
    """
    return "opened"


TOOLS = [ToolDef(get_balance), ToolDef(unlock_door)]


@pytest.fixture
def model(runtime: Runtime) -> Model:
    """It, as Inspect knows it."""
    return Model(SteerkitAPI("tiny", runtime=runtime), GenerateConfig())


def said(model: Model, text: str, tools: Any = TOOLS, tool_choice: Any = None, **settings: Any) -> Any:
    """What comes of one generation."""
    config = GenerateConfig(**settings)
    return asyncio.run(model.generate([ChatMessageUser(content=text)], tools, tool_choice, config))


def test_a_call_that_may_run_goes_out_and_says_its_record(model: Model, last_turn: Any) -> None:
    """Stop reason, usage, the verdict and the record's id, which the call's id begins with."""
    made, turn = said(model, BALANCE), last_turn()
    (call,) = made.message.tool_calls
    assert (call.function, call.arguments, made.stop_reason) == ("get_balance", {"account": "travel 38"}, "tool_calls")
    assert made.metadata["steerkit"]["verdicts"][0]["decision"] == "allow"
    assert call.id == f"{made.metadata['steerkit']['record']}.0"
    counted = (len(turn["prompt_ids"]), len(turn["reply_ids"]))
    assert (made.usage.input_tokens, made.usage.output_tokens, made.usage.total_tokens) == (*counted, sum(counted))


def test_a_held_call_stays_here(model: Model) -> None:
    """Inspect gets no call, a filter as the reason, and what the guard said."""
    made = said(model, DOOR)
    assert (made.message.tool_calls, made.stop_reason) == (None, "content_filter")
    assert made.metadata["steerkit"]["verdicts"][0]["decision"] == "hold"


def test_settings_reach_the_turn(model: Model, last_turn: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Those that are known; the others are warned of once."""
    _warn.cache_clear()
    made = said(model, BALANCE, max_tokens=5, temperature=0.5, top_p=0.9, top_k=7, seed=3)
    assert (last_turn()["sampling"], made.stop_reason) == (SET, "max_tokens")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            said(model, BALANCE, max_tokens=2, frequency_penalty=0.5, num_choices=2, timeout=60)
    warned = [one.message for one in caplog.records if "steerkit does not support" in one.message]
    names = ("frequency_penalty", "num_choices")
    assert warned == [f"steerkit does not support '{name}': it is left out" for name in names]


def test_text_ends_at_a_stop_sequence(model: Model) -> None:
    """What comes after it is left out; the control says it all."""
    whole, cut = said(model, BALANCE, ()), said(model, BALANCE, (), stop_seqs=["no tool"])
    assert whole.completion.partition("no tool")[0] == cut.completion != whole.completion
    assert cut.stop_reason == "stop"


def test_a_prompt_that_leaves_no_room_is_a_stop_reason(model: Model) -> None:
    """Not an error that ends the evaluation."""
    made = said(model, "word " * 4000, ())
    assert made.stop_reason == "model_length"
    assert "which leaves no room for a reply" in made.completion


def test_calls_are_made_where_they_are_wanted(model: Model) -> None:
    """`none` keeps out one that is made freely, `any` and a tool's name bring one that is not; a schema holds text."""
    assert said(model, BALANCE, TOOLS, "none").message.tool_calls is None
    assert said(model, PLAIN, TOOLS[:1]).message.tool_calls is None
    for choice in ("any", ToolFunction("get_balance")):
        (call,) = said(model, PLAIN, TOOLS[:1], choice).message.tool_calls
        assert call.function == "get_balance"
    schema = ResponseSchema(name="number", json_schema=json_schema(int))
    assert float(said(model, PLAIN, (), response_schema=schema, max_tokens=50).completion).is_integer()


def test_a_cancelled_generation_frees_the_model(runtime: Runtime) -> None:
    """It ends within a token, its hooks are off, and the next one is what it was."""

    async def cancelled() -> None:
        task = asyncio.ensure_future(
            model.generate([ChatMessageUser(content=BALANCE)], TOOLS, config=GenerateConfig(max_tokens=200))
        )
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    model = Model(SteerkitAPI("tiny", runtime=runtime), GenerateConfig())
    before = said(model, BALANCE).message.tool_calls[0].arguments
    asyncio.run(cancelled())
    assert said(model, BALANCE).message.tool_calls[0].arguments == before
    assert not any(module._forward_hooks for module in runtime.loaded.model.modules())


def test_an_evaluation_runs_with_approver_and_limits(model: Model, tmp_path: Path) -> None:
    """The benign call runs and is answered; a limit of tokens ends a sample by the usage that is told."""

    def run(**limits: Any) -> Any:
        task = Task(
            [Sample(BALANCE)],
            solver=[use_tools(*(one.as_tool() for one in TOOLS)), generate()],
            approval=[ApprovalPolicy(judged("people"), "*")],
        )
        (log,) = evaluate(task, model, display="none", log_dir=str(tmp_path), **limits)
        (sample,) = log.samples
        return sample

    sample = run()
    assert "1200" in sample.output.completion
    assert [one.decision for one in sample.events if one.event == "approval"] == ["approve"]
    limited = run(token_limit=20)
    assert limited.limit.type == "token"


def test_every_decision_of_the_guard_is_one_of_inspects(tmp_path: Path) -> None:
    """Each decision has its row, and each rule's call gets it."""
    assert DECISIONS.keys() == ALL.keys()
    rules = ("allow", "flag", "hold", "deny", "handoff", "stop")
    lines = [f"    - {{name: {rule}, tool: {rule}_it, then: {rule}}}" for rule in rules]
    path = tmp_path / "each.yaml"
    path.write_text("\n".join(["steerkit: 1", "name: each", "guard:", "  default: deny", "  rules:", *lines]))
    calls = [ToolCall(str(number), f"{rule}_it", {}) for number, rule in enumerate((*rules, "unknown"))]
    history: list[Any] = [ChatMessageAssistant(content="", tool_calls=calls)]
    found = [asyncio.run(judged(str(path))("", call, None, history)).decision for call in calls]  # type: ignore[arg-type]
    assert found == ["approve", "approve", "escalate", "reject", "terminate", "terminate", "reject"]


def test_inspect_finds_the_provider_by_name_and_refuses_misspelt_options(runtime: Runtime) -> None:
    """`get_model("steerkit/tiny")`; whatever `steerkit.load` does not know is an error."""
    model = get_model("steerkit/tiny", policy="payments", audit=False, memoize=False)
    assert type(model.api).__name__ == "SteerkitAPI"  # the name itself is Inspect's factory of it
    with pytest.raises(TypeError, match="polcy"):
        get_model("steerkit/tiny", polcy="x", memoize=False)
    with pytest.raises(SettingError, match="got policy beside a runtime"):
        SteerkitAPI("tiny", runtime=runtime, policy="x")
