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
from steerkit.lab.corpus import read_rows
from steerkit.lab.prove.suites.ast_match import Answer, answer_of, mismatch
from steerkit.types import Call, CallLike, Tool

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

_LINE: Final = "You are a model that can do function calling with the following functions"
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
    undeclared: str = ""
    """Reason that its tools cannot be declared; such a test is not run."""
    file: str = ""
    """Name of its file without the ending, such as `BFCL_v4_simple_python`."""


def asked(case: SuiteCase) -> Sequence[Mapping[str, Any]]:
    """The messages that the model gets: in BFCL's tests that have no text of a developer, the line that BFCL's own
    handler of FunctionGemma sends."""
    if case.category not in BFCL_CATEGORIES or case.messages[0].get("role") in ("system", "developer"):
        return case.messages
    return ({"role": "developer", "content": _LINE}, *case.messages)


def missed(case: SuiteCase, calls: Sequence[CallLike]) -> str | None:
    """Why calls are not what a test wants; None where they are.

    Where any call, or none, is wanted, one that is malformed or was cut off is none.
    """
    if case.undeclared:
        return case.undeclared
    if case.wants == "calls":
        return mismatch(calls, case.answers, case.tools)
    count = sum(isinstance(call, Call) for call in calls)
    if case.wants == "none":
        return f"got {count} calls, expected none" if count else None
    return None if count else "got no call, expected one"


def read_bfcl(folder: Path) -> list[SuiteCase]:
    """The tests of a folder with BFCL's files, category by category.

    Each `BFCL_v3_simple.json` (of any version) is a category, its answers are the file of the same name in the folder
    `possible_answer`. Files of other categories are left alone, see `passed_over`.

    Raises:
        SaeError: no file of a known category, or a row that is not as the suite writes them; names file and line.
    """
    files = _bfcl_files(folder)
    if not files:
        there = f" (it holds {', '.join(over)})" if (over := passed_over(folder)) else ""
        raise SaeError(
            f"{folder}: got no file such as BFCL_v3_simple.json{there}; expected a folder with BFCL's data, the "
            f"categories {', '.join(BFCL_CATEGORIES)}"
        )
    return [
        case for name, wants in BFCL_CATEGORIES.items() if name in files for case in _bfcl(files[name], name, wants)
    ]


def passed_over(folder: Path) -> list[str]:
    """Names of the files in a folder of BFCL's that are not read: of other categories, or of older versions."""
    read = set(_bfcl_files(folder).values())
    return [path.name for path in sorted(folder.glob("*.json*")) if path not in read]


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
        messages = _objects(where, row, "messages")
        if not messages:
            raise SaeError(f"{where}: got no messages, expected messages and tools")
        end = len(messages)
        while end and messages[end - 1].get("role") in ("assistant", "model"):
            end -= 1
        answers = tuple(_wanted(where, call) for message in messages[end:] for call in message.get("tool_calls") or ())
        tools, undeclared = tools_of(where, _objects(where, row, "tools"))
        asked = [_filled(message) for message in messages[:end]]
        wants: Wants = "calls" if answers else "none"
        found.append(SuiteCase(where, "mobile_actions", asked, tools, wants, answers, undeclared, path.stem))
    if not found:
        raise SaeError(f"{path}: got no rows to measure on; expected lines with messages and tools, not only of train")
    return found


