"""Files are written completely or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import IO

import pytest

from steerkit.errors import AuditError, SaeError
from steerkit.files import write_atomic, write_text_atomic


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    """Where the disk fails half way the old file stays, alone; where it does not, it is replaced."""
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old", SaeError)

    def half(file: IO[bytes]) -> None:
        file.write(b"ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(SaeError, match="cannot be written \\(No space left"):
        write_atomic(path, half, SaeError)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    write_text_atomic(path, "new", SaeError)
    assert path.read_text() == "new"


def test_the_error_is_the_callers(tmp_path: Path) -> None:
    """A path without a folder raises the error that was asked for, with the system's own words."""
    with pytest.raises(AuditError, match=r"a\.txt: cannot be written \(No such file or directory\)"):
        write_text_atomic(tmp_path / "none" / "a.txt", "x", AuditError)
