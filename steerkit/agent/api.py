"""A runtime: takes turns, and runs the loop of turns, tools and people around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from steerkit.agent import driver
from steerkit.agent.calls import Approval, Execution
from steerkit.agent.context import RunContext, Settings
from steerkit.agent.event_log import EventLog, execution_of, held_call
from steerkit.agent.exchange import fit_to_prompt
from steerkit.agent.loop import Run
from steerkit.agent.pending import Pending
from steerkit.agent.results import MAX_RESULT
from steerkit.audit import OnFailure, OnRecord, Store
from steerkit.engine import DEFAULT, Engine, Graphs, HfEngine, LoadedModel, PrefixCache, Prepare, VllmEngine
from steerkit.errors import ModelError
from steerkit.runtime import PolicyLike, ToolLike, Turns, raises_setting_errors
from steerkit.sae import SaeSet
from steerkit.types import Call, Messages, Turn


class Runtime(Turns):
    """Takes turns: renders, generates under the policies, parses, judges and records; and runs the loop around them.

    Made by `steerkit.load`. One generation runs at a time per model; other threads wait. Its records are a run, opened
    by the first and closed by `close`, by the end of a `with` around it, or when the process ends in an orderly way.
    """

    def __init__(
        self,
        model: LoadedModel | Engine,
        saes: SaeSet | None = None,
        policy: PolicyLike = (),
        *,
        base: PolicyLike = (),
        store: Store | None = None,
        untrusted: str = "neutralize",
        on_audit_failure: OnFailure = "block",
        on_record: OnRecord | None = None,
        counterfactual: bool = False,
        required_over_steering: bool = False,
        prefix_cache: str | int | bool = DEFAULT,
        graphs: Prepare = "auto",
    ) -> None:
        """On a model of transformers with its SAEs, or on another engine, which has its own.

        `saes`, `prefix_cache` and `graphs` are of the first alone; all arguments are those of `steerkit.load`.
        """
        if isinstance(model, LoadedModel):
            model = HfEngine(model, saes, prefix_cache=prefix_cache, graphs=graphs)
        super().__init__(
            model,
            policy,
            base=base,
            store=store,
            untrusted=untrusted,
            on_audit_failure=on_audit_failure,
            on_record=on_record,
            counterfactual=counterfactual,
            required_over_steering=required_over_steering,
        )

    @property
    def loaded(self) -> LoadedModel:
        """The model in transformers and its tokenizer; on vLLM it is loaded beside it once it is asked for.

        Raises:
            ModelError: the engine has none, or it cannot be loaded.
        """
        return self.engine.loaded if isinstance(self.engine, VllmEngine) else self._transformers.loaded

    @property
    def prefix_cache(self) -> PrefixCache | None:
        """Steered prompt prefixes, kept for the next turn; `prefix_cache.statistics` counts them."""
        return self._transformers.prefix_cache

    def prepack(self, wanted: bool) -> None:
        """Generate through copies of the linear weights from now on, or through the model's own."""
        self._transformers.prepack(wanted)

    @property
    def graphs(self) -> Graphs | None:
        """Prepared decode steps, None where there are none; `graphs.statistics` counts them."""
        return self._transformers.graphs

    @property
    def _transformers(self) -> HfEngine:
        if not isinstance(self.engine, HfEngine):
            raise ModelError(f"{self.engine.name}: runs on {type(self.engine).__name__}, expected transformers")
        return self.engine

    @raises_setting_errors
    def loop(self, messages: Messages, tools: Sequence[ToolLike] = (), **settings: Unpack[Settings]) -> Run:
        """Turns and tool calls in alternation, until the model answers.

        Args:
            messages: OpenAI-style chat messages.
            tools: Python functions, sync or async, or declarations whose functions stand in `execute`.
            settings: the fields of `Settings`: approve, max_turns, timeout, max_result, execute, policy, metadata,
                tool_choice, parallel_tool_calls, response_format, stop; and those of `Sampling`.

        Raises:
            ToolError: a tool has no function; nothing has been generated then.
            AuditError: a record could not be written; nothing was executed after that.
            SteerkitError: another of its kinds.
        """
        return driver.loop(RunContext.of(self, tools, settings), messages)

    async def aloop(self, messages: Messages, tools: Sequence[ToolLike] = (), **settings: Unpack[Settings]) -> Run:
        """The async form of `loop`: generation runs in a thread, the calls of a turn run together.

        Cancelling it stops the generation at the next token, takes the hooks off and cancels the tools.
        """
        return await driver.aloop(RunContext.of(self, tools, settings, in_event_loop=True), messages)

    @raises_setting_errors
    def resume(
        self,
        pending: Pending,
        decisions: Mapping[str, Approval | bool] | Approval | bool,
        *,
        tools: Sequence[ToolLike],
        **settings: Unpack[Settings],
    ) -> Run:
        """Resume a run that waited for a person, in this process or a later one.

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
        return driver.resume(RunContext.of(self, tools, settings), pending, decisions)

    async def aresume(
        self,
        pending: Pending,
        decisions: Mapping[str, Approval | bool] | Approval | bool,
        *,
        tools: Sequence[ToolLike],
        **settings: Unpack[Settings],
    ) -> Run:
        """The async form of `resume`, in the way of `aloop`."""
        return await driver.aresume(RunContext.of(self, tools, settings, in_event_loop=True), pending, decisions)

    def approved(self, turn: Turn, call: Call, approval: Approval | bool) -> Approval:
        """Write down what a person decided about a held call, before a loop of your own runs it.

        Raises:
            LoopError: the call is none of the turn's that is held, or the decision is none.
            AuditError: it could not be written.
        """
        one, decided = held_call(turn, call, approval)
        EventLog.of(self.store, turn).approved(one.id, call, turn.record_id, decided)
        return decided

    @raises_setting_errors
    def executed(
        self,
        turn: Turn,
        call: Call,
        result: Any = None,
        *,
        error: BaseException | str | None = None,
        seconds: float = 0.0,
        max_result: int = MAX_RESULT,
    ) -> Execution:
        """Write down how an executor of your own ran a call, and return its outcome for `exchange`.

        Args:
            turn: as `run` gave it.
            call: one of `turn.calls`.
            result: what the tool returned; whatever is no JSON is written as `loop` writes it.
            error: what the tool raised, or a line about it.
            seconds: how long it took.
            max_result: characters and tokens of the result; what is longer is cut, with a note.

        Raises:
            LoopError: the call is none of the turn's.
            AuditError: it could not be written.
        """
        one = execution_of(turn, call, result, error, seconds, max_result)
        one = fit_to_prompt(one, self.engine.tokenizer, self.untrusted, max_result)
        EventLog.of(self.store, turn).executed(one, turn.record_id)
        return one
