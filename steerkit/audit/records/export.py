"""Tables of records in a file, as JSON lines, CSV or Parquet; the file is complete, or is not there.

CSV is UTF-8 with the names of the columns in its first line; what is empty is an empty cell, and lists are JSON. Texts
come from models, tools and strangers, and a spreadsheet runs what looks like a formula: a text that begins with `=`,
`+`, `-`, `@`, a tab or a line break gets an apostrophe before it. Control characters, and marks that turn the direction
of what follows, stand as escapes such as `\\x1b`. Whoever needs the exact text takes JSON lines or Parquet.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from steerkit.audit.log.reading import named_errors
from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.records.query import Query, find
from steerkit.audit.records.tables import TABLES, Rows
from steerkit.errors import AuditError, MissingExtraError

FORMATS: Final = ("jsonl", "csv", "parquet")
_FORMULAS: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings that a spreadsheet takes for a formula; the last four are full-width characters."""
_HIDDEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_GROUP: Final = 20_000
"""Rows of a Parquet row group: what is held in memory at a time."""


def export(store: Store, path: Path | IO[bytes], query: Query, *, table: str = "records", format: str = "jsonl") -> int:
    """Write the records that fit a query to a file; the file is replaced at the end, or stays unchanged.

    Args:
        store: the store; read as it stands now, whatever others write meanwhile.
        path: the file, or an open binary one, which is written as the rows are read.
        query: which records.
        table: `records`, `calls` or `features`; see `TABLES` for their columns.
        format: one of `FORMATS`.

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
    with store.file.snapshot(), replacing(path) if isinstance(path, Path) else nullcontext(path) as file:
        rows = (row for record in find(store, query) for row in _rows(store, record, rows_of))
        if format == "parquet":
            return _write_parquet(file, rows, columns)
        return (_write_csv if format == "csv" else _write_lines)(file, rows, columns)


def _rows(store: Store, record: StoredRecord, rows_of: Rows) -> list[dict[str, Any]]:
    with named_errors(record):
        return [*rows_of(store, record)]


def _write_csv(file: IO[bytes], rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str]) -> int:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer, count = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC), 0
    try:
        writer.writerow(columns)
        for row in rows:
            writer.writerow([_cell(_plain(row.get(name))) for name in columns])
            count += 1
    finally:
        text.detach()
    return count


def _cell(value: Any) -> Any:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    shown: str = _HIDDEN.sub(lambda found: found[0].encode("unicode_escape").decode(), _utf8(text))
    return f"'{shown}" if text.startswith(_FORMULAS) else shown


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
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file beside the one that is meant, which takes its place at the end, or goes; a device is written directly.

    Raises:
        AuditError: it cannot be written.
    """
    part: Path | None = None
    try:
        path = path.resolve()  # what a link leads to, not the link
        if path.exists() and not path.is_file() and not path.is_dir():
            with path.open("wb") as file:
                yield file
            return
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
