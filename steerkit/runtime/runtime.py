"""A model with its SAEs, policies and audit store, ready to take turns."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from steerkit.audit import Store
from steerkit.chat import Event, Parser, Wire
from steerkit.engine import Batch, LoadedModel, Sampling, generate
from steerkit.errors import SteeringError
from steerkit.policy import Policy
from steerkit.runtime.finish import finish_turns
from steerkit.runtime.policies import PolicyLike, policies_for
from steerkit.runtime.request import Prepared, Request, ToolLike, prepare
from steerkit.sae import SaeSet
from steerkit.steer import attach, compile_plan, traced_layers
from steerkit.types import Messages, Turn


class Runtime:
    """Takes turns: renders, generates under the policies, parses, judges and records.

    Made by `steerkit.load`. One generation runs at a time per model; other threads wait.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        saes: SaeSet | None = None,
        policy: PolicyLike = (),
        *,
        store: Store | None = None,
        untrusted: str = "neutralize",
    ) -> None:
        self.loaded, self.saes, self.store = loaded, saes, store
        self.untrusted = untrusted
        self.wire = Wire.of(loaded.tokenizer)
        self.policies: tuple[Policy, ...] = policies_for(policy, loaded, saes)

    def run(
        self, messages: Messages, tools: Sequence[ToolLike] = (), policy: PolicyLike | None = None, **sampling: Any
    ) -> Turn:
        """One turn.

        Args:
            messages: OpenAI-style chat messages.
            tools: what the model may call.
            policy: instead of the runtime's own; an empty tuple for none.
            sampling: the fields of `Sampling`: max_new_tokens, temperature, top_k, top_p, seed.

        Raises:
            SteerkitError: one of its kinds; no call is released then.
        """
        return self.run_batch([Request(messages, tools, policy, Sampling(**sampling))])[0]

    def run_batch(self, requests: Sequence[Request]) -> list[Turn]:
        """One turn for each request, generated together, each under its own policies.

        In float32 every request gets the tokens that it gets alone.
        """
        if not requests:
            return []
        prepared = [self._prepare(request) for request in requests]
        steps = self._generate(prepared)
        while True:
            try:
                next(steps)
            except StopIteration as done:
                return done.value  # type: ignore[no-any-return]  # a generator's return value

    def stream(
        self, messages: Messages, tools: Sequence[ToolLike] = (), policy: PolicyLike | None = None, **sampling: Any
    ) -> Iterator[Event | Turn]:
        """One turn as it is written: text and calls as they come, then the `Turn`, the last item.

        Calls in events are not judged yet; run only what `turn.released` holds. Dropping the iterator ends the
        generation and takes the hooks off.
        """
        prepared = self._prepare(Request(messages, tools, policy, Sampling(**sampling)))
        parser = Parser(self.loaded.tokenizer, offset=len(prepared.prompt.ids))
        steps = self._generate([prepared])
        try:
            while True:
                try:
                    (token,) = next(steps)
                except StopIteration as done:
                    yield from done.value
                    return
                if token is not None:
                    yield from parser.feed([token])
        finally:
            steps.close()

    def _prepare(self, request: Request) -> Prepared:
        own = request.policy is None
        policies = self.policies if own else policies_for(request.policy or (), self.loaded, self.saes)
        return prepare(request, self.loaded, policies, self.untrusted)

    def _generate(self, prepared: Sequence[Prepared]) -> Generator[list[int | None], None, list[Turn]]:
        """Yield the tokens of each step; return the finished, recorded turns."""
        plan = compile_plan([one.policies for one in prepared], self.saes, self.loaded.layer_devices)
        pad = self.wire.pad
        batch = Batch.of([one.prompt.ids for one in prepared], pad, self.loaded.device)
        sampling = [one.request.sampling for one in prepared]
        width = batch.ids.shape[1]
        replies: list[list[int]] = [[] for _ in prepared]
        trace = traced_layers([one.wanted for one in prepared], self.saes)
        with (
            self._alone(),
            attach(
                self.loaded.model,
                plan,
                rows=[plan.row(one.policies) for one in prepared],
                trace=trace,
                prompt_length=width,
                capacity=width + max(setting.max_new_tokens for setting in sampling),
            ) as tape,
        ):
            for tokens in generate(self.loaded.model, batch, sampling, self.wire.stops, pad):
                for reply, token in zip(replies, tokens, strict=True):
                    if token is not None:
                        reply.append(token)
                yield tokens
        return finish_turns(self.loaded, self.saes, self.store, prepared, replies, tape, plan)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the model: its hooks would govern whoever else ran it."""
        lease = self.loaded.lease
        if not lease.take():
            raise SteeringError("a stream on this model is still open; finish or close it before the next turn")
        try:
            yield
        finally:
            lease.give_back()
