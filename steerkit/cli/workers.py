"""The workers of a command's conversations: this process, or those of a Ray cluster."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeAlias

import typer

from steerkit.cli.options import generated_by
from steerkit.errors import ModelError

if TYPE_CHECKING:
    from steerkit.agent import Runtime
    from steerkit.lab.workers import Load, Mapper

Kind: TypeAlias = Literal["local", "ray"]
AnyKind: TypeAlias = Literal["local", "ray", "vllm", "ray-vllm"]
Engine = Annotated[
    Kind, typer.Option(help="Where conversations are run: here, or on a Ray cluster ($RAY_ADDRESS, else a local one).")
]
AnyEngine = Annotated[
    AnyKind,
    typer.Option(
        help="Where conversations are run: here, or on Ray ($RAY_ADDRESS, else a local cluster); by vLLM on either."
    ),
]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes on Ray (default: CPUs over threads; GPUs on a GPU).")
]


class Where(NamedTuple):
    """An engine with its options."""

    engine: AnyKind
    workers: int | None
    load: Load
    """Loads the model where conversations are run: here, or in each worker."""
    device: str | None
    here: Load
    """Loads it in this process, through transformers where vLLM's are on Ray: they have the machines' memory."""

    @property
    def on_ray(self) -> bool:
        """True if conversations are run on a Ray cluster."""
        return self.engine in ("ray", "ray-vllm")


def where(engine: AnyKind, workers: int | None, load: Load, device: str | None, here: Load | None = None) -> Where:
    """The engine that the options name; one that cannot run is refused before a model is loaded.

    Raises:
        ModelError, MissingExtraError: workers without Ray, or Ray is not installed.
    """
    at = Where(engine, workers, load, device, here or load)
    if workers is not None and not at.on_ray:
        raise ModelError(f"--workers: got {workers} with --engine {engine}; expected it with --engine ray or ray-vllm")
    if at.on_ray:
        from steerkit.lab.workers import check_ray

        check_ray()
    return at


def where_named(
    engine: AnyKind, workers: int | None, vllm: Sequence[str], model: str, saes: str | None, how: Mapping[str, Any]
) -> Where:
    """The engine that the options name, on a model and SAEs by name; `how` is that of `how_to_run`.

    Raises:
        ModelError, MissingExtraError, SettingError: as `where`; settings of vLLM without it, or that it cannot have.
    """
    from functools import partial

    from steerkit.agent import load
    from steerkit.engine import vllm_version

    device, by_vllm = how["device"], engine in ("vllm", "ray-vllm")
    generates: Any = generated_by("vllm" if by_vllm else engine, vllm)
    if by_vllm:
        vllm_version()
        how = {**how, "engine": generates}
    if engine != "ray-vllm":
        return where(engine, workers, partial(load, model, saes, **how, audit=False), device)
    if getattr(generates, "tensor_parallel_size", None) not in (None, 1):
        raise ModelError("--vllm: tensor_parallel_size: each worker on Ray has one device; leave it out")
    here = partial(load, model, saes, device=device, dtype=how["dtype"], prepack=False, audit=False)
    away = partial(load, model, saes, **{**how, "device": None}, audit=False)
    return where(engine, workers, away, device, here)


@contextmanager
def mapper_of(at: Where, runtime: Runtime | None = None) -> Iterator[Mapper]:
    """The mapper of an engine; while it is open, what Ray says of workers that died goes to stderr.

    Args:
        at: which engine.
        runtime: what this process has loaded, if it has: workers must load the same.
    """
    from functools import partial

    from steerkit.lab.workers import fingerprints, in_this_process, load_same, runs_prepacked

    if not at.on_ray:
        yield in_this_process(at.load if runtime is None else lambda: runtime)
        return
    from steerkit.lab.workers import on_ray

    load = at.load
    if runtime is not None:
        load = partial(load_same, at.load, fingerprints(runtime), runs_prepacked(runtime))
    with redirect_stdout(sys.stderr), on_ray(load, workers=at.workers, device=at.device) as mapper:
        yield mapper
