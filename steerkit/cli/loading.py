"""What commands that read a model over data share: a model with its SAEs, and a bar for what takes long."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from steerkit.errors import SaeError
from steerkit.report.out import console, say_line

if TYPE_CHECKING:
    from steerkit.engine import LoadedModel
    from steerkit.sae import SaeSet


def load_with_saes(model: str, saes: str | None, device: str | None, dtype: str | None) -> tuple[LoadedModel, SaeSet]:
    """A model and a set that fits it. Raises SaeError and what loading raises."""
    from steerkit.agent import load

    runtime = load(model, saes, device=device, dtype=dtype, audit=False)
    if runtime.saes is None:
        raise SaeError(f"{model}: it brings no SAEs; name their folder or repository with --saes")
    return runtime.loaded, runtime.saes


@contextmanager
def stoppable(standing: Callable[[], str]) -> Iterator[None]:
    """What Ctrl-C leaves is said: what stands, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        say_line("")
        say_line(f"stopped: {standing()}")
        raise


def this_command() -> str:
    """The command that runs, as a shell takes it."""
    return shlex.join(["steerkit", *sys.argv[1:]])


@contextmanager
def progress(total: int, what: str) -> Iterator[Callable[..., None]]:
    """A bar on a terminal, nothing in a pipe; it is told how much is done, and perhaps of how much."""
    from rich.progress import Progress

    out = console(stderr=True)
    with Progress(console=out, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done, *of: bar.update(task, completed=done, total=of[0] if of else None)
