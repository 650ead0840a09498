"""Loops whose tools have types of their own, come in a list, or answer at length."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import re
from typing import Any

from steerkit.chat import render
from tests.agent.scripted import END, Script, calling, ruled, user

MADE: list[Any] = []


@dataclasses.dataclass
class Seat:
    """Where one sits."""

    row: int


def book(day: datetime.date, seat: Seat | None = None) -> str:
    """Book.

    Args:
        day: When
        seat: Where
    """
    MADE.append((day, seat))
    return "done"


async def book_later(day: datetime.date) -> str:
    """Book.

    Args:
        day: When
    """
    MADE.append(day)
    return "done"


def test_tools_get_their_own_types() -> None:
    """A date and a dataclass arrive as such, in both loops; what fits the schema but is no date is an error result."""
    MADE.clear()
    run = Script(ruled()).say(calling("book", day="2026-01-31", seat={"row": 3}), END).loop(user(), [book])
    assert ([one.status for one in run.executions], MADE) == (["ok"], [(datetime.date(2026, 1, 31), Seat(3))])
    wrong = Script(ruled()).say(calling("book", day="soon"), END).loop(user(), [book])
    assert [one.status for one in wrong.executions] in (["error"], ["denied"])
    MADE.clear()
    script = Script(ruled()).say(calling("book_later", day="2026-01-31"), END)
    assert [one.status for one in asyncio.run(script.aloop(user(), [book_later])).executions] == ["ok"]
    assert [datetime.date(2026, 1, 31)] == MADE


def test_functions_of_a_list_of_declarations_are_found_by_name() -> None:
    """Google's form holds several tools in one entry of the list."""
    listed = {
        "functionDeclarations": [{"name": name, "parameters": {"type": "OBJECT", "properties": {}}} for name in "ab"]
    }
    functions = {"a": lambda: 1, "b": lambda: 2}
    run = Script(ruled()).say(calling("b"), END).loop(user(), [listed], execute=functions)
    assert [one.result for one in run.executions] == [{"value": 2}]


def test_results_are_bounded_in_tokens() -> None:
    """A result of 100 characters that takes 400 tokens is cut; one of 100 letters is not."""

    def answer(text: str) -> tuple[str, int]:
        script = Script(ruled()).say(calling("a"), END)
        tool = {"name": "a", "parameters": {"type": "object", "properties": {}}}
        run = script.loop(user(), [tool], execute={"a": lambda: text}, max_result=100)
        (one,) = run.executions
        return str(one.result["value"]), len(render(script.loaded.tokenizer, run.messages).ids)

    letters, plain = answer("x" * 100)
    cut, long = answer("\U0001f600" * 100)
    assert letters == "x" * 100
    assert re.search(r"\[cut after \d+ of 100 characters\]|\[cut after \d+ characters\]$", cut)
    assert long <= plain + 64
