"""Signed checkpoints of a store, and proofs that one record was in it, for somebody who sees nothing else of it.

A record travels as JSON: `sequence`, `id`, `time`, `previous`, `body` (its canonical text) and `contents`, each with
its salt in hex and its text; without a salt it was redacted, and the text is the keyed hash. A proof is `index`, `size`
and `path`, or `first`, `second` and `path`, with hashes in base64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from steerkit.audit.integrity import merkle
from steerkit.audit.integrity.signed_note import Checkpoint, SignerKey, decoded, encoded, sign_note
from steerkit.audit.integrity.verify import verify
from steerkit.audit.log.commitments import TRACE, Content, join
from steerkit.audit.log.reading import read_public
from steerkit.audit.log.store import Store
from steerkit.audit.log.stored_record import StoredRecord, record_hash
from steerkit.errors import AuditError, TamperError


def checkpoint(store: Store, key: SignerKey) -> str:
    """A signed note over the store's size and root, after everything in it was checked.

    Raises:
        TamperError: the store does not verify; nothing is signed.
    """
    found = verify(store, key=key.verifier)
    return sign_note(Checkpoint(key.name, found.size, found.root).text, key)


def prove(store: Store, record: StoredRecord, size: int) -> dict[str, Any]:
    """A proof that a record is in the log, as of a size of it.

    Raises:
        AuditError: the log is not that long, or the record came later.
    """
    leaves = _leaves(store, size)
    if record.sequence > size:
        raise AuditError(
            f"{store.path}: record {record.sequence} came after the checkpoint over {size} records; make a new one"
        )
    path = merkle.inclusion(leaves, record.sequence - 1)
    return {"index": record.sequence - 1, "size": size, "path": [encoded(one) for one in path]}


def prove_consistency(store: Store, first: int, second: int) -> dict[str, Any]:
    """A proof that the log at one size is a beginning of the log at a later one; AuditError if it is not that long."""
    if first > second:
        raise AuditError(f"got checkpoints over {first} and {second} records, expected the older one first")
    path = merkle.consistency(_leaves(store, second), first)
    return {"first": first, "second": second, "path": [encoded(one) for one in path]}


def portable_record(store: Store, record: StoredRecord) -> dict[str, Any]:
    """A record as JSON that can be checked elsewhere; without its trace."""
    contents = {
        name: {"salt": None, "text": one.data.hex()}
        if one.salt is None
        else {"salt": one.salt.hex(), "text": one.data.decode()}
        for name, one in record.contents.items()
    }
    head = {name: getattr(record, name) for name in ("sequence", "id", "time", "previous")}
    found = {**head, "body": record.body.decode(), "contents": contents}
    row = store.database.execute("SELECT data FROM traces WHERE sequence = ?", (record.sequence,)).fetchone()
    return found if row is None else {**found, "trace": hashlib.sha256(row[0]).hexdigest()}


def check_inclusion(proof: Mapping[str, Any], record: Mapping[str, Any], signed: Checkpoint) -> dict[str, Any]:
    """Content of a record, once a proof shows that it is in the log that a checkpoint was signed over.

    Args:
        proof: of `prove`.
        record: of `portable_record`.
        signed: the checkpoint, its signature checked already.

    Raises:
        TamperError: the record is not what was in the log, or the proof does not hold.
    """
    try:
        stored = _record(record)
        contents = _contents(stored, record["contents"])
        size, index, path = _count(proof["size"]), _count(proof["index"]), [_bytes(one) for one in proof["path"]]
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TamperError(f"no proof of a record: {type(error).__name__}: {error}") from None
    if (size, index) != (signed.size, stored.sequence - 1):
        raise TamperError(
            f"the proof is of record {index + 1} of {size}, expected record {stored.sequence} of {signed.size}"
        )
    if not merkle.included(bytes.fromhex(stored.hash), index, size, path, signed.root):
        raise TamperError(
            f"record {stored.sequence} is not in the log that {signed.origin} signed over {size} records",
            stored.sequence,
            "edited",
        )
    return join(stored.public, contents)


def check_consistency(proof: Mapping[str, Any], old: Checkpoint, new: Checkpoint) -> None:
    """Raises TamperError unless a proof shows that nothing of the log under an older checkpoint was changed since."""
    try:
        sizes, path = (proof["first"], proof["second"]), [_bytes(one) for one in proof["path"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TamperError(f"no proof of consistency: {type(error).__name__}: {error}") from None
    if sizes != (old.size, new.size) or not merkle.consistent(old.size, new.size, path, old.root, new.root):
        raise TamperError(
            f"the log that {new.origin} signed over {new.size} records does not begin with the one over {old.size}",
            kind="forked",
        )


def _leaves(store: Store, size: int) -> list[bytes]:
    queries = ["SELECT sequence, hash FROM records WHERE sequence <= ?1"]
    if store.file.version > 1:
        queries.append("SELECT sequence, hash FROM retired WHERE sequence <= ?1")
    with store.file.clear_errors("read"):
        rows = store.database.execute(" UNION ALL ".join(queries) + " ORDER BY 1", (size,)).fetchall()
    if len(rows) != size:
        raise AuditError(f"{store.path}: got {len(rows)} records, expected the {size} that were signed; verify it")
    return [bytes.fromhex(digest) for _, digest in rows]


def _record(data: Mapping[str, Any]) -> StoredRecord:
    sequence, id, time, previous, body = (data[name] for name in ("sequence", "id", "time", "previous", "body"))
    encoded = body.encode()
    digest = record_hash(sequence, id, time, previous, encoded, data.get("trace"))
    return StoredRecord(_count(sequence), id, time, previous, digest, encoded)


def _contents(record: StoredRecord, given: Mapping[str, Any]) -> dict[str, Content]:
    """The contents that came with a record, each checked against what the record commits to."""
    found = {}
    for name, commitment in read_public(record).committed.items():
        if name == TRACE:
            continue
        salt, text = given[name]["salt"], given[name]["text"]
        content = Content(None, bytes.fromhex(text)) if salt is None else Content(bytes.fromhex(salt), text.encode())
        if salt is not None and content.commitment != commitment:
            raise TamperError(
                f"record {record.sequence}: its content '{name}' is not what it commits to", record.sequence, "edited"
            )
        found[name] = content
    return found


def _count(value: Any) -> int:
    if type(value) is not int:
        raise ValueError(f"got {str(value)[:60]!r}, expected an integer")
    return value


def _bytes(text: str) -> bytes:
    found = decoded(text)
    if found is None:
        raise ValueError(f"got {text[:60]!r}, expected base64")
    return found
