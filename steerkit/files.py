"""Files of any origin: a broken or hostile one is an error of one line, and what is written is written atomically."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final

from steerkit.errors import SteerkitError

_SHORT: Final = 80


def read_json(path: Path, error: type[SteerkitError], expected: str) -> Any:
    """The value in a JSON file, in UTF-8 or with the byte order mark of another encoding.

    Args:
        path: the file.
        error: what to raise.
        expected: the right content, for the message.

    Raises:
        SteerkitError: `error`: the file is missing, unreadable, not JSON, or nested too deep.
    """
    try:
        data = path.read_bytes()
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror or reason}); expected {expected}") from None
    return parse_json(data, str(path), error, expected)


def parse_json(
    text: str | bytes, where: str, error: type[SteerkitError], expected: str, *, loads: Callable[..., Any] = json.loads
) -> Any:
    """The value in JSON text; `where` is its place, as the message names it. Raises `error` as `read_json` does."""
    try:
        return loads(text)
    except RecursionError:
        raise error(f"{where}: JSON that is nested too deep to be read; expected {expected}") from None
    except UnicodeDecodeError:
        raise error(f"{where}: not UTF-8 text; expected {expected}") from None
    except ValueError as reason:
        raise error(f"{where}: not JSON ({shown(reason)}); expected {expected}") from None


class RepeatedKeyError(ValueError):
    """A key that stands twice in one object of JSON."""

    def __init__(self, key: str) -> None:
        super().__init__("a key stands twice in one object")
        self.key = key


def strict_json(text: str | bytes) -> Any:
    """JSON as it is defined: `NaN` and numbers beyond a float are none.

    Raises:
        RepeatedKeyError: an object has a key twice: who reads it next may take the other one.
        ValueError: it is no JSON.
        RecursionError: it is nested too deeply to be read.
    """
    return json.loads(text, parse_constant=_finite, parse_float=_finite, object_pairs_hook=_once)


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise RepeatedKeyError(key)
        found[key] = value
    return found


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def shown(value: object, most: int = _SHORT) -> str:
    """A value for a message, in one short line: its repr, or the first line of an error.

    Texts are quoted; control characters are written as escapes, so that a file's content cannot write on a terminal.
    """
    if isinstance(value, BaseException):
        text = plain(str(value)) or type(value).__name__
    else:
        try:
            text = plain(repr(value))
        except (ValueError, RecursionError):  # an integer of thousands of digits; a list of itself
            text = f"a huge {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 1]}…"


def plain(text: str) -> str:
    """Text in one line: the first line that is not blank, with control characters as escapes."""
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return re.sub(r"[^\x20-\x7e\u00a1-\u1fff\u2010-\u2027\u2030-\u205e\u2070-\ud7ff\uf900-\ufdff]", _escaped, line)


def _escaped(match: re.Match[str]) -> str:
    return ascii(match[0])[1:-1]


def safetensors_header(path: Path, error: type[SteerkitError]) -> dict[str, Any]:
    """The entries of a safetensors file by name, each with `dtype`, `shape` and `data_offsets`; no weight is read.

    Raises:
        SteerkitError: `error`: the file is unreadable, not safetensors, or of another length than its header says.
    """
    expected = "a safetensors file; fetch it again"
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            data = file.read(min(length, size))
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror or reason}); expected {expected}") from None
    if size < 8 or length > size - 8:
        raise error(f"{path}: truncated or not a safetensors file ({size:,} bytes); expected {expected}")
    found = parse_json(data, f"{path}: its header", error, expected)
    entries = {key: one for key, one in found.items() if key != "__metadata__"} if isinstance(found, dict) else None
    try:
        end = max((int(one["data_offsets"][1]) for one in (entries or {}).values()), default=0)
    except (TypeError, KeyError, IndexError, ValueError):
        entries = None
    if entries is None:
        raise error(f"{path}: its header is none of a safetensors file; expected {expected}")
    if size != 8 + length + end:
        raise error(f"{path}: got {size:,} bytes, expected {8 + length + end:,} by its header; fetch it again")
    return entries


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], error: type[SteerkitError]) -> None:
    """Write a file completely or not at all; after a failure the old file is still there, and no part of the new one.

    Args:
        path: the file, replaced where it exists.
        write: is given the open file.
        error: what to raise.

    Raises:
        SteerkitError: `error`: the file cannot be written.
    """
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as reason:  # torch wraps what the disk says into a RuntimeError
        part.unlink(missing_ok=True)
        raise error(f"{path}: cannot be written ({os_reason(reason)})") from None


def write_text_atomic(path: Path, text: str, error: type[SteerkitError]) -> None:
    """Write a text in UTF-8, completely or not at all. Raises `error` as `write_atomic` does."""
    write_atomic(path, lambda file: file.write(text.encode()), error)


def os_reason(error: BaseException) -> str:
    """The operating system's words for a failure that torch or safetensors wrapped, or that closing the file hid."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]
