"""The end of vLLM's processes, which its client does not tell to whoever waits for them."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from queue import Queue
from threading import Thread
from typing import Any


class Liveness:
    """Lets every wait on vLLM's client end with an error once one of its processes has ended.

    vLLM marks its client as dead then, so that what is asked later is refused; those that wait already would for ever.

    Args:
        client: vLLM's, which may run the engine in this process, where there is nothing to do.
    """

    def __init__(self, client: Any) -> None:
        self._resources = getattr(client, "resources", None)
        if self._resources is not None:
            waited = (self._resources.engine_manager.processes, self._resources, client.outputs_queue)
            Thread(target=_watch, args=(*waited, client.utility_results), name="steerkit-liveness", daemon=True).start()

    @property
    def ended(self) -> bool:
        """True once one of the processes has ended."""
        return self._resources is not None and bool(self._resources.engine_dead)


def _watch(
    processes: Sequence[BaseProcess],
    resources: Any,
    outputs: Queue[Any],
    answers: MutableMapping[int, Future[Any]],
) -> None:
    from vllm.v1.engine.exceptions import EngineDeadError

    wait([process.sentinel for process in processes])
    resources.engine_dead = True  # first: a call notes what it waits for, and then asks
    outputs.put_nowait(EngineDeadError())
    for answer in list(answers.values()):
        with suppress(InvalidStateError):  # it was answered just before
            answer.set_exception(EngineDeadError())
