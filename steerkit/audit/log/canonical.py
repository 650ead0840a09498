"""One byte string per JSON value: RFC 8785, extended so that integers of any size and broken text keep their value, and
objects whose keys' order counts that order."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, Final

import rfc8785

from steerkit.errors import AuditError

_SAFE: Final = 2**53 - 1
"""Largest integer that RFC 8785 can write."""
_SHORTEST_FORM: Final = 1e-4
"""Smallest float that Python writes without an exponent."""
_TAGS: Final = ("$integer", "$text", "$object")


class InOrder(dict[str, Any]):
    """An object whose keys' order counts: a prompt may be written in that order."""


def in_order(value: Any) -> Any:
    """A value whose objects, at any depth, keep the order of their keys where canonical JSON has another."""
    if isinstance(value, (list, tuple)):
        return [in_order(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    found = {key: in_order(item) for key, item in value.items()}
    return found if list(found) == sorted(found, key=_utf16) else InOrder(found)


def _utf16(key: str) -> bytes:
    """By which canonical JSON sorts keys."""
    return key.encode("utf-16-be", "surrogatepass")


def plain_objects(value: Any) -> Any:
    """A value with plain objects at any depth, their keys as they are."""
    if isinstance(value, list):
        return [plain_objects(item) for item in value]
    return {key: plain_objects(item) for key, item in value.items()} if isinstance(value, dict) else value


def text_in_order(value: Mapping[str, Any]) -> str:
    """An object as JSON text, its keys as they are: arguments that come back in a message are as they were written.

    Characters that are not printable, and broken text, are escaped.
    """
    text = json.dumps(dict(value), ensure_ascii=False, separators=(",", ":"))
    return text if text.isprintable() else json.dumps(dict(value), separators=(",", ":"))


def canonical(value: Any) -> bytes:
    """Canonical JSON of a value; different values have different bytes.

    Integers beyond 2^53 - 1 become `{"$integer": "…"}`, text with lone surrogates `{"$text": […code units…]}`, and an
    object that has such a key itself, or is `InOrder`, is wrapped in `{"$object": […pairs…]}`.

    Raises:
        AuditError: NaN or infinity, or something that JSON has no form for.
    """
    try:
        try:
            return _written(_plain(value))
        except (_UnusualError, UnicodeEncodeError):
            return rfc8785.dumps(_tagged(value))
    except (rfc8785.CanonicalizationError, RecursionError, TypeError, ValueError) as error:
        raise AuditError(f"a record holds what JSON cannot carry: {error}") from None


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON, in hex. Raises AuditError where it is no JSON."""
    return hashlib.sha256(canonical(value)).hexdigest()


def parse_canonical(data: bytes) -> Any:
    """The value of canonical bytes; what was wrapped is `InOrder`.

    Raises:
        AuditError: the bytes are no JSON.
    """
    try:
        return _untagged(json.loads(data, parse_constant=_refused))
    except (ValueError, RecursionError, KeyError, TypeError, OverflowError) as error:
        raise AuditError(f"a record is no canonical JSON: {error}") from None


def _refused(name: str) -> None:
    raise ValueError(f"got {name}")


class _UnusualError(Exception):
    """A value that `json` may write in another way than RFC 8785."""


def _plain(value: Any) -> Any:
    """The value as `json` writes it to the bytes of RFC 8785, in less than half the time of `rfc8785`'s.

    It writes floats below 0.0001 in another form, and sorts keys by code points, not by UTF-16 units.

    Raises:
        _UnusualError: one that it may write otherwise, or that has no form there.
    """
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is float:
        if not value.is_integer():
            if _SHORTEST_FORM <= abs(value) < math.inf:
                return value
            raise _UnusualError
        value = int(value)
        kind = int
    if kind is int and -_SAFE <= value <= _SAFE:
        return value
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]
    if kind is dict and all(type(key) is str and key.isascii() and key not in _TAGS for key in value):
        return {key: _plain(item) for key, item in value.items()}
    if kind is InOrder and all(type(key) is str for key in value):
        return {"$object": [[key, _plain(item)] for key, item in value.items()]}
    raise _UnusualError


def _written(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return text.encode()


def _tagged(value: Any) -> Any:
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return value if -_SAFE <= value <= _SAFE else {"$integer": hex(value)}
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return {"$text": [ord(char) for char in value]}
        return value
    if isinstance(value, (list, tuple)):
        return [_tagged(item) for item in value]
    if not isinstance(value, Mapping):
        raise TypeError(f"got {type(value).__name__}")
    pairs = [(_tagged(key), _tagged(item)) for key, item in value.items()]
    if isinstance(value, InOrder):
        return {"$object": [list(pair) for pair in pairs]}
    if any(key in _TAGS or not isinstance(key, str) for key, _ in pairs):
        return {"$object": [list(pair) for pair in sorted(pairs, key=lambda pair: json.dumps(pair[0]))]}
    return dict(pairs)


def _untagged(value: Any) -> Any:
    if isinstance(value, list):
        return [_untagged(item) for item in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((tag, inner),) = value.items()
        if tag == "$integer":
            return int(inner, 16)
        if tag == "$text":
            return "".join(map(chr, inner))
        if tag == "$object":
            return InOrder({_untagged(key): _untagged(item) for key, item in inner})
    return {key: _untagged(item) for key, item in value.items()}
