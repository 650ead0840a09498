"""`steerkit audit keygen | checkpoint | verify | prove | check`: signatures over a store, and proofs for others."""

from __future__ import annotations

import json as jsons
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli.audit_store import JsonOption, StoreOption, opened
from steerkit.cli.view import print_json
from steerkit.errors import AuditError

KeyOption = Annotated[Path, typer.Option("--key", help="File with the private key, of `audit keygen`.")]
PublicOption = Annotated[Path | None, typer.Option("--key", help="File with the public key.")]
CheckpointOption = Annotated[
    list[Path] | None, typer.Option("--checkpoint", help="File with a kept checkpoint; may be given several times.")
]


def keygen(
    file: Annotated[Path, typer.Argument(help="Where the secret goes; the public key goes to FILE.pub.")],
    name: Annotated[str, typer.Option(help="Of the log, such as example.org/audit.")] = "",
    redaction: Annotated[bool, typer.Option("--redaction", help="Make a key for `audit redact` instead.")] = False,
) -> None:
    """Make a key pair for checkpoints and tombstones, or a key for redactions. Keep it away from the store."""
    if redaction:
        _write_new(file, os.urandom(32).hex(), 0o600)
        typer.echo(f"ok: {file}")
        return
    from steerkit.audit import SignerKey

    key = SignerKey.new(name)
    _write_new(file, str(key), 0o600)
    _write_new(file.with_name(f"{file.name}.pub"), str(key.verifier), 0o644)
    typer.echo(str(key.verifier))


def checkpoint(key: KeyOption, store: StoreOption = None) -> None:
    """Check the whole store, and print its size and root, signed. Keep it away from the store."""
    from steerkit.audit import checkpoint as sign

    typer.echo(sign(opened(store), signer(key)), nl=False)


def verify(
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    key: PublicOption = None,
    json: JsonOption = False,
) -> None:
    """Check every record, run and checkpoint; exit with an error at the first that is wrong."""
    from steerkit.audit import Checkpoint, VerifierKey
    from steerkit.audit import verify as check

    if checkpoint and key is None:
        raise AuditError("--checkpoint: got no --key, expected the public key that it was signed with")
    public = None if key is None else VerifierKey.parse(read(key))
    kept = [Checkpoint.parse(read(file), public) for file in checkpoint or () if public is not None]
    found = check(opened(store), checkpoints=kept, key=public)
    if json:
        print_json({**found._asdict(), "root": found.root.hex()})
        return
    notes = {
        "runs not closed (still going on, or ended by a crash)": len(found.open_runs),
        "records lost, as the runs say": found.lost,
        "redacted pieces": found.redacted,
        "records retired": found.retired,
        "tombstones whose signature was not checked (give --key)": found.unsigned,
        "checkpoints hold": len(kept),
    }
    typer.echo(f"ok: {found.records} records, head {found.head}")
    for what, count in notes.items():
        if count:
            typer.echo(f"    {count} {what}")


def prove(
    id: Annotated[str, typer.Argument(help="A record's id, its beginning, or its number.")],
    checkpoint: Annotated[Path, typer.Option(help="File with the checkpoint that it is proved against.")],
    key: Annotated[Path, typer.Option(help="File with the public key.")],
    store: StoreOption = None,
    since: Annotated[Path | None, typer.Option(help="An older checkpoint, proved to be a beginning of it.")] = None,
) -> None:
    """Print a record with the proof that it was in the store when a checkpoint was made, as JSON."""
    from steerkit.audit import Checkpoint, VerifierKey, portable, prove_consistency
    from steerkit.audit import prove as inclusion

    public, log = VerifierKey.parse(read(key)), opened(store)
    signed = Checkpoint.parse(read(checkpoint), public)
    record = log.get(id)
    found: dict[str, Any] = {"record": portable(log, record), "proof": inclusion(log, record, signed.size)}
    if since is not None:
        found["since"] = prove_consistency(log, Checkpoint.parse(read(since), public).size, signed.size)
    print_json(found)


def check(
    proof: Annotated[Path, typer.Argument(help="File that `audit prove` printed.")],
    checkpoint: Annotated[Path, typer.Option(help="File with the checkpoint.")],
    key: Annotated[Path, typer.Option(help="File with the public key.")],
    since: Annotated[Path | None, typer.Option(help="File with the older checkpoint.")] = None,
) -> None:
    """Check a proof without the store, and print what the record says, as JSON."""
    from steerkit.audit import Checkpoint, VerifierKey, check_consistency, check_inclusion

    public = VerifierKey.parse(read(key))
    signed = Checkpoint.parse(read(checkpoint), public)
    try:
        data = jsons.loads(read(proof))
        record, path, older = data["record"], data["proof"], data.get("since", {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuditError(f"{proof}: got no proof ({error}), expected what `audit prove` printed") from None
    content = check_inclusion(path, record, signed)
    if since is not None:
        check_consistency(older, Checkpoint.parse(read(since), public), signed)
    print_json(content)


def signer(path: Path) -> Any:
    """The private key of a file."""
    from steerkit.audit import SignerKey

    return SignerKey.parse(read(path))


def read(path: Path) -> str:
    """A small text file. Raises AuditError where there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AuditError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _write_new(path: Path, text: str, mode: int) -> None:
    """A file that was not there before: a key is never overwritten."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
            file.write(text + "\n")
    except OSError as error:
        raise AuditError(f"{path}: the key cannot be written: {error.strerror}") from None
