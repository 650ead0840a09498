"""Values are shown in one short line, and a misspelt argument is one line that names the nearest."""

from __future__ import annotations

from typing import Any

import pytest

import steerkit
from steerkit.agent import Approval, Held, Pending, Run, Runtime
from steerkit.errors import SettingError, SteerkitError
from steerkit.runtime import Request
from steerkit.tiny.demo_requests import CASES
from steerkit.types import Call, MalformedCall, Turn
from tests.agent.scripted import END, Script, calling, declared, ruled, user

BENIGN = {case.name: case for case in CASES}["benign"]


def shown(box: Runtime) -> dict[str, Any]:
    """One of each, as large as they come."""
    big = {"rows": [{"text": "x" * 500, "n": n} for n in range(200)]}
    turn = box.run(BENIGN.messages, BENIGN.tools)
    cut = box.run(BENIGN.messages, BENIGN.tools, max_new_tokens=6)
    run = (
        Script(ruled())
        .say(calling(*"aaaa", x="y" * 60), "z" * 100 + END)
        .loop(user("u" * 300), [declared("a")], execute={"a": lambda **_: big}, max_result=300)
    )
    asked: list[Held] = []
    waits = (
        Script(ruled(b="hold"))
        .say(calling("b", "b", x="\x1b[31m\u202e" * 5))
        .loop(user("u" * 300), [declared("b")], execute={"b": print})
    )
    Script(ruled(b="hold")).say(calling("b", x="y" * 200), END).loop(
        user(), [declared("b")], execute={"b": print}, approve=lambda held: asked.append(held) or False
    )
    assert isinstance(waits.pending, Pending)
    return {
        "Turn": turn,
        "cut Turn": cut,
        "Trace": turn.trace,
        "TopK": turn.trace.top[0] if turn.trace.top else turn.trace,
        "Call": turn.calls[0],
        "MalformedCall": cut.calls[0],
        "Run": run,
        "waiting Run": waits,
        "Execution": run.executions[0],
        "Held": asked[0],
        "Pending": waits.pending,
        "Asked": waits.pending.calls[0],
    }


def test_values_are_shown_in_one_short_line(box: Runtime) -> None:
    """No arrays of tokens and no control characters, and what matters stands there."""
    found = shown(box)
    for name, value in found.items():
        said = repr(value)
        assert len(said) <= 200, (name, said)
        assert said.isprintable(), (name, said)
        assert said.count(", 1") < 10, (name, said)
    turn, run = found["Turn"], found["Run"]
    assert isinstance(turn, Turn)
    assert isinstance(run, Run)
    assert repr(turn) == f"Turn(tool_call, record {turn.record_id}, get_balance(account='travel 38'): allow)"
    assert repr(found["Call"]) == "get_balance(account='travel 38')"
    assert "was cut at max_new_tokens=6" in repr(found["MalformedCall"])
    assert repr(run).startswith("Run(answer, 2 turns, a(x='yyy")
    assert "call_1, b(x='yyy" in repr(found["Held"])
    assert repr(Approval(True)) == "Approval(approved=True, by='', note='')"


NEAREST: dict[str, Any] = {
    "polcy": lambda runtime: steerkit.load("tiny", polcy=()),  # type: ignore[call-arg]
    "audt": lambda runtime: steerkit.load(audt=False),  # type: ignore[call-arg]
    "prompt_lenght": lambda runtime: steerkit.attach(runtime.loaded.model, runtime.saes, prompt_lenght=3),  # type: ignore[call-arg]
    "temprature": lambda runtime: runtime.run(user(), temprature=1),
    "max_new_token": lambda runtime: list(runtime.stream(user(), max_new_token=1)),
    "policies": lambda runtime: runtime.run(user(), policies=()),
    "max_turn": lambda runtime: runtime.loop(user(), max_turn=1),
    "aprove": lambda runtime: runtime.loop(user(), aprove=print),
    "metdata": lambda runtime: runtime.run(user(), metdata={}),
    "tool": lambda runtime: Request(user(), tool=[]),  # type: ignore[call-arg]
    "sampler": lambda runtime: Request(user(), sampler=None),  # type: ignore[call-arg]
}
MEANT = {
    "polcy": "policy",
    "audt": "audit",
    "prompt_lenght": "prompt_length",
    "temprature": "temperature",
    "max_new_token": "max_new_tokens",
    "policies": "policy",
    "max_turn": "max_turns",
    "aprove": "approve",
    "metdata": "metadata",
    "tool": "tools",
    "sampler": "sampling",
}


@pytest.mark.parametrize("name", NEAREST)
def test_a_misspelt_argument_names_the_nearest(name: str, box: Runtime) -> None:
    """In one line, as one of steerkit's errors and as Python's own kind for it."""
    error = f"unexpected keyword argument '{name}'; did you mean '{MEANT[name]}'"
    with pytest.raises(SteerkitError, match=error) as caught:
        NEAREST[name](box)
    assert isinstance(caught.value, TypeError)
    assert "\n" not in str(caught.value)


def test_arguments_that_are_missing_or_too_many_are_one_line(box: Runtime) -> None:
    """As are names like nothing that there is; the right ones work."""
    cases: list[tuple[Any, str]] = [
        (lambda: Request(), "Request: missing a required argument: 'messages'"),  # type: ignore[call-arg]
        (lambda: box.run(), "run: missing a required argument: 'messages'"),  # type: ignore[call-arg]
        (lambda: box.resume(1, True), "resume: missing a required"),  # type: ignore[call-arg, arg-type]
        (lambda: steerkit.load("tiny", None, None, 4), "load: too many positional arguments"),  # type: ignore[misc]
        (lambda: box.run(user(), zzzzzz=1), "unexpected keyword argument 'zzzzzz'; expected one of: messages, tools"),
    ]
    for wrong, error in cases:
        with pytest.raises(SettingError, match=error):
            wrong()
    assert Request(user()).messages == user()
    assert isinstance(box.run(BENIGN.messages, BENIGN.tools, max_new_tokens=1).calls[0], (Call, MalformedCall))