def json_schema(schema: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A parameter's description as JSON Schema: types by their JSON name, and no key but those that are known.

    Raises:
        SaeError: a type that has no name in JSON Schema.
    """
    said = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(said, list) and len(one := [kind for kind in said if str(kind).lower() != "null"]) == 1:
        said = one[0]  # or nothing: so may every parameter be that is not required
    kind = _TYPES.get(str(said).lower())
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


def _bfcl_files(folder: Path) -> dict[str, Path]:
    """The file of each category that is read; of several versions the last."""
    found = {}
    for path in sorted(folder.glob("BFCL_v*.json*")) if folder.is_dir() else ():
        match = _FILE.fullmatch(path.name)
        if match is not None and match[1] in BFCL_CATEGORIES:
            found[match[1]] = path
    return found


def _bfcl(path: Path, category: str, wants: Wants) -> Iterator[SuiteCase]:
    answers = dict(_bfcl_answers(path.parent / "possible_answer" / path.name)) if wants == "calls" else {}
    empty = True
    for where, row in read_rows(path):
        id, question, functions = (row.get(key) for key in ("id", "question", "function"))
        if not isinstance(id, str) or not question or functions is None:
            raise SaeError(f"{where}: got the keys {', '.join(row)}, expected id, question and function")
        if wants == "calls" and id not in answers:
            raise SaeError(f"{where}: {id} has no answer in possible_answer/{path.name}")
        tools, undeclared = tools_of(where, [functions] if isinstance(functions, Mapping) else functions)
        asked = _question(where, question)
        yield SuiteCase(id, category, asked, tools, wants, answers.get(id, ()), undeclared, path.stem)
        empty = False
    if empty:
        raise SaeError(f"{path}: got no rows, expected a test in each line; take the file away to leave it out")


def _bfcl_answers(path: Path) -> Iterator[tuple[str, tuple[Answer, ...]]]:
    for where, row in read_rows(path):
        truth = row.get("ground_truth")
        if not isinstance(truth, list) or not all(isinstance(one, Mapping) and len(one) == 1 for one in truth):
            raise SaeError(f"{where}: got no ground_truth, expected a list of objects with a function's name each")
        pairs = [pair for one in truth for pair in one.items()]
        for name, arguments in pairs:
            if not isinstance(arguments, Mapping):
                raise SaeError(f"{where}: {name}: got {arguments!r}, expected an object of parameters")
        yield str(row.get("id")), tuple(Answer(name, arguments) for name, arguments in pairs)


def _question(where: str, question: Any) -> Sequence[Mapping[str, Any]]:
    """The messages: given as text, as messages, or as turns, of which these categories have one."""
    if isinstance(question, str):
        return ({"role": "user", "content": question},)
    turns = question if isinstance(question, list) and isinstance(question[0], list) else [question]
    if len(turns) != 1 or not isinstance(turns[0], list):
        raise SaeError(f"{where}: got {len(turns)} turns, expected one turn of messages")
    if not turns[0] or not all(isinstance(message, Mapping) for message in turns[0]):
        raise SaeError(f"{where}: got {turns[0]!r:.80}, expected messages with role and content")
    return tuple(turns[0])


def tools_of(where: str, given: Sequence[Any]) -> tuple[tuple[Tool, ...], str]:
    """The tools, and the reason if they cannot be declared."""
    found = []
    try:
        for number, one in enumerate(given):
            body = one.get("function", one) if isinstance(one, Mapping) else {}
            name, parameters = body.get("name"), body.get("parameters") or {"type": "object", "properties": {}}
            if not isinstance(name, str) or not isinstance(parameters, Mapping):
                raise SaeError(f"{where}: tools[{number}]: got no name and parameters, expected a function")
            schema = json_schema({"type": "object", **parameters}, f"{where}: {name}")
            found.append({"name": name, "description": body.get("description") or "", "parameters": schema})
        return as_tools(found, from_function=tool_from_function), ""
    except SaeError as error:
        return (), str(error)
    except ToolError as error:
        return (), f"{where}: {error}"


def _objects(where: str, row: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """A row's list of objects, which a table may hold as JSON text."""
    given = row.get(key) or []
    try:
        given = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise SaeError(f"{where}: got {row[key]!r:.80} as {key}, expected a list of objects")
    return given


def _wanted(where: str, call: Any) -> Answer:
    body = call.get("function", call) if isinstance(call, Mapping) else {}
    name, arguments = (body.get(key) for key in ("name", "arguments")) if isinstance(body, Mapping) else (None, None)
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) and arguments else arguments or {}
    except (ValueError, RecursionError) as error:
        raise SaeError(f"{where}: arguments of {name}: not JSON ({error})") from None
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise SaeError(f"{where}: got the call {call!r:.80}, expected a name and an object of arguments")
    return answer_of(name, _filled(arguments))


def _filled(value: Any) -> Any:
    """A mapping without the empty fields that a table's columns give every row."""
    return {key: item for key, item in value.items() if item is not None}
