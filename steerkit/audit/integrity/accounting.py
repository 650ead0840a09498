"""What records must say together: the runs count up, and whatever was redacted or retired has a record that says so."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steerkit.audit.integrity.merkle import Tree
from steerkit.audit.integrity.signed_note import VerifierKey, open_note
from steerkit.audit.log.canonical import canonical
from steerkit.audit.log.commitments import Content
from steerkit.audit.log.run_log import CLOSED, OPENED, counts, tally
from steerkit.errors import AuditError, TamperError

REDACTION = "redaction"
RETENTION = "retention"


def gone_leaf(sequence: int, digest: str) -> bytes:
    """What a tombstone's tree holds of a retired record: its number in 8 bytes, then its hash."""
    return sequence.to_bytes(8, "big") + bytes.fromhex(digest)


def tombstone_text(name: str, before: str, count: int, root: str) -> str:
    """What a tombstone's signature is over."""
    return f"{name}\nretired {count} records before {before}\n{root}\n"


def redaction_text(name: str, body: Mapping[str, Any]) -> str:
    """What a redaction's signature is over: everything that its record says, but for the signature."""
    said = {key: value for key, value in body.items() if key != "signature"}
    digest = hashlib.sha256(canonical(said)).hexdigest()
    return f"{name}\nredacted {len(body['fields'])} pieces of record {body['of']}\n{digest}\n"


@dataclass
class _Run:
    number: int = 0
    kinds: dict[str, int] = field(default_factory=dict)
    decisions: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Follows the records of a store in their order, whose hashes hold."""

    def __init__(self, path: Path, key: VerifierKey | None) -> None:
        self._path, self._key = path, key
        self._runs: dict[str, _Run] = {}
        self._closed: set[str] = set()
        self._gone: dict[int, str] = {}
        self._redacted: dict[tuple[int, str], str] = {}
        self._ids: dict[int, str] = {}
        self._mourned: set[int] = set()
        self.lost = self.redacted = self.retired = self.unsigned = 0
        self.unsigned_redactions = self.unchecked_redactions = 0

    @property
    def open_runs(self) -> list[str]:
        """Ids of the runs that were not closed."""
        return list(self._runs)

    def gone(self, sequence: int, digest: str) -> None:
        """A retired record stands here."""
        self._gone[sequence] = digest
        self.retired += 1

    def read(self, sequence: int, id: str, body: Any, contents: dict[str, Content]) -> None:
        """The next record."""
        record = (sequence, id)
        for name, content in contents.items():
            if content.is_redacted:
                self._redacted[sequence, name] = content.data.hex()
                self._ids[sequence] = id
                self.redacted += 1
        if "run" in body:
            self._count(record, body)
        if body.get("kind") == REDACTION:
            self._excuse(record, body)
        elif body.get("kind") == RETENTION:
            self._mourn(record, body)

    def settle(self) -> None:
        """Every gap must have been accounted for by now."""
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

    def _count(self, record: tuple[int, str], body: dict[str, Any]) -> None:
        id, number, kind = body["run"], body.get("number"), body.get("kind")
        run = _Run() if id in self._closed else self._runs.setdefault(id, _Run())
        if number != run.number or (kind == OPENED) != (number == 0) or id in self._closed:
            missing = id not in self._closed and isinstance(number, int) and number > run.number
            what = f"it is number {number} of its run, expected {'none' if id in self._closed else run.number}"
            raise self._refused(record, "deleted" if missing else "inserted", what)
        self.lost += body.get("lost_before", 0)
        if kind == CLOSED:
            said, found = body.get("counts"), counts(run.kinds, run.decisions)["counts"]
            if said != found:
                raise self._refused(record, "deleted", f"its run says {said}, but the records come to {found}")
            self._closed.add(id)
            del self._runs[id]
            return
        run.number += 1
        run.kinds, run.decisions = tally(run.kinds, run.decisions, body)

    def _excuse(self, record: tuple[int, str], body: dict[str, Any]) -> None:
        """A redaction stands for the contents that it names, with the hashes that it gives."""
        of = body["of"]
        for name, digest in body["fields"].items():
            found = self._redacted.pop((of, name), None)
            if of in self._mourned or of in self._gone:
                continue
            if found != digest or self._ids[of] != body["id"]:
                raise self._refused(record, "edited", f"the redacted content '{name}' of record {of} is another")
        if "signature" not in body:
            self.unsigned_redactions += 1
        elif self._key is None:
            self.unchecked_redactions += 1
        elif self._opened(record, "edited", "redaction", body["signature"]) != redaction_text(self._key.name, body):
            raise self._refused(record, "edited", "its redaction was signed over something else")

    def _mourn(self, record: tuple[int, str], body: dict[str, Any]) -> None:
        """A tombstone stands for the records that it names, with the hashes that its root is over."""
        tree = Tree()
        for first, last in body["ranges"]:
            for sequence in range(first, last + 1):
                digest = self._gone.pop(sequence, None)
                if digest is None:
                    raise self._refused(
                        record, "inserted", f"record {sequence} was retired, but something stands there"
                    )
                self._mourned.add(sequence)
                tree.add(gone_leaf(sequence, digest))
        if (tree.size, tree.root().hex()) != (body["count"], body["root"]):
            raise self._refused(record, "edited", "what is left of the records it retired is not what it was")
        if self._key is None:
            self.unsigned += 1
            return
        text = tombstone_text(self._key.name, body["before"], body["count"], body["root"])
        if self._opened(record, "deleted", "tombstone", body["note"]) != text:
            raise self._refused(record, "deleted", "its tombstone was signed over other records")

    def _opened(self, record: tuple[int, str], kind: str, what: str, note: str) -> str:
        """What the key signed."""
        assert self._key is not None  # the callers have it
        try:
            return open_note(note, self._key)
        except AuditError as error:
            raise self._refused(record, kind, f"its {what} is not signed by {self._key.name}: {error}") from None

    def _refused(self, record: tuple[int, str], kind: str, what: str) -> TamperError:
        sequence, id = record
        return TamperError(f"{self._path}: record {sequence} (id {id}): {kind}: {what}", sequence, kind)
