"""The context of a run: its checked settings, its tools with their functions, and its log."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeAlias, TypedDict

from steerkit.agent.calls import Approval, Execution, Held
from steerkit.agent.event_log import EventLog
from steerkit.agent.exchange import fit_to_prompt
from steerkit.agent.pending import Asked, Origin, Pending
from steerkit.agent.results import MAX_RESULT, error_text
from steerkit.agent.tool_runner import Ended, Limits, Ran, is_async
from steerkit.audit import canonical, new_id
from steerkit.chat import as_tools, once_called, one_by_one, reply_form
from steerkit.engine import Sampling, runnable, tool_from_function
from steerkit.errors import AuditError, LoopError, ToolError
from steerkit.fingerprints import sha256_of
from steerkit.policy import Policy, fingerprint
from steerkit.runtime import (
    FORM,
    Metadata,
    PolicyLike,
    Request,
    ToolLike,
    Turns,
    metadata_of,
    read_policies,
    sampling_of,
)
from steerkit.types import Messages, Tool, Turn

Approver: TypeAlias = "Callable[[Held], bool | Approval | Awaitable[bool | Approval]]"
"""Decides about one held call."""


class Settings(TypedDict, total=False):
    """The settings of a run."""

    approve: Approver | None
    """Asked about each held call; if it raises, the call is refused. In `aloop` it may be async, and if it is not, it
    is asked in a thread. Without it the run returns as `pending`, and nothing of that turn is executed."""
    max_turns: int
    """Most turns of the run; 10."""
    timeout: float | None
    """Seconds that a tool may take, None for no limit; 30. An async function past it is cancelled. A sync one cannot be
    killed: it continues in a thread of its own, and its result is dropped."""
    max_result: int
    """Characters of a tool's result, and tokens that they may take, 4,000; what is longer is cut, with a note."""
    execute: Mapping[str, Callable[..., Any]] | None
    """Functions by tool name, for tools that are declarations."""
    policy: PolicyLike | None
    """Instead of the runtime's own, as for `Runtime.run`."""
    metadata: Metadata | None
    """Keys and values by which the run's records are found; of a resumed run, the pending's."""
    tool_choice: str | Mapping[str, Any] | None
    """As in `Request`. A call that it requires is required of the first turn alone; after that it lets calls and
    answers through."""
    parallel_tool_calls: bool | None
    """As in `Request`, of each turn; so are the next two."""
    response_format: Mapping[str, Any] | None
    stop: str | Sequence[str]
    max_new_tokens: int
    """Longest reply of each turn; this and the next fields as in `Sampling`."""
    temperature: float
    top_k: int
    top_p: float
    seed: int


_OWN = ("approve", "max_turns", "timeout", "max_result", "execute", "policy", "metadata", *FORM)


