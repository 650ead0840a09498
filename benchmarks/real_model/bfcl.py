"""Training conversations from BFCL: its live and executable tests, without any function of the held-out ones."""

from __future__ import annotations

import ast
import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from conversations import LINE, REFUSALS, Row, calls

from steerkit.chat import openai
from steerkit.lab.prove.suites.ast_match import MAY_BE_LEFT_OUT, Answer
from steerkit.lab.prove.suites.cases import SuiteCase, read_bfcl, tools_of
from steerkit.types import Tool

TESTED: Final = ("simple", "multiple", "parallel", "parallel_multiple", "irrelevance")
"""Categories that are never trained on, nor any function that they declare."""
ROOM: Final = 800
"""Characters of declarations at most, about 220 tokens; longer lists are cut to the wanted tools and some others."""
_WORDS: Final = re.compile(r"\w+")
_MOST_IDLE: Final = 0.25
"""Conversations without a call for each with one."""


class _Asked(NamedTuple):
    source: str
    messages: Sequence[Mapping[str, Any]]
    tools: tuple[Tool, ...]
    calls: list[dict[str, Any]]


def tested_names(cases: Sequence[SuiteCase]) -> frozenset[str]:
    """The functions of the held-out tests."""
    return frozenset(tool.name for case in cases if case.category in TESTED for tool in case.tools)


def tested_values(cases: Sequence[SuiteCase]) -> frozenset[str]:
    """Texts of two words and more that are right answers of the held-out tests, as plain words."""
    found = set()
    for case in cases:
        if case.category in TESTED:
            for answer in case.answers:
                for accepted in answer.arguments.values():
                    found |= {" ".join(_WORDS.findall(text.lower())) for text in _texts(accepted)}
    return frozenset(text for text in found if " " in text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def rows(folder: Path, seed: int, cases: Sequence[SuiteCase] | None = None) -> list[Row]:
    """Conversations from the folder with BFCL's data, in random order; `cases` if they were read already.

    Raises:
        SaeError: the folder is not as BFCL writes it.
    """
    rng = random.Random(f"{seed} bfcl")
    cases = read_bfcl(folder) if cases is None else cases
    tested = tested_names(cases)
    asked = [one for one in (*_live(cases), *_executable(folder)) if _usable(one, tested)]
    found, idle = [], []
    for one in asked:
        wanted = {call["function"]["name"] for call in one.calls}
        shared = random.Random(f"{seed} {sorted(wanted)} {[tool.name for tool in one.tools]}")  # so that prefixes are
        tools = _cut(one, tested, shared)
        if sum(map(_length, tools)) > ROOM:
            continue
        led = shared.random() < 0.8
        (found if one.calls else idle).append(_row(one.source, one.messages, tools, one.calls, led, rng))
        others = [tool for tool in tools if tool.name not in wanted]
        if one.calls and others and rng.random() < 0.25:  # the same question without the tool that serves it
            idle.append(_row("bfcl_without", one.messages, others, [], led, rng))
    rng.shuffle(idle)
    found += idle[: int(len(found) * _MOST_IDLE)]
    rng.shuffle(found)
    return found


def _live(cases: Sequence[SuiteCase]) -> Iterator[_Asked]:
    for case in cases:
        if case.category.startswith("live") and case.wants != "some" and not case.undeclared:
            said = " ".join(str(message["content"]) for message in case.messages)
            made = [_call(answer.name, _chosen(answer, said)) for answer in case.answers]
            yield _Asked(f"bfcl_{case.category}", case.messages, case.tools, made)


def _executable(folder: Path) -> Iterator[_Asked]:
    """The tests that BFCL once ran; their calls are written as Python."""
    for kind in ("simple", "multiple", "parallel", "parallel_multiple"):
        name = f"BFCL_v4_exec_{kind}.json"
        answers = {row["id"]: row["ground_truth"] for row in _lines(folder / "unused_datasets/possible_answer" / name)}
        for row in _lines(folder / "unused_datasets/question" / name):
            tools, undeclared = tools_of(row["id"], row["function"])
            nodes = [ast.parse(text, mode="eval").body for text in answers[row["id"]]]
            if undeclared or any(not isinstance(node, ast.Call) or node.args for node in nodes):
                continue
            try:
                made = [
                    _call(
                        ast.unparse(node.func), {str(k.arg): _plain(ast.literal_eval(k.value)) for k in node.keywords}
                    )
                    for node in nodes
                    if isinstance(node, ast.Call)
                ]
            except ValueError:  # an expression, not a value
                continue
            yield _Asked(f"bfcl_exec_{kind}", row["question"][0], tools, made)


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _usable(one: _Asked, tested: frozenset[str]) -> bool:
    """True for one question in Latin letters whose tools and calls are none of the held-out tests'."""
    roles = [message["role"] for message in one.messages]
    text = json.dumps([*one.messages, one.calls], ensure_ascii=False)
    declared = {tool.name for tool in one.tools}
    wanted = {call["function"]["name"] for call in one.calls}
    if roles not in (["user"], ["system", "user"]) or any(ord(char) >= 0x250 for char in text) or len(text) > 1500:
        return False
    return wanted <= declared and not wanted & tested and bool(declared - tested)


def _cut(one: _Asked, tested: frozenset[str], rng: random.Random) -> list[Tool]:
    """The wanted tools, and others beside them as far as there is room."""
    wanted = {call["function"]["name"] for call in one.calls}
    found = [tool for tool in one.tools if tool.name in wanted]
    most = rng.choice([ROOM // 2, ROOM, ROOM])
    for tool in rng.sample(one.tools, len(one.tools)):
        if tool not in found and tool.name not in tested and sum(map(_length, found)) + _length(tool) < most:
            found.append(tool)
    rng.shuffle(found)
    return found or [tool for tool in one.tools if tool.name not in tested][:1]


def _length(tool: Tool) -> int:
    return len(json.dumps(openai(tool))) - 60


def _row(
    source: str,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Tool],
    made: list[Row],
    led: bool,
    rng: random.Random,
) -> Row:
    asked = [
        {**message, "role": "developer" if message["role"] == "system" else message["role"]} for message in messages
    ]
    if asked[0]["role"] == "user" and led:
        asked.insert(0, {"role": "developer", "content": LINE})
    reply = calls(*made) if made else {"role": "assistant", "content": rng.choice(REFUSALS)}
    return {
        "source": source,
        "tools": [openai(t) for t in tools],
        "messages": [*asked, reply],
        "wordings": [],
        "values": [],
    }


def _call(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def _chosen(answer: Answer, said: str) -> dict[str, Any]:
    """The arguments as a careful model writes them: what may be left out only where the question says it."""
    found = {}
    for key, accepted in answer.arguments.items():
        values = [_plain(value) for value in accepted if value != MAY_BE_LEFT_OUT and value is not None]
        if not values:
            continue
        spoken = [value for value in values if str(value).lower() in said.lower() and not isinstance(value, bool)]
        if MAY_BE_LEFT_OUT in accepted and not spoken:
            continue
        found[key] = (spoken or values)[0]
    return found


def _plain(value: Any) -> Any:
    """One accepted value. Objects have a list of values for each key; 5.0 is 5, which passes for both types."""
    if isinstance(value, Mapping):
        return {k: _plain(v[0] if isinstance(v, list) and v else v) for k, v in value.items() if v not in ([], [""])}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
