"""Does pieces of work on the workers of a Ray cluster, with Ray Data: a worker that dies costs time and no results.

Each worker is a process that loads the model and its SAEs once, by name. A piece is one block of a dataset, so that the
piece a worker dies of is given to another, or to the same one once it is there again, and all others stay as they are.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from uuid import uuid4

import torch

from steerkit.errors import MissingExtraError, ModelError, SteerkitError
from steerkit.lab.workers.local import Load, Mapper, P, R

if TYPE_CHECKING:
    from steerkit.agent import Runtime

RETRIES: Final = 5
"""A piece that kills one worker after the other, as it needs more memory than there is, is no endless loop."""

_QUIET: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # else its C++ core writes to our stderr; its errors come as exceptions
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the behaviour to come, without a warning of it
}
_LOOPBACK: Final = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""At 0 a cluster that is started here listens on 127.0.0.1 alone, on Linux too; else on an address of the machine."""


class _Pool(NamedTuple):
    """The workers of one run."""

    workers: int
    gpu: bool
    """Whether each has one."""
    retries: int


class _Done(NamedTuple):
    """What became of a piece."""

    result: Any
    error: SteerkitError | None
    warned: tuple[str, ...]


@contextmanager
def cluster(workers: int | None = None) -> Iterator[None]:
    """A Ray cluster to work on: the one this process is connected to, that of `$RAY_ADDRESS`, or a local one.

    A local one is started with a CPU for each worker, and stopped at the end. It is reachable from this machine alone,
    unless Ray was imported before this.

    Raises:
        MissingExtraError: Ray is not installed.
        ModelError: the cluster cannot be reached or started.
    """
    ray = _ray()
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    how: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        cpus = workers or max(1, (os.cpu_count() or 1) // torch.get_num_threads())
        how |= {"num_cpus": cpus, "include_dashboard": False}
    try:
        _knock(address)
        with _core_silent():
            ray.init(**how)
    except (OSError, RuntimeError, ValueError) as error:
        line = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ModelError(f"ray: no cluster at {address!r} ({line}); set RAY_ADDRESS to one, or unset it") from None
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray itself would try for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _core_silent() -> Iterator[None]:
    """Ray's C++ core says on our stderr, past Python, that it will be silent."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


@contextmanager
def on_ray(
    load: Load, *, workers: int | None = None, device: str | None = None, retries: int = RETRIES
) -> Iterator[Mapper]:
    """A mapper onto the workers of a cluster; see `cluster` for which one.

    Each worker computes with as many threads as this process does, so that sums are rounded alike.

    Args:
        load: loads the model in each worker, by names that mean the same on each machine.
        workers: how many (default: the cluster's CPUs over the threads of one; its GPUs on a GPU).
        device: where they compute; on a GPU each worker has one of its own.
        retries: how often a piece is begun again whose worker died; then it is a ModelError of the mapper.

    Raises:
        MissingExtraError, ModelError: as for `cluster`, or it has no GPU such as is asked for.
    """
    if device is not None and device.partition(":")[2] not in ("", "0"):
        raise ModelError(f"ray: got --device {device}, but each worker sees one GPU alone; expected --device cuda")
    with cluster(workers):
        gpu = device is not None and device.startswith("cuda")
        pool = _Pool(workers or _most(gpu), gpu, retries)

        def mapped(work: Callable[[Runtime, P], R], pieces: Iterable[P]) -> Iterator[R]:
            return _results(load, work, [pickle.dumps(piece) for piece in pieces], pool)

        yield mapped


def check_ray() -> None:
    """Raise MissingExtraError where Ray is not installed."""
    _ray()


def _ray() -> Any:
    """Ray with its data library, silent but for errors."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if not os.environ.get("RAY_ADDRESS"):
        os.environ.setdefault(_LOOPBACK, "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError.of("--engine ray", "ray") from None
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    return ray


def _most(gpu: bool) -> int:
    """Workers that the cluster has room for."""
    has = _ray().cluster_resources()
    if gpu and not has.get("GPU"):
        raise ModelError("ray: the cluster has no GPU; give --device cpu, or set RAY_ADDRESS to a cluster that has one")
    return max(1, int(has["GPU"]) if gpu else int(has.get("CPU", 1)) // torch.get_num_threads())


def _results(load: Load, work: Callable[..., R], pieces: list[bytes], pool: _Pool) -> Iterator[R]:
    if not pieces:
        return
    begun = _Begun(uuid4().hex, pool.retries)
    early: dict[int, _Done] = {}
    following = 0
    try:
        for row in _told(_dataset(load, work, pieces, pool, begun).iter_rows()):
            early[row["number"]] = pickle.loads(row["done"])
            while following in early:
                yield _taken(early.pop(following))
                following += 1
    finally:
        begun.forget()


def _taken(done: _Done) -> Any:
    """The result, with the warnings of the worker; raises its error."""
    for text in done.warned:
        warnings.warn(text, stacklevel=2)
    if done.error is not None:
        raise done.error
    return done.result


def _dataset(load: Load, work: Callable[..., Any], pieces: list[bytes], pool: _Pool, begun: _Begun) -> Any:
    """One row and one block for each piece; workers that die are started again, and their pieces done again."""
    ray = _ray()
    rows = [{"number": number, "piece": piece} for number, piece in enumerate(pieces)]
    data = ray.data.from_items(rows, override_num_blocks=len(rows))
    data.context.enable_progress_bars = data.context.print_on_execution_start = False
    data.context.max_consecutive_actor_init_deaths = pool.retries  # killed before its first piece
    return data.map(
        _Worker,
        fn_constructor_args=(load, work, begun, torch.get_num_threads(), os.getcwd()),
        compute=ray.data.ActorPoolStrategy(size=min(pool.workers, len(rows)), max_tasks_in_flight_per_actor=1),
        num_cpus=1,
        num_gpus=1 if pool.gpu else 0,
    )


def _told(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Rows as they are done; what Ray itself fails of is one line."""
    from ray.exceptions import RayError, RayTaskError, UserCodeException

    try:
        yield from rows
    except (RayTaskError, UserCodeException):
        raise  # a mistake in the program, with its traceback
    except RayError as error:
        line = str(error).strip().partition("\n")[0]
        raise ModelError(f"ray: the cluster failed ({type(error).__name__}: {line}); start again") from None


class _Begun(NamedTuple):
    """Counts in the cluster's own table how often each piece was begun: what a worker knows of it dies with it."""

    run: str
    retries: int
    """Allowed for each piece."""

    def again(self, number: int) -> None:
        """Count a piece that is begun. Raises ModelError where it has been too often."""
        from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

        key = f"steerkit/{self.run}/{number}"
        before = int(_internal_kv_get(key) or 0)
        if before > self.retries:
            raise ModelError(
                f"ray: batch {number} killed its worker {before} times over; it may lack memory: expected smaller "
                f"batches, or fewer workers"
            )
        _internal_kv_put(key, str(before + 1))

    def forget(self) -> None:
        """Leave nothing behind."""
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(f"steerkit/{self.run}/", del_by_prefix=True)


class _Worker:
    """What runs in one process of the pool."""

    def __init__(
        self, load: Load, work: Callable[[Runtime, Any], Any], begun: _Begun, threads: int, folder: str
    ) -> None:
        self._load, self._work, self._begun = load, work, begun
        self._runtime: Runtime | None = None
        torch.set_num_threads(threads)
        with suppress(OSError):
            os.chdir(folder)  # paths may be relative; where it is not there, loading says what is missing

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row of a piece, done."""
        number, result, failed = row["number"], None, None
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            try:
                self._begun.again(number)
                self._runtime = self._runtime or self._load()
                result = self._work(self._runtime, pickle.loads(row["piece"]))
            except SteerkitError as error:
                failed = error
        warned = tuple(str(one.message) for one in said if one.category is UserWarning)
        return {"number": number, "done": pickle.dumps(_Done(result, failed, warned))}
