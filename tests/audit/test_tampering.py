"""The table of what verification finds: every row is tried on a real store, with and without a kept checkpoint."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest

from steerkit.audit import (
    Checkpoint,
    SignerKey,
    Store,
    VerifierKey,
    append_turn,
    canonical,
    checkpoint,
    parse_canonical,
    redact,
    retain,
    verify,
)
from steerkit.audit import verify as verify_function
from steerkit.audit.integrity.diagnose import Row, hash_of
from steerkit.errors import AuditError, TamperError
from tests.audit.example import context, started, turn, write_run

KEY = SignerKey("example.org/audit", bytes(range(32)))
OTHERS = SignerKey("example.org/audit", bytes(32))


class Kept(NamedTuple):
    """A store, the checkpoint that somebody kept of it, and its size then."""

    path: Path
    note: str
    size: int


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """Two closed runs with a signed redaction between them under a checkpoint, and one turn after it."""
    path = tmp_path_factory.mktemp("tampering") / "a.db"
    store = started(path)
    write_run(store)
    redact(store, store.get("2"), b"k" * 32, ["text"], signer=KEY)
    write_run(store)
    note = checkpoint(store, KEY)
    size = verify(store).size
    append_turn(store, turn(), context())
    store.end_run()
    store.close()
    return Kept(path, note, size)


@pytest.fixture
def kept(original: Kept, tmp_path: Path) -> Kept:
    """A copy to tamper with."""
    return original._replace(path=Path(shutil.copy(original.path, tmp_path / "a.db")))


def change(database: sqlite3.Connection, sequence: int, key: str, value: object) -> None:
    """Edit a field of a record's body, in canonical form."""
    body = database.execute("SELECT body FROM records WHERE sequence = ?", (sequence,)).fetchone()[0]
    content = {**parse_canonical(body), key: value}
    database.execute("UPDATE records SET body = ? WHERE sequence = ?", (canonical(content), sequence))


def rehash(database: sqlite3.Connection, first: int, last: int | None = None) -> None:
    """Compute hashes anew and link them, as an attacker who knows the formula would."""
    rows = database.execute("SELECT sequence, id, time, previous, hash, body, NULL FROM records ORDER BY 1").fetchall()
    previous = "0" * 64
    for row in map(Row._make, rows):
        digest = row.hash
        if first <= row.sequence <= (last or len(rows)):
            row = row._replace(previous=previous)
            digest = hash_of(row)
            update = "UPDATE records SET previous = ?, hash = ? WHERE sequence = ?"
            database.execute(update, (previous, digest, row.sequence))
        previous = digest


def renumber(database: sqlite3.Connection, after: int, by: int) -> None:
    """Move all records after one, with their contents."""
    for table in ("records", "contents"):
        database.execute(f"UPDATE {table} SET sequence = -(sequence + ?) WHERE sequence > ?", (by, after))
        database.execute(f"UPDATE {table} SET sequence = -sequence WHERE sequence < 0")


def drop(database: sqlite3.Connection, first: int, last: int) -> None:
    for table in ("records", "contents"):
        database.execute(f"DELETE FROM {table} WHERE sequence BETWEEN ? AND ?", (first, last))


def edit(database: sqlite3.Connection, kept: Kept) -> None:
    change(database, 4, "status", "error")


def edit_content(database: sqlite3.Connection, kept: Kept) -> None:
    database.execute("UPDATE contents SET data = x'227822' WHERE sequence = 3 AND name = '/note'")


def edit_rehashed(database: sqlite3.Connection, kept: Kept) -> None:
    edit(database, kept)
    rehash(database, 4, 4)


def edit_last(database: sqlite3.Connection, kept: Kept) -> None:
    drop(database, kept.size + 1, 99)
    change(database, kept.size, "note", "none of your business")
    rehash(database, kept.size)


def edit_all_rehashed(database: sqlite3.Connection, kept: Kept) -> None:
    edit(database, kept)
    rehash(database, 4)


def delete(database: sqlite3.Connection, kept: Kept) -> None:
    drop(database, 3, 4)


def delete_renumbered(database: sqlite3.Connection, kept: Kept) -> None:
    drop(database, 3, 4)
    renumber(database, 4, -2)


def delete_content(database: sqlite3.Connection, kept: Kept) -> None:
    database.execute("DELETE FROM contents WHERE sequence = 5 AND name = '/messages'")


def hash_content(database: sqlite3.Connection, kept: Kept) -> None:
    database.execute("UPDATE contents SET salt = NULL WHERE sequence = 5 AND name = '/messages'")


