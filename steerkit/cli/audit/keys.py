"""`steerkit audit keygen | checkpoint | verify | prove | check`: signatures over a store, and proofs for others."""

from __future__ import annotations

import json as jsons
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from steerkit.cli.audit.files import read, read_json, write_new, write_out
from steerkit.cli.audit.options import JsonOption, StoreOption, opened
from steerkit.errors import AuditError
from steerkit.report import print_json, say

KeyOption = Annotated[Path, typer.Option("--key", metavar="FILE", help="File with the private key of `audit keygen`.")]
PublicOption = Annotated[Path | None, typer.Option("--key", metavar="FILE", help="File with the public key.")]
CheckpointOption = Annotated[
    list[Path] | None,
    typer.Option("--checkpoint", metavar="FILE", help="File with a kept checkpoint; may be given several times."),
]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Write it there, whole, instead of printing it.")
]


def keygen(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Where the secret goes; the public key goes to FILE.pub.")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="Of the log, such as example.org/audit.")] = "",
    redaction: Annotated[bool, typer.Option("--redaction", help="Make a key for `audit redact` instead.")] = False,
    json: JsonOption = False,
) -> None:
    """Make a key pair to sign with, or a key to hash what is redacted with. Keep it away from the store."""
    if redaction:
        write_new(file, os.urandom(32).hex(), 0o600)
        if json:
            print_json({"file": str(file)})
        else:
            say(f"ok: {file}")
        return
    from steerkit.audit import SignerKey

    key = SignerKey.new(name)
    public = file.with_name(f"{file.name}.pub")
    write_new(file, str(key), 0o600)
    write_new(public, str(key.verifier), 0o644)
    if json:
        print_json({"file": str(file), "public": str(public), "key": str(key.verifier)})
    else:
        say(str(key.verifier))


def checkpoint(
    key: KeyOption,
    store: StoreOption = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Check the whole store, and print its size and root, signed. Keep it away from the store."""
    from steerkit.audit import Checkpoint
    from steerkit.audit import checkpoint as sign

    pair = signer(key)
    note = sign(opened(store), pair)
    if out is not None or not json:
        write_out(note, out)
    signed = Checkpoint.parse(note, pair.verifier)
    if json:
        print_json({"name": signed.origin, "size": signed.size, "root": signed.root.hex(), "note": note})
    elif out is not None:
        say(f"ok: {signed.size} records in {out}")


def verify(
    store: StoreOption = None,
    checkpoint: CheckpointOption = None,
    key: PublicOption = None,
    json: JsonOption = False,
) -> None:
    """Check every record, run and checkpoint; exit with an error at the first that is wrong."""
    from steerkit.audit import exposed_files
    from steerkit.audit import verify as check

    kept, public = kept_checkpoints(checkpoint, key)
    log = opened(store)
    found = check(log, checkpoints=kept, key=public)
    said = [*exposed_files(log.path), *log.file.recovery.warnings(log.path)]
    if json:
        facts = {**found._asdict(), "root": found.root.hex(), "checkpoints": len(kept), "warnings": said}
        print_json({**facts, "recovery": log.file.recovery._asdict()})
        return
    notes = {
        "runs not closed (still going on, or ended by a crash)": len(found.open_runs),
        "records lost, as the runs say": found.lost,
        "redacted pieces": found.redacted,
        "records retired": found.retired,
        "tombstones whose signature was not checked (give --key)": found.unsigned,
        "redactions whose signature was not checked (give --key)": found.unchecked_redactions,
        "redactions unsigned: whoever can write the file may have made them": found.unsigned_redactions,
        "checkpoints hold": len(kept),
    }
    say(f"ok: {found.records} records, head {found.head}")
    for what, count in notes.items():
        if count:
            say(f"    {count} {what}")
    for line in said:
        say(f"    {line}")


def prove(
    id: Annotated[str, typer.Argument(metavar="ID", help="A record's id, its beginning, or its number.")],
    checkpoint: Annotated[
        Path, typer.Option(metavar="FILE", help="File with the checkpoint that it is proved against.")
    ],
    key: Annotated[Path, typer.Option(metavar="FILE", help="File with the public key.")],
    store: StoreOption = None,
    since: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An older checkpoint, proved to be a beginning of it.")
    ] = None,
    out: OutOption = None,
    json: JsonOption = False,
) -> None:
    """Print a record with the proof that it was in the store when a checkpoint was made, as JSON."""
    from steerkit.audit import portable_record, prove_consistency
    from steerkit.audit import prove as inclusion

    public, log = public_key(key), opened(store)
    signed = _signed(checkpoint, public)
    record = log.get(id)
    found: dict[str, Any] = {"record": portable_record(log, record), "proof": inclusion(log, record, signed.size)}
    if since is not None:
        found["since"] = prove_consistency(log, _signed(since, public).size, signed.size)
    write_out(jsons.dumps(found) + "\n", out)


def check(
    proof: Annotated[Path, typer.Argument(metavar="FILE", help="File that `audit prove` wrote.")],
    checkpoint: Annotated[Path, typer.Option(metavar="FILE", help="File with the checkpoint.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="File with the public key.")],
    since: Annotated[Path | None, typer.Option(metavar="FILE", help="File with the older checkpoint.")] = None,
    json: JsonOption = False,
) -> None:
    """Check a proof without the store, and print what the record says, as JSON."""
    from steerkit.audit import check_consistency, check_inclusion

    public = public_key(key)
    signed = _signed(checkpoint, public)
    data = read_json(proof, "proof")
    try:
        record, path, older = data["record"], data["proof"], data.get("since", {})
    except (KeyError, TypeError, AttributeError) as error:
        raise AuditError(f"{proof}: got no proof ({error}), expected what `audit prove` wrote") from None
    content = check_inclusion(path, record, signed)
    if since is not None:
        check_consistency(older, _signed(since, public), signed)
    print_json(content)


def kept_checkpoints(files: list[Path] | None, key: Path | None) -> tuple[list[Any], Any]:
    """The checkpoints of files, whose signatures hold, and the public key; None without one. Raises AuditError."""
    if files and key is None:
        raise AuditError("--checkpoint: got no --key, expected the public key that it was signed with")
    public = None if key is None else public_key(key)
    return [_signed(file, public) for file in files or ()], public


def signer(path: Path) -> Any:
    """The private key of a file. Raises AuditError that names the file."""
    from steerkit.audit import SignerKey

    return _parsed(path, SignerKey.parse)


def public_key(path: Path) -> Any:
    """The public key of a file. Raises AuditError that names the file."""
    from steerkit.audit import VerifierKey

    return _parsed(path, VerifierKey.parse)


def _signed(path: Path, key: Any) -> Any:
    """The checkpoint of a file, whose signature holds."""
    from steerkit.audit import Checkpoint

    return _parsed(path, lambda text: Checkpoint.parse(text, key))


def _parsed(path: Path, parse: Callable[[str], Any]) -> Any:
    text = read(path)
    try:
        return parse(text)
    except AuditError as error:
        raise AuditError(f"{path}: {error}") from None
