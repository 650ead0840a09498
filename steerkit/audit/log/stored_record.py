"""A stored record: the tables that hold it, and the hash that binds it to its place.

A record's hash is SHA-256 over the canonical JSON of

    {"format": 2, "sequence": …, "id": …, "time": …, "previous": …, "body": sha256(body)}

with all hashes in lower-case hex and `previous` the hash of the record before, 64 zeros for the first. The body holds
commitments to whatever may later be redacted (`commitments`), which has a table of its own.

Records of format 1 hold everything in the body, and have a row in `traces`. Their hash is over the same object without
`format`, with `"trace": sha256(trace)`.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from steerkit.audit.log.canonical import digest, parse_canonical
from steerkit.audit.log.commitments import Content, join
from steerkit.audit.schema import FORMAT
from steerkit.errors import AuditError

GENESIS: Final = "0" * 64
APPLICATION_ID: Final = 0x534B4954  # "SKIT"
VERSION: Final = 2
"""Version of the tables."""

_RECORDS: Final = (
    "CREATE TABLE records (sequence INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, time TEXT NOT NULL, "
    "previous TEXT NOT NULL, hash TEXT NOT NULL, body BLOB NOT NULL) STRICT"
)
_TRACES: Final = "CREATE TABLE traces (sequence INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT"
_CONTENTS: Final = (
    "CREATE TABLE contents (sequence INTEGER NOT NULL, name TEXT NOT NULL, salt BLOB, data BLOB NOT NULL, "
    "PRIMARY KEY (sequence, name)) STRICT, WITHOUT ROWID"
)
_RETIRED: Final = "CREATE TABLE retired (sequence INTEGER PRIMARY KEY, hash TEXT NOT NULL) STRICT"

SCHEMAS: Final[Mapping[int, tuple[str, ...]]] = {
    1: (_RECORDS, _TRACES),
    2: (_RECORDS, _TRACES, _CONTENTS, _RETIRED),
}
"""The statements that make the tables of each version."""
UPGRADE: Final = (_CONTENTS, _RETIRED)
"""From version 1 to 2: what stands there stays as it is, to the byte."""

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A record with its place in the chain, as a store has it."""

    sequence: int
    """From 1, without gaps; 0 for one that could not be written, where that is only warned of."""
    id: str
    time: str
    """UTC, ISO 8601."""
    previous: str
    hash: str
    body: bytes
    """Canonical JSON: everything but the contents, of which it holds commitments."""
    contents: Mapping[str, Content] = field(default_factory=dict)
    """Contents that may be redacted, by JSON Pointer; without the trace."""

    @property
    def public(self) -> dict[str, Any]:
        """JSON of the body: what no redaction touches. Raises AuditError where it is no object."""
        value = parse_canonical(self.body)
        if not isinstance(value, dict):
            raise AuditError(f"record {self.sequence}: its body is a {type(value).__name__}, expected an object")
        return value

    @property
    def content(self) -> dict[str, Any]:
        """JSON of body and contents; what was redacted is `{"redacted": hmac}` there. Raises AuditError."""
        return join(self.public, self.contents)


def record_hash(sequence: int, id: str, time: str, previous: str, body: bytes, trace: str | None = None) -> str:
    """The hash that covers a record and its place in the chain.

    Args:
        sequence, id, time, previous, body: as in `StoredRecord`.
        trace: SHA-256 of the packed trace, in a record of format 1; else None.
    """
    head: dict[str, Any] = {"sequence": sequence, "id": id, "time": time, "previous": previous}
    head["body"] = hashlib.sha256(body).hexdigest()
    head |= {"format": FORMAT} if trace is None else {"trace": trace}
    return digest(head)


def new_id() -> str:
    """26 characters: 48 bits of time in milliseconds, then 80 random bits, so that ids sort by time."""
    number = int(datetime.now(UTC).timestamp() * 1000) << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(125, -1, -5))
