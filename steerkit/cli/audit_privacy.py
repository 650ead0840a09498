"""`steerkit audit redact | retain`: takes content out of a store without breaking its chain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli.audit_keys import KeyOption, read, signer
from steerkit.cli.audit_query import moment
from steerkit.cli.audit_store import StoreOption, opened
from steerkit.errors import AuditError


def redact(
    id: Annotated[str, typer.Argument(help="A record's id, its beginning, or its number.")],
    key: Annotated[Path, typer.Option(help="File with the key, of `audit keygen --redaction`.")],
    field: Annotated[list[str] | None, typer.Option(help="Such as messages or text (default: all content).")] = None,
    by: Annotated[str, typer.Option(help="Who does it.")] = "",
    note: Annotated[str, typer.Option(help="Why.")] = "",
    store: StoreOption = None,
) -> None:
    """Put keyed hashes in the place of a record's content, for good."""
    from steerkit.audit import redact as redacted

    try:
        secret = bytes.fromhex(read(key).strip())
    except ValueError:
        raise AuditError(f"{key}: got no redaction key, expected one of `audit keygen --redaction`") from None
    log = opened(store, writable=True)
    written = redacted(log, log.get(id), secret, field or (), by=by, note=note)
    typer.echo(f"ok: {', '.join(written.public['fields'])}; record {written.id}")


def retain(
    before: Annotated[str, typer.Option(help="Date, such as 2026-01-31 (UTC): runs closed before it are deleted.")],
    key: KeyOption,
    by: Annotated[str, typer.Option(help="Who does it.")] = "",
    store: StoreOption = None,
) -> None:
    """Delete old closed runs, and leave a signed tombstone in their place."""
    from steerkit.audit import retain as retained

    written = retained(opened(store, writable=True), moment("--before", before), signer(key), by=by)
    typer.echo("ok: nothing is that old" if written is None else f"ok: {written.public['count']} records deleted")
