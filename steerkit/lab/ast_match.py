"""Whether calls are the ones that were wanted, by the rules of the Berkeley Function-Calling Leaderboard's AST match.

The rules (Patil et al. 2025, "The Berkeley Function Calling Leaderboard"; `bfcl_eval` 2025, Python categories):

- as many calls as answers; each answer takes the first free call that fits, in any order;
- names are equal; every required parameter is there; one that the schema or the answer does not know is an error, and
  so is one that is left out though the answer needs it;
- types are exact, except that an integer passes for a number; a bool is no integer. Where the accepted values are of
  another type than the schema says, a value of their type passes too;
- texts are compared in lower case, without ` ,./-_*^` and with `'` as `"`, in lists and objects too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from steerkit.types import Call, CallLike, Tool

MAY_BE_LEFT_OUT: Final = ""
"""Among accepted values: the parameter need not be given."""

_DROPPED: Final = re.compile(r"[ ,./\-_*^]")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "string": (str,),
    "integer": (int,),
    "number": (float, int),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


class Answer(NamedTuple):
    """One call that is wanted."""

    name: str
    arguments: Mapping[str, Sequence[Any]]
    """The accepted values of each parameter, `""` among them where it may be left out. An accepted object has a list of
    accepted values for each of its keys."""


def answer_of(name: str, arguments: Mapping[str, Any]) -> Answer:
    """The answer that only one call fits: every parameter with its one value, none left out."""
    return Answer(name, {key: [_accepting(value)] for key, value in arguments.items()})


def mismatch(calls: Sequence[CallLike], answers: Sequence[Answer], tools: Sequence[Tool]) -> str | None:
    """What keeps calls from being the wanted ones; None where they are.

    Args:
        calls: as a model wrote them; a malformed one fits nothing.
        answers: the wanted ones, in any order.
        tools: what was declared: required parameters and types are theirs.
    """
    if len(calls) != len(answers):
        return f"got {_calls(len(calls))}, expected {len(answers)}"
    declared = {tool.name: tool for tool in tools}
    free = list(calls)
    for answer in answers:
        reasons = [_call_mismatch(call, answer, declared.get(answer.name)) for call in free]
        fitting = next((number for number, reason in enumerate(reasons) if reason is None), None)
        if fitting is None:
            return reasons[0] if len(answers) == 1 else f"no call fits {answer.name}: {'; '.join(map(str, reasons))}"
        del free[fitting]
    return None


def standard(text: str) -> str:
    """A text as texts are compared."""
    return _DROPPED.sub("", text).lower().replace("'", '"')


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _call_mismatch(call: CallLike, answer: Answer, tool: Tool | None) -> str | None:
    if not isinstance(call, Call):
        return f"malformed: {call.error}"
    if call.name != answer.name:
        return f"got {call.name}, expected {answer.name}"
    properties = {} if tool is None else tool.parameters.get("properties", {})
    for name in () if tool is None else tool.parameters.get("required", ()):
        if name not in call.arguments:
            return f"{name}: missing, though required"
    for name, value in call.arguments.items():
        if name not in answer.arguments or (tool is not None and name not in properties):
            return f"{name}: not expected"
        reason = _value_mismatch(value, answer.arguments[name], properties.get(name, {}))
        if reason is not None:
            return f"{name}: {reason}"
    for name, accepted in answer.arguments.items():
        if name not in call.arguments and MAY_BE_LEFT_OUT not in accepted:
            return f"{name}: missing"
    return None


def _value_mismatch(value: Any, accepted: Sequence[Any], schema: Mapping[str, Any]) -> str | None:
    kind = schema.get("type")
    own = next((type(one) for one in accepted if one != MAY_BE_LEFT_OUT), None)
    if not _is_of(value, kind) and type(value) is not own:
        return f"got {type(value).__name__}, expected {kind}"
    items = schema.get("items")
    inner = items.get("type") if isinstance(items, Mapping) else None
    if kind == "array" and isinstance(value, list) and not all(_is_of(item, inner) for item in value):
        theirs = {type(item) for one in accepted if isinstance(one, (list, tuple)) for item in one}
        if not all(_is_of(item, inner) or type(item) in theirs for item in value):
            return f"got {value!r}, expected items of type {inner}"
    if not any(_fits(value, one) for one in accepted):
        return f"got {value!r}, expected one of {list(accepted)!r}"
    return None


def _is_of(value: Any, kind: Any) -> bool:
    """Whether a value is of a JSON Schema type; of no type that is known, anything is."""
    return kind not in _TYPES or type(value) in _TYPES[kind]


def _fits(value: Any, accepted: Any) -> bool:
    """Whether a value is an accepted one: texts by `standard`, objects key by key, numbers by size."""
    if isinstance(value, Mapping):
        if not isinstance(accepted, Mapping) or any(key not in accepted for key in value):
            return False
        return all(
            any(_fits(value[key], one) for one in values) if key in value else MAY_BE_LEFT_OUT in values
            for key, values in accepted.items()
        )
    if isinstance(value, list):
        if not isinstance(accepted, (list, tuple)) or len(value) != len(accepted):
            return False
        return all(_fits(one, other) for one, other in zip(value, accepted, strict=True))
    if isinstance(value, str):
        return isinstance(accepted, str) and standard(value) == standard(accepted)
    return isinstance(value, bool) == isinstance(accepted, bool) and bool(value == accepted)


def _accepting(value: Any) -> Any:
    """A value as an accepted one: in objects each key has a list of accepted values."""
    if isinstance(value, Mapping):
        return {key: [_accepting(item)] for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_accepting(item) for item in value]
    return value
