"""Stores that this user may read and not write."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from steerkit.audit import Store, verify
from steerkit.errors import AuditError
from tests.audit.example import started, write_run

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="users as POSIX has them")


@contextmanager
def somebody() -> Iterator[None]:
    """Inside, this process is no administrator, to whom no file is read-only."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def path() -> Iterator[Path]:
    """A closed store in a folder of its own, which everybody may read."""
    folder = Path(tempfile.mkdtemp())
    store = started(folder / "a.db")
    write_run(store)
    store.close()
    folder.chmod(0o755)
    yield folder / "a.db"
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_closed_store_is_read_where_nothing_can_be_written(path: Path) -> None:
    """In a read-only folder it is verified and read, and nothing is put beside it."""
    path.chmod(0o444)
    path.parent.chmod(0o555)
    with somebody():
        store = Store(path, create=False)
        assert verify(store).records == 6
        assert store.get("2").content["text"] == "a word"
        store.close()
    assert [one.name for one in path.parent.iterdir()] == ["a.db"]


def test_writing_to_it_is_one_clear_error(path: Path) -> None:
    """Opened for writing, it says that this user may not; where it may, a record is written."""
    path.chmod(0o444)
    path.parent.chmod(0o555)
    with somebody(), pytest.raises(AuditError, match="this user may not write it, or beside it; give another file"):
        Store(path)
    path.parent.chmod(0o777)
    path.chmod(0o666)
    with somebody():
        store = Store(path)
        assert store.append({"kind": "note"}).sequence == 7
        store.close()


def test_a_folder_that_cannot_be_entered_is_one_clear_error(path: Path) -> None:
    """For reading and for writing."""
    path.parent.chmod(0o000)
    with somebody():
        for create in (True, False):
            with pytest.raises(AuditError, match="the audit store cannot be opened: Permission denied"):
                Store(path, create=create)


def test_a_store_that_is_being_written_is_read_with_what_waits_beside_it(path: Path) -> None:
    """What is not yet in the file itself is read too, and not overlooked as it would be in a store at rest."""
    writer = Store(path)
    writer.append({"kind": "note"})
    for one in path.parent.iterdir():
        one.chmod(0o644)  # somebody wants it read; by itself it is its owner's alone
    path.parent.chmod(0o555)
    with somebody():
        reader = Store(path, create=False)
        assert len(reader) == 7
        reader.close()
    writer.close()