@dataclass(frozen=True)
class RunContext:
    """All that a run needs besides its conversation."""

    runtime: Turns
    tools: tuple[Tool, ...]
    functions: Mapping[str, Callable[..., Any]]
    approve: Approver | None
    max_turns: int
    limits: Limits
    policy: Sequence[Policy] | None
    sampling: Sampling
    declared: tuple[tuple[str, str], ...]
    """Name of each tool, and fingerprint of its declaration."""
    conversation: str
    """Its id in the records."""
    metadata: Mapping[str, Any] | None
    form: Mapping[str, Any]
    """What replies must be like, in the words of `Request`."""

    @classmethod
    def of(
        cls, runtime: Turns, tools: Sequence[ToolLike], settings: Settings, *, in_event_loop: bool = False
    ) -> RunContext:
        """Check everything that can be checked before a token is made; policy files are read once, here."""
        sampled = {key: value for key, value in settings.items() if key not in _OWN}
        sampling = sampling_of("loop", sampled, _OWN)
        policy, approve = settings.get("policy"), settings.get("approve")
        limits = Limits(settings.get("timeout", 30.0), settings.get("max_result", MAX_RESULT))
        max_turns = settings.get("max_turns", 10)
        _check_number("max_turns", max_turns, int)
        _check_number("max_result", limits.max_result, int)
        if limits.timeout is not None:
            _check_number("timeout", limits.timeout, (int, float))
            if limits.timeout > threading.TIMEOUT_MAX:
                raise LoopError(f"timeout: got {limits.timeout!r}, expected seconds, or None for no limit")
        if approve is not None and not callable(approve):
            raise LoopError(f"approve: got {type(approve).__name__}, expected a function")
        if approve is not None and not in_event_loop and is_async(approve):
            raise LoopError("approve: got an async function, expected a plain one; an async one needs aloop or aresume")
        declared = as_tools(tools, from_function=tool_from_function)
        functions = _functions(declared, tools, settings.get("execute") or {})
        read = None if policy is None else read_policies(policy)
        prints = tuple((tool.name, declaration(tool)) for tool in declared)
        form = {key: value for key, value in settings.items() if key in FORM}
        reply_form(declared, **form)
        about = (new_id(), metadata_of(settings.get("metadata")), form)
        return cls(runtime, declared, functions, approve, max_turns, limits, read, sampling, prints, *about)

    def resuming(self, pending: Pending) -> RunContext:
        """The context of a resumed run: the same conversation and metadata, unless others are given."""
        conversation, metadata = pending.conversation or self.conversation, self.metadata or pending.metadata
        return replace(self, conversation=conversation, metadata=metadata)

    def turn(self, messages: Messages, first: bool, stopped: Callable[[], bool] | None = None) -> Turn:
        """The next turn; raises AbandonedError once `stopped` says so. No call is required of any but the first."""
        asked, form = (messages, self.tools, self.policy, self.sampling), dict(self.form)
        if not first:
            form["tool_choice"] = once_called(form.get("tool_choice"))
        request = Request(*asked, metadata=self.metadata, conversation=self.conversation, **form)
        return self.runtime.take([self.runtime.prepare(request)], stopped)[0]

    def origin(self) -> Origin:
        """Origin of a run that becomes pending here."""
        policies = tuple((one.name, fingerprint(one)) for one in self.runtime.policies_of(self.policy))
        return Origin(self.runtime.engine.provenance.model.fingerprint, policies, self.declared)

    @property
    def log(self) -> EventLog:
        """The log of its approvals and executions."""
        return EventLog(self.runtime.store, self.conversation, self.metadata)

    def approved(self, held: Held, approval: Approval, error: str | None = None) -> None:
        """Write down what was decided. Raises AuditError."""
        self.log.approved(held.id, held.call, held.record_id, approval, error)

    def execution(self, asked: Asked, ran: Ran) -> Execution:
        """The execution of a call, with a result that fits a prompt."""
        one = Execution(asked.id, asked.call, ran.status, ran.result, ran.seconds)
        return fit_to_prompt(one, self.runtime.engine.tokenizer, self.runtime.untrusted, self.limits.max_result)


def declaration(tool: Tool) -> str:
    """`sha256:…` over a tool's name, description and schema, as a record holds them; their order does not matter.

    Raises:
        ToolError: the declaration holds what JSON cannot carry.
    """
    try:
        said = {key: value for key, value in asdict(tool).items() if key != "strict" or value is not None}
        return sha256_of(canonical(said))
    except AuditError as error:
        raise ToolError(f"tool '{tool.name}': its declaration {str(error).partition(' ')[2]}") from None


def approval_from(ended: Ended) -> tuple[Approval, str | None]:
    """The decision of `approve`; anything but a clear yes refuses, and the second value says why.

    Raises:
        BaseException: what ended it, if that is to end the run as well: KeyboardInterrupt, SystemExit.
    """
    if isinstance(ended.error, (Exception, asyncio.CancelledError)):
        return Approval(False), f"approve raised {error_text(ended.error)}"
    answer = ended.get()
    if isinstance(answer, Approval):
        return answer, None
    if isinstance(answer, bool):
        return Approval(answer), None
    if inspect.iscoroutine(answer):
        answer.close()  # of an async function in disguise, which `loop` cannot await
    return Approval(False), f"approve returned {type(answer).__name__}, expected a bool or an Approval"


def _functions(
    declared: Sequence[Tool], given: Sequence[ToolLike], execute: Mapping[str, Callable[..., Any]]
) -> dict[str, Callable[..., Any]]:
    """The function of each tool.

    Raises:
        ToolError: which tool has none, or two, or which function has no tool.
    """
    found: dict[str, Callable[..., Any]] = {}
    for tool, one in zip(declared, one_by_one(given), strict=True):
        own = runnable(one)
        if own is not None and tool.name in execute:
            raise ToolError(f"execute['{tool.name}']: got a second function, as the tool is one itself; give one")
        function = execute.get(tool.name) if own is None else own
        if function is None:
            raise ToolError(
                f"tool '{tool.name}': got no function to run; give it as execute={{'{tool.name}': function}}"
            )
        if not callable(function):
            raise ToolError(f"execute['{tool.name}']: got {type(function).__name__}, expected a function")
        found[tool.name] = function
    if strange := [name for name in execute if name not in found]:
        known = ", ".join(found) or "none"
        raise ToolError(f"execute['{strange[0]}']: got a function for no tool; the tools are: {known}")
    return found


def _check_number(name: str, value: object, kinds: type | tuple[type, ...]) -> None:
    if isinstance(value, bool) or not isinstance(value, kinds) or not value > 0:  # type: ignore[operator]  # a number
        raise LoopError(f"{name}: got {value!r}, expected a number above 0")
