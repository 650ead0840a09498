"""Verification of a store: nothing was edited, dropped, inserted or reordered, and it is what was signed.

Reads only, in one pass, with memory for the runs that are open and the records that were retired or redacted.

Somebody who can write the file may try this; the last column is for who kept a checkpoint, made after the records in
question, and the public key. `said`: the store verifies, and the redaction is counted among those that nobody signed.

| what was done to the store | found by the chain alone | found with a kept checkpoint |
|---|---|---|
| a record edited | yes | yes |
| its content edited | yes | yes |
| a record edited and hashed again | yes | yes |
| the last record edited and hashed again | no | yes |
| a record edited and every later hash computed anew | no | yes |
| records deleted | yes | yes |
| records deleted and the rest counted anew | yes | yes |
| content deleted, or hashed, with no redaction on record | yes | yes |
| records reordered | yes | yes |
| a record inserted | yes | yes |
| the end cut off | no | yes |
| the end cut off and another written (a fork) | no | yes |
| the whole log replaced | no | yes |
| a run taken out under somebody else's tombstone | no | yes |
| content hashed under somebody else's signed redaction | no | yes |
| content hashed under an unsigned redaction | said | said |
| tables, triggers or rows added | yes | yes |
| records newer than the checkpoint rewritten, every hash anew | no | no |
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from steerkit.audit.integrity.accounting import Accounts
from steerkit.audit.integrity.diagnose import Row, hash_of, misplaced, refusal
from steerkit.audit.integrity.merkle import Tree
from steerkit.audit.integrity.signed_note import Checkpoint, VerifierKey
from steerkit.audit.log.canonical import canonical, parse_canonical
from steerkit.audit.log.commitments import SALT_BYTES, TRACE, Content
from steerkit.audit.log.reading import read_content
from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import GENESIS, SCHEMAS, StoredRecord
from steerkit.audit.log.trace_codec import unpack
from steerkit.audit.schema import accounted
from steerkit.errors import AuditError, TamperError

_TABLES = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
_WHOLE = (
    "SELECT r.sequence, r.id, r.time, r.previous, r.hash, r.body, t.data "
    "FROM records r LEFT JOIN traces t ON t.sequence = r.sequence"
)
_GONE = "SELECT sequence, NULL, NULL, NULL, hash, NULL, NULL FROM retired"


class Verified(NamedTuple):
    """Result of a verification that found nothing wrong."""

    records: int
    """That stand in the store."""
    head: str
    """Hash of the last record: who keeps it can later tell a store that was cut short or replaced."""
    size: int
    """Leaves of the tree: records that stand, and those that were retired."""
    root: bytes
    """Root of the tree."""
    open_runs: tuple[str, ...]
    """Runs without their closing record: still going on, or ended by a crash."""
    lost: int
    """Records that could not be written, as their runs themselves say."""
    redacted: int
    """Pieces of content of which only the keyed hash is left."""
    retired: int
    """Records that a tombstone stands for."""
    unsigned: int
    """Tombstones whose signature was not checked, as no key was given."""
    unsigned_redactions: int = 0
    """Redactions without a signature: of an older release, made without a key, or forged. Whoever can write the file
    can make one."""
    unchecked_redactions: int = 0
    """Redactions whose signature was not checked, as no key was given."""


def verify(store: Store, *, checkpoints: Sequence[Checkpoint] = (), key: VerifierKey | None = None) -> Verified:
    """Recompute every hash and check every link, every run and every signed checkpoint.

    An attacker who can write the file can also recompute the hashes of all records after the one he changed. That, and
    a log that was cut short or replaced, is found by whoever kept a checkpoint. Everything short of that is found here.

    Args:
        store: what to check.
        checkpoints: that were kept, their signatures checked already.
        key: checks the signatures of tombstones and redactions.

    Raises:
        TamperError: the first thing that is wrong, what was done, and in which record.
    """
    try:
        with store.file.snapshot():
            return _verify(store, sorted(checkpoints, key=lambda one: one.size), key)
    except sqlite3.DatabaseError as error:
        raise TamperError(f"{store.path}: the file is damaged: {error}") from None
    except TamperError as error:
        if not (said := store.file.recovery.warnings(store.path)):
            raise
        raise TamperError("; ".join([str(error), *said]), error.sequence, error.kind) from None


def _verify(store: Store, checkpoints: Sequence[Checkpoint], key: VerifierKey | None) -> Verified:
    _check_database(store)
    previous, tree, accounts = GENESIS, Tree(), Accounts(store.path, key)
    roots = {0: tree.root()}
    wanted = {one.size for one in checkpoints}
    for place, row in enumerate(_rows(store), start=1):
        previous = _check_row(store, place, previous, row, accounts)
        tree.add(bytes.fromhex(previous))
        if place in wanted:
            roots[place] = tree.root()
    accounts.finish()
    _check_checkpoints(store, checkpoints, tree.size, roots)
    return Verified(
        records=tree.size - accounts.retired,
        head=previous,
        size=tree.size,
        root=tree.root(),
        open_runs=tuple(accounts.open_runs),
        lost=accounts.lost,
        redacted=accounts.redacted,
        retired=accounts.retired,
        unsigned=accounts.unsigned,
        unsigned_redactions=accounts.unsigned_redactions,
        unchecked_redactions=accounts.unchecked_redactions,
    )


def why_broken(store: Store, record: StoredRecord, *, traces: bool = True) -> str | None:
    """Reason why a record is not what its own hash and commitments say, in words; None where it is.

    Looks at nothing else: a chain that was computed anew from some record on is found by `verify` and a checkpoint.

    Args:
        store: that holds it.
        record: as it was read.
        traces: look at the trace as well, which is most of a record.
    """
    try:
        row = Row._make(store.database.execute(f"{_WHOLE} WHERE r.sequence = ?", (record.sequence,)).fetchone())
        if row.hash != hash_of(row):
            return "its content does not match its hash"
        committed = accounted(record.public).committed
        expected = {name: one for name, one in committed.items() if traces or name != TRACE}
        _check_contents(store, record.sequence, row, expected, store.contents_of(record.sequence, traces=traces))
        read_content(record)
    except (AuditError, sqlite3.DatabaseError) as error:
        return str(error).removeprefix(f"{store.path}: ")
    return None


def check_tables(store: Store) -> None:
    """Raises TamperError where the tables are not those that steerkit makes: nothing in them is what it seems then."""
    with store.file.clear_errors("read"):
        found = store.database.execute(_TABLES).fetchall()
    if found != _expected_tables(store.file.version):
        raise TamperError(f"{store.path}: the tables are not those of an audit store", kind="edited")


def _check_database(store: Store) -> None:
    execute = store.database.execute
    problems = [str(row[0]) for row in execute("PRAGMA integrity_check(1)")]
    if problems != ["ok"]:
        raise TamperError(f"{store.path}: the file is damaged: {problems[0]}")
    check_tables(store)
    for table in ("traces", "contents")[: store.file.version]:
        strays = execute(f"SELECT count(*) FROM {table} WHERE sequence NOT IN (SELECT sequence FROM records)")
        if count := strays.fetchone()[0]:
            raise TamperError(f"{store.path}: {count} rows of '{table}' belong to no record", kind="deleted")


def _expected_tables(version: int) -> list[tuple[object, ...]]:
    """Tables and indexes of a store, as SQLite itself lists them."""
    database = sqlite3.connect(":memory:")
    try:
        for statement in SCHEMAS[version]:
            database.execute(statement)
        return database.execute(_TABLES).fetchall()
    finally:
        database.close()


def _rows(store: Store) -> Iterator[Row]:
    query = f"{_WHOLE} ORDER BY r.sequence" if store.file.version == 1 else f"{_WHOLE} UNION ALL {_GONE} ORDER BY 1"
    return map(Row._make, store.database.execute(query))


def _check_row(store: Store, place: int, previous: str, row: Row, accounts: Accounts) -> str:
    """The hash of what stands at a place, once everything about it holds."""
    if row.sequence != place:
        if row.sequence < place:
            raise refusal(store, place, row, "inserted", "it stands in the store, and among the retired ones too")
        raise TamperError(
            f"{store.path}: record {place} is missing; the next one is {row.sequence}", place, kind="deleted"
        )
    if row.body is None:
        if not re.fullmatch("[0-9a-f]{64}", row.hash):
            raise refusal(store, place, row, "edited", "it was retired, and what is left of it is no hash")
        accounts.gone(place, row.hash)
        return row.hash
    if row.hash != hash_of(row) or row.previous != previous:
        raise misplaced(store, place, previous, row)
    try:
        body = parse_canonical(row.body)
        if canonical(body) != row.body:
            raise refusal(store, place, row, "edited", "its body is not canonical JSON")
        if row.trace:
            unpack(row.trace)
        contents = store.contents_of(place, traces=True)
        _check_contents(store, place, row, accounted(body).committed, contents)
        accounts.read(place, row.id, body, contents)
    except TamperError:
        raise
    except AuditError as error:
        raise refusal(store, place, row, "edited", str(error)) from None
    return row.hash


def _check_contents(
    store: Store, place: int, row: Row, committed: Mapping[str, str], found: dict[str, Content]
) -> None:
    """Each commitment has its content or a redaction, each content its commitment."""
    for name in found.keys() - committed.keys():
        raise refusal(store, place, row, "inserted", f"its content '{name[:40]}' is none that it commits to")
    for name, commitment in committed.items():
        content = found.get(name)
        if content is None:
            raise refusal(store, place, row, "deleted", f"its content '{name}' is gone, and was not redacted")
        if content.is_redacted:
            continue  # the accounts wants the record of the redaction
        if content.commitment != commitment or len(content.salt or b"") != SALT_BYTES:
            raise refusal(store, place, row, "edited", f"its content '{name}' is not what it commits to")
        if name == TRACE:
            unpack(content.data)
        elif canonical(parse_canonical(content.data)) != content.data:
            raise refusal(store, place, row, "edited", f"its content '{name}' is not canonical JSON")


def _check_checkpoints(store: Store, checkpoints: Sequence[Checkpoint], size: int, roots: dict[int, bytes]) -> None:
    """The tree must go through every one of them, which are in order of size."""
    agreed = 0
    for one in checkpoints:
        if one.size > size:
            raise TamperError(
                f"{store.path}: truncated: {size} records, but a checkpoint of {one.origin} was signed over {one.size}",
                size + 1,
                kind="truncated",
            )
        if roots[one.size] != one.root:
            kind = "forked" if agreed else "replaced"
            how = f"they are those that were signed up to record {agreed}, and others after it" if agreed else ""
            how = how or "the log was rewritten, or another stands in its place"
            raise TamperError(
                f"{store.path}: {kind}: the first {one.size} records are not those that a checkpoint of {one.origin} "
                f"was signed over: {how}",
                agreed + 1,
                kind=kind,
            )
        agreed = one.size
