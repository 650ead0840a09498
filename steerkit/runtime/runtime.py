"""A model with its SAEs, policies and audit store, ready to take turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, Unpack, cast

from steerkit.audit import OnFailure, OnRecord, RunLog, Store
from steerkit.chat import Event, Parser, Wire, place_machine
from steerkit.engine import (
    DEFAULT,
    Batch,
    Graphs,
    LoadedModel,
    PrefixCache,
    Prepare,
    Sampling,
    bytes_of,
    generate,
    graphs_for,
)
from steerkit.policy import Policy
from steerkit.runtime import drive, retry
from steerkit.runtime.desk import Desk, Settings
from steerkit.runtime.finish import finish_turns
from steerkit.runtime.loop import Approval, Run
from steerkit.runtime.pending import Pending
from steerkit.runtime.policies import PolicyLike, policies_for, refuse_twice
from steerkit.runtime.provenance import opening_of
from steerkit.runtime.request import Prepared, Request, ToolLike, prepare, room_for, with_counterfactual
from steerkit.runtime.retry import Retried
from steerkit.runtime.reuse import pieces_of
from steerkit.runtime.steps import drained, in_full, sent
from steerkit.runtime.tripwire import Tripwires
from steerkit.sae import SaeSet
from steerkit.steer import attach, compile_plan, traced_layers
from steerkit.types import Messages, Turn


class Runtime:
    """Takes turns: renders, generates under the policies, parses, judges and records.

    Made by `steerkit.load`. One generation runs at a time per model; other threads wait. Its records are a run, opened
    by the first and closed by `close`, by the end of a `with` around it, or when the process ends in an orderly way.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        saes: SaeSet | None = None,
        policy: PolicyLike = (),
        *,
        base: PolicyLike = (),
        store: Store | None = None,
        untrusted: str = "neutralize",
        on_audit_failure: OnFailure = "block",
        on_record: OnRecord | None = None,
        counterfactual: bool = False,
        prefix_cache: str | int | bool = DEFAULT,
        graphs: Prepare = "auto",
    ) -> None:
        self.loaded, self.saes = loaded, saes
        self.counterfactual = counterfactual
        """Whether each turn is made without steering as well, beside it in the batch, and recorded with it."""
        limit = bytes_of(prefix_cache)
        self.prefix_cache: PrefixCache | None = PrefixCache(limit) if limit else None
        """What prompts began with, read and steered, for the next turn; `prefix_cache.statistics` says how it does."""
        self.graphs: Graphs | None = graphs_for(loaded.model, graphs)
        """Prepared steps that tokens are made with; `graphs.statistics` says how they do, None where there are none."""
        self.untrusted = untrusted
        self.wire = Wire.of(loaded.tokenizer)
        self.base: tuple[Policy, ...] = policies_for(base, loaded, saes)
        """Policies that every request is under, whatever policy it brings."""
        self.policies: tuple[Policy, ...] = self._under_base(policies_for(policy, loaded, saes))
        self.store: Store | None = None
        if store is not None:
            log = RunLog(partial(opening_of, loaded, saes, self.policies), on_audit_failure)
            self.store = store.within(log, on_record)

    def reserve(self, policies: Iterable[PolicyLike | None]) -> None:
        """Give prepared steps the room for these policies from the first turn on, so that going from one to another
        captures and compiles nothing anew. Those that steer nothing share a step of their own, and without prepared
        steps this does nothing.

        Args:
            policies: what requests will bring, None for those that bring none.
        """
        if self.graphs is not None:
            self.graphs.reserve(room_for(map(self.policies_of, policies), self.loaded, self.saes))

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

    def run(
        self, messages: Messages, tools: Sequence[ToolLike] = (), policy: PolicyLike | None = None, **sampling: Any
    ) -> Turn:
        """One turn.

        Args:
            messages: OpenAI-style chat messages.
            tools: what the model may call.
            policy: instead of the runtime's own; an empty tuple for none. The runtime's base policies stay.
            sampling: the fields of `Sampling`: max_new_tokens, temperature, top_k, top_p, seed.

        Raises:
            SteerkitError: one of its kinds; no call is released then.
        """
        return self.run_batch([Request(messages, tools, policy, Sampling(**sampling))])[0]

    def run_batch(self, requests: Sequence[Request]) -> list[Turn]:
        """One turn for each request, generated together, each under its own policies.

        In float32 every request gets the tokens that it gets alone.
        """
        return self._turns(requests)

    def _turns(self, requests: Sequence[Request], stopped: Callable[[], bool] | None = None) -> list[Turn]:
        """The turns; raises AbandonedError once `stopped` says so, with the hooks off and the model given back."""
        if not requests:
            return []
        prepared = [self._prepare(request) for request in requests]
        turns = drained(self._generate(prepared, stopped), stopped)
        while rows := [row for row, turn in enumerate(turns) if retry.wanted(turn)]:
            for row in rows:
                prepared[row] = retry.again(prepared[row], turns[row])
            again = self._generate([prepared[row] for row in rows], stopped)
            for row, turn in zip(rows, drained(again, stopped), strict=True):
                turns[row] = turn
        return turns

    def turns_of(self, prepared: Sequence[Prepared]) -> list[Turn]:
        """One attempt for each prepared request, generated together: nothing is generated again."""
        return drained(self._generate(prepared), None)

    def loop(self, messages: Messages, tools: Sequence[ToolLike] = (), **settings: Unpack[Settings]) -> Run:
        """Turns and tool calls in alternation, until the model answers.

        Args:
            messages: OpenAI-style chat messages.
            tools: Python functions, sync or async, or declarations whose functions stand in `execute`.
            settings: the fields of `Settings`: approve, max_turns, timeout, max_result, execute, policy; and those of
                `Sampling`.

        Raises:
            ToolError: a tool has no function; nothing has been generated then.
            AuditError: a record could not be written; nothing was executed after that.
            SteerkitError: another of its kinds.
        """
        return drive.loop(Desk.of(self, tools, settings), messages)

    async def aloop(self, messages: Messages, tools: Sequence[ToolLike] = (), **settings: Unpack[Settings]) -> Run:
        """As `loop`, while the event loop stays free: tokens are made in a thread, the calls of a turn run together.

        Cancelling it stops the generation at the next token, takes the hooks off and cancels the tools.
        """
        return await drive.aloop(Desk.of(self, tools, settings, in_event_loop=True), messages)

    def resume(
        self,
        pending: Pending,
        decisions: Mapping[str, Approval | bool] | Approval | bool,
        *,
        tools: Sequence[ToolLike],
        **settings: Unpack[Settings],
    ) -> Run:
        """Go on with a run that waited for a person, in this process or a later one.

        With an audit store, the pending state must be what its turn's record says, and it is resumed once: calls are
        never executed twice. Without a store none of this can be checked; then whoever can write the file decides
        what is run.

        Args:
            pending: of a run, or loaded.
            decisions: for each held call by its id, or one for all of them.
            tools: as given to the loop.
            settings: as given to the loop; `max_turns` counts from here.

        Raises:
            LoopError: decisions that do not fit, another model or other policies, a state that was edited or has been
                resumed; nothing is executed then.
            SteerkitError: as for `loop`.
        """
        return drive.resume(Desk.of(self, tools, settings), pending, decisions)

    async def aresume(
        self,
        pending: Pending,
        decisions: Mapping[str, Approval | bool] | Approval | bool,
        *,
        tools: Sequence[ToolLike],
        **settings: Unpack[Settings],
    ) -> Run:
        """As `resume`, in the way of `aloop`."""
        return await drive.aresume(Desk.of(self, tools, settings, in_event_loop=True), pending, decisions)

    def stream(
        self, messages: Messages, tools: Sequence[ToolLike] = (), policy: PolicyLike | None = None, **sampling: Any
    ) -> Iterator[Event | Retried | Turn]:
        """One turn as it is written: text and calls as they come, then the `Turn`, the last item.

        A `Retried` says that a rule had it generated again: what came before is void.

        Calls in events are not judged yet; run only what `turn.released` holds. Dropping the iterator ends the
        generation and takes the hooks off.
        """
        prepared = self._prepare(Request(messages, tools, policy, Sampling(**sampling)))
        turn = yield from self._stream(prepared)
        while retry.wanted(turn):
            yield Retried(turn)
            prepared = retry.again(prepared, turn)
            turn = yield from self._stream(prepared)
        yield turn

    def _stream(self, prepared: Prepared) -> Generator[Event, None, Turn]:
        """Yield what one attempt says as it comes; return its turn."""
        parser = Parser(self.loaded.tokenizer, offset=len(prepared.prompt.ids))
        steps = in_full(self._generate([prepared]))
        try:
            while True:
                try:
                    (token,) = next(steps)
                except StopIteration as done:
                    return cast("Turn", done.value[0])
                if token is not None:
                    yield from parser.feed([token])
        finally:
            steps.close()

    def _prepare(self, request: Request) -> Prepared:
        prepared = prepare(request, self.loaded, self.policies_of(request.policy), self.untrusted)
        wanted = self.counterfactual if request.counterfactual is None else request.counterfactual
        return with_counterfactual(prepared) if wanted else prepared

    def policies_of(self, policy: PolicyLike | None) -> tuple[Policy, ...]:
        """What a request is under that brings this policy; None for a request that brings none."""
        return self.policies if policy is None else self._under_base(policies_for(policy, self.loaded, self.saes))

    def _under_base(self, policies: tuple[Policy, ...]) -> tuple[Policy, ...]:
        """The base policies first, so that their edits go before a request's."""
        both = (*self.base, *policies)
        refuse_twice(both)
        return both

    def _generate(
        self, prepared: Sequence[Prepared], stopped: Callable[[], bool] | None = None
    ) -> Generator[list[int | None], None, list[Turn]]:
        """Yield the tokens of each step; return the finished, recorded turns.

        Counterfactuals are rows of the same batch, after those that are asked for.
        """
        loaded, started = self.loaded, time.perf_counter()
        rows = [*prepared, *(one.unsteered for one in prepared if one.unsteered is not None)]
        plan = compile_plan([one.policies for one in rows], self.saes, loaded.layer_devices)
        pad = self.wire.pad
        batch = Batch.of([one.prompt.ids for one in rows], pad, loaded.device)
        sampling = batch.within_context(loaded.model, [one.request.sampling for one in rows])
        width = batch.ids.shape[1]
        replies: list[list[int]] = [[] for _ in rows]
        with (
            loaded.alone(stopped),
            attach(
                loaded.model,
                plan,
                rows=[plan.row(one.policies) for one in rows],
                trace=traced_layers([one.wanted for one in rows], self.saes),
                prompt_length=width,
                capacity=width + max(setting.max_new_tokens for setting in sampling),
                places=place_machine(loaded.tokenizer),
            ) as tape,
        ):
            tripwires = Tripwires(loaded, self.saes, prepared, tape)
            ends, reuse = pieces_of(rows, loaded, self.saes, tape, self.prefix_cache)
            how: dict[str, Any] = {"split_prompt": plan.has_late_rules, "ends": ends, "reuse": reuse}
            how |= {"graphs": self.graphs, "handover": tape.handover}
            steps = generate(loaded.model, batch, sampling, self.wire.stops, pad, **how)
            tokens = next(steps, None)
            while tokens is not None:
                for reply, token in zip(replies, tokens, strict=True):
                    if token is not None:
                        reply.append(token)
                cut = tripwires.after(tokens)
                yield tokens[: len(prepared)]
                tokens = sent(steps, cut)
        seconds = round(time.perf_counter() - started, 6)
        return finish_turns(loaded, self.saes, self.store, rows, replies, tape, plan, tripwires.tripped, seconds)
