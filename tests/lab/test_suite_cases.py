"""Suites as they lie on disk become tests with JSON Schemas and answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steerkit.errors import SaeError
from steerkit.lab.prove.suites.ast_match import Answer
from steerkit.lab.prove.suites.cases import SuiteCase, json_schema, missed, passed_over, read_bfcl, read_mobile_actions
from steerkit.types import Call, CallLike, MalformedCall

AREA = {
    "name": "geometry.area",
    "description": "Area of a triangle.",
    "parameters": {
        "type": "dict",
        "properties": {
            "base": {"type": "integer", "description": "The base."},
            "unit": {"type": "string", "required": True},
            "sides": {"type": "tuple", "items": {"type": "float"}},
            "options": {"type": "dict", "properties": {"any": {"type": "any"}}},
        },
        "required": ["base"],
    },
}


def lines(path: Path, *rows: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def bfcl(folder: Path) -> Path:
    """A folder with one test in each of five categories."""
    question = [[{"role": "user", "content": "the area over 10, please"}]]
    truth = {"geometry.area": {"base": [10], "unit": ["cm", ""]}}
    for name, count in (("simple_python", 1), ("multiple", 1), ("parallel", 2), ("parallel_multiple", 2)):
        row = {"id": f"{name}_0", "question": question, "function": [AREA]}
        lines(folder / f"BFCL_v4_{name}.json", row)
        answer = {"id": f"{name}_0", "ground_truth": [truth] * count}
        lines(folder / "possible_answer" / f"BFCL_v4_{name}.json", answer)
    lines(folder / "BFCL_v4_irrelevance.json", {"id": "irrelevance_0", "question": question, "function": [AREA]})
    lines(folder / "BFCL_v4_simple_java.json", {"id": "java_0"})
    return folder


def test_bfcl_is_read_category_by_category(tmp_path: Path) -> None:
    """Five categories with their answers; a category of Java is passed over."""
    cases = read_bfcl(bfcl(tmp_path))
    categories = [case.category for case in cases]
    assert categories == ["simple", "multiple", "parallel", "parallel_multiple", "irrelevance"]
    simple, *_, irrelevance = cases
    assert simple.answers == (Answer("geometry.area", {"base": [10], "unit": ["cm", ""]}),)
    assert simple.messages == ({"role": "user", "content": "the area over 10, please"},)
    right = Call("geometry.area", {"base": 10})
    assert [missed(case, [right] * max(1, len(case.answers))) for case in cases[:4]] == [None] * 4
    assert missed(irrelevance, [right]) == "got 1 calls, expected none"
    assert missed(irrelevance, []) is None


CUT, RIGHT = MalformedCall("cut off", 3, "<start_function_call>call:f{"), Call("f", {})


@pytest.mark.parametrize(
    ("wants", "calls", "passes"),
    [
        ("none", [], True),
        ("none", [CUT], True),  # BFCL: what is no call is none
        ("none", [CUT, CUT], True),
        ("none", [RIGHT], False),
        ("none", [CUT, RIGHT], False),
        ("some", [], False),
        ("some", [CUT], False),
        ("some", [RIGHT], True),
        ("some", [CUT, RIGHT], True),
        ("calls", [RIGHT], True),
        ("calls", [CUT], False),
        ("calls", [RIGHT, CUT], False),
    ],
)
def test_a_malformed_call_is_no_call(wants: Any, calls: list[CallLike], passes: bool) -> None:
    """Neither where none is wanted, nor where any is."""
    case = SuiteCase("1", "x", (), (), wants, (Answer("f", {}),) if wants == "calls" else ())
    assert (missed(case, calls) is None) is passes


def test_files_that_are_not_read_are_named(tmp_path: Path) -> None:
    """Those of categories that are not known, and the older of two versions of one."""
    folder = bfcl(tmp_path)
    for name in ("BFCL_v3_simple.json", "BFCL_v4_quantum.json", "notes.jsonl"):
        (folder / name).write_text("{}")
    names = ["BFCL_v3_simple.json", "BFCL_v4_quantum.json", "BFCL_v4_simple_java.json", "notes.jsonl"]
    assert passed_over(folder) == names
    assert read_bfcl(folder)[0].id == "simple_python_0"
    (only := tmp_path / "only").mkdir()
    (only / "BFCL_v4_memory.json").write_text("{}")
    with pytest.raises(SaeError, match=r"got no file such as BFCL_v3_simple\.json \(it holds BFCL_v4_memory\.json\)"):
        read_bfcl(only)


@pytest.mark.parametrize("write", ["{}", "\ufeff{}", "{}\n", "{}\r\n", "\r\n{}\r\n\r\n"])
def test_files_from_any_system_are_read(tmp_path: Path, write: str) -> None:
    """With the mark and the line ends that Windows writes, and with empty lines."""
    row = {"id": "irrelevance_0", "question": [[{"role": "user", "content": "hm"}]], "function": [AREA]}
    path = tmp_path / "BFCL_v4_irrelevance.json"
    path.write_bytes(write.replace("{}", json.dumps(row)).encode())
    assert [case.id for case in read_bfcl(tmp_path)] == ["irrelevance_0"]


def test_types_become_those_of_json_schema(tmp_path: Path) -> None:
    """BFCL's and Java's names are mapped at every depth; a `required` that is no list is dropped."""
    parameters = read_bfcl(bfcl(tmp_path))[0].tools[0].parameters
    assert parameters["type"] == "object"
    assert parameters["required"] == ["base"]
    assert parameters["properties"] == {
        "base": {"type": "integer", "description": "The base."},
        "unit": {"type": "string"},
        "sides": {"type": "array", "items": {"type": "number"}},
        "options": {"type": "object", "properties": {"any": {"type": "string"}}},
    }
    for said, kind in (("OBJECT", "object"), ("STRING", "string"), ("Array", "array"), (["string", "null"], "string")):
        assert json_schema({"type": said}, "x")["type"] == kind
    assert json_schema({"type": "HashMap"}, "x") == {"type": "object", "properties": {}}
    with pytest.raises(SaeError, match="x: got properties that are no descriptions"):
        json_schema({"properties": {"a": True}}, "x")
    with pytest.raises(SaeError, match=r"x: got the type 'matrix', expected one of any, array"):
        json_schema({"type": "matrix"}, "x")


def test_mobile_actions_rows_are_tests(tmp_path: Path) -> None:
    """The assistant's last calls are the answers, upper-case types are mapped, empty fields and train rows dropped."""
    tool = {
        "function": {
            "name": "send_email",
            "description": "Send.",
            "parameters": {
                "type": "OBJECT",
                "properties": {"to": {"type": "STRING"}, "body": None},
                "required": ["to"],
            },
        }
    }
    call = {"function": {"name": "send_email", "arguments": {"to": "Ann", "body": None}}}
    messages = [
        {"role": "user", "content": "mail Ann", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    path = lines(
        tmp_path / "data.jsonl",
        {"metadata": "train", "tools": [tool], "messages": messages},
        {"metadata": "eval", "tools": [tool], "messages": messages},
        {"metadata": "eval", "tools": [tool], "messages": messages[:1]},
    )
    calling, silent = read_mobile_actions(path)
    assert calling.answers == (Answer("send_email", {"to": ["Ann"]}),)
    assert calling.messages == [{"role": "user", "content": "mail Ann"}]
    assert calling.tools[0].parameters["properties"] == {"to": {"type": "string"}}
    assert missed(calling, [Call("send_email", {"to": "ann"})]) is None
    assert missed(calling, [Call("send_email", {"to": "Bo"})]) is not None
    assert silent.wants == "none"
    written = {"metadata": "eval", "tools": json.dumps([tool]), "messages": json.dumps(messages)}
    assert read_mobile_actions(lines(path, written))[0][1:7] == calling[1:7]


BAD_ROWS = {
    "messages that are none": ({"messages": ["hi"]}, r":1: got \['hi'\] as messages, expected a list of objects"),
    "messages as no JSON": ({"messages": "[{"}, r":1: got '\[\{' as messages, expected a list of objects"),
    "tools that are none": ({"messages": [{"role": "user"}], "tools": {"f": 1}}, ":1: got {'f': 1} as tools"),
    "a call without a name": (
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}]},
        r":1: got the call \{'function.*expected a name and an object of arguments",
    ),
    "arguments that are a list": (
        {"messages": [{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}]},
        ":1: got the call .*expected a name and an object",
    ),
    "no rows": ({"metadata": "train"}, "got no rows to measure on"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_row_that_is_none_is_named(tmp_path: Path, case: str) -> None:
    """One line with file and number; never a traceback."""
    row, said = BAD_ROWS[case]
    with pytest.raises(SaeError, match=said):
        read_mobile_actions(lines(tmp_path / "x.jsonl", row))


def test_mistakes_name_file_and_line(tmp_path: Path) -> None:
    """A folder without files, an id without an answer and a row without keys are each one clear error."""
    with pytest.raises(SaeError, match=r"got no file such as BFCL_v3_simple\.json"):
        read_bfcl(tmp_path)
    folder = bfcl(tmp_path)
    lines(folder / "possible_answer" / "BFCL_v4_multiple.json", {"id": "other", "ground_truth": []})
    with pytest.raises(SaeError, match=r"BFCL_v4_multiple\.json:1: multiple_0 has no answer"):
        read_bfcl(folder)
    for truth in ([], [{"f": 5}], [{"f": {}, "g": {}}], "f"):
        lines(folder / "possible_answer" / "BFCL_v4_multiple.json", {"id": "multiple_0", "ground_truth": truth})
        if truth:
            with pytest.raises(SaeError, match=r"multiple\.json:1: .*expected (a list of objects|an object)"):
                read_bfcl(folder)
    for question in (5, [[]], [["hm"]], [[{}], [{}]]):
        row = {"id": "multiple_0", "question": question, "function": [AREA]}
        lines(folder / "possible_answer" / "BFCL_v4_multiple.json", {"id": "multiple_0", "ground_truth": []})
        lines(folder / "BFCL_v4_multiple.json", row)
        with pytest.raises(SaeError, match=r"multiple\.json:1: got .*, expected"):
            read_bfcl(folder)
    lines(folder / "BFCL_v4_multiple.json")
    with pytest.raises(SaeError, match=r"multiple\.json: got no rows, expected a test in each line"):
        read_bfcl(folder)
    lines(folder / "BFCL_v4_multiple.json", {"question": "hm"})
    with pytest.raises(SaeError, match=r"multiple\.json:1: got the keys question, expected id, question and function"):
        read_bfcl(folder)
    with pytest.raises(SaeError, match="got no rows to measure on"):
        read_mobile_actions(lines(tmp_path / "x.jsonl", {"metadata": "train"}))
