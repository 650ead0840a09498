"""Applies a function to a model and pieces of work: in this process, or in those of a cluster (`ray_data`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

from steerkit.engine import obstacle
from steerkit.errors import ModelError

if TYPE_CHECKING:
    from steerkit.agent import Runtime

P = TypeVar("P")
R = TypeVar("R")

Load: TypeAlias = "Callable[[], Runtime]"
"""Loads a model with its SAEs by name. Where it is sent to other processes, a `partial` of a function in a module."""


class Mapper(Protocol):
    """Applies `work` to a runtime and each piece; yields what it returns, in the order of the pieces.

    A piece is a batch: its conversations are generated together wherever it is done, so that sums are rounded alike.
    What is applied is a function of a module, or a `partial` of one; pieces and results are plain values.

    Raises:
        SteerkitError: what loading, or a piece, came to; nothing is yielded after that.
    """

    def __call__(self, work: Callable[[Runtime, P], R], pieces: Iterable[P], /) -> Iterator[R]:
        """The results."""


def in_this_process(load: Load) -> Mapper:
    """One piece after the other, here, on a model that is loaded for the first."""

    def mapped(work: Callable[[Runtime, P], R], pieces: Iterable[P]) -> Iterator[R]:
        runtime = None
        for piece in pieces:
            runtime = runtime or load()
            yield work(runtime, piece)

    return mapped


def batches(rows: Sequence[P], size: int) -> list[Sequence[P]]:
    """Rows in batches of `size`; the last may be smaller."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def fingerprints(runtime: Runtime) -> tuple[str, str | None]:
    """Fingerprints of the weights and of the SAEs."""
    made_on = runtime.engine.provenance
    return made_on.model.fingerprint, None if made_on.saes is None else made_on.saes.fingerprint


def runs_prepacked(runtime: Runtime) -> bool:
    """True if it generates through copies of the linear weights."""
    return bool(runtime.engine.provenance.machine.get("prepacked"))


def load_same(load: Load, wanted: tuple[str, str | None], prepacked: bool = False) -> Runtime:
    """Load a runtime, and refuse one that differs from another process's under the same names.

    `prepacked` is whether that process generates through copies of the linear weights; then this one does so too.

    Raises:
        ModelError: it is not, or this process cannot.
    """
    runtime = load()
    for what, found, here in zip(("weights", "SAEs"), fingerprints(runtime), wanted, strict=True):
        if found != here:
            raise ModelError(
                f"{runtime.engine.name}: a worker has other {what} under this name ({str(found)[:19]}, here "
                f"{str(here)[:19]}); put the same files on every machine"
            )
    if runs_prepacked(runtime) == prepacked:
        return runtime
    runtime.prepack(prepacked)
    if prepacked and not runtime.loaded.runs_prepacked:
        raise ModelError(
            f"{runtime.loaded.name}: prepack: a worker cannot do what this process does "
            f"({obstacle(runtime.loaded.model)}); run it again with --no-prepack"
        )
    return runtime
