"""`steerkit audit` from keys to proofs, in processes of its own."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

from tests.audit.example import started, write_run
from tests.cli.test_commands import steerkit


def test_the_way_from_a_key_to_a_proof(tmp_path: Path) -> None:
    """Keys, a checkpoint, a proof that is checked without the store, redaction, retention, and a cut."""
    store, key, pub = tmp_path / "a.db", tmp_path / "key", tmp_path / "key.pub"
    log = started(store)
    write_run(log)
    log.close()

    def audit(*arguments: str | Path, status: int = 0) -> str:
        done = steerkit("audit", *arguments, home=tmp_path, status=status)
        return done.stdout if status == 0 else done.stderr

    assert audit("keygen", key, "--name", "example.org/audit") == pub.read_text()
    assert key.stat().st_mode & 0o077 == 0
    assert "cannot be written" in audit("keygen", key, "--name", "x", status=1)
    kept = tmp_path / "kept"
    kept.write_text(audit("checkpoint", "--key", key, "--store", store))
    signed = ("--checkpoint", kept, "--key", pub)
    assert "1 checkpoints hold" in audit("verify", "--store", store, *signed)
    assert "got no --key" in audit("verify", "--store", store, "--checkpoint", kept, status=1)
    proof = tmp_path / "proof"
    proof.write_text(audit("prove", "2", "--store", store, *signed))
    assert json.loads(audit("check", proof, *signed))["text"] == "a word"
    proof.write_text(proof.read_text().replace("hold", "flag"))
    assert "is not in the log" in audit("check", proof, *signed, status=1)
    secret = tmp_path / "secret"
    audit("keygen", secret, "--redaction")
    assert "/text" in audit("redact", "2", "--key", secret, "--field", "text", "--store", store)
    assert "redacted" in audit("show", "2", "--store", store)
    assert "redaction" in audit("list", "--store", store)
    assert "1 redacted pieces" in audit("verify", "--store", store, *signed)
    assert "nothing is that old" in audit("retain", "--before", "2000-01-01", "--key", key, "--store", store)
    assert "6 records deleted" in audit("retain", "--before", "2100-01-01", "--key", key, "--store", store)
    assert "6 records retired" in audit("verify", "--store", store, *signed)
    database = sqlite3.connect(store)
    database.execute("DELETE FROM records")
    database.execute("DELETE FROM retired WHERE sequence > 4")
    database.commit()
    database.close()
    assert "error: " in audit("verify", "--store", store, *signed, status=1)
