"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from steerkit.errors import SaeError


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that it is there whole or not at all. Raises SaeError."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch wraps what the disk says into a RuntimeError
        part.unlink(missing_ok=True)
        raise SaeError(f"{path}: cannot be written ({reason(error)})") from None


def write_text_whole(path: Path, text: str) -> None:
    """Write a text in UTF-8 so that it is there whole or not at all. Raises SaeError."""
    write_whole(path, lambda file: file.write(text.encode()))


def reason(error: BaseException) -> str:
    """What the disk said, where torch or safetensors wrapped it or failed once more in closing the file."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = inner.__cause__ or inner.__context__
    return (str(error).splitlines() or [type(error).__name__])[0]
