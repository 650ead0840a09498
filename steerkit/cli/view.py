"""`steerkit view`: the records in a browser."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from steerkit.cli.audit.files import write_out
from steerkit.cli.audit.keys import CheckpointOption, PublicOption, kept_checkpoints
from steerkit.cli.audit.options import StoreOption, opened
from steerkit.errors import AuditError
from steerkit.report import say


def view_command(
    record: Annotated[
        str | None, typer.Argument(metavar="ID", help="Of a turn's record, for --export; its number will do.")
    ] = None,
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")] = 8020,
    checkpoint: CheckpointOption = None,
    key: PublicOption = None,
    decide: Annotated[bool, typer.Option("--decide", help="Let held calls be approved and refused there.")] = False,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write that turn as one HTML file, and show nothing.")
    ] = None,
    approval_seconds: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long a held call waits, as the server has it.")
    ] = 3600.0,
) -> None:
    """Show the records in a browser on this machine: what was asked, called, judged, changed and decided."""
    from steerkit.viewer import Deciding, Kept, Person, view
    from steerkit.viewer import export as exported

    kept = Kept(*kept_checkpoints(checkpoint, key))
    log = opened(store)
    log.close()
    if export is not None:
        if record is None:
            raise AuditError("--export: got no ID, expected that of a turn's record")
        write_out(exported(log.path, record, kept=kept), export)
        say(f"ok: record {record} in {export}")
        return
    if record is not None:
        raise AuditError(f"{record}: got an ID without --export; its page is /r/{record}")
    person = Person(decide, getpass.getuser())
    deciding = Deciding(approval_seconds, lambda scope: person)
    view(
        log.path, port, kept=kept, deciding=deciding, listening=lambda url: say(f"{log.path} on {url} (Ctrl-C ends it)")
    )
