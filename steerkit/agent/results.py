"""Tool results as one JSON object of bounded length, for any value that a tool returns.

| value | JSON |
|---|---|
| mappings, dataclasses, pydantic models, attrs classes, namespaces | an object |
| lists, tuples, sets (sorted), iterators, arrays, tensors | an array |
| a table (pandas, polars, pyarrow) | an array of rows, each an object |
| enums | their value |
| dates, times, durations | ISO 8601 |
| decimals, fractions, UUIDs, paths, addresses | text |
| NaN and infinities | the texts `NaN`, `Infinity`, `-Infinity` |
| bytes | text where they are UTF-8, else a `data:` URI in base64 |
| errors | their name and text |
| keys that are no text | their JSON as text; of two that become one the second is numbered |

Anything else, and what holds itself or is nested too deeply, cannot be shown; then the model sees that, and that the
tool ran all the same.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from codecs import getincrementaldecoder
from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from dataclasses import fields, is_dataclass
from enum import Enum
from os import PathLike
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from steerkit.types import Json

MAX_RESULT: Final = 4000
"""Characters of a result, and tokens of it, that the model sees by default."""
MAX_ERROR: Final = 500
"""Characters of an error that the model sees."""


def fitted(value: Any, max_result: int) -> dict[str, Json]:
    """A tool's return value as the model sees it: an object, of plain JSON, not too long.

    A value that is no object stands under `value`. A longer one is cut: its text stands under `value`, with a note. One
    that cannot be shown is a `note` that the tool ran.
    """
    try:
        writer = _Writer(max_result)
        plain = writer.plain(value)
        if isinstance(plain, str):
            return {"value": cut(_unicode(plain[: max_result + 1]), max_result)}
        text = writer.text(value)
        if len(text) > max_result:
            return {"value": cut(text, max_result)}
        result = json.loads(text)
    except RecursionError:
        return unshown(_kind(value), "it is nested too deeply")
    except _UnwritableError as error:
        return unshown(_kind(value), str(error))
    except Exception as error:  # a result's own methods may raise anything
        return unshown(_kind(value), error_text(error))
    return result if isinstance(result, dict) else {"value": result}


def unshown(*why: str) -> dict[str, Json]:
    """Note in place of a result that has no JSON: the tool ran all the same."""
    return {"note": cut(f"the tool ran; its result cannot be shown: {', '.join(why)}", MAX_ERROR)}


def error_text(error: BaseException) -> str:
    """An error in one bounded line, without its traceback."""
    try:
        said = " ".join(str(error).split())
    except Exception:  # an error whose own text fails
        said = ""
    name = type(error).__name__
    text = (f"{name}: {said}" if said else name).encode("utf-8", "replace").decode()
    return cut(text, MAX_ERROR)


def cut(text: str, most: int) -> str:
    """A text, cut after so many characters, with a note that says so."""
    return text if len(text) <= most else f"{text[:most]} [cut after {most} characters]"


def _kind(value: Any) -> str:
    return f"of type {cut(type(value).__name__, 80)}"


class _UnwritableError(Exception):
    """A value that has no JSON."""


class _Pairs(NamedTuple):
    """An object's keys and values."""

    pairs: Iterable[tuple[Any, Any]]


class _Items(NamedTuple):
    """An array's items."""

    items: Iterable[Any]


class _Scalar(NamedTuple):
    """A value that stands for another, such as the number of an array without dimensions."""

    value: Any


_Plain = bool | int | float | str | _Pairs | _Items | None


