"""Match of calls with the wanted ones, by the rules of the Berkeley Function-Calling Leaderboard's AST match.

The rules are those of its own checker (Patil et al. 2025, "The Berkeley Function Calling Leaderboard"; `bfcl_eval`
2026.3.23, Python categories); `benchmarks/bfcl_agreement.py` holds these against it:

- as many calls as answers; each answer takes the first free call that fits, in any order;
- names are equal; every required parameter is there; one that the schema or the answer does not know is an error, and
  so is one that is left out though the answer needs it;
- types are exact, except that an integer passes for a number that is no item of an array. Where the accepted values are
  of another type than the schema says, a value of their type passes too, and is compared exactly;
- texts are compared in lower case, without ` ,./-_*^` and with `'` as `"`: those that are an argument, an item of an
  array or a value of an object. What is deeper is compared exactly;
- `[]` passes for an array that may be left out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from steerkit.types import Call, CallLike, Tool

MAY_BE_LEFT_OUT: Final = ""
"""Among accepted values: the parameter need not be given."""

_DROPPED: Final = re.compile(r"[ ,./\-_*^]")
_TYPES: Final[Mapping[str, type]] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}


class Answer(NamedTuple):
    """One call that is wanted."""

    name: str
    arguments: Mapping[str, Sequence[Any]]
    """The accepted values of each parameter, `""` among them where it may be left out. An accepted object, also one in
    an array, has a list of accepted values for each of its keys; deeper ones are as they must be."""


class Only(list[Any]):
    """The accepted values of a parameter that may not be left out: `""` among them is a text like any other, and the
    items of an array are of the types that they have."""


def answer_of(name: str, arguments: Mapping[str, Any]) -> Answer:
    """The answer that only one call fits: every parameter with its one value, none left out."""
    return Answer(name, {key: Only([_accepting(value)]) for key, value in arguments.items()})


def mismatch(calls: Sequence[CallLike], answers: Sequence[Answer], tools: Sequence[Tool]) -> str | None:
    """Difference of calls from the wanted ones, in words; None where there is none.

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
        reason = _value_mismatch(value, _alternatives(answer.arguments[name]), properties.get(name))
        if reason is not None:
            return f"{name}: {reason}"
    for name, accepted in answer.arguments.items():
        if name not in call.arguments and not _may_be_left_out(_alternatives(accepted)):
            return f"{name}: missing"
    return None


def _value_mismatch(value: Any, accepted: Sequence[Any], schema: Any) -> str | None:
    wanted, inner = _type_of(schema), _type_of(schema.get("items")) if isinstance(schema, Mapping) else None
    own, number = _own_type(accepted), _number(value) if wanted is float else value
    exact = wanted is not None and own not in (None, wanted)  # names a variable, where a value of another type belongs
    if wanted is not None and type(number) is not wanted:
        if type(number) is not own:
            return f"got {type(value).__name__}, expected {schema['type']}"
        exact = True
    elif wanted is list and not isinstance(accepted, Only) and not any(_are_of(inner, number, one) for one in accepted):
        return f"got {value!r}, expected items of type {schema['items']['type']}"
    fits = number in accepted if exact else _fits(number, accepted, wanted, inner)
    return None if fits else f"got {value!r}, expected one of {list(accepted)!r}"


def _fits(value: Any, accepted: Sequence[Any], wanted: type | None, inner: type | None) -> bool:
    """True if a value of the right type is an accepted one; of no known type, its own type counts."""
    if isinstance(value, Mapping):
        return any(_object_fits(value, one) for one in accepted)
    if isinstance(value, list):
        arrays = [one for one in accepted if isinstance(one, (list, tuple))]
        if inner is dict or (inner is None and value and all(isinstance(item, Mapping) for item in value)):
            found = any(_objects_fit(value, one) for one in arrays)
        else:
            found = _standard_items(value) in map(_standard_items, arrays)
        return found or (not value and _may_be_left_out(accepted))
    if isinstance(value, str):
        return standard(value) in [standard(one) for one in accepted if isinstance(one, str)]
    if wanted is None:
        return any(isinstance(value, bool) == isinstance(one, bool) and value == one for one in accepted)
    return value in accepted


def _objects_fit(values: Sequence[Any], accepted: Sequence[Any]) -> bool:
    if len(values) != len(accepted):
        return False
    pairs = zip(values, accepted, strict=True)
    return all(isinstance(value, Mapping) and _object_fits(value, one) for value, one in pairs)


def _object_fits(value: Mapping[str, Any], accepted: Any) -> bool:
    """True if each key has an accepted value, and none is missing."""
    if not isinstance(accepted, Mapping):
        return False
    wanted = {key: _alternatives(one) for key, one in accepted.items()}
    return all(
        key in wanted and _standard_items([item])[0] in _standard_items(wanted[key]) for key, item in value.items()
    ) and all(key in value or _may_be_left_out(one) for key, one in wanted.items())


def _alternatives(accepted: Any) -> Sequence[Any]:
    """Accepted values; one that stands alone, where a list of them is expected, is the only one."""
    return accepted if isinstance(accepted, (list, tuple)) else [accepted]


def _are_of(kind: type | None, items: Sequence[Any], accepted: Any) -> bool:
    """True if the items of an array are of the schema's type, or of the accepted ones' type."""
    if kind is None or not isinstance(accepted, (list, tuple)):
        return True
    own = _own_type(accepted)
    return all(type(item) in (kind, own) for item in items)


def _own_type(accepted: Sequence[Any]) -> type | None:
    """The type of the accepted values; None where there is but the mark that the parameter may be left out."""
    return next((type(one) for one in accepted if isinstance(accepted, Only) or one != MAY_BE_LEFT_OUT), None)


def _may_be_left_out(accepted: Sequence[Any]) -> bool:
    return MAY_BE_LEFT_OUT in accepted and not isinstance(accepted, Only)


def _standard_items(items: Sequence[Any]) -> list[Any]:
    return [standard(item) if isinstance(item, str) else item for item in items]


def _type_of(schema: Any) -> type | None:
    """The type of a JSON Schema's values; None for one that says none, or several."""
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    return _TYPES.get(kind) if isinstance(kind, str) else None


def _number(value: Any) -> Any:
    """An integer as the number that it is; one too large for that as it is."""
    try:
        return float(value) if type(value) is int else value
    except OverflowError:
        return value


def _accepting(value: Any) -> Any:
    """A value as an accepted one: an object, or an array of objects, has a list of accepted values for each key."""
    if isinstance(value, Mapping):
        return {key: Only([item]) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and all(isinstance(item, Mapping) for item in value):
        return [_accepting(item) for item in value]
    return value
