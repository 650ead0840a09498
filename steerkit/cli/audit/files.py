"""Small files of `steerkit audit`: keys, checkpoints and proofs, as they are written and as they come back."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from steerkit.errors import AuditError
from steerkit.report import say

_MAX: Final = 1 << 26
_DASHES: Final = re.compile(
    "^(?:\u0393\u00c7\u00f6|\u00d4\u00c7\u00f6|\u00e2\u20ac\u201d) (?=[^ \n]+ [A-Za-z0-9+/=]+$)", re.MULTILINE
)
"""A signature line whose dash a console read as code page 437, 850 or 1252."""


def read(path: Path) -> str:
    """A small text file, also as PowerShell writes one: UTF-16, a byte order mark, CRLF. Raises AuditError."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX + 1)
        if len(data) > _MAX:
            raise AuditError(f"{path}: larger than {_MAX >> 20} MiB; expected a key, a checkpoint or a proof")
        encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        text = data.decode(encoding).replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return _DASHES.sub("\N{EM DASH} ", text.rstrip("\n") + "\n")


def read_json(path: Path, expected: str) -> Any:
    """The value of a JSON file. Raises AuditError."""
    try:
        return json.loads(read(path))
    except (ValueError, RecursionError) as error:
        raise AuditError(f"{path}: got no {expected} ({error})") from None


def write_out(text: str, out: Path | None) -> None:
    """A text to a file, written atomically, or as its bytes to standard output."""
    if out is None:
        say(text.removesuffix("\n"))
        return
    from steerkit.audit import replacing

    with replacing(out) as file:
        file.write(text.encode())


def write_new(path: Path, text: str, mode: int) -> None:
    """A file that was not there before: a key is never overwritten."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(f"{text}\n".encode())
    except OSError as error:
        raise AuditError(f"{path}: the key cannot be written: {error.strerror}") from None
