"""Signed notes, checkpoints and proofs of single records."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from steerkit.audit import (
    Checkpoint,
    SignerKey,
    Store,
    VerifierKey,
    check_consistency,
    check_inclusion,
    checkpoint,
    portable_record,
    prove,
    prove_consistency,
    redact,
)
from steerkit.audit.integrity.signed_note import open_note, sign_note
from steerkit.errors import AuditError, TamperError
from tests.audit.example import started, write_run

KEY = SignerKey("example.org/audit", bytes(range(32)))
OTHER = SignerKey("example.org/audit", bytes(32))

# The note and the key that the documentation of Go's golang.org/x/mod/sumdb/note gives as its example.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_of_another_implementation_opens() -> None:
    """Go's own example verifies, and does not once a letter differs."""
    key = VerifierKey.parse(GO_KEY)
    assert open_note(GO_NOTE, key).startswith("If you think")
    with pytest.raises(AuditError, match="does not hold"):
        open_note(GO_NOTE.replace("answer", "anchor"), key)


def test_a_note_is_what_the_format_says() -> None:
    """Text, blank line, em dash, name, and base64 of the key's four bytes and the signature over the text."""
    note = sign_note("one\ntwo\n", KEY)
    text, _, line = note.partition("\n\n")
    dash, name, encoded = line.strip().split(" ")
    private = Ed25519PrivateKey.from_private_bytes(KEY.seed)
    public = private.public_key().public_bytes_raw()
    hashed = hashlib.sha256(b"example.org/audit\n\x01" + public).digest()[:4]
    assert (text, dash, name) == ("one\ntwo", "—", "example.org/audit")
    assert base64.b64decode(encoded) == hashed + private.sign(b"one\ntwo\n")
    assert str(KEY.verifier) == f"{name}+{hashed.hex()}+{base64.b64encode(bytes([1]) + public).decode()}"
    assert SignerKey.parse(str(KEY)) == KEY
    assert VerifierKey.parse(str(KEY.verifier)) == KEY.verifier
    assert open_note(note, KEY.verifier) == "one\ntwo\n"
    assert "31" not in repr(KEY)


def test_signatures_of_others_are_passed_over() -> None:
    """A witness may add its line; the key that is asked for decides."""
    witness = SignerKey("witness", bytes(range(1, 33)))
    note = sign_note("text\n", KEY) + sign_note("text\n", witness).rpartition("\n\n")[2]
    for key in (KEY, witness):
        assert open_note(note, key.verifier) == "text\n"
    with pytest.raises(AuditError, match="has no signature of"):
        open_note(note, OTHER.verifier)


BAD_NOTES = {
    "empty": "",
    "no signature": "text\n",
    "no line break": sign_note("text\n", KEY).rstrip("\n"),
    "a hyphen": sign_note("text\n", KEY).replace("—", "-"),
    "no base64": sign_note("text\n", KEY) + "— x !!!\n",
    "control": sign_note("text\n", KEY).replace("text", "te\x07t"),
}


@pytest.mark.parametrize("case", BAD_NOTES)
def test_malformed_notes_are_refused(case: str) -> None:
    """Each is an error of ours; the well-formed one opens."""
    with pytest.raises(AuditError):
        open_note(BAD_NOTES[case], KEY.verifier)
    assert open_note(sign_note("text\n", KEY), KEY.verifier)


@pytest.mark.parametrize("text", ["no end", "an\n\nempty line\n", "bell\x07\n"])
def test_texts_that_no_note_can_carry_are_not_signed(text: str) -> None:
    """What could be read in two ways is refused before it is signed."""
    with pytest.raises(AuditError, match="must be lines"):
        sign_note(text, KEY)


@pytest.mark.parametrize("key", ["", "a+b", "name+00000000+AQ==", str(KEY.verifier).replace("+", "+0", 1), str(KEY)])
def test_broken_keys_are_refused(key: str) -> None:
    """Cut, with a wrong hash, or private where a public one is expected."""
    with pytest.raises(AuditError, match="key"):
        VerifierKey.parse(key)
    for name in ("", "a b", "a+b"):
        with pytest.raises(AuditError, match="key name"):
            SignerKey.new(name)
    assert SignerKey.new("a").verifier != SignerKey.new("a").verifier


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store with a closed run, of one turn of which the text is redacted."""
    store = started(tmp_path / "a.db")
    write_run(store)
    redact(store, store.get("2"), b"k" * 32, ["text"])
    return store


def test_a_checkpoint_signs_size_and_root(store: Store) -> None:
    """Three lines under the key's name, checked against the tree that is computed by hand in another test."""
    note = checkpoint(store, KEY)
    found = Checkpoint.parse(note, KEY.verifier)
    assert note.split("\n")[:2] == ["example.org/audit", "7"]
    assert (found.origin, found.size, len(found.root)) == ("example.org/audit", 7, 32)
    origin, digest = "example.org/audit", base64.b64encode(bytes(32)).decode()
    for wrong in ("no\ncheckpoint\n", f"{origin}\n07\n{digest}\n", f"{origin}\n7\nAAAA\n", f"x\n7\n{digest}\n"):
        with pytest.raises(AuditError, match="checkpoint"):
            Checkpoint.parse(sign_note(wrong, KEY), KEY.verifier)


