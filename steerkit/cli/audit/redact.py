"""`steerkit audit redact | retain`: takes content out of a store without breaking its chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli.audit.files import read
from steerkit.cli.audit.keys import KeyOption, signer
from steerkit.cli.audit.options import JsonOption, StoreOption, opened
from steerkit.errors import AuditError
from steerkit.report import print_json, say, say_line


def redact(
    id: Annotated[str, typer.Argument(metavar="ID", help="A record's id, its beginning, or its number.")],
    key: Annotated[Path, typer.Option(metavar="FILE", help="File with the key, of `audit keygen --redaction`.")],
    sign: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the private key that signs it; else it counts as unsigned."),
    ] = None,
    field: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Such as messages or text (default: all content).")
    ] = None,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who does it.")] = "",
    note: Annotated[str, typer.Option(metavar="TEXT", help="Why.")] = "",
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Put keyed hashes in the place of a record's content, for good."""
    from steerkit.audit import RedactionRecord, read_as
    from steerkit.audit import redact as redacted

    try:
        secret = bytes.fromhex(read(key).strip())
    except ValueError:
        raise AuditError(f"{key}: got no redaction key, expected one of `audit keygen --redaction`") from None
    by_whom = None if sign is None else signer(sign)
    log = opened(store, writable=True)
    written = redacted(log, log.get(id), secret, field or (), by=by, note=note, signer=by_whom)
    said = read_as(RedactionRecord, written.public)
    fields = list(said.fields)
    if json:
        print_json({"record": written.id, "of": said.of, "fields": fields, "signed": sign is not None})
        return
    say(f"ok: {', '.join(fields)}; record {written.id}")
    if sign is None:
        say_line("not signed: `audit verify` will count it as one that anybody may have made (--sign FILE)")


def retain(
    before: Annotated[
        str, typer.Option(metavar="DATE", help="Runs closed before it are deleted: 2026-01-31 (UTC), or 90d for ago.")
    ],
    key: KeyOption,
    by: Annotated[str, typer.Option(metavar="NAME", help="Who does it.")] = "",
    store: StoreOption = None,
    json: JsonOption = False,
) -> None:
    """Delete old closed runs, and leave a signed tombstone in their place."""
    from steerkit.audit import RetentionRecord, moment, read_as
    from steerkit.audit import retain as retained

    written = retained(opened(store, writable=True), moment("--before", before), signer(key), by=by)
    count = 0 if written is None else read_as(RetentionRecord, written.public).count
    if json:
        print_json({"deleted": count, "record": None if written is None else written.id})
        return
    say(f"ok: {count} records deleted" if count else "ok: nothing is that old")
