"""Writes tables of records to a file, as JSON lines or Parquet: whole, or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from steerkit.audit.query import Query, find
from steerkit.audit.store import Store
from steerkit.audit.tables import TABLES
from steerkit.errors import AuditError, MissingExtraError

FORMATS: Final = ("jsonl", "parquet")
_GROUP: Final = 20_000
"""Rows of a Parquet row group: what is held in memory at a time."""


def export(store: Store, path: Path, query: Query, *, table: str = "records", format: str = "jsonl") -> int:
    """Write the records that fit a query to a file; the file is replaced at the end, or left as it was.

    Args:
        store: the store; read as it stands now, whatever others write meanwhile.
        path: the file.
        query: which records.
        table: `records`, `calls` or `features`; see `TABLES` for their columns.
        format: `jsonl` or `parquet`.

    Returns:
        How many rows were written.

    Raises:
        AuditError: no such table or format, or the file cannot be written.
        MissingExtraError: Parquet without pyarrow.
    """
    if table not in TABLES:
        raise AuditError(f"table: got {table!r}, expected one of {', '.join(TABLES)}")
    if format not in FORMATS:
        raise AuditError(f"format: got {format!r}, expected one of {', '.join(FORMATS)}")
    rows_of, columns = TABLES[table]
    with store.file.snapshot(), _whole(path) as file:
        rows = (row for record in find(store, query) for row in rows_of(store, record))
        if format == "parquet":
            return _write_parquet(file, rows, columns)
        return _write_lines(file, rows, columns)


def _write_lines(file: IO[bytes], rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> int:
    count = 0
    for row in rows:
        full = {name: _plain(row.get(name)) for name in columns}
        if "body" in full:
            full["body"] = json.loads(full["body"])  # JSON in JSON needs no quotes
        file.write(json.dumps(full).encode() + b"\n")
        count += 1
    return count


def _plain(value: Any) -> Any:
    return value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value


def _write_parquet(file: IO[bytes], rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> int:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError.of("Parquet", "data", "or export JSONL") from None
    types = {
        "int64": pyarrow.int64(),
        "double": pyarrow.float64(),
        "bool": pyarrow.bool_(),
        "string": pyarrow.string(),
        "strings": pyarrow.list_(pyarrow.string()),
        "time": pyarrow.timestamp("us", tz="UTC"),
    }
    schema = pyarrow.schema([(name, types[kind]) for name, kind in columns.items()])
    left, count = iter(rows), 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while some := [{name: _utf8(row.get(name)) for name in columns} for row in islice(left, _GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(some, schema=schema))
            count += len(some)
    return count


def _utf8(value: Any) -> Any:
    """Half characters, which no text column can hold, as the escapes that JSON has for them."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A file beside the one that is meant, which takes its place at the end, or goes."""
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        part = Path(name)
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        part = None
    except OSError as error:
        raise AuditError(f"{path}: cannot be written: {error.strerror or error}") from None
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
