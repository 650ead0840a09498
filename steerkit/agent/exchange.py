"""A turn's calls and their results as messages for the next turn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

from steerkit.agent.calls import Approval, Execution, approval_of
from steerkit.agent.pending import Asked
from steerkit.agent.results import MAX_RESULT, cut, error_text, fitted, unshown
from steerkit.chat import Tokenizer, render
from steerkit.decisions import RELEASED, ending
from steerkit.errors import LoopError, MessageError
from steerkit.runtime import call_ids
from steerkit.types import Call, Json, Turn

Decisions: TypeAlias = "Mapping[str, Approval | bool] | Approval | bool"
"""Decisions about held calls: by their ids, or one for all of them."""

_MALFORMED = Call("malformed_call", {})
"""Stands for a call that could not be read: without any, the model could not be told that it failed."""


def exchange(
    turn: Turn, results: Sequence[Any] | Mapping[str, Any] = (), decisions: Decisions | None = None
) -> list[dict[str, Any]]:
    """The messages that a turn and its calls' results come to, for a loop of one's own: `messages += exchange(…)`.

    The assistant's message, and one tool message for each call of it: its result, or why it was not run. The ids are
    `turn.call_ids`. A turn without calls is the assistant's message alone.

    Args:
        turn: as `run` gave it.
        results: of `turn.released`, in their order (held calls that were approved come in theirs), or by call id. An
            `Execution`, as `Runtime.executed` gives it, is written as it is, an exception as an error, any other value
            as `loop` writes it: JSON of at most 4,000 characters.
        decisions: about held calls, by their ids, or one for all. Held calls without one are reported as held.

    Raises:
        LoopError: a result or a decision too many or too few.
    """
    asked = asked_in(turn)
    approvals = _approvals([one for one in asked if one.is_held], decisions)
    handed_over = ending([one.verdict.decision for one in asked]) == "handoff"
    may_run = [] if handed_over else [one for one in asked if is_to_run(one, approvals)]
    by_id = _by_id(may_run, results)
    executions = [
        _execution(one, by_id[one.id]) if one.id in by_id else not_run(one, approvals.get(one.id), handed_over)
        for one in asked
    ]
    if not executions:
        return [{"role": "assistant", "content": turn.text}] if turn.text else []
    return messages_of(turn.text, executions)


def asked_in(turn: Turn) -> list[Asked]:
    """Every call of a turn under its id; a malformed one stands under a name of its own."""
    ids = turn.call_ids or call_ids((), turn.calls)
    return [
        Asked(id, call if isinstance(call, Call) else _MALFORMED, verdict)
        for id, call, verdict in zip(ids, turn.calls, turn.verdicts, strict=True)
    ]


def messages_of(text: str, executions: Sequence[Execution]) -> list[dict[str, Any]]:
    """The assistant's message with its calls, and one tool message for each.

    A result is JSON text: a mapping as content could be read as the result of another tool.
    """
    calls = [
        {"id": one.id, "type": "function", "function": {"name": one.call.name, "arguments": dict(one.call.arguments)}}
        for one in executions
    ]
    return [
        {"role": "assistant", "content": text or None, "tool_calls": calls},
        *({"role": "tool", "tool_call_id": one.id, "content": result_text(one.result)} for one in executions),
    ]


def result_text(result: Mapping[str, Json]) -> str:
    """A result as a message carries it: always an object, so that text is never taken for one."""
    return json.dumps(result, ensure_ascii=False)


def is_to_run(one: Asked, approvals: Mapping[str, Approval]) -> bool:
    """True if an executor may run a call."""
    if one.is_held:
        return one.id in approvals and approvals[one.id].approved
    return one.verdict.decision in RELEASED


def not_run(one: Asked, approval: Approval | None, handed_over: bool = False) -> Execution:
    """Result of a call that was not run."""
    reason = one.verdict.reason
    if handed_over and one.verdict.decision != "handoff":
        reason = "another call of the turn is handed over to a larger model"
    if approval is not None:
        reason += f"; refused: {approval.note}" if approval.note else "; refused"
    return Execution(one.id, one.call, "denied" if approval is None else "refused", {"error": f"not run: {reason}"})


def _approvals(held: Sequence[Asked], decisions: Decisions | None) -> dict[str, Approval]:
    ids = [one.id for one in held]
    if decisions is None:
        return {}
    if not isinstance(decisions, Mapping):
        decisions = dict.fromkeys(ids, decisions)
    for id in decisions:
        if id not in ids:
            raise LoopError(f"decisions[{id!r}]: got a decision for no held call; held are: {', '.join(ids) or 'none'}")
    return {id: approval_of(id, given) for id, given in decisions.items()}


def _by_id(may_run: Sequence[Asked], results: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Each call's result."""
    wanted = ", ".join(f"{one.id} ({one.call.name})" for one in may_run) or "none"
    if isinstance(results, (list, tuple)) and results and all(isinstance(one, Execution) for one in results):
        results = {one.id: one for one in results}
    if isinstance(results, Mapping):
        ids = [one.id for one in may_run]
        if wrong := [id for id in results if id not in ids]:
            raise LoopError(f"results[{wrong[0]!r}]: got a result for no call that may run, expected: {wanted}")
        if wrong := [id for id in ids if id not in results]:
            raise LoopError(f"results[{wrong[0]!r}]: got none, expected one for each call that may run: {wanted}")
        return dict(results)
    if isinstance(results, (str, bytes)) or not isinstance(results, Sequence):
        raise LoopError(f"results: got {type(results).__name__}, expected a list with one for each of: {wanted}")
    if len(results) != len(may_run):
        raise LoopError(f"results: got {len(results)}, expected one for each call that may run: {wanted}")
    return {one.id: result for one, result in zip(may_run, results, strict=True)}