def reorder(database: sqlite3.Connection, kept: Kept) -> None:
    for table in ("records", "contents"):
        for old, new in ((3, 100), (4, 3), (100, 4)):
            database.execute(f"UPDATE {table} SET sequence = ? WHERE sequence = ?", (new, old))


def insert(database: sqlite3.Connection, kept: Kept) -> None:
    renumber(database, 6, 1)
    row = (7, "new", "2026-01-01T00:00:00+00:00", "", "", canonical({"kind": "other"}))
    database.execute("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?)", row)
    rehash(database, 7, 7)


def truncate(database: sqlite3.Connection, kept: Kept) -> None:
    drop(database, kept.size - 1, 99)


def fork(database: sqlite3.Connection, kept: Kept) -> None:
    truncate(database, kept)
    continued(kept, database)


def replace(database: sqlite3.Connection, kept: Kept) -> None:
    database.close()
    kept.path.unlink()
    store = started(kept.path)
    for _ in range(4):
        write_run(store)
    store.close()


def continued(kept: Kept, database: sqlite3.Connection) -> None:
    database.commit()
    database.close()
    store = started(kept.path)
    write_run(store)
    write_run(store)
    store.close()


def forge_tombstone(database: sqlite3.Connection, kept: Kept) -> None:
    store = Store(kept.path)
    assert retain(store, datetime.now(UTC), OTHERS)
    store.close()


def forge_redaction(database: sqlite3.Connection, kept: Kept, **signed: SignerKey) -> None:
    """Junk in the place of a message, vouched for by a record in the form of a redaction."""
    store = Store(kept.path)
    redact(store, store.get("5"), b"x" * 32, ["messages"], by="ann", note="asked to", **signed)
    store.close()


def forge_signed_redaction(database: sqlite3.Connection, kept: Kept) -> None:
    forge_redaction(database, kept, signer=OTHERS)


def move_signed_redaction(database: sqlite3.Connection, kept: Kept) -> None:
    """The signature of an honest redaction under a forged one."""
    forge_redaction(database, kept, signer=KEY)
    rows = database.execute("SELECT sequence, body FROM records ORDER BY 1").fetchall()
    first, *_, last = [(number, parse_canonical(body)) for number, body in rows if b'"kind":"redaction"' in body]
    change(database, last[0], "signature", first[1]["signature"])
    rehash(database, last[0])


def add_trigger(database: sqlite3.Connection, kept: Kept) -> None:
    database.execute("CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM contents; END")


def add_table(database: sqlite3.Connection, kept: Kept) -> None:
    database.execute("CREATE TABLE more (x)")


def add_row(database: sqlite3.Connection, kept: Kept) -> None:
    database.execute("INSERT INTO contents VALUES (3, '/more', x'00', x'00')")


def add_stray(database: sqlite3.Connection, kept: Kept) -> None:
    database.execute("INSERT INTO contents VALUES (99, '/more', x'00', x'00')")


def rewrite_newest(database: sqlite3.Connection, kept: Kept) -> None:
    change(database, kept.size + 2, "finish", "stop")
    rehash(database, kept.size + 2)