class _Writer:
    """Writes values as JSON text, no more of it than is needed to know that it is too long."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[int] = set()

    def text(self, value: Any) -> str:
        """Its JSON, or a beginning of it that is longer than `most`."""
        parts, length = [], 0
        for part in self._parts(value):
            parts.append(part)
            length += len(part)
            if length > self._most:
                break
        return "".join(parts)

    def plain(self, value: Any) -> _Plain:
        """A scalar, or what an object or an array holds, not yet looked at."""
        if isinstance(value, Enum):
            return self.plain(value.value)
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, _Pairs):
            return value
        if isinstance(value, Mapping):
            return _Pairs(value.items())
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._of_bytes(bytes(value[: 4 * self._most + 4]), whole=len(value) <= 4 * self._most + 4)
        if isinstance(value, BaseException):
            return error_text(value)
        if isinstance(value, PathLike):
            return self.plain(value.__fspath__())
        if isinstance(value, BaseModel):
            return self._of_model(value)
        if not isinstance(value, type):
            found = _of_fields(value) or _of_table(value) or _of_array(value, self._most)
            if found is not None:
                return self.plain(found.value) if isinstance(found, _Scalar) else found
        if isinstance(value, Set):
            return _Items(_sorted(value))
        if isinstance(value, (Collection, Iterator)):
            return _Items(value)
        return self._of_leaf(value)

    def _parts(self, value: Any) -> Iterator[str]:
        plain = self.plain(value)
        if not isinstance(plain, (_Pairs, _Items)):
            yield self._scalar(plain)
            return
        if id(value) in self._open:
            raise _UnwritableError("it holds itself")
        self._open.add(id(value))
        if isinstance(plain, _Pairs):
            yield from self._object(plain.pairs)
        else:
            yield "["
            for number, item in enumerate(plain.items):
                yield ", " if number else ""
                yield from self._parts(item)
            yield "]"
        self._open.discard(id(value))

    def _object(self, pairs: Iterable[tuple[Any, Any]]) -> Iterator[str]:
        taken: set[str] = set()
        yield "{"
        for key, item in pairs:
            name = self._key(key)
            if name in taken:
                name = next(other for n in range(2, len(taken) + 3) if (other := f"{name} ({n})") not in taken)
            yield f"{', ' if taken else ''}{self._scalar(name)}: "
            taken.add(name)
            yield from self._parts(item)
        yield "}"

    def _key(self, key: Any) -> str:
        plain = self.plain(key)
        return _unicode(plain[: self._most + 1]) if isinstance(plain, str) else self.text(key)

    def _scalar(self, value: bool | int | float | str | None) -> str:
        if isinstance(value, str):
            return json.dumps(_unicode(value[: self._most + 1]), ensure_ascii=False)
        if value is None or isinstance(value, bool):
            return json.dumps(value)
        if isinstance(value, int):
            return int.__repr__(value)
        if math.isnan(value):
            return '"NaN"'
        if math.isinf(value):
            return '"Infinity"' if value > 0 else '"-Infinity"'
        return float.__repr__(value)

    def _of_bytes(self, value: bytes, *, whole: bool) -> str:
        try:
            return getincrementaldecoder("utf-8")().decode(value, whole)
        except UnicodeDecodeError:
            return f"data:application/octet-stream;base64,{b64encode(value[: self._most]).decode()}"

    def _of_model(self, value: BaseModel) -> _Plain:
        """A model's own dump; field by field where that fails."""
        try:
            dumped = value.model_dump(mode="json", warnings=False)
        except Exception:  # a field's own serializer may raise anything
            return _Pairs(value)
        return self.plain(dumped)

    def _of_leaf(self, value: Any) -> _Plain:
        """Dates, decimals and the like, as pydantic writes them."""
        try:
            written = to_jsonable_python(value)
        except Exception:
            raise _UnwritableError("it has no JSON form") from None
        return self.plain(written)


def _of_fields(value: Any) -> _Pairs | None:
    """Fields of dataclasses, attrs classes and namespaces."""
    kind = type(value)
    if is_dataclass(value):
        names = [field.name for field in fields(value)]
    elif hasattr(kind, "__attrs_attrs__"):
        names = [field.name for field in kind.__attrs_attrs__]
    elif isinstance(value, SimpleNamespace):
        return _Pairs(vars(value).items())
    else:
        return None
    return _Pairs((name, getattr(value, name)) for name in names)


def _of_table(value: Any) -> _Items | _Pairs | _Scalar | None:
    """The rows of a table, or a labelled column; no library is loaded for it."""
    library, name = type(value).__module__.partition(".")[0], type(value).__name__
    if library == "pandas" and name in ("NAType", "NaTType"):
        return _Scalar(None)
    labels_only_count = library == "pandas" and type(getattr(value, "index", None)).__name__ == "RangeIndex"
    if library == "pandas" and name == "Series":
        return _Items(value) if labels_only_count else _Pairs(value.items())
    if library == "pandas" and name == "DataFrame":
        return _Items(_rows(value if labels_only_count else value.reset_index()))
    if library == "polars" and name == "DataFrame":
        return _Items(value.iter_rows(named=True))
    if library == "pyarrow" and name in ("Table", "RecordBatch"):
        return _Items(row for batch in _batches(value) for row in batch.to_pylist())
    return None


def _rows(frame: Any) -> Iterator[_Pairs]:
    for row in frame.itertuples(index=False, name=None):
        yield _Pairs(list(zip(frame.columns, row, strict=True)))


def _batches(table: Any) -> Iterator[Any]:
    """A few rows of an arrow table at a time."""
    for start in range(0, table.num_rows, 64):
        yield table.slice(start, 64)


def _of_array(value: Any, most: int) -> _Items | _Scalar | None:
    """The rows of an array or tensor of any library; one without dimensions is its number."""
    shape = getattr(value, "shape", None)
    if not isinstance(shape, tuple) or not callable(getattr(value, "tolist", None)):
        return None
    if shape:
        return _Items(value[:most])  # more of them would be longer than that, and a tensor makes all its rows at once
    number = value.tolist()
    is_time = getattr(getattr(value, "dtype", None), "kind", "") in ("m", "M")  # nanoseconds are bare numbers there
    return _Scalar(str(value) if is_time or type(number) is type(value) else number)


def _sorted(value: Set[Any]) -> list[Any]:
    """A set in an order that does not change from one process to the next, if it has one."""
    try:
        return sorted(value)
    except Exception:
        return list(value)


def _unicode(text: str) -> str:
    """Text as itself; what is half a character becomes the sign for that."""
    plain = str.__str__(text)
    return plain.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
