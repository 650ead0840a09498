"""A model with its SAEs, policies and audit store, ready to take turns, each by itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, Literal, Self, cast, overload

from steerkit.audit import OnFailure, OnRecord, RunLog, Store
from steerkit.chat import Event, dialect_of
from steerkit.engine import Engine
from steerkit.errors import SteerkitError
from steerkit.policy import Policy
from steerkit.runtime.batches import BATCH, Requests, check_batch, joined, made, prepared_each
from steerkit.runtime.continuous import Arriving, Flow, Flowing, in_batches
from steerkit.runtime.generate import Events, drained, generate
from steerkit.runtime.judge import Retried, judge, next_attempt, wants_retry
from steerkit.runtime.keywords import raises_setting_errors
from steerkit.runtime.policies import PolicyLike, ReadyPolicies, refuse_twice
from steerkit.runtime.record import opening_of, record
from steerkit.runtime.request import (
    FORM,
    Metadata,
    Prepared,
    Request,
    ToolLike,
    prepare,
    sampling_of,
    wanted_of,
    with_counterfactual,
)
from steerkit.sae import SaeSet
from steerkit.types import Messages, Turn

_RUN = ("messages", "tools", "policy", "metadata", *FORM)
"""Keywords of `run` and `stream` beside the fields of `Sampling`."""


class Turns:
    """Takes turns: renders, generates under the policies, parses, judges and records."""

    def __init__(
        self,
        engine: Engine,
        policy: PolicyLike = (),
        *,
        base: PolicyLike = (),
        store: Store | None = None,
        untrusted: str = "neutralize",
        on_audit_failure: OnFailure = "block",
        on_record: OnRecord | None = None,
        counterfactual: bool = False,
        required_over_steering: bool = False,
    ) -> None:
        self.engine, self._ready = engine, ReadyPolicies(engine)
        self.counterfactual = counterfactual
        """Each turn is generated without steering as well, beside it in the batch, and recorded with it."""
        self.required_over_steering = required_over_steering
        """A call that a request requires is demanded also where steering turned the model away from it."""
        self.untrusted = untrusted
        self.dialect = dialect_of(engine.tokenizer)
        self.base: tuple[Policy, ...] = self._ready.of(base)
        """Policies that every request is under, whatever policy it brings."""
        self.policies: tuple[Policy, ...] = self._under_base(self._ready.of(policy))
        self.store: Store | None = None
        if store is not None:
            log = RunLog(partial(opening_of, engine, self.policies), on_audit_failure)
            self.store = store.within(log, on_record)

    @property
    def saes(self) -> SaeSet | None:
        """SAEs that policies are steered through."""
        return self.engine.saes

    def reserve(self, policies: Iterable[PolicyLike | None]) -> None:
        """Give prepared steps the capacity for these policies from the first turn on, so that going from one to another
        captures and compiles nothing again. Those that steer nothing share a step of their own, and without prepared
        steps this does nothing.

        Args:
            policies: what requests will bring, None for those that bring none.
        """
        self.engine.reserve([wanted_of(self.policies_of(policy)) for policy in policies])

    def close(self) -> None:
        """Write down that the run is closed; turns after this are a new run. An open store stays open.

        Raises:
            AuditError: it could not be written.
        """
        if self.store is not None:
            self.store.end_run()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @raises_setting_errors
    def run(
        self,
        messages: Messages,
        tools: Sequence[ToolLike] = (),
        policy: PolicyLike | None = None,
        *,
        metadata: Metadata | None = None,
        **settings: Any,
    ) -> Turn:
        """One turn.

        Args:
            messages: OpenAI-style chat messages.
            tools: what the model may call.
            policy: instead of the runtime's own; an empty tuple for none. The runtime's base policies stay.
            metadata: who asked, and what else the record is to be found by: a few texts, numbers and lists of texts.
            settings: the fields of `Sampling`: max_new_tokens, temperature, top_k, top_p, seed; and of `Request`:
                tool_choice, parallel_tool_calls, response_format, stop.

        Raises:
            SteerkitError: one of its kinds; no call is released then.
        """
        request = _request("run", settings, messages=messages, tools=tools, policy=policy, metadata=metadata)
        return self.take([self.prepare(request)])[0]

    @overload
    def run_batch(
        self, requests: Requests, *, batch_size: int = ..., continuous: bool = ..., errors: Literal["raise"] = ...
    ) -> list[Turn]: ...

    @overload
    def run_batch(
        self, requests: Requests, *, batch_size: int = ..., continuous: bool = ..., errors: Literal["return"]
    ) -> list[Turn | SteerkitError]: ...

    @raises_setting_errors
    def run_batch(
        self,
        requests: Requests,
        *,
        batch_size: int = BATCH,
        continuous: bool = False,
        errors: Literal["raise", "return"] = "raise",
    ) -> Any:
        """One turn for each request, in their order, `batch_size` generated together, each under its own policies.

        In float32 every request gets the tokens that it gets alone.

        Args:
            requests: `Request`s, or mappings of what `run` takes by keyword.
            batch_size: how many rows are generated at a time: more take more memory.
            continuous: each prompt is read by itself, through the prefix cache, and a row that has ended makes room
                for the next: less work where prompts begin alike or replies differ in length (continuous batching).
            errors: `raise` checks all of them first and makes no turn where one is wrong; `return` puts its error in
                its place and makes the others' turns.

        Raises:
            SteerkitError: one of its kinds; that of a request begins with `requests[N]`.
        """
        check_batch(batch_size, errors)
        keep = errors == "return"
        rows = prepared_each(requests, self.prepare, keep=keep)
        if continuous:
            return joined(rows, partial(self.continuous, batch_size=batch_size, whole_prompts=True), keep=keep)
        return made(rows, self.take, batch_size, keep=keep)

    def take(self, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None) -> list[Turn]:
        """One turn for each prepared request, generated together, and again where a rule says `retry`.

        Raises:
            AbandonedError: `stopped` answered True; the hooks are off and the model is free then.
            SteerkitError: another of its kinds.
        """
        return drained(self.written(prepared, stopped), stopped)

    def written(
        self, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None
    ) -> Generator[list[tuple[Event | Retried, ...]], Collection[int] | None, list[Turn]]:
        """The turns of `take` as they are written: yields, step by step, the events of each request's token.

        A `Retried` among them says that the request is generated again, and what came of it before is void. Requests
        whose numbers are sent into it are given up: the token just yielded is their last, they are not recorded, and
        their turns are of no use. Closing it gives all of them up, frees the model and takes the hooks off.
        """
        rows, turns = list(prepared), dict[int, Turn]()
        left, dropped = list(range(len(rows))), set[int]()
        while left:
            with closing(self._attempt([rows[number] for number in left], stopped)) as steps:
                sent: Collection[int] | None = None
                while True:
                    try:
                        events = steps.send(sent)
                    except StopIteration as done:
                        turns.update(zip(left, done.value, strict=True))
                        break
                    told = dict(zip(left, events, strict=True))
                    dropped.update((yield [told.get(number, ()) for number in range(len(rows))]) or ())
                    sent = [row for row, number in enumerate(left) if number in dropped]
            left = [number for number in left if number not in dropped and wants_retry(turns[number])]
            for number in left:
                rows[number] = next_attempt(rows[number], turns[number])
            if left:
                void = {number: (Retried(turns[number]),) for number in left}
                dropped.update((yield [void.get(number, ()) for number in range(len(rows))]) or ())
                left = [number for number in left if number not in dropped]
        return [turns[number] for number in range(len(rows))]

    def continuous(
        self,
        arriving: Arriving,
        batch_size: int = BATCH,
        stopped: Callable[[], bool] | None = None,
        whole_prompts: bool = False,
    ) -> Flow:
        """Turns of requests that join while others are generated, each under its own policies (continuous batching).

        Yields the news of requests, by their numbers in order of arrival: text and calls as they come, at the end the
        turn, judged and on record, or the error that ended it. Requests whose numbers are sent into it are given up.
        It ends when all have ended and none arrives; closing it gives all of them up. Between two steps whoever waits
        for the model has it. Where the engine has no continuous batching, what has arrived is generated as one batch.

        Args:
            arriving: asked between two steps for the next request, of `prepare`, while there is room; None for none.
            batch_size: rows that are generated together, one more where the last one has a counterfactual.
            stopped: asked while the model is busy with another generation; AbandonedError where it answers True.
            whole_prompts: what has arrived is read whole before the next step, however long others wait for it.
        """
        batch = self.engine.continuous(stopped, whole_prompts=whole_prompts)
        if batch is None:
            yield from in_batches(lambda prepared: self.written(prepared, stopped), arriving, batch_size)
            return
        with batch:
            yield from Flowing(self.engine, batch, self.store).news(arriving, batch_size)

    def turns_of(self, prepared: Sequence[Prepared]) -> list[Turn]:
        """One attempt for each prepared request, generated together: nothing is generated again."""
        return drained(self._attempt(prepared))

    def stream(
        self,
        messages: Messages,
        tools: Sequence[ToolLike] = (),
        policy: PolicyLike | None = None,
        *,
        metadata: Metadata | None = None,
        **settings: Any,
    ) -> Iterator[Event | Retried | Turn]:
        """One turn as it is written: text and calls as they come, then the `Turn`, the last item.

        A `Retried` says that a rule had it generated again: what came before is void.

        Calls in events are not judged yet; run only what `turn.released` holds. Dropping the iterator ends the
        generation and takes the hooks off.
        """
        request = _request("stream", settings, messages=messages, tools=tools, policy=policy, metadata=metadata)
        with closing(self.written([self.prepare(request)])) as steps:
            while True:
                try:
                    (events,) = next(steps)
                except StopIteration as done:
                    yield cast("Turn", done.value[0])
                    return
                yield from events

    def prepare(self, request: Request) -> Prepared:
        """A request, checked and rendered. Raises SteerkitError."""
        over = self.required_over_steering
        prepared = prepare(
            request, self.engine, self.policies_of(request.policy), self.untrusted, required_over_steering=over
        )
        wanted = self.counterfactual if request.counterfactual is None else request.counterfactual
        return with_counterfactual(prepared) if wanted else prepared

    def policies_of(self, policy: PolicyLike | None) -> tuple[Policy, ...]:
        """Policies of a request that brings this one; None for a request that brings none."""
        return self.policies if policy is None else self._under_base(self._ready.of(policy))

    def _under_base(self, policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
        """The base policies first, so that their edits go before a request's."""
        both = (*self.base, *policies)
        refuse_twice(both)
        return both

    def _attempt(
        self, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None
    ) -> Generator[Events, Collection[int] | None, list[Turn]]:
        """Yield the events of each step; return the judged, recorded turns. Requests whose numbers are sent are given
        up."""
        generation = yield from generate(self.engine, prepared, stopped)
        return record(self.store, self.engine, generation, judge(generation))


def _request(where: str, settings: Mapping[str, Any], **given: Any) -> Request:
    """A request of keyword arguments. Raises SettingError for an unknown one."""
    form = {key: value for key, value in settings.items() if key in FORM}
    sampling = sampling_of(where, {key: value for key, value in settings.items() if key not in form}, _RUN)
    return Request(**given, **form, sampling=sampling)
