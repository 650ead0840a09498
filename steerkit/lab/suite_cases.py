"""Public suites of function-calling tests, read from files that the user has: what is asked, and what is wanted."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from steerkit.chat import as_tools
from steerkit.engine import tool_from_function
from steerkit.errors import SaeError, ToolError
from steerkit.lab.ast_match import Answer, answer_of, mismatch
from steerkit.lab.corpus import read_rows
from steerkit.types import CallLike, Tool

Wants: TypeAlias = Literal["calls", "none", "some"]
"""The calls of the answer, no call at all (irrelevance), or any call (relevance)."""

BFCL_CATEGORIES: Final[Mapping[str, Wants]] = {
    "simple": "calls",
    "multiple": "calls",
    "parallel": "calls",
    "parallel_multiple": "calls",
    "irrelevance": "none",
    "live_simple": "calls",
    "live_multiple": "calls",
    "live_parallel": "calls",
    "live_parallel_multiple": "calls",
    "live_irrelevance": "none",
    "live_relevance": "some",
}
"""The categories that are read, in the leaderboard's order; those of Java, JavaScript, REST, SQL and several turns are
not."""

_FILE: Final = re.compile(r"BFCL_v\d+_(\w+?)(?:_python)?\.jsonl?")
_TYPES: Final[Mapping[str, str]] = {
    **dict.fromkeys(("dict", "object", "hashmap", "hashtable"), "object"),
    **dict.fromkeys(("float", "number", "double"), "number"),
    **dict.fromkeys(("integer", "int", "long", "short", "byte", "bigint"), "integer"),
    **dict.fromkeys(("boolean", "bool"), "boolean"),
    **dict.fromkeys(("array", "list", "tuple", "arraylist", "set"), "array"),
    **dict.fromkeys(("string", "str", "char", "any"), "string"),
    "null": "null",
}
_KEPT: Final = ("description", "enum", "default")


class SuiteCase(NamedTuple):
    """One test of a suite."""

    id: str
    category: str
    messages: Sequence[Mapping[str, Any]]
    tools: tuple[Tool, ...]
    wants: Wants
    answers: tuple[Answer, ...] = ()


def missed(case: SuiteCase, calls: Sequence[CallLike]) -> str | None:
    """Why calls are not what a test wants; None where they are."""
    if case.wants == "calls":
        return mismatch(calls, case.answers, case.tools)
    if case.wants == "none":
        return f"got {len(calls)} calls, expected none" if calls else None
    return None if calls else "got no call, expected one"


def read_bfcl(folder: Path) -> list[SuiteCase]:
    """The tests of a folder with BFCL's files, category by category.

    Each `BFCL_v3_simple.json` (of any version) is a category, its answers are the file of the same name in the folder
    `possible_answer`. Files of other categories are passed over.

    Raises:
        SaeError: no file of a known category, or a row that is not as the suite writes them; names file and line.
    """
    files = {}
    for path in sorted(folder.glob("BFCL_v*.json*")) if folder.is_dir() else ():
        match = _FILE.fullmatch(path.name)
        if match is not None and match[1] in BFCL_CATEGORIES:
            files[match[1]] = path
    if not files:
        raise SaeError(
            f"{folder}: got no file such as BFCL_v3_simple.json; expected a folder with BFCL's data, the categories "
            f"{', '.join(BFCL_CATEGORIES)}"
        )
    return [
        case for name, wants in BFCL_CATEGORIES.items() if name in files for case in _bfcl(files[name], name, wants)
    ]


def read_mobile_actions(path: Path) -> list[SuiteCase]:
    """The tests of a JSONL file in the form of Mobile Actions: `messages` that end with the wanted calls, and `tools`.

    Rows whose `metadata` is `train` are passed over. Every argument has one accepted value.

    Raises:
        SaeError: no rows, or one without messages; names file and line.
    """
    found = []
    for where, row in read_rows(path):
        if row.get("metadata") == "train":
            continue
        messages = row.get("messages")
        if not isinstance(messages, Sequence) or isinstance(messages, str) or not messages:
            raise SaeError(f"{where}: got no messages, expected messages and tools")
        end = len(messages)
        while end and messages[end - 1].get("role") in ("assistant", "model"):
            end -= 1
        answers = tuple(_wanted(where, call) for message in messages[end:] for call in message.get("tool_calls") or ())
        tools = _tools(where, row.get("tools") or ())
        asked = [_filled(message) for message in messages[:end]]
        found.append(SuiteCase(where, "mobile_actions", asked, tools, "calls" if answers else "none", answers))
    if not found:
        raise SaeError(f"{path}: got no rows to measure on; expected lines with messages and tools, not only of train")
    return found


def json_schema(schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A parameter's description as JSON Schema: types by their JSON name, and no key but those that are known.

    Raises:
        SaeError: a type that has no name in JSON Schema.
    """
    said = str(schema.get("type", "object" if "properties" in schema else "string"))
    kind = _TYPES.get(said.lower())
    if kind is None:
        raise SaeError(f"{where}: got the type {said!r}, expected one of {', '.join(sorted(_TYPES))}")
    found: dict[str, Any] = {"type": kind, **{key: schema[key] for key in _KEPT if schema.get(key) is not None}}
    if kind == "object":
        properties = schema.get("properties") or {}
        if not isinstance(properties, Mapping) or not all(isinstance(p, Mapping | None) for p in properties.values()):
            raise SaeError(f"{where}: got properties that are no descriptions, expected an object for each parameter")
        found["properties"] = {
            name: json_schema(part, f"{where}.{name}") for name, part in properties.items() if part is not None
        }
        required = schema.get("required")
        if isinstance(required, (list, tuple)):
            found["required"] = [name for name in required if name in found["properties"]]
    if isinstance(schema.get("items"), Mapping):
        found["items"] = json_schema(schema["items"], f"{where}.items")
    return found


