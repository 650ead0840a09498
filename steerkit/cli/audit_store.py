"""What all `steerkit audit` commands share: the store they look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

StoreOption = Annotated[
    Path | None, typer.Option("--store", help="The store's file (default: audit.db in $STEERKIT_HOME).")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON lines.")]


def opened(path: Path | None, *, writable: bool = False) -> Any:
    """The store, which must be there."""
    from steerkit.audit import Store, default_store

    store = Store(path or default_store(), create=False)
    if not writable:
        return store
    store.close()
    return Store(path or default_store())