def test_a_broken_store_is_not_signed(store: Store) -> None:
    """Who signs vouches: a store that does not verify gets no checkpoint."""
    assert checkpoint(store, KEY)
    store.database.execute("UPDATE records SET time = 'x' WHERE sequence = 3")
    with pytest.raises(TamperError, match="record 3"):
        checkpoint(store, KEY)


def travelled(value: Any) -> Any:
    """The same after a journey as JSON."""
    return json.loads(json.dumps(value))


def test_any_record_is_proved_with_nothing_else_at_hand(store: Store) -> None:
    """From proof, record and checkpoint alone comes what the record says, redactions as such."""
    signed = Checkpoint.parse(checkpoint(store, KEY), KEY.verifier)
    write_run(store)
    for record in store.records(7):
        proof, data = travelled(prove(store, record, signed.size)), travelled(portable_record(store, record))
        assert check_inclusion(proof, data, signed) == record.content
    assert set(store.get("2").content["text"]) == {"redacted"}
    with pytest.raises(AuditError, match="came after the checkpoint"):
        prove(store, store.get("8"), signed.size)
    with pytest.raises(AuditError, match="expected the 99 that were signed"):
        prove(store, store.get("8"), 99)


def flip_body(proof: Any, record: Any) -> None:
    record["body"] = record["body"].replace('"hold"', '"flag"')


def flip_content(proof: Any, record: Any) -> None:
    record["contents"]["/messages"]["text"] = "[]"


def flip_salt(proof: Any, record: Any) -> None:
    record["contents"]["/messages"]["salt"] = "00" * 16


def drop_content(proof: Any, record: Any) -> None:
    del record["contents"]["/messages"]


def flip_time(proof: Any, record: Any) -> None:
    record["time"] = "2020"


def flip_path(proof: Any, record: Any) -> None:
    proof["path"][0] = base64.b64encode(bytes(32)).decode()


def flip_index(proof: Any, record: Any) -> None:
    proof["index"] += 1


def flip_size(proof: Any, record: Any) -> None:
    proof["size"] -= 1


def no_base64(proof: Any, record: Any) -> None:
    proof["path"][0] = "é"


@pytest.mark.parametrize(
    "change",
    [flip_body, flip_content, flip_salt, drop_content, flip_time, flip_path, flip_index, flip_size, no_base64],
)
def test_a_changed_proof_or_record_is_refused(store: Store, change: Callable[[Any, Any], None]) -> None:
    """Every part of it counts; unchanged it holds."""
    signed = Checkpoint.parse(checkpoint(store, KEY), KEY.verifier)
    proof, record = prove(store, store.get("2"), 7), travelled(portable_record(store, store.get("2")))
    assert check_inclusion(copy.deepcopy(proof), copy.deepcopy(record), signed)
    change(proof, record)
    with pytest.raises(TamperError):
        check_inclusion(proof, record, signed)


def test_a_later_log_is_proved_to_begin_with_the_earlier(store: Store, tmp_path: Path) -> None:
    """Between two checkpoints of one log it holds; between those of two logs it does not."""
    old = Checkpoint.parse(checkpoint(store, KEY), KEY.verifier)
    write_run(store)
    new = Checkpoint.parse(checkpoint(store, KEY), KEY.verifier)
    proof = travelled(prove_consistency(store, old.size, new.size))
    check_consistency(proof, old, new)
    apart = started(tmp_path / "b.db")
    write_run(apart)
    strange = Checkpoint.parse(checkpoint(apart, KEY), KEY.verifier)
    with pytest.raises(TamperError, match="does not begin with"):
        check_consistency(prove_consistency(store, strange.size, new.size), strange, new)
    with pytest.raises(TamperError, match="no proof of consistency"):
        check_consistency({}, old, new)
    with pytest.raises(AuditError, match="the older one first"):
        prove_consistency(store, 8, 7)


WITHOUT = """
import sys
sys.modules["cryptography"] = None
from steerkit.audit import SignerKey, Store
from steerkit.audit import verify
print(verify(Store(sys.argv[1])).records)
SignerKey.new("a")
"""


def test_without_the_extra_one_line_names_it(store: Store) -> None:
    """The chain is verified without `cryptography`; only signing asks for it."""
    done = subprocess.run([sys.executable, "-c", WITHOUT, str(store.path)], capture_output=True, text=True)
    assert done.stdout.strip() == "7"
    assert "MissingExtraError: signing needs the extra 'sign': pip install -e '.[sign]'" in done.stderr
