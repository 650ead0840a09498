"""The shape that each kind of record has, so that whoever reads one may rely on it.

A store may come from anybody. What stands in a record of an unknown kind is not looked at.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, get_args

from steerkit.audit.log.run_log import CLOSED, OPENED
from steerkit.audit.log.schema import StoredRecord
from steerkit.decisions import Decision
from steerkit.errors import AuditError

DECISIONS: Final[tuple[str, ...]] = get_args(Decision)
"""What a verdict may say."""
KINDS: Final = ("turn", "approval", "execution", OPENED, CLOSED, "redaction", "retention")
"""What a record may be of."""
_SURPRISES: Final = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error, MemoryError,
)  # fmt: skip
"""What reading raises where a value is not what every record of its kind has there."""

Shape = Callable[[Any, str], str | None]
"""What is wrong with a value at a path; None where nothing is."""


def _wrong(value: Any, at: str, expected: str) -> str:
    got = json.dumps(value, default=str, skipkeys=True)
    return f"{at or 'the body'}: got {got if len(got) <= 60 else got[:59] + '…'}, expected {expected}"


def _is(expected: str, fits: Callable[[Any], bool]) -> Shape:
    return lambda value, at: None if fits(value) else _wrong(value, at, expected)


def _is_number(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return type(value) is int and -(2**63) <= value < 2**63


def _are_ends(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)) and value[0] <= value[1]


_TEXT: Final = _is("a text", lambda value: isinstance(value, str))
_NUMBER: Final = _is("a number", _is_number)
_COUNT: Final = _is("an integer", _is_count)
_OBJECT: Final = _is("an object", lambda value: isinstance(value, dict))
_DECISION: Final = _is(f"one of {', '.join(DECISIONS)}", lambda value: isinstance(value, str) and value in DECISIONS)
_PLACES: Final = _is("[first, last] in order", _are_ends)


def _items(shape: Shape, least: int = 0) -> Shape:
    def check(value: Any, at: str) -> str | None:
        if not isinstance(value, list) or len(value) < least:
            return _wrong(value, at, "a list" if not least else f"a list of {least} or more")
        return next((wrong for n, one in enumerate(value) if (wrong := shape(one, f"{at}[{n}]"))), None)

    return check


def _values(shape: Shape) -> Shape:
    """An object whose values are alike."""

    def check(value: Any, at: str) -> str | None:
        if not isinstance(value, dict):
            return _wrong(value, at, "an object")
        return next((wrong for key, one in value.items() if (wrong := shape(one, f"{at}.{key}"))), None)

    return check


def _maybe(shape: Shape) -> Shape:
    return lambda value, at: None if value is None else shape(value, at)


def _private(shape: Shape) -> Shape:
    """Content that may be redacted, or gone."""
    return lambda value, at: None if _is_gone(value) else shape(value, at)


def _is_gone(value: Any) -> bool:
    return isinstance(value, dict) and (value == {"missing": True} or value.keys() == {"redacted"})


def _object(needed: Mapping[str, Shape], more: Mapping[str, Shape] | None = None) -> Shape:
    def check(value: Any, at: str) -> str | None:
        if not isinstance(value, dict):
            return _wrong(value, at, "an object")
        for key, shape in {**needed, **(more or {})}.items():
            path = f"{at}.{key}" if at else key
            if key in value and (wrong := shape(value[key], path)):
                return wrong
            if key in needed and key not in value:
                return f"{path}: got nothing, expected one"
        return None

    return check


_NAMED: Final = {"name": _TEXT, "fingerprint": _TEXT}
_CALLED: Final = _object({"name": _TEXT, "arguments": _private(_OBJECT)})
_MALFORMED: Final = _object({"malformed": _private(_TEXT), "raw": _private(_TEXT)})
_CALLS: Final = _items(
    lambda one, at: (_MALFORMED if isinstance(one, dict) and "malformed" in one else _CALLED)(one, at)
)
_READING: Final = _object({"name": _TEXT, "value": _NUMBER, "threshold": _NUMBER, "position": _COUNT})
_VERDICTS: Final = _items(
    _object(
        {
            "decision": _DECISION,
            "rule": _TEXT,
            "policy": _TEXT,
            "reason": _private(_TEXT),
            "readings": _items(_READING),
            "shadowed": _maybe(_DECISION),
        }
    )
)
_EDIT: Final = _object(
    {"rule": _TEXT, "policy": _TEXT, "positions": _items(_COUNT, 1), "norm": _NUMBER}, {"layer": _COUNT, "site": _TEXT}
)
_MODEL: Final[Mapping[str, Shape]] = {**_NAMED, "device": _TEXT, "dtype": _TEXT}
_SAID: Final[Mapping[str, Shape]] = {
    "text": _private(_TEXT),
    "calls": _CALLS,
    "verdicts": _VERDICTS,
    "finish": _TEXT,
    "reply_ids": _private(_items(_COUNT)),
}
_TURN: Final[Mapping[str, Shape]] = {
    **_SAID,
    "attempt": _COUNT,
    "edits": _items(_EDIT),
    "messages": _private(_items(_object({"role": _TEXT}))),
    "tools": _private(_items(_OBJECT)),
    "prompt_ids": _private(_items(_COUNT)),
    "model": _object({}, _MODEL),
    "saes": _maybe(_object(_NAMED)),
    "policies": _items(_object(_NAMED, {"content": _OBJECT})),
    "sampling": _OBJECT,
}
_STAMPS: Final[Mapping[str, Shape]] = {
    "kind": _TEXT,
    "run": _TEXT,
    "number": _COUNT,
    "lost_before": _COUNT,
    "committed": _values(_TEXT),
    "metadata": _private(_OBJECT),
}
_MORE: Final[Mapping[str, Shape]] = {
    **_STAMPS,
    "seconds": _maybe(_NUMBER),
    "libraries": _OBJECT,
    "machine": _maybe(_OBJECT),
    "counterfactual": _maybe(_object(_SAID)),
}
_EVENT: Final[Mapping[str, Shape]] = {"turn": _maybe(_TEXT), "call_id": _TEXT, "call": _CALLED}
_SHAPES: Final[Mapping[str, tuple[Mapping[str, Shape], Mapping[str, Shape]]]] = {
    "turn": (_TURN, _MORE),
    "approval": (
        {
            **_EVENT,
            "decision": _is("approve or refuse", lambda value: value in ("approve", "refuse")),
            "by": _private(_TEXT),
            "note": _private(_TEXT),
            "error": _private(_maybe(_TEXT)),
        },
        _STAMPS,
    ),
    "execution": ({**_EVENT, "status": _TEXT, "seconds": _NUMBER, "result": _private(_maybe(_TEXT))}, _STAMPS),
    OPENED: ({"run": _TEXT, "model": _object({"name": _TEXT})}, {**_STAMPS, "policies": _TURN["policies"]}),
    CLOSED: ({"run": _TEXT, "counts": _OBJECT}, _STAMPS),
    "redaction": (
        {"of": _COUNT, "id": _TEXT, "fields": _values(_TEXT)},
        {**_STAMPS, "by": _TEXT, "note": _TEXT, "signature": _TEXT},
    ),
    "retention": (
        {"before": _TEXT, "ranges": _items(_PLACES), "count": _COUNT, "root": _TEXT, "note": _TEXT},
        {**_STAMPS, "by": _TEXT},
    ),
}
"""Per kind what a record must have, and what else it may."""
_EMPTY: Final[Mapping[str, Any]] = {
    **{key: [] for key in ("calls", "verdicts", "edits", "messages", "tools", "prompt_ids", "reply_ids", "policies")},
    **dict.fromkeys(("text", "finish"), ""),
    "attempt": 0,
    "saes": None,
    "sampling": {},
    "model": dict.fromkeys(("name", "fingerprint", "device", "dtype"), ""),
}


def kind_of(body: Mapping[str, Any]) -> str:
    """What a record is of; the oldest turns do not say it."""
    return str(body.get("kind") or ("turn" if "calls" in body else "record"))


def problem(body: Any, *, whole: bool = False) -> str | None:
    """What is wrong with a body or a whole content, in one line; None where nothing is.

    Args:
        body: as it was read.
        whole: whether everything must be there that such records have; else only what is there is looked at.
    """
    if not isinstance(body, dict):
        return _wrong(body, "", "an object")
    needed: Mapping[str, Shape]
    needed, more = _SHAPES.get(kind_of(body), ({}, _STAMPS))
    if kind_of(body) == "turn":
        needed, more = ({**needed, "model": _object(_MODEL)} if whole else {}), {**needed, **more}
    wrong = _object(needed, {**more, **needed})(body, "")
    if wrong is None and len(body.get("calls", ())) != len(body.get("verdicts", ())):
        wrong = f"verdicts: got {len(body.get('verdicts', ()))}, expected one for each of {len(body['calls'])} calls"
    return wrong


def unaccountable(body: Any) -> str | None:
    """What is wrong with what verification reads of a body: stamps, decisions, and what stands for what is gone."""
    if not isinstance(body, dict) or body.get("kind") in ("redaction", "retention"):
        return problem(body, whole=True)
    judged = _items(_object({"decision": _TEXT}))
    return _object({}, {**_STAMPS, "verdicts": judged})(body, "")


def read_content(record: StoredRecord, *, whole: bool = False) -> dict[str, Any]:
    """A record's content with the shape of its kind; a turn that lacks something has it empty.

    Raises:
        AuditError: something in it is not what such a record has there.
    """
    with legible(record):
        content = record.content
        if wrong := problem(content, whole=whole):
            raise AuditError(wrong)
        if kind_of(content) == "turn":
            content = {**_EMPTY, **content}
            content["model"] = {**_EMPTY["model"], **content["model"]}
        return content


@contextmanager
def legible(record: StoredRecord) -> Iterator[None]:
    """A block that reads a record; whatever surprises it there is one line that names the record. Raises AuditError."""
    try:
        yield
    except AuditError as error:
        if str(error).startswith(f"record {record.sequence}"):
            raise
        raise AuditError(f"record {record.sequence} (id {record.id[:40]}) cannot be read: {error}") from None
    except _SURPRISES as error:
        what = f"{type(error).__name__}: {error}"
        raise AuditError(f"record {record.sequence} (id {record.id[:40]}) cannot be read: {what}") from None
