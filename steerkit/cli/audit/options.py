"""Options that `steerkit audit` commands share, and the store that they open."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

StoreOption = Annotated[
    Path | None,
    typer.Option(
        "--store",
        metavar="FILE",
        envvar="STEERKIT_STORE",
        help="The audit store's file (default: audit.db in $STEERKIT_HOME).",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]
RecordedModel = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Instead of the recorded name.")]
RecordedSaes = Annotated[str | None, typer.Option("--saes", metavar="NAME", help="Instead of the recorded name.")]
RecordedDevice = Annotated[str | None, typer.Option("--device", metavar="NAME", help="Instead of the recorded one.")]
RecordedDtype = Annotated[str | None, typer.Option("--dtype", metavar="NAME", help="Instead of the recorded one.")]


def opened(path: Path | None, *, writable: bool = False) -> Any:
    """The store, which must be there."""
    from steerkit.audit import Store, check_tables, default_store

    store = Store(path or default_store(), create=False)
    check_tables(store)
    if not writable:
        return store
    store.close()
    return Store(path or default_store())
