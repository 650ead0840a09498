"""Accounts over all records of a store: runs count up, and a record says of all that was redacted or retired."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from steerkit.audit.integrity.merkle import Tree
from steerkit.audit.integrity.signed_note import VerifierKey, open_note
from steerkit.audit.log.canonical import digest
from steerkit.audit.log.commitments import Content
from steerkit.audit.log.run_log import CLOSED, OPENED, counts, tally
from steerkit.audit.schema import (
    Accounted,
    RedactionRecord,
    RetentionRecord,
    RunClosedRecord,
    accounted,
    read_as,
    record_json,
)
from steerkit.errors import AuditError, TamperError


def gone_leaf(sequence: int, digest: str) -> bytes:
    """A leaf of a tombstone's tree: the retired record's number in 8 bytes, then its hash."""
    return sequence.to_bytes(8, "big") + bytes.fromhex(digest)


def tombstone_text(name: str, before: str, count: int, root: str) -> str:
    """The text that a tombstone's signature is over."""
    return f"{name}\nretired {count} records before {before}\n{root}\n"


def redaction_text(name: str, redaction: RedactionRecord) -> str:
    """The text that a redaction's signature is over: everything that its record says, but for the signature."""
    content = record_json(replace(redaction, signature=None))
    return f"{name}\nredacted {len(redaction.fields)} pieces of record {redaction.of}\n{digest(content)}\n"


@dataclass
class _Run:
    number: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    decisions: dict[str, int] = field(default_factory=dict)


class Accounts:
    """Accounts over the records of a store, read in their order; their hashes hold."""

    def __init__(self, path: Path, key: VerifierKey | None) -> None:
        self._path, self._key = path, key
        self._runs: dict[str, _Run] = {}
        self._closed: set[str] = set()
        self._gone: dict[int, str] = {}
        self._redacted: dict[tuple[int, str], str] = {}
        self._ids: dict[int, str] = {}
        self._retired_by_note: set[int] = set()
        self.lost = self.redacted = self.retired = self.unsigned = 0
        self.unsigned_redactions = self.unchecked_redactions = 0

    @property
    def open_runs(self) -> list[str]:
        """Ids of the runs that were not closed."""
        return list(self._runs)

    def gone(self, sequence: int, digest: str) -> None:
        """Count a retired record."""
        self._gone[sequence] = digest
        self.retired += 1

    def read(self, sequence: int, id: str, body: Any, contents: dict[str, Content]) -> None:
        """Take in the next record. Raises AuditError where it is not what such a record is."""
        said, record = accounted(body), (sequence, id)
        for name, content in contents.items():
            if content.is_redacted:
                self._redacted[sequence, name] = content.data.hex()
                self._ids[sequence] = id
                self.redacted += 1
        if said.run is not None:
            self._count(record, said, body)
        if said.kind == RedactionRecord.kind:
            self._take_redaction(record, read_as(RedactionRecord, body))
        elif said.kind == RetentionRecord.kind:
            self._take_tombstone(record, read_as(RetentionRecord, body))

    def finish(self) -> None:
        """Raise TamperError for a gap that no record accounts for."""
        for sequence in self._gone:
            raise TamperError(
                f"{self._path}: record {sequence}: deleted: it was taken out, and no tombstone says so",
                sequence,
                "deleted",
            )
        for sequence, name in self._redacted:
            raise TamperError(
                f"{self._path}: record {sequence}: edited: its content '{name}' is hashed, and no redaction says so",
                sequence,
                "edited",
            )

    def _count(self, record: tuple[int, str], said: Accounted, body: Any) -> None:
        id, number, kind = str(said.run), said.number, said.kind
        run = _Run() if id in self._closed else self._runs.setdefault(id, _Run())
        if number != run.number or (kind == OPENED) != (number == 0) or id in self._closed:
            missing = id not in self._closed and number is not None and number > run.number
            what = f"it is number {number} of its run, expected {'none' if id in self._closed else run.number}"
            raise self._refused(record, "deleted" if missing else "inserted", what)
        self.lost += said.lost_before
        if kind == CLOSED:
            claimed, found = read_as(RunClosedRecord, body).counts, counts(run.kinds, run.decisions)
            if claimed != found:
                raise self._refused(record, "deleted", f"its run says {claimed}, but the records come to {found}")
            self._closed.add(id)
            del self._runs[id]
            return
        run.number += 1
        run.kinds, run.decisions = tally(
            run.kinds, run.decisions, kind or "", (verdict.decision for verdict in said.verdicts)
        )

    def _take_redaction(self, record: tuple[int, str], redaction: RedactionRecord) -> None:
        """A redaction accounts for the contents that it names, with the hashes that it gives."""
        of = redaction.of
        for name, hmac in redaction.fields.items():
            found = self._redacted.pop((of, name), None)
            if of in self._retired_by_note or of in self._gone:
                continue
            if found != hmac or self._ids[of] != redaction.id:
                raise self._refused(record, "edited", f"the redacted content '{name}' of record {of} is another")
        if redaction.signature is None:
            self.unsigned_redactions += 1
        elif self._key is None:
            self.unchecked_redactions += 1
        else:
            text = redaction_text(self._key.name, redaction)
            if self._opened(record, "edited", "redaction", redaction.signature) != text:
                raise self._refused(record, "edited", "its redaction was signed over something else")

    def _take_tombstone(self, record: tuple[int, str], tombstone: RetentionRecord) -> None:
        """A tombstone accounts for the records that it names, with the hashes that its root is over."""
        tree = Tree()
        for first, last in tombstone.ranges:
            for sequence in range(first, last + 1):
                digest = self._gone.pop(sequence, None)
                if digest is None:
                    raise self._refused(
                        record, "inserted", f"record {sequence} was retired, but something stands there"
                    )
                self._retired_by_note.add(sequence)
                tree.add(gone_leaf(sequence, digest))
        if (tree.size, tree.root().hex()) != (tombstone.count, tombstone.root):
            raise self._refused(record, "edited", "what is left of the records it retired is not what it was")
        if self._key is None:
            self.unsigned += 1
            return
        text = tombstone_text(self._key.name, tombstone.before, tombstone.count, tombstone.root)
        if self._opened(record, "deleted", "tombstone", tombstone.note) != text:
            raise self._refused(record, "deleted", "its tombstone was signed over other records")

    def _opened(self, record: tuple[int, str], kind: str, what: str, note: str) -> str:
        """The text that the key signed."""
        assert self._key is not None  # the callers have it
        try:
            return open_note(note, self._key)
        except AuditError as error:
            raise self._refused(record, kind, f"its {what} is not signed by {self._key.name}: {error}") from None

    def _refused(self, record: tuple[int, str], kind: str, what: str) -> TamperError:
        sequence, id = record
        return TamperError(f"{self._path}: record {sequence} (id {id}): {kind}: {what}", sequence, kind)
