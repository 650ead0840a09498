"""The workers of a command's conversations: this process, or those of a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple, TypeAlias

import typer

from steerkit.errors import ModelError

if TYPE_CHECKING:
    from steerkit.agent import Runtime
    from steerkit.lab.workers import Load, Mapper

Kind: TypeAlias = Literal["local", "ray"]
Engine = Annotated[
    Kind, typer.Option(help="Where conversations are run: here, or on a Ray cluster ($RAY_ADDRESS, else a local one).")
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes of --engine ray (default: CPUs over threads; GPUs on a GPU).")
]


class Where(NamedTuple):
    """An engine with its options."""

    engine: Kind
    workers: int | None
    load: Load
    """Loads the model, here and in each worker."""
    device: str | None


def where(engine: Kind, workers: int | None, load: Load, device: str | None) -> Where:
    """The engine that the options name; one that cannot run is refused before a model is loaded.

    Raises:
        ModelError, MissingExtraError: workers without Ray, or Ray is not installed.
    """
    if workers is not None and engine != "ray":
        raise ModelError(f"--workers: got {workers} with --engine {engine}; expected it with --engine ray")
    if engine == "ray":
        from steerkit.lab.workers import check_ray

        check_ray()
    return Where(engine, workers, load, device)


@contextmanager
def mapper_of(at: Where, runtime: Runtime | None = None) -> Iterator[Mapper]:
    """The mapper of an engine; while it is open, what Ray says of workers that died goes to stderr.

    Args:
        at: which engine.
        runtime: what this process has loaded, if it has: workers must load the same.
    """
    from functools import partial

    from steerkit.lab.workers import fingerprints, in_this_process, load_same

    if at.engine == "local":
        yield in_this_process(at.load if runtime is None else lambda: runtime)
        return
    from steerkit.lab.workers import on_ray

    load = (
        at.load
        if runtime is None
        else partial(load_same, at.load, fingerprints(runtime), runtime.loaded.runs_prepacked)
    )
    with redirect_stdout(sys.stderr), on_ray(load, workers=at.workers, device=at.device) as mapper:
        yield mapper
