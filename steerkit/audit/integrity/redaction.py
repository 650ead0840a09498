"""Redaction of contents and deletion of closed runs; the chain still holds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from steerkit.audit.integrity.accounting import gone_leaf, redaction_text, tombstone_text
from steerkit.audit.integrity.merkle import Tree
from steerkit.audit.integrity.signed_note import SignerKey, sign_note
from steerkit.audit.integrity.verify import verify
from steerkit.audit.log.commitments import Content, keyed_hash
from steerkit.audit.log.reading import read_public
from steerkit.audit.log.run_log import CLOSED
from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import StoredRecord
from steerkit.audit.schema import RedactionRecord, RetentionRecord
from steerkit.errors import AuditError, TamperError

KEY_BYTES = 32


def redact(
    store: Store,
    record: StoredRecord,
    key: bytes,
    fields: Sequence[str] = (),
    *,
    by: str = "",
    note: str = "",
    signer: SignerKey | None = None,
) -> StoredRecord:
    """Put the keyed hash of some of a record's content in its place, for good, and write down that this was done.

    Args:
        store: open for writing.
        record: whose content it is.
        key: 32 secret bytes, kept elsewhere; with it, equal contents have equal hashes.
        fields: such as `messages`, `text`, `calls` or `trace`; none for all content of the record.
        by: who did it.
        note: why.
        signer: signs the redaction, as it signs checkpoints; whoever can write the file can make an unsigned one, so
            `verify` counts those.

    Raises:
        AuditError: the key is too short, or the record has no such content, or it is redacted already.
        TamperError: the content is not what the record commits to; nothing is changed then.
    """
    if len(key) < KEY_BYTES:
        raise AuditError(f"key: got {len(key)} bytes, expected at least {KEY_BYTES}; make one with `audit keygen`")

    def write() -> StoredRecord:
        store.file.on_commit(partial(_wipe, store))
        hashes = {name: data.hex() for name, data in _hashed(store, record, key, fields).items()}
        said = RedactionRecord(of=record.sequence, id=record.id, fields=hashes, by=by, note=note)
        if signer is not None:
            said = replace(said, signature=sign_note(redaction_text(signer.name, said), signer))
        return store.within(None).append(said)

    return store.file.transact(write)


def retain(store: Store, before: datetime, key: SignerKey, *, by: str = "") -> StoredRecord | None:
    """Delete the runs that were closed before a time, with all their content, and leave a signed tombstone.

    Records of format 1 belong to no run; of them, those written before go. Runs that were never closed stay.

    Args:
        store: open for writing.
        before: a time with its zone.
        key: signs the tombstone.
        by: who did it.

    Returns:
        The tombstone's record; None where nothing is that old.

    Raises:
        TamperError: the store does not verify; nothing is deleted then.
    """
    moment = before.astimezone(UTC).isoformat(timespec="microseconds")

    def write() -> StoredRecord | None:
        verify(store)
        gone = sorted(_old(store, moment))
        if not gone:
            return None
        store.file.on_commit(partial(_wipe, store))
        tree = Tree()
        for sequence, digest in gone:
            tree.add(gone_leaf(sequence, digest))
        root = tree.root().hex()
        note = sign_note(tombstone_text(key.name, moment, tree.size, root), key)
        ranges = _ranges([one for one, _ in gone])
        tombstone = RetentionRecord(before=moment, ranges=ranges, count=tree.size, root=root, note=note, by=by)
        written = store.within(None).append(tombstone)
        store.database.executemany("INSERT INTO retired VALUES (?, ?)", gone)
        for table in ("records", "contents", "traces"):
            store.database.execute(f"DELETE FROM {table} WHERE sequence IN (SELECT sequence FROM retired)")
        return written

    return store.file.transact(write)


def _hashed(store: Store, record: StoredRecord, key: bytes, fields: Sequence[str]) -> dict[str, bytes]:
    """Put keyed hashes in the place of the chosen contents; the hashes by name."""
    committed, hashes = read_public(record).committed, dict[str, bytes]()
    for name, content in _chosen(store, record, fields).items():
        if content.commitment != committed.get(name):
            raise TamperError(
                f"{store.path}: record {record.sequence}: its content '{name}' is not what it commits to",
                record.sequence,
                "edited",
            )
        hashes[name] = keyed_hash(key, content.data)
        store.database.execute(
            "UPDATE contents SET salt = NULL, data = ? WHERE sequence = ? AND name = ?",
            (hashes[name], record.sequence, name),
        )
    return hashes


def _chosen(store: Store, record: StoredRecord, fields: Sequence[str]) -> dict[str, Content]:
    contents = store.contents_of(record.sequence, traces=True)
    names = ", ".join(sorted({name.split("/")[1] for name in contents})) or "none"
    for wanted in fields:
        if wanted not in names.split(", "):
            raise AuditError(f"record {record.id}: got '{wanted}' to redact, but its content is: {names}")
    chosen = {
        name: content
        for name, content in contents.items()
        if (not fields or name.split("/")[1] in fields) and not content.is_redacted
    }
    if not chosen:
        old = read_public(record).format == 1
        why = "it is of format 1, and can only be retired whole" if old else "there is none, or it is redacted already"
        raise AuditError(f"record {record.id}: nothing to redact: {why}")
    return chosen


@dataclass
class _Span:
    """The records of a run, and when it was closed."""

    records: list[tuple[int, str]] = field(default_factory=list)
    closed: str | None = None


def _old(store: Store, moment: str) -> Iterator[tuple[int, str]]:
    """Sequence and hash of every record that is to go."""
    runs: dict[str, _Span] = {}
    for record in store.records():
        said = read_public(record)
        if said.format == 1 and record.time < moment:
            yield record.sequence, record.hash
        if said.run is not None:
            run = runs.setdefault(said.run, _Span())
            run.records.append((record.sequence, record.hash))
            run.closed = record.time if said.kind == CLOSED else run.closed
    for run in runs.values():
        if run.closed is not None and run.closed < moment:
            yield from run.records


def _ranges(sequences: list[int]) -> tuple[tuple[int, int], ...]:
    """Sorted numbers as runs of neighbours: first and last of each."""
    found: list[tuple[int, int]] = []
    for sequence in sequences:
        if found and found[-1][1] == sequence - 1:
            found[-1] = (found[-1][0], sequence)
        else:
            found.append((sequence, sequence))
    return tuple(found)


def _wipe(store: Store) -> None:
    """Bring the change from the write-ahead log into the file, and empty the log, which has the old content too."""
    with store.file.clear_errors("written"):
        busy = store.database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        warnings.warn(
            f"{store.path}: somebody is reading the store, so the old content still lies in {store.path}-wal; it goes "
            f"once all have closed it",
            RuntimeWarning,
            stacklevel=2,
        )