def _execution(one: Asked, result: Any) -> Execution:
    if isinstance(result, Execution):
        if (result.id, result.call) != (one.id, one.call):
            raise LoopError(
                f"results: got what became of {result.id} ({result.call.name}) for {one.id} ({one.call.name}); "
                f"expected what became of the calls of this turn"
            )
        return result
    if isinstance(result, BaseException):
        return Execution(one.id, one.call, "error", {"error": error_text(result)})
    return Execution(one.id, one.call, "ok", fitted(result, MAX_RESULT))


def fit_to_prompt(one: Execution, tokenizer: Tokenizer, untrusted: str, max_result: int) -> Execution:
    """The execution with a result that fits a prompt: a note in place of one that no prompt can carry, and at most
    `max_result` tokens of one that takes more of them than it has characters."""
    try:
        return _cut_to(one, tokenizer, untrusted, max_result)
    except MessageError as error:
        why = error_text(error).partition(": ")[2]
    said = "no prompt can carry it"
    for text in (f"{said}: {why}", said):
        found = replace(one, result=unshown(text) if one.status == "ok" else {"error": text})
        try:
            _length(found, tokenizer, untrusted)
        except MessageError:
            continue
        break
    return found


def _cut_to(one: Execution, tokenizer: Tokenizer, untrusted: str, most: int) -> Execution:
    """The execution with its result cut to so many tokens, those of an empty one and of the note not counted."""
    length = _length(one, tokenizer, untrusted)
    if length <= most:
        return one
    text = _plain_text(one.result)
    note = cut("x", 0).replace("0", str(len(text)))
    bare = _length(replace(one, result={"value": note}), tokenizer, untrusted)
    keep, found = len(text), one
    while length - bare > most and keep:
        keep = min(keep - 1, keep * most // (length - bare))
        found = replace(one, result={"value": cut(text, keep)})
        length = _length(found, tokenizer, untrusted)
    return found


def _plain_text(result: dict[str, Json]) -> str:
    """A result as the text that is cut: of a value that is text, that."""
    value = result.get("value")
    return value if isinstance(value, str) and len(result) == 1 else result_text(result)


def _length(one: Execution, tokenizer: Tokenizer, untrusted: str) -> int:
    """Tokens of the messages that tell of a call. Raises MessageError where no prompt can."""
    messages = [{"role": "user", "content": "-"}, *messages_of("", [one])]
    return len(render(tokenizer, messages, untrusted=untrusted).ids)
