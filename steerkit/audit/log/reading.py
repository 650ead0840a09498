"""Stored records read as typed ones. A store may come from anybody: an error is one line that names the record."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.schema import Record, read_record
from steerkit.errors import AuditError

_SURPRISES: Final = (
    ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error, MemoryError,
)  # fmt: skip
"""Errors of reading a value that is not what every record of its kind has there."""


def read_content(record: StoredRecord, *, dense: bool = False) -> Record:
    """A record with its content; stand-ins where that was redacted.

    Args:
        record: as it is stored.
        dense: every key must be there that a turn has today; else a turn that lacks one has it empty.

    Raises:
        AuditError: something in it is not what such a record has there.
    """
    with named_errors(record):
        return read_record(record.content, dense=dense)


def read_public(record: StoredRecord) -> Record:
    """A record without its content, which is cheaper; stand-ins are in its place. Raises AuditError."""
    with named_errors(record):
        return read_record(record.public)


@contextmanager
def named_errors(record: StoredRecord) -> Iterator[None]:
    """A block that reads a record: what is wrong there becomes one line that names the record. Raises AuditError."""
    try:
        yield
    except AuditError as error:
        if str(error).startswith(f"record {record.sequence}"):
            raise
        raise AuditError(f"record {record.sequence} (id {record.id[:40]}) cannot be read: {error}") from None
    except _SURPRISES as error:
        what = f"{type(error).__name__}: {error}"
        raise AuditError(f"record {record.sequence} (id {record.id[:40]}) cannot be read: {what}") from None
