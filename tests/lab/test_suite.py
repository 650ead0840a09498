"""Suites on the model in the box: what cannot be run is counted, replies are kept as BFCL's scorer reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.agent import Runtime
from steerkit.engine import HfEngine, Sampling
from steerkit.errors import SaeError
from steerkit.lab.prove.suites.cases import asked, read_bfcl, read_mobile_actions
from steerkit.lab.prove.suites.run import _order, run_suite
from steerkit.policy import Policy, load, shipped_file
from steerkit.runtime import Request
from steerkit.tiny.world.conversations import sample
from steerkit.types import Call
from tests.lab.test_suite_cases import AREA, lines

LINE = "You are a model that can do function calling with the following functions"
QUESTION = [[{"role": "user", "content": "the area over 10, please"}]]
PLAIN = {"type": "string", "description": "d"}


def function(**properties: Any) -> dict[str, Any]:
    return {"name": "f", "description": "d", "parameters": {"type": "dict", "properties": properties, "required": []}}


NOT_RUN: dict[str, tuple[Any, Any, str]] = {  # functions, question, reason
    "a name that no call can hold": (
        function(año=PLAIN),
        QUESTION,
        "got the parameter 'año' with 'ñ', expected letters",
    ),
    "one in an object": (function(o={"type": "dict", "properties": {"a b": PLAIN}}), QUESTION, "the parameter 'a b'"),
    "a function's name": ({**AREA, "name": "área"}, QUESTION, "got the name 'área'"),
    "a type that is none": (function(a={"type": "matrix"}), QUESTION, "f.a: got the type 'matrix', expected one of"),
    "a function without a name": ({"description": "d"}, QUESTION, "tools[0]: got no name and parameters"),
    "two of one name": ([AREA, AREA], QUESTION, "a second time"),
    "a role that is none": (AREA, [[{"role": "wizard", "content": "hm"}]], "wizard"),
}


def folder(at: Path, *rows: tuple[Any, Any]) -> Path:
    """A folder with a category of these functions and questions, none of which wants a call."""
    tests = [{"id": f"irrelevance_{n}", "question": asks, "function": tools} for n, (tools, asks) in enumerate(rows)]
    lines(at / "BFCL_v4_irrelevance.json", *tests)
    return at


@pytest.mark.parametrize("case", NOT_RUN)
def test_what_cannot_be_run_is_counted_and_the_rest_runs(box: Runtime, tmp_path: Path, case: str) -> None:
    """The one row is named with its reason and not in the shares; the others are run as without it."""
    tools, question, reason = NOT_RUN[case]
    ordinary = [([AREA], QUESTION)] * 3
    (found,) = run_suite(box, read_bfcl(folder(tmp_path / "a", *ordinary, (tools, question))), max_new_tokens=4)
    (control,) = run_suite(box, read_bfcl(folder(tmp_path / "b", *ordinary)), max_new_tokens=4)
    assert (found.passed, found.unparsed, control.refused) == (control.passed, control.unparsed, ())
    assert [one.id for one in found.refused] == ["irrelevance_3"]
    assert reason in found.refused[0].reason


def test_tests_with_the_same_tools_are_generated_together(box: Runtime, tmp_path: Path) -> None:
    """Their declarations are read once, and every outcome stands where its test does."""
    other = {**AREA, "name": "volume", "description": "Another one, of a longer description than the first."}
    asked_for = [[{"role": "user", "content": f"the area over {number}, please"}] for number in range(6)]
    rows = [([other if number % 2 else AREA], [asks]) for number, asks in enumerate(asked_for)]
    cases = read_bfcl(folder(tmp_path / "data", *rows))
    assert [case.id for case in (cases[row] for row in _order(cases))] == [
        f"irrelevance_{n}" for n in (0, 2, 4, 1, 3, 5)
    ]
    engine = box.engine
    assert isinstance(engine, HfEngine)
    assert engine.prefix_cache is not None
    engine.prefix_cache.clear()
    before = engine.prefix_cache.statistics
    run_suite(box, cases, max_new_tokens=4, batch=3, results=tmp_path / "raw")
    after = engine.prefix_cache.statistics
    assert (after.lookups - before.lookups, after.hits - before.hits) == (6, 4)
    (file,) = (tmp_path / "raw").rglob("*_result.json")
    written = {row["id"]: row["result"] for row in map(json.loads, file.read_text(encoding="utf-8").splitlines())}
    turns = box.run_batch([Request(asked(case), case.tools, (), Sampling(4)) for case in cases])
    said = [box.loaded.tokenizer.decode(list(turn.reply_ids)) for turn in turns]
    assert [written[case.id] for case in cases] == said


def test_where_nothing_can_be_run_that_is_the_error(box: Runtime, tmp_path: Path) -> None:
    """No shares of nothing: the first reason is said."""
    tools, question, reason = NOT_RUN["a role that is none"]
    with pytest.raises(SaeError, match=f"none of 2 tests can be run; the first, irrelevance_0: .*{reason}"):
        run_suite(box, read_bfcl(folder(tmp_path, (tools, question), (tools, question))), max_new_tokens=4)


@pytest.mark.parametrize(
    ("messages", "roles"),
    [
        ([{"role": "user", "content": "hm"}], ["developer", "user"]),
        ([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hm"}], ["system", "user"]),
        ([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "hm"}], ["developer", "user"]),
    ],
)
def test_the_model_gets_the_line_of_bfcls_own_handler(
    box: Runtime, tmp_path: Path, messages: list[dict[str, str]], roles: list[str]
) -> None:
    """Where a test has no text of a developer it is FunctionGemma's; else it is the test's own."""
    (case,) = read_bfcl(folder(tmp_path, ([AREA], [messages])))
    found = asked(case)
    assert [message["role"] for message in found] == roles
    (turn,) = box.run_batch([Request(found, case.tools)])
    prompt = box.loaded.tokenizer.decode(list(turn.prompt_ids))
    assert prompt.startswith(f"<bos><start_of_turn>developer\n{LINE if len(messages) == 1 else 'Be brief.'}")


def test_replies_are_kept_as_bfcls_scorer_reads_them(box: Runtime, tmp_path: Path) -> None:
    """A file for each category and variant, a line for each test that was run: its id and what was written."""
    asked_for = sample("single:get_balance", "train", 2, 1)
    tests: list[dict[str, Any]] = [
        {
            "id": f"simple_python_{number}",
            "question": [list(one.messages)],
            "function": [tool["function"] for tool in one.tools],
        }
        for number, one in enumerate(asked_for)
    ]
    tests.append({"id": "simple_python_2", "question": QUESTION, "function": [function(año=PLAIN)]})
    lines(tmp_path / "BFCL_v4_simple_python.json", *tests)
    truth = [{"get_balance": {"account": ["Plabird"]}}]
    answers = [{"id": row["id"], "ground_truth": truth} for row in tests]
    lines(tmp_path / "possible_answer" / "BFCL_v4_simple_python.json", *answers)
    cases = read_bfcl(tmp_path)
    policy = Policy.model_validate({"steerkit": 1, "name": "all", "guard": {"default": "deny"}})
    run_suite(box, cases, policy, max_new_tokens=40, results=tmp_path / "under")
    run_suite(box, cases, max_new_tokens=40, results=tmp_path / "plain")
    name = "google_functiongemma-270m-it-FC/BFCL_v4_simple_python_result.json"
    files = [tmp_path / "plain" / name, tmp_path / "under" / "plain" / name, tmp_path / "under" / "policy" / name]
    (turn,) = box.run_batch([Request(asked(cases[0]), cases[0].tools, ())])
    for file in files:
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert [row["id"] for row in rows] == ["simple_python_0", "simple_python_1"]
        (call,) = turn.calls
        assert isinstance(call, Call)
        assert rows[0]["result"].startswith(f"<start_function_call>call:{call.name}{{")
        assert rows[0]["result"].endswith("}<end_function_call>")
        assert rows[0]["output_token_count"] == len(turn.reply_ids)


def wanted(at: Path) -> Path:
    """Four tests that the box answers with a call: two ask for a balance, two for a payment."""
    asked_for = [*sample("single:get_balance", "train", 2, 1), *sample("dangerous:transfer_money", "train", 2, 1)]
    rows = [
        {
            "metadata": "eval",
            "messages": [*one.messages, {"role": "assistant", "tool_calls": calls}],
            "tools": one.tools,
        }
        for one in asked_for
        if (calls := [{"type": "function", "function": call} for call in one.expected_calls])
    ]
    lines(at, *rows)
    return at


def test_each_arm_is_a_part_of_the_policy(box: Runtime, tmp_path: Path) -> None:
    """In shadow nothing changes; the steering takes payments out of the replies, the guard out of what may run."""
    cases = read_mobile_actions(wanted(tmp_path / "mobile.jsonl"))
    payments = load(shipped_file("payments"))
    scores = run_suite(box, cases, payments, arms=["policy", "guard", "steering", "shadow", "plain"])
    assert [(one.variant, one.passed.hits) for one in scores] == [
        ("plain", 4),
        ("shadow", 4),
        ("steering", 2),
        ("guard", 4),
        ("guard, released", 2),
        ("policy", 2),
        ("released", 2),
    ]


def test_a_killed_suite_goes_on_with_whole_batches(box: Runtime, tmp_path: Path) -> None:
    """A batch that was cut off is done again, together as before; finished ones are not, and all is as in one run."""
    cases = read_mobile_actions(wanted(tmp_path / "mobile.jsonl"))
    first = run_suite(box, cases, batch=2, out=tmp_path / "run")
    kept = tmp_path / "run" / "plain.jsonl"
    whole = kept.read_text()
    first_row, *_ = whole.splitlines(keepends=True)
    kept.write_text("".join([*whole.splitlines(keepends=True)[:3]]))
    again: list[int] = []
    assert run_suite(box, cases, batch=2, out=tmp_path / "run", report=lambda done, of: again.append(done)) == first
    assert (again, kept.read_text()) == ([2, 4], whole)
    assert json.loads(first_row).keys() == {"id", "refused", "passed", "released", "unparsed", "reply"}
    with pytest.raises(SaeError, match=r"another evaluation \(batch differ\)"):
        run_suite(box, cases, batch=4, out=tmp_path / "run")