def _bfcl(path: Path, category: str, wants: Wants) -> Iterator[SuiteCase]:
    answers = dict(_bfcl_answers(path.parent / "possible_answer" / path.name)) if wants == "calls" else {}
    for where, row in read_rows(path):
        id, question, functions = (row.get(key) for key in ("id", "question", "function"))
        if not isinstance(id, str) or not question or functions is None:
            raise SaeError(f"{where}: got the keys {', '.join(row)}, expected id, question and function")
        if wants == "calls" and id not in answers:
            raise SaeError(f"{where}: {id} has no answer in possible_answer/{path.name}")
        tools = _tools(where, [functions] if isinstance(functions, Mapping) else functions)
        yield SuiteCase(id, category, _question(where, question), tools, wants, answers.get(id, ()))


def _bfcl_answers(path: Path) -> Iterator[tuple[str, tuple[Answer, ...]]]:
    for where, row in read_rows(path):
        truth = row.get("ground_truth")
        if not isinstance(truth, list) or not all(isinstance(one, Mapping) and len(one) == 1 for one in truth):
            raise SaeError(f"{where}: got no ground_truth, expected a list of objects with a function's name each")
        yield str(row.get("id")), tuple(Answer(name, arguments) for one in truth for name, arguments in one.items())


def _question(where: str, question: Any) -> Sequence[Mapping[str, Any]]:
    """The messages: given as text, as messages, or as turns, of which these categories have one."""
    if isinstance(question, str):
        return ({"role": "user", "content": question},)
    turns = question if isinstance(question[0], list) else [question]
    if len(turns) != 1 or not all(isinstance(message, Mapping) for message in turns[0]):
        raise SaeError(f"{where}: got {len(turns)} turns, expected one turn of messages")
    return tuple(turns[0])


def _tools(where: str, given: Sequence[Any]) -> tuple[Tool, ...]:
    found = []
    for number, one in enumerate(given):
        body = one.get("function", one) if isinstance(one, Mapping) else {}
        name, parameters = body.get("name"), body.get("parameters") or {"type": "object", "properties": {}}
        if not isinstance(name, str) or not isinstance(parameters, Mapping):
            raise SaeError(f"{where}: tools[{number}]: got no name and parameters, expected a function's description")
        schema = json_schema({"type": "object", **parameters}, f"{where}: {name}")
        found.append({"name": name, "description": body.get("description") or "", "parameters": schema})
    try:
        return as_tools(found, from_function=tool_from_function)
    except ToolError as error:
        raise SaeError(f"{where}: {error}") from None


def _wanted(where: str, call: Mapping[str, Any]) -> Answer:
    body = call.get("function", call)
    arguments = body.get("arguments") or {}
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise SaeError(f"{where}: arguments of {body.get('name')}: not JSON ({error})") from None
    return answer_of(str(body.get("name")), _filled(arguments))


def _filled(value: Any) -> Any:
    """A mapping without the empty fields that a table's columns give every row."""
    return {key: item for key, item in value.items() if item is not None}
