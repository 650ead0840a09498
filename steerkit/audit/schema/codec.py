"""JSON objects as typed values and back: the fields of a dataclass are the keys, their types the shapes.

A field with a default is left out of the JSON where it has it; one marked `ALWAYS` never. A key that no field has stays
in the record's `more` under its path, and is written back, so that what a newer version wrote is kept. A JSON value of
another shape is an error that names its place.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, Final, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from steerkit.audit.schema.gone import MISSING as NOT_THERE
from steerkit.audit.schema.gone import Gone, is_marker, stand_in
from steerkit.errors import AuditError

Path = tuple[str | int, ...]
"""Keys and indices from the record down to a value in it."""
T = TypeVar("T")

PRIVATE: Final = "private"
"""Marks a field whose content may be redacted: `Annotated[str, PRIVATE]`."""


@dataclass
class Reading:
    """One JSON object that is read."""

    dense: bool
    """Every key must be there that such records have; else a lenient class has empty values for those that are not."""
    more: dict[Path, Any] = field(default_factory=dict)
    """Keys that no field has."""


class Codec(NamedTuple):
    """Functions that read values of one type from JSON and write them."""

    read: Callable[[Any, Path, Reading], Any]
    """Raises AuditError."""
    write: Callable[[Any], Any]
    kind: type = str
    """Type of the value; called, it gives an empty one."""
    fits: Callable[[Any], bool] | None = None
    """Test of a plain value: True where it may stay as it is."""
    private: bool = False
    """Content that may be gone."""


class Slot(NamedTuple):
    """A key of a JSON object."""

    key: str
    attribute: str
    codec: Codec
    default: Callable[[], Any] | None = None
    """None of one that must be there."""
    always: bool = True
    """Written also where it has its default."""


ALWAYS: Final = {"always": True}
"""Metadata of a field that is written also where it has its default."""
FORMS: Final[dict[type, tuple[Slot, ...] | Codec]] = {}
"""Keys of classes that are not written field by field, or their codec."""


def read(kind: type[T], value: Any, *, dense: bool = False) -> T:
    """A typed value from a JSON object; what no field has is in its `more`, if it has one. Raises AuditError."""
    reading = Reading(dense)
    found: T = codec_of(kind).read(value, (), reading)
    more: dict[str, Any] = {"more": reading.more} if reading.more and hasattr(found, "more") else {}
    return replace(found, **more) if more else found  # type: ignore[type-var]  # it has a field `more`


def as_json(value: Any) -> Any:
    """The JSON form of a typed value or several, with what a newer version wrote into it."""
    if isinstance(value, (list, tuple)) and not isinstance(value, Gone):
        return [as_json(one) for one in value]
    if not is_dataclass(value):
        return dict(value.marker) if isinstance(value, Gone) else value
    found = codec_of(type(value)).write(value)
    for path, item in getattr(value, "more", {}).items():
        at = found
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = item
    return found


def path_of(keys: Iterable[str | int]) -> str:
    """A path as people write one: `calls[0].arguments.to`; a key that is no plain word stands in quotes."""
    found = ""
    for key in keys:
        if isinstance(key, int):
            found += f"[{key}]"
        elif key.isidentifier():
            found += f".{key}" if found else key
        else:
            found += f"[{json.dumps(key, ensure_ascii=False)}]"
    return found


def wrong(value: Any, at: Path, expected: str) -> AuditError:
    """The error about a value of another shape."""
    got = json.dumps(value, default=str, skipkeys=True)
    return AuditError(
        f"{path_of(at) or 'the body'}: got {got if len(got) <= 60 else got[:59] + '…'}, expected {expected}"
    )


def plain(expected: str, fits: Callable[[Any], bool], kind: type = str) -> Codec:
    """A value that stays as it is."""

    def read(value: Any, at: Path, reading: Reading) -> Any:
        if not fits(value):
            raise wrong(value, at, expected)
        return value

    return Codec(read, lambda value: value, kind, fits)


def items(inner: Codec, least: int = 0) -> Codec:
    """A list, as a tuple."""

    def read(value: Any, at: Path, reading: Reading) -> Any:
        if not isinstance(value, list) or len(value) < least:
            raise wrong(value, at, "a list" if not least else f"a list of {least} or more")
        if inner.fits is not None and all(map(inner.fits, value)):
            return tuple(value)
        return tuple(inner.read(one, (*at, number), reading) for number, one in enumerate(value))

    return Codec(read, lambda value: [inner.write(one) for one in value], tuple)


def values(inner: Codec) -> Codec:
    """An object whose values are alike."""

    def read(value: Any, at: Path, reading: Reading) -> Any:
        if not isinstance(value, dict):
            raise wrong(value, at, "an object")
        return {key: inner.read(one, (*at, key), reading) for key, one in value.items()}

    return Codec(read, lambda value: {key: inner.write(one) for key, one in value.items()}, dict)


def maybe(inner: Codec) -> Codec:
    """A value, or null."""
    return Codec(
        lambda value, at, reading: None if value is None else inner.read(value, at, reading),
        lambda value: None if value is None else inner.write(value),
        types.NoneType,
    )


def private(inner: Codec, kind: type) -> Codec:
    """Content that may be gone."""
    return Codec(
        lambda value, at, reading: stand_in(kind, value) if is_marker(value) else inner.read(value, at, reading),
        lambda value: dict(value.marker) if isinstance(value, Gone) else inner.write(value),
        kind,
        private=True,
    )


def in_slots(kind: type, slots: tuple[Slot, ...]) -> Codec:
    """An object with these keys."""
    known, lenient = frozenset(slot.key for slot in slots), getattr(kind, "lenient", False)

    def read(value: Any, at: Path, reading: Reading) -> Any:
        if not isinstance(value, dict):
            raise wrong(value, at, "an object")
        found = {}
        for slot in slots:
            if slot.key in value:
                found[slot.attribute] = slot.codec.read(value[slot.key], (*at, slot.key), reading)
            elif slot.default is not None:
                found[slot.attribute] = slot.default()
            elif slot.codec.private:
                found[slot.attribute] = stand_in(slot.codec.kind, NOT_THERE)
            elif lenient and not reading.dense:
                found[slot.attribute] = _empty(slot.codec, (*at, slot.key), reading)
            else:
                raise AuditError(f"{path_of((*at, slot.key))}: got nothing, expected one")
        reading.more.update({(*at, key): value[key] for key in value.keys() - known})
        return kind(**found)

    def write(value: Any) -> dict[str, Any]:
        found = {}
        for slot in slots:
            item = getattr(value, slot.attribute)
            if slot.always or slot.default is None or item != slot.default() or isinstance(item, Gone):
                found[slot.key] = slot.codec.write(item)
        return found

    return Codec(read, write, kind)


def _empty(codec: Codec, at: Path, reading: Reading) -> Any:
    return codec.read({}, at, reading) if is_dataclass(codec.kind) else codec.kind()


TEXT: Final = plain("a text", lambda value: isinstance(value, str))
COUNT: Final = plain("an integer", lambda value: type(value) is int and -(2**63) <= value < 2**63, int)
NUMBER: Final = plain(
    "a number",
    lambda value: not isinstance(value, bool) and isinstance(value, (int, float)) and math.isfinite(value),
    float,
)
OBJECT: Final = plain("an object", lambda value: isinstance(value, dict), dict)
ANY: Final = plain("anything", lambda value: True, dict)
FLAG: Final = plain("true or false", lambda value: isinstance(value, bool), bool)
_PLAIN: Final[Mapping[Any, Codec]] = {
    str: TEXT,
    bool: FLAG,
    int: COUNT,
    float: NUMBER,
    Any: ANY,
    Mapping[str, Any]: OBJECT,
}


def one_of(words: tuple[str, ...]) -> Codec:
    """One of some texts."""
    return plain(_listed(words), lambda value: isinstance(value, str) and value in words)


def _listed(words: tuple[str, ...]) -> str:
    return " or ".join(words) if len(words) == 2 else f"one of {', '.join(words)}"


def codec_of(kind: Any) -> Codec:
    """The codec of a type; raises TypeError of one that records do not have."""
    return _codec_of(kind)


@cache
def _codec_of(kind: Any) -> Codec:
    if kind in _PLAIN:
        return _PLAIN[kind]
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        if isinstance(inner[1], Codec):
            return inner[1]
        found = codec_of(inner[0])
        return private(found, str if found.kind is types.NoneType else found.kind)
    if origin is Literal:
        return one_of(inner)
    if origin in (Union, types.UnionType) and inner[1:] == (types.NoneType,):
        return maybe(codec_of(inner[0]))
    if origin is tuple and inner[1:] == (...,):
        return items(codec_of(inner[0]))
    if origin is not None and issubclass(origin, Mapping):
        return values(codec_of(inner[1]))
    if is_dataclass(kind) and isinstance(kind, type):
        form = FORMS.get(kind) or tuple(slots_of(kind))
        return form if isinstance(form, Codec) else in_slots(kind, form)
    raise TypeError(f"got {kind}, expected a type that records have")


def slots_of(kind: type) -> Iterable[Slot]:
    """The keys of a dataclass: its fields, but for `more`."""
    hints: Mapping[str, Any] = get_type_hints(kind, include_extras=True)
    for one in fields(kind):
        if one.name == "more":
            continue
        default: Callable[[], Any] | None = None
        if one.default_factory is not MISSING:
            default = one.default_factory
        elif one.default is not MISSING:
            default = (lambda value: lambda: value)(one.default)
        yield Slot(one.name, one.name, codec_of(hints[one.name]), default, one.metadata == ALWAYS)
