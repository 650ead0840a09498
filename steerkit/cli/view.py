"""`steerkit view`: the records in a browser."""

from __future__ import annotations

import getpass
from typing import Annotated

import typer

from steerkit.cli.audit.keys import CheckpointOption, PublicOption, kept_checkpoints
from steerkit.cli.audit.options import StoreOption, opened
from steerkit.report import say


def view_command(
    store: StoreOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, metavar="PORT", help="0 takes a free one.")] = 8020,
    checkpoint: CheckpointOption = None,
    key: PublicOption = None,
    decide: Annotated[bool, typer.Option("--decide", help="Let held calls be approved and refused there.")] = False,
    approval_seconds: Annotated[
        float, typer.Option(min=1, metavar="SECONDS", help="How long a held call waits, as the server has it.")
    ] = 3600.0,
) -> None:
    """Show the records in a browser on this machine: what was asked, called, judged, changed and decided."""
    from steerkit.viewer import Deciding, Kept, Person, view

    kept = Kept(*kept_checkpoints(checkpoint, key))
    log = opened(store)
    log.close()
    person = Person(decide, getpass.getuser())
    deciding = Deciding(approval_seconds, lambda scope: person)
    view(
        log.path, port, kept=kept, deciding=deciding, listening=lambda url: say(f"{log.path} on {url} (Ctrl-C ends it)")
    )