Attack = Callable[[sqlite3.Connection, Kept], None]
ATTACKS: dict[str, list[tuple[Attack, str]]] = {
    "a record edited": [(edit, r"record 4 .*: edited: .*does not match its hash")],
    "its content edited": [(edit_content, r"record 3 .*: edited: its content '/note'")],
    "a record edited and hashed again": [
        (edit_rehashed, r"record 5 .*: forked: .*record 4 was changed and hashed again")
    ],
    "the last record edited and hashed again": [(edit_last, "replaced: the first 13 records are not those")],
    "a record edited and every later hash computed anew": [(edit_all_rehashed, "replaced: the first 13 records")],
    "records deleted": [(delete, "record 3 is missing; the next one is 5")],
    "records deleted and the rest counted anew": [(delete_renumbered, r"record 3 .*: deleted: .*2 before it were")],
    "content deleted, or hashed, with no redaction on record": [
        (delete_content, r"record 5 .*: deleted: its content '/messages' is gone"),
        (hash_content, r"record 5: edited: its content '/messages' is hashed, and no redaction says so"),
    ],
    "records reordered": [(reorder, r"record 3 .*: reordered: its place is 4")],
    "a record inserted": [(insert, r"record 8 .*: inserted: this was record 7 and was moved down")],
    "the end cut off": [(truncate, "truncated: 11 records, but a checkpoint of example.org/audit was signed over 13")],
    "the end cut off and another written (a fork)": [(fork, "replaced: the first 13 records")],
    "the whole log replaced": [(replace, "replaced: the first 13 records")],
    "a run taken out under somebody else's tombstone": [(forge_tombstone, "tombstone is not signed by example")],
    "content hashed under somebody else's signed redaction": [
        (forge_signed_redaction, "its redaction is not signed by example.org/audit: the note has no signature"),
        (move_signed_redaction, "its redaction was signed over something else"),
    ],
    "content hashed under an unsigned redaction": [(forge_redaction, "")],
    "tables, triggers or rows added": [
        (add_trigger, "the tables are not those of an audit store"),
        (add_table, "the tables are not those of an audit store"),
        (add_row, r"record 3 .*: inserted: its content '/more'"),
        (add_stray, "1 rows of 'contents' belong to no record"),
    ],
    "records newer than the checkpoint rewritten, every hash anew": [(rewrite_newest, "")],
}
TABLE = re.findall(
    r"^\| (.+) \| (yes|no|said) \| (yes|no|said) \|$", str(verify_function.__globals__["__doc__"]), re.MULTILINE
)
CELLS = [(what, number, alone, signed) for what, alone, signed in TABLE for number in range(len(ATTACKS.get(what, ())))]


def test_every_row_of_the_table_is_tried() -> None:
    """The documented rows and the attacks here are the same."""
    assert [what for what, _, _ in TABLE] == list(ATTACKS)


def is_found(kept: Kept, error: str, *, signed: bool) -> str:
    """Whether verification fails, and says what and where it was; or counts what nobody signed."""
    store = Store(kept.path, create=False)
    key = KEY.verifier if signed else None
    checkpoints = [Checkpoint.parse(kept.note, KEY.verifier)] if signed else []
    said, unsigned = "", 0
    try:
        unsigned = verify(store, checkpoints=checkpoints, key=key).unsigned_redactions
    except TamperError as tampered:
        said = str(tampered)
    store.close()
    assert not said or re.search(error, said), said
    return "yes" if said else "said" if unsigned else "no"


@pytest.mark.parametrize(("what", "number", "alone", "signed"), CELLS)
def test_tampering_is_found_as_the_table_says(kept: Kept, what: str, number: int, alone: str, signed: str) -> None:
    """The untouched store verifies both ways; the tampered one is found, or not, exactly as documented."""
    attack, error = ATTACKS[what][number]
    assert is_found(kept, error, signed=False) == "no"
    assert is_found(kept, error, signed=True) == "no"
    database = sqlite3.connect(kept.path)
    attack(database, kept)
    if attack not in (fork, replace):
        database.commit()
        database.close()
    assert is_found(kept, error, signed=False) == alone
    assert is_found(kept, error, signed=True) == signed


def test_two_checkpoints_tell_a_fork_from_a_replacement(kept: Kept) -> None:
    """Where an older checkpoint still agrees and a later one does not, the log was forked in between."""
    store = started(kept.path)
    write_run(store)
    later = checkpoint(store, KEY)
    size = verify(store).size
    store.close()
    checkpoints = [Checkpoint.parse(note, KEY.verifier) for note in (later, kept.note)]
    database = sqlite3.connect(kept.path)
    drop(database, size - 2, 99)
    continued(kept, database)
    with pytest.raises(TamperError, match=f"forked: .* signed up to record {kept.size}, and others after") as found:
        verify(Store(kept.path), checkpoints=checkpoints, key=KEY.verifier)
    assert (found.value.kind, found.value.sequence) == ("forked", kept.size + 1)


def test_a_run_that_was_shortened_and_hashed_anew_does_not_count_up(kept: Kept) -> None:
    """Whoever takes a record out of a run, and computes everything anew, leaves a gap in the run's own numbers."""
    database = sqlite3.connect(kept.path)
    drop(database, 4, 4)
    renumber(database, 4, -1)
    rehash(database, 4)
    database.commit()
    database.close()
    assert is_found(kept, "it is number 4 of its run, expected 3", signed=False) == "yes"


def test_keys_of_others_do_not_verify(kept: Kept) -> None:
    """A checkpoint is only read with the key that signed it."""
    assert VerifierKey.parse(str(KEY.verifier)) == KEY.verifier
    with pytest.raises(AuditError, match=r"has no signature of example\.org/audit"):
        Checkpoint.parse(kept.note, OTHERS.verifier)
