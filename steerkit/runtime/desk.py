"""What a run works with: its settings checked, its tools with their functions, and how calls are written down."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

from steerkit.audit import append_approval, append_execution
from steerkit.chat import as_tools, one_by_one, render, within_tokens
from steerkit.engine import Sampling, runnable, tool_from_function
from steerkit.errors import LoopError, MessageError, ToolError
from steerkit.policy import Policy, fingerprint
from steerkit.runtime.execute import Ended, Limits, Ran, error_text, is_async
from steerkit.runtime.loop import Approval, Execution, Held, exchange
from steerkit.runtime.pending import Asked, Origin
from steerkit.runtime.policies import PolicyLike, read_policies
from steerkit.runtime.request import Request, ToolLike
from steerkit.types import Messages, Tool, Turn

if TYPE_CHECKING:
    from steerkit.runtime.runtime import Runtime

Approver: TypeAlias = "Callable[[Held], bool | Approval | Awaitable[bool | Approval]]"
"""Decides about one held call."""


class Settings(TypedDict, total=False):
    """The settings of a run."""

    approve: Approver | None
    """Asked about each held call; if it raises, the call is refused. In `aloop` it may be async, and if it is not, it
    is asked in a thread. Without it the run returns as `pending`, and nothing of that turn is executed."""
    max_turns: int
    """How many turns at most; 10."""
    timeout: float | None
    """Seconds that a tool may take, None for no limit; 30. An async function past it is cancelled. A sync one cannot be
    killed: it goes on in a thread of its own, and its result is dropped."""
    max_result: int
    """Characters of a tool's result, and tokens, 4,000; what is longer is cut, with a note."""
    execute: Mapping[str, Callable[..., Any]] | None
    """Functions by tool name, for tools that are declarations."""
    policy: PolicyLike | None
    """Instead of the runtime's own, as for `Runtime.run`."""
    max_new_tokens: int
    """Of each turn; this and the next ones as in `Sampling`."""
    temperature: float
    top_k: int
    top_p: float
    seed: int


_OWN = ("approve", "max_turns", "timeout", "max_result", "execute", "policy")


@dataclass(frozen=True)
class Desk:
    """Everything a run needs besides its conversation."""

    runtime: Runtime
    tools: tuple[Tool, ...]
    functions: Mapping[str, Callable[..., Any]]
    approve: Approver | None
    max_turns: int
    limits: Limits
    policy: Sequence[Policy] | None
    sampling: Sampling

    @classmethod
    def of(
        cls, runtime: Runtime, tools: Sequence[ToolLike], settings: Settings, *, in_event_loop: bool = False
    ) -> Desk:
        """Check everything that can be checked before a token is made; policy files are read once, here."""
        policy, approve = settings.get("policy"), settings.get("approve")
        limits = Limits(settings.get("timeout", 30.0), settings.get("max_result", 4000))
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
        sampling = Sampling(**{key: value for key, value in settings.items() if key not in _OWN})  # type: ignore[arg-type]  # Sampling names those it does not know
        read = None if policy is None else read_policies(policy)
        return cls(runtime, declared, functions, approve, max_turns, limits, read, sampling)

    def turn(self, messages: Messages, stopped: Callable[[], bool] | None = None) -> Turn:
        """The next turn; raises AbandonedError once `stopped` says so."""
        return self.runtime._turns([Request(messages, self.tools, self.policy, self.sampling)], stopped)[0]

    def origin(self) -> Origin:
        """What a pending state must be resumed under."""
        policies = self.runtime.policies_of(self.policy)
        return Origin(self.runtime.loaded.fingerprint, tuple((one.name, fingerprint(one)) for one in policies))

    def approved(self, held: Held, approval: Approval, error: str | None = None) -> None:
        """Write down what was decided. Raises AuditError."""
        if self.runtime.store is not None:
            append_approval(
                self.runtime.store,
                held.call,
                turn=held.record_id,
                call_id=held.id,
                approved=approval.approved,
                by=approval.by,
                note=approval.note,
                error=error,
            )

    def executed(self, one: Execution, record_id: str | None) -> None:
        """Write down what became of a call that was run, or only begun. Raises AuditError."""
        if self.runtime.store is not None:
            append_execution(
                self.runtime.store,
                one.call,
                turn=record_id,
                call_id=one.id,
                status=one.status,
                result=one.result if one.status != "interrupted" else None,
                seconds=one.seconds,
            )

    def told(self, asked: Asked, ran: Ran) -> Execution:
        """What became of a call, as the model is told of it: an error in place of a result that no prompt can carry."""
        one = Execution(asked.id, asked.call, ran.status, ran.result, ran.seconds)
        why = self._untellable(one)
        if why is None:
            if one.status != "ok":
                return one
            return replace(one, result=within_tokens(self.runtime.loaded.tokenizer, one.result, self.limits.max_result))
        error = "got a result that no prompt can carry"
        one = replace(one, status="error", result={"error": f"{error}: {why}"})
        return one if self._untellable(one) is None else replace(one, result={"error": error})

    def _untellable(self, one: Execution) -> str | None:
        """Why no prompt can carry what became of a call; None if one can."""
        try:
            told = [{"role": "user", "content": "-"}, *exchange("", [one])]
            render(self.runtime.loaded.tokenizer, told, untrusted=self.runtime.untrusted)
        except MessageError as error:
            return error_text(error).partition(": ")[2]
        return None


def answered(ended: Ended) -> tuple[Approval, str | None]:
    """What `approve` decided; anything but a clear yes refuses, and the second value says why.

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
