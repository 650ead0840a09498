"""The service behind the door: a loaded runtime with its generator, and the way of a request through them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from steerkit.agent import Runtime
from steerkit.audit import Approvals
from steerkit.chat import TextDelta
from steerkit.errors import AuditError, SteerkitError
from steerkit.policy import Policy
from steerkit.runtime import Prepared, Retried
from steerkit.server.door import Visit, too_many
from steerkit.server.errors import ApiError
from steerkit.server.fields import Asked
from steerkit.server.generation import BusyError, Generation
from steerkit.server.metrics import Metrics
from steerkit.server.names import Names
from steerkit.server.options import Options
from steerkit.server.outcome import Outcome, outcome_of
from steerkit.server.worker import Worker
from steerkit.types import Turn


class Loaded:
    """A runtime that takes requests.

    Args:
        runtime: with its store.
        options: of the server.
        metrics: that count.
    """

    def __init__(self, runtime: Runtime, options: Options, metrics: Metrics) -> None:
        self.runtime = runtime
        self.generator = Worker(runtime, options.batch_size, options.most_waiting)
        self.approvals = None if runtime.store is None else Approvals(runtime.store, options.approval_seconds)
        self.fingerprint = f"fp_{runtime.engine.provenance.model.fingerprint.removeprefix('sha256:')[:16]}"
        self.began = int(time.time())
        metrics.watch(self.generator, self._held)

    def _held(self) -> int:
        with suppress(AuditError):
            return 0 if self.approvals is None else len(self.approvals.pending())
        return 0

    def close(self) -> None:
        """Finish what was taken in, and close the run of its records."""
        self.generator.close()
        self.runtime.close()


class Service:
    """A server's state beside the audit store: what is loaded.

    Args:
        options: of the server.
        names: of the model and the policies.
        load: makes the runtime; takes a while.
    """

    def __init__(self, options: Options, names: Names, load: Callable[[], Runtime]) -> None:
        self.options, self.names, self.metrics = options, names, Metrics()
        self._load = load
        self._loaded: Loaded | None = None
        self.failure: Exception | None = None
        """Error of loading."""

    def start(self) -> None:
        """Load the runtime, and make what requests may bring ready. Keeps an error as `failure`."""
        try:
            runtime = self._load()
            runtime.reserve([None, *([one] for one in self.names.policies.values())])
            self._loaded = Loaded(runtime, self.options, self.metrics)
        except Exception as error:
            self.failure = error

    def close(self) -> None:
        """Finish what was taken in."""
        if self._loaded is not None:
            self._loaded.close()

    @property
    def loaded(self) -> Loaded:
        """The runtime in service. Raises ApiError while it is loading."""
        if self._loaded is None:
            raise ApiError(503, "the model is loading; come again", code="loading", headers={"retry-after": "2"})
        return self._loaded

    def check_ready(self) -> None:
        """Raise ApiError while the model is loading, where its engine is gone, and where the audit store cannot be
        written."""
        store, failure = self.loaded.runtime.store, self.loaded.generator.failure
        if failure is not None:
            raise ApiError.of(failure)
        if store is None:
            return
        try:
            with store.exclusive():
                pass
        except AuditError as error:
            raise ApiError(503, str(error), code="record_not_written") from None

    def default(self) -> tuple[Policy, ...]:
        """Policies of requests that bring none."""
        return self.loaded.runtime.policies

    async def submit(self, asked: Asked, visit: Visit) -> Answering:
        """Check a request and hand it to the generator. Raises ApiError."""
        loaded = self.loaded
        visit.said |= {"model": asked.form.model, "policies": list(asked.policies)}
        try:
            prepared = await asyncio.to_thread(loaded.runtime.prepare, asked.request)
            return Answering(loaded.generator.submit(prepared), prepared, visit, self.metrics)
        except SteerkitError as error:
            raise ApiError.of(error) from None
        except BusyError:
            raise too_many("as many requests wait as may", 1.0) from None


class Answering:
    """A request between its asker and the generator.

    Text is held back under policies that may have the reply generated again: what was sent cannot be taken back.
    """

    def __init__(self, generation: Generation, prepared: Prepared, visit: Visit, metrics: Metrics) -> None:
        self._generation, self._visit, self._metrics = generation, visit, metrics
        self._holds = may_retry(prepared)
        self._began = time.monotonic()
        self._pieces = self._made()

    def cancel(self) -> None:
        """Give the request up."""
        self._generation.cancel()

    async def next(self) -> str | Outcome:
        """More text, or at last the outcome. Raises ApiError, or what else ended it."""
        return await anext(self._pieces)

    async def outcome(self) -> Outcome:
        """The outcome. Raises ApiError, or what else ended it."""
        while not isinstance(piece := await self.next(), Outcome):
            pass
        return piece

    async def _made(self) -> AsyncIterator[str | Outcome]:
        sent = ""
        try:
            async for event in self._generation.events():
                if isinstance(event, TextDelta) and not self._holds:
                    sent += event.text
                    yield event.text
                elif isinstance(event, Retried):
                    sent = ""
                elif isinstance(event, Turn):
                    outcome = self._finished(event)
                    if rest := event.text.removeprefix(sent) if outcome.status != "stopped" else "":
                        yield rest
                    yield outcome
        except AuditError as error:
            self._metrics.record_failed()
            raise ApiError.of(error) from None
        except SteerkitError as error:
            raise ApiError.of(error) from None

    def _finished(self, turn: Turn) -> Outcome:
        outcome = outcome_of(turn)
        self._metrics.finished(outcome, self._generation, self._began, time.monotonic())
        self._visit.said |= {
            "record": turn.record_id,
            "outcome": outcome.status,
            "prompt_tokens": len(turn.prompt_ids),
            "completion_tokens": len(turn.reply_ids),
        }
        return outcome


def may_retry(prepared: Prepared) -> bool:
    """True if a policy of a request may have its reply generated again."""
    return any(
        rule.then == "retry"
        for policy in prepared.policies
        if policy.guard is not None and policy.mode == "enforce"
        for rule in policy.guard.rules
    )
